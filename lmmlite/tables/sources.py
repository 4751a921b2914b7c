"""Where the rows of `lmmlite.tables` are: data frames one after the other, or an Ibis table whose engine makes the sums.

A column of the design becomes an expression of the engine: a number is itself, a level of a factor is a comparison turned into
0 and 1 (levels from a distinct query, sorted as pandas would), an interaction is a product, and ``np.log(x)`` or ``I(x**2)`` is
translated node by node.  What has no translation is refused by name.
"""

from __future__ import annotations

import ast
import itertools
import operator
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from lmmlite.design import check_response
from lmmlite.expressions import check_expression, tokens_of
from lmmlite.sides import Side
from lmmlite.table import Table, as_column, check_names, drop_unused, read_columns
from lmmlite.tables.totals import Facts, Needed, Plan, Request, products_of

_BATCH = 1 << 17  # rows of Parquet at a time
_WAITING = 1 << 20  # rows of partial sums that may wait to be added up
_HEAD = 1000  # rows of an engine that are looked at
_MINUS_OFFSET = (None, None)  # in place of an (expression, level) pair
_NONE_LEFT = "There are no rows (an iterator is used up by one fit), or each has a missing value in a column that the model uses."
_ONCE = "an iterator can be read only once: pass a list of frames, or a function that returns a new iterator"

Piece = tuple[dict[str, pd.Series], Table, int]  # columns and values of complete rows, and the number of the others


def parquet(data: Any) -> Callable[[list[str]], Iterator[pd.DataFrame]]:
    """Batches of a Parquet file, folder or `pyarrow.dataset`: a function of the columns needed."""
    try:
        import pyarrow.dataset as ds
    except ImportError:
        raise ImportError("Parquet data need pyarrow: pip install 'lmmlite[tables]'") from None
    dataset = data if hasattr(data, "to_batches") else ds.dataset(data, format="parquet")

    def read(columns: list[str]) -> Iterator[pd.DataFrame]:
        check_names(columns, dataset.schema.names)
        for batch in dataset.to_batches(columns=columns, batch_size=_BATCH, batch_readahead=2, fragment_readahead=1):
            yield batch.to_pandas()

    return read


class Frames:
    """Data frames one after the other, each summed and forgotten.

    Levels of factors in expressions are collected in a first reading; those of grouping factors show while summing.  The centres
    are the means of the first frame: any value near the data serves.

    Parameters
    ----------
    read : function
        Names of columns -> iterator over frames.
    data
        What was given by the user.
    """

    def __init__(self, read: Callable[[list[str]], Iterator[Any]], data: Any):
        self._read, self.data = read, data
        self._begun: Iterator[Piece] | None = None  # an iterator of which the first rows were looked at

    def sample(self, needed: Needed) -> Table:
        self._needed = needed
        pieces = self._pieces()
        begun: list[Piece] = []
        while not (begun and begun[-1][1]):
            try:
                begun.append(next(pieces))
            except StopIteration:
                raise ValueError(_NONE_LEFT) from None
        series, table, _ = begun[-1]
        for v in needed.response:
            check_response(v, isinstance(table[v], pd.Categorical), pd.api.types.is_bool_dtype(series[v].dtype))
        factors = {v: column for v, column in table.items() if isinstance(column, pd.Categorical)}
        pieces = itertools.chain(begun, pieces)
        if isinstance(self.data, Iterator):
            self._begun = pieces
            undeclared = next((v for v in factors if not isinstance(series[v].dtype, pd.CategoricalDtype)), None)
            if undeclared:
                raise ValueError(
                    f"The levels of '{undeclared}' are not known before the last frame, and {_ONCE}; or make the column a "
                    "categorical that has all its levels in every frame."
                )
            levels = {v: c.categories for v, c in factors.items()}
        else:
            levels = _collect(list(factors), pieces) if factors else {}
        self._levels = levels
        self._sample = table | {v: c.set_categories(levels[v]) for v, c in factors.items()}
        return self._sample

    def _pieces(self) -> Iterator[Piece]:
        if self._begun is not None:
            pieces, self._begun = self._begun, None
            return pieces
        return (self._piece(frame) for frame in self._read(list(self._needed.all)) if len(frame))

    def _piece(self, frame: Any) -> Piece:
        series = read_columns(frame, self._needed.all)
        missing = reduce(operator.or_, (s.isna().to_numpy() for s in series.values()))
        if missing.all():
            return {}, {}, len(missing)
        if missing.any():
            series = {name: s[~missing] for name, s in series.items()}
        return series, {v: as_column(series[v], v)[0] for v in self._needed.values}, int(missing.sum())

    def centred(self, plan: Plan) -> Plan:
        self._means = plan.columns(self._sample).mean(axis=1)
        return plan.about(self._means)

    def group_by(self, plan: Plan, M: np.ndarray | None, requests: list[Request]) -> tuple[list[pd.DataFrame], Facts]:
        if isinstance(self.data, Iterator) and self._begun is None:
            raise ValueError(
                f"Combinations of the columns cancel so many digits that the rows must be read again, but {_ONCE}."
            )
        waiting: list[list[pd.DataFrame]] = [[] for _ in requests]
        used = {v: np.zeros(len(levels), bool) for v, levels in self._levels.items()}
        n, missing, log_weight = 0, 0, 0.0
        first = second = np.zeros(len(plan.names))  # moments about the means of the sample
        low, high = np.full((2, len(plan.names)), [[np.inf], [-np.inf]])
        for series, table, left_out in self._pieces():
            missing += left_out
            if not table:
                continue
            for v, seen in used.items():
                seen |= self._levels[v].isin(_used(table[v]))
            raw = plan.columns(table)
            n += raw.shape[1]
            low, high = np.minimum(low, raw.min(axis=1)), np.maximum(high, raw.max(axis=1))
            plan.check(low, high)
            w = table[plan.weights] if plan.weights else None
            about = raw - self._means[:, None]
            first, second = first + about.sum(axis=1), second + (about**2).sum(axis=1)
            log_weight += 0.0 if w is None else float(np.log(w).sum())
            columns = plan.combined(raw, M)
            for parts, request in zip(waiting, requests, strict=True):
                sums: dict[Any, Any] = {f"key{i}": series[v].array for i, v in enumerate(request.keys)}
                for i, (a, b) in enumerate(request.products):
                    product = columns[a] * columns[b]
                    sums[i] = product if w is None else product * w
                parts.append(_added([pd.DataFrame(sums)], request))
                if sum(map(len, parts[1:])) > max(_WAITING, len(parts[0])):
                    parts[:] = [_added(parts, request)]
        for v, seen in used.items():
            if not seen.all():
                raise ValueError(
                    f"No row has the level {self._levels[v][~seen][0]!r} that '{v}' declares: declare only levels that occur."
                )
        results = [_added(parts, request) for parts, request in zip(waiting, requests, strict=True)]
        mean, sd = self._means + first / n, np.sqrt(np.maximum(second / n - (first / n) ** 2, 0))
        return results, Facts(n, missing, log_weight, low, high, mean, sd)


def _collect(factors: list[str], pieces: Iterator[Piece]) -> dict[str, pd.Index]:
    """Levels that occur; in the declared order where all frames declare the same categories."""
    seen: dict[str, list[pd.Series]] = {v: [] for v in factors}
    for series, _, _ in pieces:
        for v in factors if series else ():
            seen[v] = [pd.concat([*seen[v], series[v]]).drop_duplicates()]
    return {v: _used(as_column(s, v)[0]) for v, (s,) in seen.items()}


def _used(factor: Any) -> pd.Index:
    return drop_unused(factor).categories


def _added(parts: list[pd.DataFrame], request: Request) -> pd.DataFrame:
    """Partial sums added up by key."""
    keys = [f"key{i}" for i in range(len(request.keys))]
    return pd.concat(parts, ignore_index=True).groupby(keys, sort=False, observed=True, as_index=False).sum()


class Engine:
    """An Ibis table: one cheap aggregate query for the centres, then a GROUP BY for each grouping factor and pair of them."""

    def __init__(self, data: Any):
        self.data = data

    def sample(self, needed: Needed) -> Table:
        check_names(needed.all, self.data.columns)
        rows, schema = self.data, self.data.schema()
        for name in needed.all:
            rows = rows.filter(rows[name].notnull())
            rows = rows.filter(~rows[name].isnan()) if schema[name].is_floating() else rows
        self._rows = rows
        for v in needed.response:
            check_response(v, schema[v].is_string(), schema[v].is_boolean())
        head = rows.select(*needed.values).head(_HEAD).execute()
        if head.empty:
            raise ValueError(_NONE_LEFT)
        table: Table = {}
        for v in needed.values:
            if schema[v].is_string():
                levels = pd.Categorical(rows.select(v).distinct().execute()[v]).categories
                table[v] = pd.Categorical(head[v], levels)
            elif schema[v].is_numeric() or schema[v].is_boolean():
                table[v] = head[v].to_numpy(np.float64)
            else:
                raise ValueError(
                    f"Column '{v}' is of type {schema[v]}, which is neither a number nor text; convert it in the table first."
                )
        return table

    def centred(self, plan: Plan) -> Plan:
        """Means, extremes and counts of all columns in one query; they also tell what cannot be summed."""
        rows = self._rows
        keys = [key for side in plan.sides for key in _products(side)]
        if plan.offset:
            keys[plan.d] = (*keys[plan.d], _MINUS_OFFSET)
        if plan.weights:
            keys.append(((plan.weights, None),))
        places = {key: str(i) for i, key in enumerate(dict.fromkeys(key for key in keys if key))}
        asked: dict[str, Any] = {}
        for key, place in places.items():
            column = _product(rows, key, plan)
            asked |= {"n" + place: column.count(), "mean" + place: column.mean(), "sd" + place: column.std(how="pop")}
            asked |= {"low" + place: column.min(), "high" + place: column.max()}
        try:
            found = rows.aggregate(n=rows.count(), **asked).execute().iloc[0]
        except Exception as error:  # each engine has its own
            raise ValueError(
                f"The engine cannot average {', '.join(plan.names)}; is one not finite in some row (infinite, or a function out of "
                f"its range)? It says: {error}"
            ) from error
        n = int(found["n"])
        missing = int(self.data.count().execute()) - n
        defined, mean, sd, low, high = (
            np.array([found[name + places[key]] if key else constant for key in keys], np.float64)
            for name, constant in (("n", n), ("mean", 1), ("sd", 0), ("low", 1), ("high", 1))
        )
        low[defined < n] = np.nan
        plan.check(low, high)
        self._rows = rows if missing else self.data
        self._keys, self._facts = keys, Facts(n, missing, 0.0, low, high, mean, sd)
        return plan.about(mean)

    def group_by(self, plan: Plan, M: np.ndarray | None, requests: list[Request]) -> tuple[list[pd.DataFrame], Facts]:
        factors = dict.fromkeys(f for request in requests for f in request.keys)
        own = [f"c{i}" if key else None for i, key in enumerate(self._keys)]
        rows = self._rows.select(
            **{f"key{i}": self._rows[f] for i, f in enumerate(factors)},
            **{
                name: _product(self._rows, key, plan) - float(centre)
                for name, key, centre in zip(own, self._keys, plan.centres, strict=True)
                if name
            },
        )
        weight = own.pop() if plan.weights else None
        if M is not None:
            D = [rows[name] if name else 1.0 for name in own[: plan.d + 1]]
            made = [
                reduce(operator.add, [column * float(m) for column, m in zip(D, part, strict=True) if m])
                for part in M.T
            ]
            rows = rows.mutate(**{f"d{j}": column for j, column in enumerate(made)})
            own = [*(f"d{j}" for j in range(len(made))), *own[plan.d + 1 :]]
        place = {f: f"key{i}" for i, f in enumerate(factors)}
        results = []
        for request in requests:
            sums = {}
            for i, pair in enumerate(request.products):
                columns = [rows[name] for name in (*(own[j] for j in pair), weight) if name]
                sums[str(i)] = reduce(operator.mul, columns).sum() if columns else rows.count()
            table = rows.group_by([place[f] for f in request.keys]).aggregate(rows=rows.count(), **sums).execute()
            if table["rows"].sum() != self._facts.n:
                raise ValueError(
                    "The table gave other rows when it was asked again; make it a fixed one (table.cache())."
                )
            table = table.rename(
                columns={place[f]: f"key{i}" for i, f in enumerate(request.keys)} | {name: int(name) for name in sums}
            )
            results.append(table)
        log_weight = float(rows[weight].ln().sum().execute()) if weight else 0.0
        return results, replace(self._facts, log_weight=log_weight)


def _products(side: Side) -> list[tuple]:
    """For each column of a side the (expression, level) pairs whose product it is; level None for numbers."""
    if isinstance(side.recipe, tuple):
        return [tuple((v, None if j is None else side.levels[v][j]) for v, j in column) for column in side.recipe]
    out: list[tuple] = []
    for parts in products_of(side):
        choices = []
        for text, reduced in parts:
            factor = next((v for v in side.levels if text in (v, f"`{v}`", f"C({v})", f"C(`{v}`)")), None)
            if factor is None and any(v in side.levels for v in _variables(text, side)):
                raise _refusal(text, "its coding of a factor is not 0 and 1")
            choices.append([(factor, level) for level in side.levels[factor][reduced:]] if factor else [(text, None)])
        out += [column[::-1] for column in itertools.product(*reversed(choices))]
    return out


def _variables(text: str, side: Side) -> list[str]:
    return [text] if text in side.variables else check_expression(text)


def _product(rows: Any, key: tuple, plan: Plan) -> Any:
    """The product of the parts of a column as an expression over the rows."""
    if key[-1] == _MINUS_OFFSET:
        return _product(rows, key[:-1], plan) - _number(rows, str(plan.offset))
    parts = [_expression(rows, text) if level is None else (rows[text] == level).cast("float64") for text, level in key]
    return reduce(operator.mul, parts)


def _number(rows: Any, name: str) -> Any:
    return rows[name].cast("float64")


_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_COMPARISONS = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FUNCTIONS = {
    name: name for name in ("log2", "log10", "exp", "sqrt", "abs", "sign", "sin", "cos", "tan", "floor", "ceil")
} | {"log": "ln"}


def _expression(rows: Any, text: str) -> Any:
    """A column or a call such as ``np.log(x)`` in Ibis; ValueError that names what has no translation."""
    if text in rows.columns:
        return _number(rows, text)
    tokens = list(tokens_of(text))
    quoted = {f"_column{i}_": t.text.strip("`") for i, t in enumerate(tokens) if t.kind == "quoted"}
    words = [f"_column{i}_" if t.kind == "quoted" else t.text for i, t in enumerate(tokens)]

    def translated(node: ast.AST) -> Any:
        match node:
            case ast.Name(id=name):
                return _number(rows, quoted.get(name, name))
            case ast.Constant(value=int() | float() as value):
                return float(value)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                return -translated(operand) if isinstance(node.op, ast.USub) else translated(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](translated(left), translated(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
                return _COMPARISONS[type(op)](translated(left), translated(right)).cast("float64")
            case ast.Call(func=ast.Name(id="I"), args=[inside], keywords=[]):
                return translated(inside)
            case ast.Call(func=function, args=[inside], keywords=[]):
                name = ast.unparse(function).removeprefix("np.")
                if name in _FUNCTIONS:
                    return getattr(translated(inside), _FUNCTIONS[name])().cast("float64")
        raise _refusal(text, f"'{ast.unparse(node)}' has no translation")

    return translated(ast.parse(" ".join(words), mode="eval").body)


def _refusal(text: str, reason: str) -> ValueError:
    return ValueError(
        f"'{text}' cannot be pushed down to the engine: {reason}. Put it into the table as a column (table.mutate), or fit data "
        "frames: in memory, or in pieces."
    )
