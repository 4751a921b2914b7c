"""Estimated marginal means over a reference grid, and pairwise differences: a thin layer over contrasts (Searle, Speed & Milliken 1980)."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from lmmlite.design import read_table
from lmmlite.inference.anova import factors_of, fixed_rows
from lmmlite.inference.ddf import Method, in_basis, rows
from lmmlite.table import Column, as_column

if TYPE_CHECKING:
    from lmmlite.model import MixedModel

_ROUNDING = 1e-6  # relative size of a sum that rounding may leave of zero

Adjustment = Literal["tukey", "holm", "bonferroni", "none"]


def grid_means(
    fit: MixedModel, factors: Sequence[str], at: Mapping[str, Any] | None
) -> tuple[pd.DataFrame, np.ndarray]:
    """Level combinations of the factors and the contrast L of each: rows of X averaged over the rest of the grid.

    The grid has every level of every factor and every covariate at its mean, or at the values in ``at``.  L has all
    columns of X, those that were dropped as well.
    """
    side, given = fit.design.fixed, dict(at or {})
    if not factors:
        raise ValueError(f"Name a factor whose levels get a mean each: {', '.join(side.variables)}.")
    twice = next((name for name in factors if list(factors).count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"'{twice}' is named twice; each factor of the means is named once.")
    for name in (*factors, *given):
        if name not in side.variables:
            raise ValueError(f"'{name}' is no variable of the fixed part, which has {', '.join(side.variables)}.")
    choices = dict(zip(side.variables, _choices(fit, factors, given), strict=True))
    sizes = [len(choices[v]) for v in side.variables]
    places = dict(zip(side.variables, np.indices(sizes).reshape(len(sizes), -1), strict=True))
    X = np.column_stack(side.columns({v: choices[v][places[v]] for v in side.variables}, int(np.prod(sizes))))
    chosen = np.ravel_multi_index([places[f] for f in factors], [len(choices[f]) for f in factors])
    L = np.stack([X[chosen == i].mean(axis=0) for i in range(chosen.max() + 1)])
    levels = itertools.product(*(list(choices[f]) for f in factors))
    return pd.DataFrame(levels, columns=list(factors)), L


def _choices(fit: MixedModel, factors: Sequence[str], given: dict[str, Any]) -> Iterator[Column]:
    """The values of each variable in the grid."""
    side, table = fit.design.fixed, read_table(fit.design, fit.data)
    as_labels = factors_of(side)
    for v in side.variables:
        column, known = table[v], side.levels.get(v)
        if known is None and v in as_labels:
            known = np.unique(np.asarray(column)).tolist()
        values = list(np.atleast_1d(np.asarray(given[v], object))) if v in given else known
        if values is None:
            if v in factors:
                raise ValueError(f"'{v}' is a number: say at which values, as in at={{'{v}': [1, 2]}}.")
            values = [float(np.mean(np.asarray(column)))]
        if not values:
            raise ValueError(f"at has no value of '{v}'.")
        unseen = next((value for value in values if known is not None and value not in known), None)
        if unseen is not None:
            raise ValueError(f"'{v}' has no level {unseen!r}; it has {', '.join(map(repr, known or ()))}.")
        yield pd.Categorical(values, known) if v in side.levels else as_column(pd.Series(values), v)[0]


def estimable(fit: MixedModel, L: np.ndarray) -> np.ndarray:
    """Which rows of L, with all columns of X, have one value for all solutions of the normal equations (Searle 1971).

    A dropped column is Xa of those kept, so its coefficient in an estimable row is a times the coefficients of those.
    """
    design = fit.design
    dropped = np.array([name in design.dropped for name in design.fixed.names])
    if not dropped.any():
        return np.ones(len(L), bool)
    columns = design.fixed.columns(read_table(design, fit.data), design.n)
    missing, own = np.stack([columns[j] for j in np.flatnonzero(dropped)]), L[:, dropped]
    if "Intercept" in design.names:  # a column far from zero would hide small differences from the others
        centre = missing.mean(axis=1)
        missing, own = missing - centre[:, None], own - np.outer(L[:, design.fixed.names.index("Intercept")], centre)
    basis, along = fixed_rows(design), np.zeros((len(design.names), len(missing)))
    for start in basis.starts():
        x, root = basis.rows(start)[:-1], basis.root_weights(start)
        part = missing[:, start : start + x.shape[1]]
        along += x @ (part if root is None else part * root).T
    inside = in_basis(fit, L[:, ~dropped])
    size = np.outer(np.linalg.norm(inside, axis=1), np.linalg.norm(along, axis=0)) + np.abs(own)
    return (np.abs(own - inside @ along) <= _ROUNDING * size).all(axis=1)


def estimated(
    fit: MixedModel, L: np.ndarray, labels: Sequence[str], ddf: Method, level: float, offset: float = 0.0
) -> pd.DataFrame:
    """`ddf.rows` for rows of L with all columns of X: nan, with a warning, where the data do not determine a row."""
    known = estimable(fit, L)
    kept = [name not in fit.design.dropped for name in fit.design.fixed.names]
    if not known.all():
        unknown = [label for label, yes in zip(labels, known, strict=True) if not yes]
        warnings.warn(
            f"The data do not determine {', '.join(unknown)} (nan in the table): combinations of levels that do not occur "
            f"are part of it, and {', '.join(fit.design.dropped)} had to be left out of the model.",
            stacklevel=3,
        )
    return rows(fit, L[known][:, kept], ddf, level, list(np.flatnonzero(known)), offset).reindex(range(len(L)))


def _labels(chosen: pd.DataFrame) -> list[str]:
    return [" ".join(map(str, row)) for row in chosen.itertuples(index=False)]


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
        Variables whose levels get a mean each; the means average equally over the levels of all other factors.  Numbers
        in ``C(…)`` only are factors; all other numbers, also True and False, are covariates.
    at : mapping, optional
        Values of covariates; by default their means over the rows used.  An offset is at its mean.
    ddf, level
        As in `MixedModel.contrast`.

    Returns
    -------
    DataFrame
        The levels, then ``estimate std_error df statistic p_value conf_low conf_high``; nan, with a warning, for a mean that
        the data do not determine because a combination of levels does not occur (emmeans: nonEst).
    """
    chosen, L = grid_means(fit, [factors] if isinstance(factors, str) else factors, at)
    offset = 0.0 if fit.design.offset is None else float(fit.design.offset.mean())
    return pd.concat([chosen, estimated(fit, L, _labels(chosen), ddf, level, offset)], axis=1)


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

    Differences that the data do not determine are nan, with a warning, and do not count in the family.

    ``adjust`` is "tukey" (studentized range), "holm", "bonferroni" or "none".
    """
    chosen, L = grid_means(fit, [factors] if isinstance(factors, str) else factors, at)
    labels = _labels(chosen)
    pairs = list(itertools.combinations(range(len(L)), 2))
    if not pairs:
        raise ValueError("There is one mean only, so there is no difference to test.")
    names = [f"{labels[i]} - {labels[j]}" for i, j in pairs]
    table = estimated(fit, np.stack([L[i] - L[j] for i, j in pairs]), names, ddf, level)
    table.insert(0, "contrast", names)
    known = table["estimate"].notna().to_numpy()
    compared = {i for pair, yes in zip(pairs, known, strict=True) if yes for i in pair}
    table.loc[known, "p_value"] = adjusted(table[known], adjust, len(compared))
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
