"""How seconds and memory grow with rows, levels, coefficients per group and fixed effects; and that iterations do not see rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.cases import LAWS, Case, slopes
from benchmarks.programs import run, timed
from lmmlite import Criterion, build_design, crossproducts, parse_formula

HERE = Path(__file__).parent
PEERS = ["lmmlite", "lme4", "glmm", "mixedlm-rs"]  # the others end on the way
LARGEST = 3  # so many of the largest sizes give the slope: at the smallest the constant costs still show

Points = dict[str, dict[str, Any]]  # size -> program -> result of `run`


def measure(cases: dict[int, Case]) -> Points:
    """One law.  A program that has no result for one size is not asked for larger ones."""
    points: Points = {}
    running = list(PEERS)
    for size, case in cases.items():
        points[str(size)] = {program: run(program, case) for program in running}
        running = [p for p in running if "failed" not in points[str(size)][p]]
        print(case.name, points[str(size)], flush=True)
    return points


def curve(points: Points, program: str, quantity: str) -> pd.Series:
    """The quantity by size, as far as the program came."""
    values = {int(size): at[program][quantity] for size, at in points.items() if quantity in at.get(program, {})}
    return pd.Series(values, dtype=float)


def slope(values: pd.Series) -> float:
    """Exponent of the power law through the largest sizes, by least squares on logarithms."""
    if len(values) < LARGEST:
        return np.nan
    last = values.iloc[-LARGEST:]
    return float(np.polyfit(np.log(last.index.to_numpy(float)), np.log(last), 1)[0])


def tables(laws: dict[str, Points]) -> list[str]:
    """Markdown: the slopes of all laws, then the measurements of each."""

    def number(x: float, form: str) -> str:
        return "–" if np.isnan(x) else format(x, form)

    lines = [
        f"| grows | from, to | memory, lmmlite | {' | '.join(f'seconds, {p}' for p in PEERS)} |",
        "|---" * (3 + len(PEERS)) + "|",
    ]
    for law, points in laws.items():
        sizes = list(map(int, points))
        slopes_ = [
            slope(curve(points, "lmmlite", "allocated_bytes")),
            *(slope(curve(points, p, "seconds")) for p in PEERS),
        ]
        lines.append(f"| {law} | {sizes[0]:,} – {sizes[-1]:,} | {' | '.join(number(s, '.2f') for s in slopes_)} |")
    for law, points in laws.items():
        seconds = {p: curve(points, p, "seconds") for p in PEERS}
        memory = curve(points, "lmmlite", "allocated_bytes") / 1e6
        lines += [
            "",
            f"| {law} | MB, lmmlite | {' | '.join(f's, {p}' for p in PEERS)} |",
            "|---" * (2 + len(PEERS)) + "|",
        ]
        for size in map(int, points):
            cells = [
                number(memory.get(size, np.nan), ".3g"),
                *(number(seconds[p].get(size, np.nan), ".3g") for p in PEERS),
            ]
            lines.append(f"| {size:,} | {' | '.join(cells)} |")
    return lines


def plot(laws: dict[str, Points]) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter, NullFormatter, NullLocator

    from lmmlite.plots import COLORS, use_style

    use_style()
    colors = dict(zip(PEERS, (COLORS["partial"], COLORS["no"], COLORS["complete"], COLORS["data"]), strict=True))
    fig, axes = plt.subplots(
        2, len(laws), figsize=(3.2 * len(laws), 6), sharex="col", sharey="row", layout="constrained"
    )
    for column, (law, points) in zip(axes.T, laws.items(), strict=True):
        what, _, setting = law.partition(" (")
        rows = [(column[0], PEERS, "seconds", 1.0), (column[1], PEERS[:1], "allocated_bytes", 1e-6)]
        for ax, programs, quantity, unit in rows:
            for program in reversed(programs):  # ours above the others
                values = curve(points, program, quantity) * unit
                ax.loglog(values.index, values, "o-", color=colors[program], ms=4, label=program)
            exponent = f"lmmlite: slope {slope(curve(points, PEERS[0], quantity)):.2f}"
            ax.set_title(f"{what}\n{exponent}" if ax is column[0] else exponent, fontsize=10, loc="left")
            ax.set_xticks(list(map(int, points)))
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_minor_formatter(NullFormatter())
        column[1].set_xlabel(setting.rstrip(")"), fontsize=8)
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("MB beyond the data")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=len(PEERS), reverse=True)
    fig.savefig(HERE / "growth.png", dpi=150)
    plt.close(fig)


def iterations() -> pd.DataFrame:
    """Seconds of the pass over the rows and of one evaluation with gradient, for n rows in 2,000 groups."""
    rows = []
    for n in (10**4, 10**5, 10**6, 10**7):
        data = slopes(n, 2000)
        design = build_design(parse_formula("y ~ x + (x | g)"), data)
        pass_over_rows = timed(lambda design=design: crossproducts(design), 3)
        criterion = Criterion(crossproducts(design))
        step = timed(lambda criterion=criterion: criterion.evaluate([1.0, 0.0, 0.5], 1), 50)
        rows.append({"rows": n, "pass": pass_over_rows, "iteration": step})
        del data, design
    return pd.DataFrame(rows)


def plot_iterations(table: pd.DataFrame) -> None:
    import matplotlib.pyplot as plt

    from lmmlite.plots import COLORS, use_style

    use_style()
    fig, ax = plt.subplots()
    ax.loglog(table["rows"], table["pass"], "o-", color=COLORS["no"])
    ax.loglog(table["rows"], table["iteration"], "o-", color=COLORS["partial"])
    for name, label in (("pass", "one pass over the rows"), ("iteration", "one iteration")):
        ax.annotate(
            label,
            (table["rows"].iloc[-2], table[name].iloc[-2]),
            textcoords="offset points",
            xytext=(-10, 10),
            ha="right",
        )
    ax.set(
        title="After one pass the rows are never seen again",
        xlabel="rows (2,000 groups, random slopes)",
        ylabel="seconds",
    )
    fig.savefig(HERE / "iterations.png", dpi=150, bbox_inches="tight")
    plt.close(fig)


def chosen(words: list[str]) -> dict[str, dict[int, Case]]:
    """The laws, or those of their cases whose names contain one of the words."""
    if not words:
        return LAWS
    found = {law: {n: c for n, c in cases.items() if any(w in c.name for w in words)} for law, cases in LAWS.items()}
    return {law: cases for law, cases in found.items() if cases}
