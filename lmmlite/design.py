"""From a formula and a table to arrays: response, columns of X and Z, level codes, weights, offset, and the rows kept.

Columns stay separate one-dimensional arrays (an intercept costs no memory, a plain column of the frame is not copied), since
the only thing ever done with all n rows is to sum their products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lmmlite.expressions import check_expression
from lmmlite.formula import Bar, Formula
from lmmlite.sides import Side, build_side
from lmmlite.table import Levels, Table, as_column, drop_unused, levels_of, missing_labels, own_data, read_columns


@dataclass(frozen=True)
class Term:
    """One random term: which coefficients vary (``side``), over the levels of which factor (``group`` in `Design.groups`)."""

    bar: Bar
    group: int
    side: Side
    columns: list[np.ndarray]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the blocks of its covariance: one full block, or one for each coefficient after ``||``."""
        return (len(self.columns),) if self.bar.correlated else (1,) * len(self.columns)


@dataclass(frozen=True)
class Design:
    """A mixed model as arrays, rows with missing values left out.

    Attributes
    ----------
    formula : Formula
    y : (n,) array
        Response, offset not subtracted.
    fixed : Side
    x_columns : list of (n,) arrays
        Columns of X; those in ``dropped`` are left out.
    dropped : tuple of str
        Columns of X that are linear combinations of those to their left.
    terms : tuple of Term
        In the order of the formula.
    groups : tuple of Levels
        Grouping factors in order of first use.
    weights, offset : (n,) arrays or None
    kept : (n_all,) bool array or None
        Rows used; None where all are.
    index : pandas.Index
        Labels of the rows used.
    response_variables : tuple of str
    """

    formula: Formula
    y: np.ndarray
    fixed: Side
    x_columns: list[np.ndarray]
    dropped: tuple[str, ...]
    terms: tuple[Term, ...]
    groups: tuple[Levels, ...]
    weights: np.ndarray | None
    offset: np.ndarray | None
    kept: np.ndarray | None
    index: pd.Index

    @property
    def n(self) -> int:
        return len(self.y)

    @property
    def n_missing(self) -> int:
        """Rows left out because a value in them is missing."""
        return 0 if self.kept is None else int((~self.kept).sum())

    @property
    def has_rows(self) -> bool:
        """Whether the rows stand in memory."""
        return True

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Fixed effects that are estimated."""
        return tuple(name for name in self.fixed.names if name not in self.dropped)

    def keep_columns(self, kept: tuple[int, ...]) -> Design:
        """The design with only these columns of X; the others are named in ``dropped``."""
        dropped = tuple(name for j, name in enumerate(self.fixed.names) if j not in kept)
        return replace(self, x_columns=[self.x_columns[j] for j in kept], dropped=dropped)

    @property
    def X(self) -> np.ndarray:
        """Fixed-effects model matrix, (n, p)."""
        return np.column_stack(self.x_columns) if self.x_columns else np.empty((self.n, 0))

    @property
    def XX(self) -> np.ndarray:
        """X'X, (p, p)."""
        return self.X.T @ self.X

    def term_Z(self, term: Term) -> sp.csr_array:
        """Random-effects model matrix of one term, (n, levels · k); the coefficients of a level are neighbours."""
        k, levels = len(term.columns), self.groups[term.group]
        columns = (levels.codes.astype(np.int64) * k)[:, None] + np.arange(k)
        rows = np.arange(self.n + 1) * k
        return sp.csr_array((np.column_stack(term.columns).ravel(), columns.ravel(), rows), (self.n, levels.size * k))

    @property
    def Z(self) -> sp.csr_array:
        """Random-effects model matrix, (n, q): the terms side by side in the order of the formula."""
        return sp.hstack([self.term_Z(t) for t in self.terms], format="csr")


def build_design(formula: Formula, data: Any, *, weights: Any = None, offset: Any = None) -> Design:
    """Evaluate a formula on a data frame.

    Parameters
    ----------
    formula : Formula
        From `parse_formula`.
    data : DataFrame or mapping of columns
        pandas, polars or anything with named columns that NumPy can read.
    weights, offset : str or array-like, optional
        Prior weights (the residual variance of row i is σ²/wᵢ) and a known part of the mean; a column's name or n values.

    Raises
    ------
    ValueError
        Naming the column, row, level or term that makes the model impossible.
    """
    series, table, kept = _read(formula, data, weights, offset)
    index = series[formula.variables[0]].index
    index = index if kept is None else index[kept]
    n = len(index)
    y = _response(formula, table, n, series)
    fixed, x_columns = build_side(formula.fixed, table, n)
    names = list(dict.fromkeys(bar.factors for bar in formula.bars))
    groups = tuple(levels_of(series, factors, kept) for factors in names)
    terms: list[Term] = []
    for bar in formula.bars:
        group = names.index(bar.factors)
        side, columns = build_side(bar.terms, table, n)
        same = [g for g in range(len(groups)) if g == group or _same_groups(groups[g], groups[group])]
        others = [name for t in terms if t.group in same for name in t.side.names]
        constant = [bool(c[0] == c[-1] and np.ptp(c) == 0) for c in columns]
        check_identified(bar, side.names, constant, others, groups[group].size, n)
        terms.append(Term(bar, group, side, columns))
    w = _numbers(weights, "weights", table)
    if w is not None and (w <= 0).any():
        bad = int(np.flatnonzero(w <= 0)[0])
        raise ValueError(
            f"Weights must be positive; row {index[bad]!r} has {w[bad]:g}. Leave rows of weight zero out of the data."
        )
    known = _numbers(offset, "offset", table)
    return Design(formula, y, fixed, x_columns, (), tuple(terms), groups, w, known, kept, index)


def _read(
    formula: Formula, data: Any, weights: Any, offset: Any
) -> tuple[dict[str, pd.Series], Table, np.ndarray | None]:
    """The columns needed; those of the expressions as numbers or factors in the rows kept; and which rows those are."""
    series = read_columns(
        data, dict.fromkeys([*formula.variables, *(v for v in (weights, offset) if isinstance(v, str))])
    )
    n = len(next(iter(series.values())))
    for role, given in (("weights", weights), ("offset", offset)):
        if given is not None and not isinstance(given, str):
            series[_argument(role)] = _as_series(given, role, n)
    expressions = (formula.response, formula.fixed, *(bar.terms for bar in formula.bars))
    only_labels = {f for bar in formula.bars for f in bar.factors} - {
        v for e in expressions for v in check_expression(e)
    }
    full: Table = {}
    kept: np.ndarray | None = None
    for name, s in series.items():
        if name in only_labels:
            missing = missing_labels(s, name)
        else:
            full[name], missing = as_column(s, name)
        if missing is not None:
            kept = ~missing if kept is None else kept & ~missing
    if kept is not None and not kept.any():
        raise ValueError("Every row has a missing value in some column that the model uses.")
    return series, {name: _keep(column, kept) for name, column in full.items()}, kept


def read_table(design: Design, data: Any) -> Table:
    """The variables of the fixed part once more, in the rows of the fit."""
    series = read_columns(own_data(data), design.fixed.variables) if design.fixed.variables else {}
    return {name: _keep(as_column(s, name)[0], design.kept) for name, s in series.items()}


def _argument(role: str) -> str:
    """The name under which weights or offset given as an array stand among the columns."""
    return f"{role} (argument)"


def _as_series(given: Any, role: str, n: int) -> pd.Series:
    values = np.asarray(given)
    if values.shape != (n,):
        raise ValueError(
            f"The {role} must be a column's name or {n} values, one for each row; they have shape {values.shape}."
        )
    return pd.Series(values)


def _keep(column: Any, kept: np.ndarray | None) -> Any:
    column = column if kept is None else column[kept]
    return drop_unused(column) if isinstance(column, pd.Categorical) else column


def _numbers(given: Any, role: str, table: Table) -> np.ndarray | None:
    if given is None:
        return None
    values = table[given if isinstance(given, str) else _argument(role)]
    if isinstance(values, pd.Categorical):
        raise ValueError(f"The {role} must be numbers.")
    return values


def check_response(variable: str, is_factor: bool, is_boolean: bool) -> None:
    """Raise ValueError for a response that is no number."""
    if is_factor:
        raise ValueError(f"The response '{variable}' is not numeric; a linear mixed model needs a number for each row.")
    if is_boolean:
        raise ValueError(
            f"The response '{variable}' is true or false, which a linear mixed model does not describe; a logistic one does. "
            "Convert it with astype(float) if a linear probability model is meant."
        )


def _response(formula: Formula, table: Table, n: int, series: dict[str, pd.Series]) -> np.ndarray:
    name = formula.response
    for v in check_expression(name):
        check_response(v, isinstance(table[v], pd.Categorical), pd.api.types.is_bool_dtype(series[v].dtype))
    plain: Any = table.get(name.strip("`"))
    if plain is None:
        _, columns = build_side(f"0 + {name}", table, n)
        if len(columns) != 1:
            raise ValueError(f"The response '{name}' gives {len(columns)} columns; it must give one.")
        plain = columns[0]
    if np.ptp(plain) == 0:
        raise ValueError(f"The response '{name}' is constant ({plain[0]:g}): there is nothing to explain.")
    return plain


def _same_groups(one: Levels, other: Levels) -> bool:
    """Whether two grouping factors are one by two names."""
    if one.size != other.size:
        return False
    partner = np.zeros(one.size, np.intp)
    partner[one.codes] = other.codes
    return bool((partner[one.codes] == other.codes).all()) and len(np.unique(partner)) == one.size


def check_identified(
    bar: Bar, names: tuple[str, ...], constant: list[bool], others: list[str], levels: int, n: int
) -> None:
    """Raise ValueError for a random term whose variances the data could never tell apart, whatever their values."""
    if not names:
        raise ValueError(f"Nothing varies in {bar}: write (1 | {bar.group}) for a random intercept.")
    if levels >= n:
        raise ValueError(
            f"The grouping factor '{bar.group}' has {levels} levels for {n} rows, one for each: its random effects cannot be "
            "told from the residuals, so neither variance is identified. Group rows that belong together."
        )
    if levels * len(names) >= n:
        raise ValueError(
            f"{bar} has {levels} levels × {len(names)} coefficients = {levels * len(names)} random effects for {n} rows: their "
            "variances cannot be told from the residual variance. Use fewer random coefficients."
        )
    twice = next((name for name in names if name in others), None)
    if twice:
        raise ValueError(
            f"The coefficient '{twice}' varies over '{bar.group}' in two terms (or over the same groups by another name), whose "
            "variances cannot be told apart. "
            f"Write it once: (x | {bar.group}) already has a random intercept, (0 + x | {bar.group}) has none."
        )
    for name, same in zip(names, constant, strict=True):
        if name != "Intercept" and same:
            raise ValueError(
                f"'{name}' in {bar} has the same value in every row, so its effect cannot vary between groups."
            )
