"""An Ibis table whose engine makes the sums, where the rows are.

A column of the design becomes an expression of the engine: a number is itself, a level of a factor is a comparison turned into
0 and 1 (levels from a distinct query, sorted as pandas would), an interaction is a product, and ``np.log(x)`` or ``I(x**2)`` is
translated node by node.  What has no translation is refused by name.
"""

from __future__ import annotations

import ast
import itertools
import operator
import re
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lmmlite.design import check_response
from lmmlite.expressions import check_expression, tokens_of
from lmmlite.sides import Side
from lmmlite.table import Table, check_names
from lmmlite.tables.totals import NONE_LEFT, Facts, Needed, Plan, Request, products_of

_HEAD = 1000  # rows of an engine that are looked at


class Part(NamedTuple):
    """A factor of a product: a column of numbers, 0 and 1 for a level of a factor, or a call such as ``np.log(x)``."""

    column: str | None = None
    level: Any = None
    call: str = ""


_MINUS_OFFSET = Part()


class Engine:
    """An Ibis table: one cheap aggregate query for the centres, then a GROUP BY for each grouping factor and pair of them."""

    def __init__(self, data: Any):
        self.data = data

    def sample(self, needed: Needed) -> Table:
        import ibis.expr.types
        from ibis.expr.operations import IsNan

        if not isinstance(self.data, ibis.expr.types.Table):
            raise TypeError(f"Of Ibis a table is needed, not {type(self.data).__name__}.")
        check_names(needed.all, self.data.columns)
        for name in needed.all:
            same = [c for c in self.data.columns if c.lower() == name.lower()]
            if len(same) > 1:
                raise ValueError(
                    f"The columns {same} differ only by case, which engines do not tell apart; rename one."
                )
        rows, schema = self.data, self.data.schema()
        has_nan = self.data.get_backend().has_operation(IsNan)
        for name in needed.all:
            rows = rows.filter(rows[name].notnull())
            rows = rows.filter(~rows[name].isnan()) if schema[name].is_floating() and has_nan else rows
        self._rows = rows
        for v in needed.response:
            check_response(v, schema[v].is_string(), schema[v].is_boolean())
        head = rows.select(*needed.values).head(_HEAD).execute()
        if head.empty:
            raise ValueError(NONE_LEFT)
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
            keys.append((Part(plan.weights),))
        places = {key: str(i) for i, key in enumerate(dict.fromkeys(key for key in keys if key))}
        asked: dict[str, Any] = {}
        for key, place in places.items():
            column = _product(rows, key, plan)
            asked |= {"n" + place: column.count(), "mean" + place: column.mean(), "sd" + place: column.std(how="pop")}
            asked |= {"low" + place: column.min(), "high" + place: column.max()}
        try:
            found = rows.aggregate(n=rows.count(), **asked).execute().iloc[0]
        except Exception as error:  # each engine has its own
            self._check_extremes(rows, keys, plan)
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

    def _check_extremes(self, rows: Any, keys: list[tuple[Part, ...]], plan: Plan) -> None:
        """ValueError that names the column at fault, if its extremes show it."""
        low, high = np.ones((2, len(keys)))
        for i, key in enumerate(keys):
            if key:
                column = _product(rows, key, plan)
                try:
                    low[i], high[i] = rows.aggregate(low=column.min(), high=column.max()).execute().iloc[0]
                except Exception:  # not even that
                    low[i] = np.nan
        plan.check(low, high)

    def group_by(self, plan: Plan, M: np.ndarray | None, requests: list[Request]) -> tuple[list[pd.DataFrame], Facts]:
        factors = dict.fromkeys(f for request in requests for f in request.keys)
        own = [f"c{i}" if key else None for i, key in enumerate(self._keys)]
        rows = self._rows.select(
            **{f"key{i}": self._rows[f] for i, f in enumerate(factors)},
            **{
                name: _product(self._rows, key, plan) - (_double(centre) if centre else 0)
                for name, key, centre in zip(own, self._keys, plan.centres, strict=True)
                if name
            },
        )
        weight = own.pop() if plan.weights else None
        if M is not None:
            D = [rows[name] if name else _double(1) for name in own[: plan.d + 1]]
            made = [
                reduce(operator.add, [column * _double(m) for column, m in zip(D, part, strict=True) if m])
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


def _products(side: Side) -> list[tuple[Part, ...]]:
    """For each column of a side the parts whose product it is."""
    if isinstance(side.recipe, tuple):
        return [tuple(Part(v, None if j is None else side.levels[v][j]) for v, j in column) for column in side.recipe]
    expression, out = side.recipe.expression, []
    for parts in products_of(side):
        choices = []
        for text, reduced in parts:
            column = expression.columns.get(re.sub(r"^C\((\w+)\)$", r"\1", text))
            if column in side.levels:
                choices.append([Part(column, level) for level in side.levels[column][reduced:]])
            elif text in expression.columns:
                choices.append([Part(column)])
            else:
                call = expression.restore(text)
                if any(v in side.levels for v in check_expression(call)):
                    raise _refusal(call, "its coding of a factor is not 0 and 1")
                choices.append([Part(call=call)])
        out += [column[::-1] for column in itertools.product(*reversed(choices))]
    return out


def _product(rows: Any, key: tuple[Part, ...], plan: Plan) -> Any:
    """The product of the parts of a column as an expression over the rows."""
    if key[-1] == _MINUS_OFFSET:
        return _product(rows, key[:-1], plan) - _number(rows, str(plan.offset))
    return reduce(operator.mul, [_part(rows, part) for part in key])


def _part(rows: Any, part: Part) -> Any:
    if part.column is None:
        return _called(rows, part.call)
    return _number(rows, part.column) if part.level is None else (rows[part.column] == part.level).cast("float64")


def _number(rows: Any, name: str) -> Any:
    return rows[name].cast("float64")


def _double(value: float) -> Any:
    """A number as it is: a bare one would be a decimal fraction in SQL, and come back another."""
    import ibis

    return ibis.literal(repr(float(value))).cast("float64")


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


def _called(rows: Any, text: str) -> Any:
    """A call such as ``np.log(x)`` in Ibis; ValueError that names what has no translation."""
    tokens = list(tokens_of(text))
    quoted = {f"_column{i}_": t.text.strip("`") for i, t in enumerate(tokens) if t.kind == "quoted"}
    words = [f"_column{i}_" if t.kind == "quoted" else t.text for i, t in enumerate(tokens)]

    def translated(node: ast.AST) -> Any:
        match node:
            case ast.Name(id=name):
                return _number(rows, quoted.get(name, name))
            case ast.Constant(value=int() | float() as value):
                return _double(value)
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
                    return getattr(translated(inside), _FUNCTIONS[name])() * _double(1)  # sign() is an integer in some
        raise _refusal(text, f"'{ast.unparse(node)}' has no translation")

    return translated(ast.parse(" ".join(words), mode="eval").body)


def _refusal(text: str, reason: str) -> ValueError:
    return ValueError(
        f"'{text}' cannot be pushed down to the engine: {reason}. Put it into the table as a column (table.mutate), or fit data "
        "frames: in memory, or in pieces."
    )
