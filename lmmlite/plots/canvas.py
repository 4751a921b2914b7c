"""What every picture needs: the style while it is drawn, axes or panels with their labels, and names checked against the fit."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lmmlite.model import MixedModel
from lmmlite.plots.style import COLORS

#: Decorator: the project's style while a function draws; the session's settings are back when it returns.
styled = plt.style.context(Path(__file__).with_name("lmmlite.mplstyle"))

LABELS = 30  # names of levels that can be read one below the other


def axes(ax: Axes | None, title: str, x: str, y: str, levels: Sequence[Any] = (), height: float = 3.5) -> Axes:
    """The given axes, or those of a new figure, with title and labels; ``levels`` stand beside the rows 0, 1, … if not too many."""
    few = len(levels) <= LABELS
    if levels:
        height = 1.3 + 0.21 * len(levels) if few else 5.0
    ax = plt.subplots(figsize=(5.4, height))[1] if ax is None else ax
    ax.set(title=fill(title, 48), xlabel=x, ylabel=y)
    if levels:
        ax.set_yticks(range(len(levels)) if few else [], [str(level) for level in levels] if few else [])
        ax.set_ylim(-0.8, len(levels) - 0.2)
        ax.grid(False, axis="y")
    return ax


def panels(count: int, columns: int, height: float, title: str, **share: Any) -> tuple[Figure, list[Axes]]:
    """A new figure with a title and so many panels, row by row."""
    rows = -(-count // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(5.4, 0.8 + height * rows), squeeze=False, **share)
    for number, ax in enumerate(grid.flat):
        ax.xaxis.set_major_locator(MaxNLocator(6 // columns + 1))
        ax.set_visible(number < count)
    figure.suptitle(fill(title, 48), x=0.01, ha="left", fontweight="bold", fontsize=12)
    return figure, list(grid.flat[:count])


def legend(ax: Axes) -> None:
    """A legend between title and frame, where it covers nothing."""
    ax.set_title(ax.get_title("left") or ax.get_title(), pad=26)
    ax.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, borderaxespad=0.3, columnspacing=1.2, handlelength=1.4
    )


def cloud(ax: Axes, x: Any, y: Any, color: str = "data") -> None:
    """Points, fainter and smaller the more there are."""
    few = min(1.0, 150 / max(len(x), 1))
    ax.plot(x, y, "o", color=COLORS[color], alpha=0.25 + 0.55 * few, markersize=2 + 2.5 * few, markeredgewidth=0)


def choose(names: Iterable, wanted: str | Sequence[str] | None, what: str) -> list[str]:
    """The names wanted, or all; ValueError for one that does not exist."""
    names = list(names)
    chosen = names if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    if unknown := [name for name in chosen if name not in names]:
        raise ValueError(f"There is no {what} '{unknown[0]}' to show; there are {', '.join(names)}.")
    return chosen


def choose_effect(fit: MixedModel, group: str | None, term: str | None) -> tuple[str, str]:
    """A grouping factor of the model and a coefficient that varies over it; by default the first."""
    tables = fit.ranef()
    group = choose(tables, group, "grouping factor")[0]
    return group, choose(tables[group], term, f"random effect by {group} of")[0]


def percent(*levels: float) -> str:
    """Such as ``50, 95 %``."""
    return ", ".join(f"{100 * level:g}" for level in levels) + " %"
