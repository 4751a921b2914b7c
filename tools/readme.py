"""Fill the computed parts of README.md: the example's output, the table of timings, and the picture.

python tools/readme.py           rewrite README.md and docs/sleepstudy.png
python tools/readme.py --check   fail when README.md shows something else than the code prints
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"


def example_output(text: str) -> str:
    """What the first Python block of the README prints."""
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code[1], "README.md", "exec"), {})
    return "\n".join(line.rstrip() for line in printed.getvalue().split("\n"))


def timings() -> str:
    """Seconds of whole fits, from the last run of the benchmarks."""
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf8"))
    peers = ("lmmlite", "lme4", "glmm", "mixedlm-rs", "lme-python", "statsmodels")
    lines = ["| seconds | " + " | ".join(peers) + " |", "|---|" + "---|" * len(peers)]
    for name, case in results["cases"].items():
        best = min(case[p]["criterion"] for p in peers if p in case)
        cells = [
            f"{case[p]['seconds']:.3g}{'*' if case[p]['criterion'] > best + 1e-3 else ''}" if p in case else "–"
            for p in peers
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def filled(text: str) -> str:
    output = example_output(text)
    text = re.sub(r"```text\n.*?```", lambda _: f"```text\n{output}```", text, count=1, flags=re.DOTALL)
    marks = r"(<!-- timings -->\n).*?(<!-- end of timings -->)"
    return re.sub(marks, lambda m: m[1] + timings() + m[2], text, count=1, flags=re.DOTALL)


def picture() -> None:
    """Shrinkage in the sleep study: each subject's own least-squares line and its line in the mixed model."""
    import matplotlib.pyplot as plt
    import numpy as np

    from lmmlite import lmer, load_dataset
    from lmmlite.plots import COLORS, use_style

    use_style()
    data = load_dataset("sleepstudy")
    fit = lmer("Reaction ~ Days + (Days | Subject)", data)
    coef = fit.coef()["Subject"].sort_values("Days")
    fig, axes = plt.subplots(3, 6, figsize=(9, 4.6), sharex=True, sharey=True)
    days = np.array([0, 9])
    for ax, (subject, line) in zip(axes.flat, coef.iterrows(), strict=True):
        rows = data[data["Subject"] == subject]
        slope, intercept = np.polyfit(rows["Days"], rows["Reaction"], 1)
        ax.plot(rows["Days"], rows["Reaction"], "o", ms=3, color=COLORS["data"])
        ax.plot(days, fit.fixef["Intercept"] + fit.fixef["Days"] * days, color=COLORS["complete"], lw=1)
        ax.plot(days, intercept + slope * days, color=COLORS["no"], lw=1)
        ax.plot(days, line["Intercept"] + line["Days"] * days, color=COLORS["partial"], lw=2)
        ax.set_title(f"subject {subject}", fontsize=8, loc="left")
    labels = ["everyone", "subject alone", "mixed model"]
    fig.legend(axes.flat[0].lines[1:], labels, loc="lower right", ncols=3, fontsize=9)
    fig.supxlabel("days of sleep deprivation", fontsize=9)
    fig.supylabel("reaction time (ms)", fontsize=9)
    fig.savefig(ROOT / "docs" / "sleepstudy.png", dpi=110)


if __name__ == "__main__":
    old = README.read_text(encoding="utf8")
    new = filled(old)
    if "--check" in sys.argv:
        sys.exit("README.md is stale: run tools/readme.py" if new != old else 0)
    README.write_text(new, encoding="utf8")
    picture()
