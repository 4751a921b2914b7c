"""Small helpers for the chapters: a computed number in the prose, checkpoints with feedback, figures to move.

Each emits plain HTML with fixed ids, so that outputs are reproducible, work without a network or a kernel, and say something even
without JavaScript. Their style and behaviour are in ``static/bookkit.css`` and ``static/bookkit.js``.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from IPython.display import display
from myst_nb import glue

__all__ = ["fill_in", "num", "quiz", "slider_figure"]


def num(name: str, value: float, fmt: str = ".2f") -> None:
    """Make ``value`` available to the prose as ``{glue:text}`name```, formatted, with a true minus sign."""
    text = format(value.item() if hasattr(value, "item") else value, fmt)
    glue(name, text.replace("-", "−"), display=False)


def quiz(question: str, *choices: tuple[str, bool, str]) -> None:
    """A multiple-choice checkpoint; each choice is (text, is it right?, feedback) and opens on a click."""
    if sum(right for _, right, _ in choices) < 1:
        raise ValueError("no choice is right")
    items = "".join(
        f'<details class="choice {"right" if right else "wrong"}"><summary>{_inline(text)}</summary>'
        f"<p><strong>{'✓ Right.' if right else '✗ Not quite.'}</strong> {_inline(feedback)}</p></details>"
        for text, right, feedback in choices
    )
    _checkpoint(question, items)


def fill_in(
    question: str, answer: float, tol: float, mistakes: Mapping[float, str] | None = None, *, solution: str
) -> None:
    """A checkpoint that asks for a number within ``tol`` of ``answer``; ``mistakes`` maps likely wrong numbers to feedback."""
    replies = [{"value": _rounded(answer), "right": True, "text": _inline(solution)}]
    for value, feedback in (mistakes or {}).items():
        if abs(value - answer) <= 2 * tol:
            raise ValueError(f"the mistake {value} is too near to the answer {answer}")
        replies.append({"value": _rounded(value), "right": False, "text": _inline(feedback)})
    data = html.escape(json.dumps({"tol": tol, "replies": replies}, ensure_ascii=False))
    _checkpoint(
        question,
        f'<form class="fill-in" data-replies="{data}"><label>Your answer <input inputmode="decimal" autocomplete="off"></label> '
        '<button type="submit">Check</button><p role="status"></p></form>'
        f'<details class="choice"><summary>Show the answer</summary><p>{_rounded(answer, 4):g}: {_inline(solution)}</p></details>',
    )


def slider_figure(spec: Mapping[str, Any], *, id: str, alt: str) -> None:
    """Show a Vega-Lite specification whose sliders the browser evaluates; ``alt`` describes it to those who cannot see it move."""
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "height": 260,
        "description": alt,
        "autosize": {"type": "fit-x", "contains": "padding"},
        **spec,
    }
    title = spec.pop("title", "")  # outside the picture, where it wraps on a narrow screen
    data = json.dumps(_rounded(spec), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    _show(
        f'<figure class="slider-figure" id="{id}"><p class="slider-title">{_inline(title)}</p><div>'
        f"<noscript>This figure moves with JavaScript. {html.escape(alt)}</noscript></div>"
        f'<script type="application/json">{data}</script></figure>',
        alt,
    )


def _checkpoint(question: str, body: str) -> None:
    name = hashlib.sha256(question.encode()).hexdigest()[:8]
    _show(
        f'<section class="checkpoint tex2jax_process" id="checkpoint-{name}" aria-label="Checkpoint">'
        f'<p class="checkpoint-title">Checkpoint</p><p>{_inline(question)}</p>{body}</section>',
        question,
    )


def _show(markup: str, plain: str) -> None:
    display({"text/html": markup, "text/plain": plain}, raw=True)


def _inline(text: str) -> str:
    """Escape HTML; then `code`, *emphasis* and $maths$ of the text become markup that the page renders."""
    parts = re.split(r"(\$[^$]+\$|`[^`]+`)", text)
    return "".join(_piece(part) for part in parts)


def _piece(part: str) -> str:
    if part.startswith("$") and part.endswith("$") and len(part) > 2:
        return rf"\({html.escape(part[1:-1], quote=False)}\)"
    if part.startswith("`") and part.endswith("`") and len(part) > 2:
        return f"<code>{html.escape(part[1:-1], quote=False)}</code>"
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", html.escape(part, quote=False))


def _rounded(value: Any, digits: int = 6) -> Any:
    """``value`` with every number in it rounded to significant digits, so that outputs agree between machines."""
    if isinstance(value, Mapping):
        return {key: _rounded(v, digits) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v, digits) for v in value]
    if hasattr(value, "tolist"):
        return _rounded(value.tolist(), digits)
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{digits}g}")
    return value
