"""Estimated marginal means over a reference grid, and pairwise differences: a thin layer over contrasts (Searle, Speed & Milliken 1980)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from lmmlite.design import read_table
from lmmlite.inference.ddf import Method, rows
from lmmlite.table import as_column

if TYPE_CHECKING:
    from lmmlite.model import MixedModel

Adjustment = Literal["tukey", "holm", "bonferroni", "none"]


def grid_means(
    fit: MixedModel, factors: Sequence[str], at: Mapping[str, Any] | None
) -> tuple[pd.DataFrame, np.ndarray]:
    """Level combinations of the factors and the contrast L of each: rows of X averaged over the rest of the grid.

    The grid has every level of every factor and every covariate at its mean, or at the values in ``at``.
    """
    side, given = fit.design.fixed, dict(at or {})
    for name in (*factors, *given):
        if name not in side.variables:
            raise ValueError(f"'{name}' is no variable of the fixed part, which has {', '.join(side.variables)}.")
    table = read_table(fit.design, fit.data)
    choices = {}
    for v in side.variables:
        known: Any = side.levels.get(v)
        values = np.atleast_1d(given[v]).tolist() if v in given else known
        if values is None:
            values = [float(np.mean(table[v]))]
            if v in factors:
                raise ValueError(f"'{v}' is a number: say at which values, as in at={{'{v}': [1, 2]}}.")
        choices[v] = values
    grid = pd.DataFrame(itertools.product(*choices.values()), columns=list(choices))
    coded = {v: as_column(grid[v], v)[0] for v in choices}
    names = fit.design.fixed.names
    columns = zip(side.columns(coded, len(grid)), names, strict=True)
    X = np.column_stack([c for c, name in columns if name not in fit.design.dropped])
    levels = list(itertools.product(*(choices[f] for f in factors)))
    L = np.stack([X[(grid[list(factors)] == list(level)).all(axis=1).to_numpy()].mean(axis=0) for level in levels])
    return pd.DataFrame(levels, columns=list(factors)), L


def means(
    fit: MixedModel,
    factors: str | Sequence[str],
    *,
    at: Mapping[str, Any] | None = None,
    ddf: Method = "satterthwaite",
    level: float = 0.95,
) -> pd.DataFrame:
    """Estimated marginal means of the levels (or combinations of levels) of factors of the fixed part.

    Parameters
    ----------
    factors : str or sequence of str
        Variables whose levels get a mean each; the means average equally over the levels of all other factors.
    at : mapping, optional
        Values of covariates; by default their means over the rows used.
    ddf, level
        As in `MixedModel.contrast`.

    Returns
    -------
    DataFrame
        The levels, then ``estimate std_error df statistic p_value conf_low conf_high``.
    """
    chosen, L = grid_means(fit, [factors] if isinstance(factors, str) else factors, at)
    return pd.concat([chosen, rows(fit, L, ddf, level)], axis=1)


def pairwise(
    fit: MixedModel,
    factors: str | Sequence[str],
    *,
    at: Mapping[str, Any] | None = None,
    adjust: Adjustment = "tukey",
    ddf: Method = "satterthwaite",
    level: float = 0.95,
) -> pd.DataFrame:
    """Differences of all pairs of marginal means, with p-values adjusted for their number (intervals are not).

    ``adjust`` is "tukey" (studentized range), "holm", "bonferroni" or "none".
    """
    chosen, L = grid_means(fit, [factors] if isinstance(factors, str) else factors, at)
    labels = [" ".join(map(str, row)) for row in chosen.itertuples(index=False)]
    pairs = list(itertools.combinations(range(len(L)), 2))
    if not pairs:
        raise ValueError("There is one mean only, so there is no difference to test.")
    table = rows(fit, np.stack([L[i] - L[j] for i, j in pairs]), ddf, level)
    table.insert(0, "contrast", [f"{labels[i]} - {labels[j]}" for i, j in pairs])
    table["p_value"] = adjusted(table, adjust, len(L))
    return table


def adjusted(table: pd.DataFrame, adjust: Adjustment, n_means: int) -> np.ndarray:
    """p-values of a family of t tests, adjusted (Tukey 1953; Holm 1979; Bonferroni)."""
    p, n = table["p_value"].to_numpy(), len(table)
    if adjust == "tukey":
        return np.asarray(stats.studentized_range.sf(np.sqrt(2) * np.abs(table["statistic"]), n_means, table["df"]))
    if adjust == "bonferroni":
        return np.minimum(n * p, 1)
    if adjust == "holm":
        order = np.argsort(p)
        stepwise = np.maximum.accumulate((n - np.arange(n)) * p[order])
        return np.minimum(stepwise, 1)[np.argsort(order)]
    if adjust == "none":
        return p
    raise ValueError(f"adjust is 'tukey', 'holm', 'bonferroni' or 'none', not {adjust!r}.")
