"""A mixed model is a GROUP BY: fits to rows that never stand in memory together.

The criterion needs sums of products only, within the levels of each grouping factor and within the pairs of levels of each two.
So the rows may come in pieces, or stay in an engine that adds them up where they are (`lmmlite.tables.pieces`, `lmmlite.tables.engine`).  The design that
results knows counts, names and levels; whatever asks it for rows gets a `RowsError`.

Both ways read the data several times: for levels and centres, for the sums (`lmmlite.tables.totals`), and once or twice more where columns
are so nearly collinear that combinations of them must be formed row by row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd

from lmmlite.covariance import templates
from lmmlite.crossproducts import CrossProducts, assemble
from lmmlite.design import Design, Term, check_identified
from lmmlite.expressions import check_expression, tokens_of
from lmmlite.formula import Formula
from lmmlite.sides import Side, build_side
from lmmlite.sums import Sums
from lmmlite.table import Table
from lmmlite.tables.totals import Needed, Plan, Source, orthonormal, products_of, scale_z

_STATEFUL = frozenset(["poly", "bs", "cr", "cc", "scale", "center", "standardize"])  # need all rows at once


class RowsError(ValueError):
    """Asks for rows of a fit that was made from sums."""


class NoRows:
    """Stands where a fit in memory holds its rows: whatever wants them gets a `RowsError`."""

    def __init__(self, source: Any = None):
        self.source = source

    def refuse(self, *args: Any, **options: Any) -> Any:
        """Raise the error that says that the rows are not at hand."""
        raise RowsError(
            "This needs the rows, and the fit has only their sums, since its data came in pieces or from an engine. "
            "Pass rows to predict(new), keep the fit with pickle, or fit a sample of the rows in memory: lmer(formula, data_frame)."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.refuse()

    def __reduce__(self) -> tuple:
        return NoRows, ()  # a saved fit does not take its source along

    __array__ = __array_ufunc__ = __getitem__ = __len__ = __iter__ = __invert__ = refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = refuse


NO_ROWS: Any = NoRows()


@dataclass(frozen=True)
class TableDesign(Design):
    """A design of which only counts, names and levels are known; see `Design`."""

    counted: tuple[int, int] = (0, 0)
    products: Any = NO_ROWS

    @property
    def n(self) -> int:
        return self.counted[0]

    @property
    def n_missing(self) -> int:
        return self.counted[1]

    @property
    def has_rows(self) -> bool:
        return False

    @property
    def XX(self) -> np.ndarray:
        return np.asarray(self.products)

    def keep_columns(self, kept: tuple[int, ...]) -> Design:
        design = super().keep_columns(kept)
        assert isinstance(design, TableDesign)
        return replace(
            design, products=self.products if design.weights is not None else self.products[np.ix_(kept, kept)]
        )


def is_table(data: Any) -> bool:
    """Whether data are rows in pieces or in an engine: an Ibis table, or neither a data frame nor a mapping of columns."""
    if isinstance(data, NoRows) or type(data).__module__.startswith("ibis."):
        return True
    return not (isinstance(data, Mapping) or hasattr(type(data), "columns"))


def summed(formula: Formula, data: Any, weights: Any, offset: Any) -> tuple[Design, CrossProducts, NoRows]:
    """Design and cross-products of rows that are only summed; see `lmmlite.lmer` for what data can be."""
    for role, given in (("weights", weights), ("offset", offset)):
        if not (given is None or isinstance(given, str)):
            raise TypeError(f"Where data come in pieces or from an engine, {role} must be the name of a column.")
    if isinstance(data, NoRows):
        data = data.refuse() if data.source is None else data.source
    source = _source(data)
    table = source.sample(_needed(formula, weights, offset))
    for role, name in (("weights", weights), ("offset", offset)):
        if name is not None and isinstance(table[name], pd.Categorical):
            raise ValueError(f"The {role} must be numbers.")
    names = list(dict.fromkeys(bar.factors for bar in formula.bars))
    response, fixed = _side(f"0 + {formula.response}", table), _side(formula.fixed, table)
    sides = [_side(bar.terms, table) for bar in formula.bars]
    terms = [
        Term(bar, names.index(bar.factors), side, [NO_ROWS] * len(side.names))
        for bar, side in zip(formula.bars, sides, strict=True)
    ]
    if len(response.names) != 1:
        raise ValueError(f"The response '{formula.response}' gives {len(response.names)} columns; it must give one.")
    z = tuple(tuple(t.side for t in terms if t.group == g) for g in range(len(names)))
    plan = source.centred(Plan(fixed, response, z, tuple(names), weights, offset))

    plan, totals, basis, XX = orthonormal(source, plan)
    facts = totals.facts
    for levels in totals.levels:
        levels.codes = NO_ROWS
    for i, term in enumerate(terms):
        before = [name for t in terms[:i] if t.group == term.group for name in t.side.names]
        others = [name for t in terms[:i] if totals.same_groups(t.group, term.group) for name in t.side.names]
        start = plan.z_places[term.group].start + len(before)
        own = slice(start, start + len(term.columns))
        constant = [bool(same) for same in facts.low[own] == facts.high[own]]
        check_identified(term.bar, term.side.names, constant, others, totals.levels[term.group].size, facts.n)
    design = TableDesign(
        formula,
        y=NO_ROWS,
        fixed=fixed,
        x_columns=[NO_ROWS] * len(fixed.names),
        dropped=(),
        terms=tuple(terms),
        groups=tuple(totals.levels),
        weights=None if weights is None else NO_ROWS,
        offset=None if offset is None else NO_ROWS,
        kept=NO_ROWS,
        index=NO_ROWS,
        counted=(facts.n, facts.missing),
        products=XX if weights is None else NO_ROWS,
    )
    made = templates(design)
    Z_maps, own_maps = zip(*(scale_z(totals, plan, g, t) for g, t in enumerate(made)), strict=True)
    sums = Sums.of(totals.ZZ, totals.ZD, totals.DD, totals.pairs)
    weight = float(facts.mean[-1]) if weights else 1.0
    own_maps = tuple(np.sqrt(weight) * own for own in own_maps)
    cp = assemble(sums, facts.n, (weight, facts.log_weight), basis, made, Z_maps, own_maps)
    return design, cp, NoRows(source.data)


def _source(data: Any) -> Source:
    from lmmlite.tables import engine, pieces

    if type(data).__module__.startswith("ibis."):
        return engine.Engine(data)
    if isinstance(data, str | PathLike) or hasattr(data, "to_batches"):
        return pieces.Frames(pieces.parquet(data), data)
    if not (callable(data) or isinstance(data, Iterable)):
        raise TypeError(
            "The data must be a data frame or a mapping of columns, or for rows in pieces a list of frames, a function that "
            f"returns an iterator over them, a Parquet data set or an Ibis table; not {type(data).__name__}."
        )
    return pieces.Frames(pieces.frames(data), data)


def _needed(formula: Formula, weights: str | None, offset: str | None) -> Needed:
    expressions = (formula.response, formula.fixed, *(bar.terms for bar in formula.bars))
    for text in expressions:
        tokens = pairwise(t.text for t in tokens_of(text))
        stateful = next((name for name, following in tokens if name in _STATEFUL and following == "("), None)
        if stateful:
            raise ValueError(
                f"{stateful}(…) in '{text}' depends on all rows at once, which cannot be had in pieces or pushed down to an "
                "engine. Put its columns into the data, or fit a data frame in memory."
            )
    values = [*(v for e in expressions for v in check_expression(e)), *(v for v in (weights, offset) if v)]
    return Needed(
        tuple(check_expression(formula.response)),
        tuple(dict.fromkeys(values)),
        tuple(dict.fromkeys(f for bar in formula.bars for f in bar.factors)),
    )


def _side(text: str, table: Table) -> Side:
    side, _ = build_side(text, table, len(next(iter(table.values()))))
    if isinstance(side.recipe, tuple):
        return side
    expression = side.recipe.expression
    for part in [part for product in products_of(side) for part, _ in product if part.startswith("C(")]:
        numbers = [v for v in check_expression(expression.restore(part)) if v not in side.levels]
        if numbers:
            raise ValueError(
                f"{expression.restore(part)} makes a factor of numbers: turn '{numbers[0]}' into text or a categorical first."
            )
    return side
