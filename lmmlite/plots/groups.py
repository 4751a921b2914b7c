"""Pictures of pooling: each group's data with the lines of three analyses, and what shrinkage does to each group's coefficients."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmmlite.model import MixedModel
from lmmlite.plots.canvas import axes, choose, choose_effect, cloud, legend, panels, styled
from lmmlite.plots.style import COLORS
from lmmlite.table import as_column, drop_unused


def _least_squares(X: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    root = np.ones(len(y)) if weights is None else np.sqrt(weights)
    return np.linalg.lstsq(X * root[:, None], y * root, rcond=1e-9)[0]


def complete_pooling(fit: MixedModel) -> pd.Series:
    """Least-squares estimates of the fixed effects, as if there were no groups."""
    d = fit.design
    y = d.y - (0 if d.offset is None else d.offset)
    return pd.Series(_least_squares(d.X, y, d.weights), list(d.names), name="complete")


def no_pooling(fit: MixedModel, group: str) -> pd.DataFrame:
    """Coefficients of each level from its own rows: levels × the coefficients that vary, nan where the rows do not suffice.

    Least squares of y, less what other terms of the model predict, on the level's columns of Z, where a fixed effect of the same
    name is left in.  That is the level's coefficients in the model plus least squares of the residuals on its columns of Z.
    """
    d, g = fit.design, list(fit.ranef()).index(group)
    Z = np.column_stack([c for t in d.terms if t.group == g for c in t.columns])
    table = fit.coef()[group][list(fit.ranef()[group].columns)].copy()
    e, order = fit.residuals().to_numpy(), np.argsort(d.groups[g].codes, kind="stable")
    for level, own in enumerate(np.split(order, np.bincount(d.groups[g].codes).cumsum()[:-1])):
        enough = np.linalg.matrix_rank(Z[own]) == Z.shape[1]
        weights = None if d.weights is None else d.weights[own]
        table.iloc[level] += _least_squares(Z[own], e[own], weights) if enough else np.nan
    return table


@styled
def plot_groups(fit: MixedModel, x: str, group: str | None = None, n: int = 12) -> Figure:
    """Panels of groups: the data over x, and the lines of complete, no and partial pooling.

    Complete pooling is least squares on all rows.  No pooling is least squares of y on the group's own rows, with those terms of the
    model that involve x, drawn where the group has rows (not at all where they do not determine it).  Partial pooling is the fitted
    model with the effects of this grouping factor.  Other variables are held at their mean, or most frequent level, in the
    group.  Panels are in the order of the group's random effect: of x if that varies, of the first coefficient otherwise.

    Parameters
    ----------
    fit : MixedModel
    x : str
        Column for the horizontal axis: numbers or a factor.
    group : str, optional
        Grouping factor; by default the first.
    n : int
        Panels at most; of more groups, n are shown, evenly spaced in that order.

    Returns
    -------
    Figure
    """
    group, term = choose_effect(fit, group, None)
    b, table = fit.ranef()[group], fit.augment()
    term = x if x in b else term
    order = np.argsort(b[term].to_numpy(), kind="stable")
    order = order[np.linspace(0, len(b) - 1, min(max(n, 1), len(b))).round().astype(int)]
    title = f"{group}: {len(order)} of {len(b)}, in the order of {term}"
    column: Any = as_column(table[choose(table, x, "column")[0]], x)[0]
    codes = next(g.codes for g in fit.design.groups if g.name == group)
    figure, parts = panels(len(order), 3, 1.3, title, sharex=True, sharey=True)
    if isinstance(column, pd.Categorical):
        column = drop_unused(column)
        at, grid, column = np.arange(len(column.categories)), np.asarray(column.categories), column.codes
        parts[0].set_xticks(at if len(at) <= 8 else [], grid if len(at) <= 8 else [])
    else:
        at = grid = np.linspace(column.min(), column.max(), 60)
    for ax, level in zip(parts, order, strict=True):
        own = codes == level
        cloud(ax, column[own], fit.design.y[own])
        for kind, line in _lines(fit, table, own, x, group, grid).items():
            seen = (at >= column[own].min()) & (at <= column[own].max()) | (kind != "no")
            style = "--" if kind == "complete" else "-"
            ax.plot(at[seen], line[seen], style, color=COLORS[kind], linewidth=1.6, label=f"{kind} pooling")
        ax.set_title(str(b.index[level]), fontsize=10, fontweight="normal", pad=3)
    for ax in parts[-3:]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel(x)
    figure.supylabel(fit.design.formula.response, fontsize=11)
    lines = {str(line.get_label()): line for ax in parts for line in ax.get_legend_handles_labels()[0]}
    figure.legend(handles=[lines[label] for label in sorted(lines)], loc="outside lower center", ncols=3)
    return figure


def _typical(s: pd.Series) -> Any:
    return s.mean() if pd.api.types.is_numeric_dtype(s.dtype) and s.nunique() > 1 else s.mode().iloc[0]


def _lines(
    fit: MixedModel, table: pd.DataFrame, own: np.ndarray, x: str, group: str, grid: np.ndarray
) -> dict[str, np.ndarray]:
    """Heights of the lines of the three poolings over a grid, for one level with its ``own`` rows of the data."""
    d, terms = fit.design, [t for t in fit.design.terms if t.bar.group == group]
    sides, factors = [d.fixed, *(t.side for t in terms)], terms[0].bar.factors
    typical = {
        v: _typical(table.loc[own, v]) for v in dict.fromkeys([*(v for s in sides for v in s.variables), *factors])
    }
    at, mine = (pd.DataFrame(typical | {x: values}) for values in (grid, table.loc[own, x].to_numpy()))

    def columns(frame: pd.DataFrame) -> np.ndarray:
        values = {v: as_column(frame[v], v)[0] for v in typical}
        return np.column_stack([c for side in sides for c in side.columns(values, len(frame))])

    offset = np.zeros(d.n) if d.offset is None else d.offset
    X, X_own, level = columns(at), columns(mine), offset[own].mean()
    kept = [j for j, name in enumerate(d.fixed.names) if name not in d.dropped]
    lines = {"complete": X[:, kept] @ complete_pooling(fit).to_numpy() + level}
    if np.linalg.matrix_rank(X_own) == np.linalg.matrix_rank(X):
        weights = None if d.weights is None else d.weights[own]
        lines["no"] = X @ _least_squares(X_own, d.y[own] - offset[own], weights) + level
    lines["partial"] = fit.predict(at, [group], offset=None if d.offset is None else level).to_numpy()
    return lines


@styled
def plot_shrinkage(
    fit: MixedModel, group: str | None = None, terms: str | Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """What partial pooling does to the coefficients of each level: from its own least squares to the mixed model.

    Arrows in the plane of two coefficients, or rows of points for one.  No pooling is least squares on the rows of the level, after
    what other terms of the model predict is subtracted; levels whose rows do not suffice are left out.  Complete pooling is
    least squares on all rows; the fixed effects, to which the arrows lead, are close to it but weigh the groups otherwise.  Levels far out
    do not stretch the frame: their arrows enter it from outside, and the label says how many.

    Parameters
    ----------
    fit : MixedModel
    group : str, optional
        Grouping factor; by default the first.
    terms : str or sequence of str, optional
        One or two of the coefficients that vary over it; by default the first two.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes
    """
    group, _ = choose_effect(fit, group, None)
    chosen = choose(fit.ranef()[group], terms, f"random effect by {group} of")[: 2 if terms is None else None]
    if len(chosen) not in (1, 2):
        raise ValueError(f"Shrinkage is shown for one or two coefficients, not {len(chosen)}.")
    no = no_pooling(fit, group)[chosen].dropna().sort_values(chosen[0])
    if no.empty:
        raise ValueError(f"No level of '{group}' has rows enough for coefficients of its own.")
    partial, complete = fit.coef()[group].loc[no.index, chosen], complete_pooling(fit).reindex(chosen, fill_value=0.0)
    title = f"{group}: from no pooling to partial pooling"
    if len(chosen) == 1:
        ax = axes(ax, title, chosen[0], group, list(no.index))
        no["row"] = partial["row"] = np.arange(len(no))
        ax.axvline(complete.iloc[0], color=COLORS["complete"], linewidth=1.2, label="complete pooling")
        ax.hlines(no["row"], no[chosen[0]], partial[chosen[0]], color=COLORS["interval"])
    else:
        ax = axes(ax, title, chosen[0], chosen[1], height=4.4)
        _arrows(ax, no, partial)
        ax.plot(*complete, "D", color=COLORS["complete"], markersize=8, label="complete pooling")
    few = min(1.0, 80 / len(no))
    ax.plot(*no.to_numpy().T, "o", color=COLORS["no"], markersize=2 + 4 * few, label="no pooling")
    ax.plot(*partial.to_numpy().T, "o", color=COLORS["partial"], markersize=1.5 + 2.5 * few, label="partial pooling")
    legend(ax)
    return ax


def _arrows(ax: Axes, no: pd.DataFrame, partial: pd.DataFrame) -> None:
    """Arrows and a frame for all but estimates three times as far from the middle half of them as that is wide."""
    quartiles = no.quantile([0.25, 0.75]).to_numpy()
    fence = quartiles + 3 * np.diff(quartiles, axis=0) * [[-1], [1]]
    inside = ((no >= fence[0]) & (no <= fence[1])).all(axis=1)
    shown = pd.concat([no[inside], partial])
    low, high = shown.min().to_numpy(), shown.max().to_numpy()
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    arrow: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.003, "headwidth": 5}
    ax.quiver(*no.to_numpy().T, *(partial - no).to_numpy().T, color=COLORS["data"], alpha=0.8, **arrow)
    if count := int(((no < low) | (no > high)).any(axis=1).sum()):
        ax.set_xlabel(f"{ax.get_xlabel()} ({count} outside the frame)")
