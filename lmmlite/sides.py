"""One side of a formula as columns of numbers: by products of plain columns and factors, or by formulaic; again for new rows."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from typing import Any

import formulaic
import numpy as np
import pandas as pd
from formulaic.errors import DataMismatchWarning

from lmmlite.expressions import NUMPY_FUNCTIONS, Neutral, check_expression, neutral, plain_terms
from lmmlite.table import Table

# What formulaic may find under a bare name: NumPy's functions (its own transforms it knows itself).
CONTEXT = {name: getattr(np, name) for name in NUMPY_FUNCTIONS} | {"np": np}


@dataclass(frozen=True)
class Evaluated:
    """An expression that formulaic has evaluated, and how it evaluates it on new rows (knots, means and levels kept)."""

    expression: Neutral
    spec: formulaic.ModelSpec

    def columns(self, table: Table, n: int) -> list[np.ndarray]:
        complete = np.ones(n, bool)
        for column in table.values():
            complete &= ~np.asarray(pd.isna(column))
        out = np.full((len(self.spec.column_names), n), np.nan)
        if complete.any():  # formulaic would take a missing label for the first level
            frame = _renamed({v: column[complete] for v, column in table.items()}, self.expression, int(complete.sum()))
            self._check_numbers(table, complete)
            with warnings.catch_warnings():
                warnings.simplefilter("error", DataMismatchWarning)
                try:
                    made = self.spec.get_model_matrix(frame, context=CONTEXT, na_action="ignore")
                except DataMismatchWarning as error:
                    seen = str(error).split(":")[-1].split("}")[0] + "}"
                    raise ValueError(
                        f"A factor made of a column by C() has levels that the fit has not seen:{seen}."
                    ) from None
            out[:, complete] = made.to_numpy(np.float64).T
        return list(out)

    def _check_numbers(self, table: Table, complete: np.ndarray) -> None:
        """ValueError for a number in C(…) that the fit has not seen."""
        for v, known in self.numbers_as_levels.items():
            unseen = np.flatnonzero(complete & ~np.isin(table[v], known))
            if unseen.size:
                raise unseen_level(v, float(table[v][unseen[0]]), int(unseen[0]), known)

    @property
    def numbers_as_levels(self) -> dict[str, list]:
        """The numbers that C(…) takes for labels, by variable."""
        columns, out = self.expression.columns, {}
        for part, (_, state) in self.spec.encoder_state.items():
            known = state.get("categories", ())
            if coded(part) in columns and all(isinstance(level, float) for level in known):
                out[columns[coded(part)]] = list(known)
        return out

    @property
    def term_indices(self) -> dict[str, list[int]]:
        """The columns of each term."""
        return {self.expression.restore(str(term)): indices for term, indices in self.spec.term_indices.items()}


def coded(part: str) -> str:
    """f of C(f, …), empty for anything else."""
    return part[2:-1].split(",")[0].strip() if part.startswith("C(") else ""


def unseen_level(variable: str, level: Any, row: int, known: list) -> ValueError:
    return ValueError(
        f"Column '{variable}' has the level {level!r} in row {row}, which the fit has not seen; "
        f"it knows {', '.join(map(repr, known))}."
    )


def _renamed(table: Table, expression: Neutral, n: int) -> pd.DataFrame:
    return pd.DataFrame({new: table[v] for new, v in expression.columns.items()}, index=range(n))


@dataclass(frozen=True)
class Side:
    """The columns that one expression of a formula stands for, and how to make them again from new data.

    Attributes
    ----------
    names : tuple of str
        ``Intercept``, ``x``, ``f[T.b]``, ``x:f[T.b]``.
    variables : tuple of str
        Columns of the data that are needed.
    levels : dict of str to list
        Levels of the factors among them, in the order of the fit.
    recipe : tuple or Evaluated
        For plain expressions the (variable, level) pairs whose product each column is; level is None for a number.
    """

    names: tuple[str, ...]
    variables: tuple[str, ...]
    levels: dict[str, list]
    recipe: Any

    def columns(self, table: Table, n: int) -> list[np.ndarray]:
        """The columns, n rows each; missing values give nan.

        Raises
        ------
        ValueError
            For a level of a factor that the fit has not seen, or a factor where the fit had numbers.
        """
        table = {v: self._checked(v, table[v]) for v in self.variables}
        if isinstance(self.recipe, tuple):
            parts = {part: _part(table[part[0]], part[1]) for column in self.recipe for part in column}
            return [_product([parts[p] for p in column], n) for column in self.recipe]
        return self.recipe.columns(table, n)

    def _checked(self, variable: str, column: Any) -> Any:
        known = self.levels.get(variable)
        if known is None:
            if isinstance(column, pd.Categorical):
                raise ValueError(f"Column '{variable}' was numeric in the fit and is a factor here.")
            return column
        if not isinstance(column, pd.Categorical):
            raise ValueError(f"Column '{variable}' was a factor in the fit and is numeric here.")
        if list(column.categories) == known:
            return column
        new = column.set_categories(known)
        unseen = np.flatnonzero((new.codes < 0) & (column.codes >= 0))
        if unseen.size:
            raise unseen_level(variable, column[unseen[0]], int(unseen[0]), known)
        return new


def _part(column: Any, level: int | None) -> np.ndarray:
    if level is None:
        return column
    dummy = (column.codes == level).astype(np.float64)
    missing = column.codes < 0
    return np.where(missing, np.nan, dummy) if missing.any() else dummy


def _product(parts: list[np.ndarray], n: int) -> np.ndarray:
    return np.broadcast_to(1.0, n) if not parts else parts[0] if len(parts) == 1 else np.multiply.reduce(parts)


def build_side(text: str, table: Table, n: int) -> tuple[Side, list[np.ndarray]]:
    """Code one expression on the rows of the fit: plain sums and products here, anything else by formulaic."""
    variables = tuple(dict.fromkeys(check_expression(text)))
    used = {v: table[v] for v in variables}
    levels = {v: list(c.categories) for v, c in used.items() if isinstance(c, pd.Categorical)}
    alone = [v for v, known in levels.items() if len(known) < 2]
    if alone:
        raise ValueError(
            f"The factor '{alone[0]}' has one level in the rows used, so it has no effect to estimate; drop it."
        )
    plain = _plain_recipe(text, levels)
    if plain:
        side = Side(plain[0], variables, levels, plain[1])
        columns = side.columns(used, n)
    else:
        side, columns = _evaluate(text, used, n, levels)
    if len(set(side.names)) < len(side.names):
        twice = max(side.names, key=side.names.count)
        raise ValueError(f"Two columns of '{text}' would both be called '{twice}'; rename a column of the data.")
    return side, columns


def _evaluate(text: str, table: Table, n: int, levels: dict[str, list]) -> tuple[Side, list[np.ndarray]]:
    expression = neutral(text)
    frame = _renamed(table, expression, n)
    try:
        with np.errstate(all="ignore"):  # what is not finite is named below
            made = formulaic.model_matrix(expression.text, frame, context=CONTEXT, na_action="ignore")
            columns = [np.array(made.iloc[:, j], np.float64) for j in range(made.shape[1])]
    except Exception as error:
        reason = expression.restore(str(error.__cause__ or error).split("\n")[0])
        raise ValueError(f"'{text}' cannot be evaluated on these data: {reason}") from error
    names = tuple(expression.restore(str(name)) for name in made.columns)
    side = Side(names, tuple(table), levels, Evaluated(expression, made.model_spec))
    for name, column in zip(side.names, columns, strict=True):
        if not np.isfinite(column).all():
            row = int(np.flatnonzero(~np.isfinite(column))[0])
            why = (
                "fewer distinct values than its degree asks for"
                if "poly(" in name
                else "a logarithm or root out of its range"
            )
            raise ValueError(f"'{name}' is not finite in row {row} of the rows used ({why}?).")
    return side, columns


def _plain_recipe(text: str, levels: dict[str, list]) -> tuple[tuple[str, ...], tuple] | None:
    """Names and recipe where treatment coding needs no thought: every margin of every factor is in the model."""
    plain = plain_terms(text)
    if plain is None:
        return None
    intercept, terms = plain
    present: set[frozenset[str]] = {frozenset(t) for t in terms} | ({frozenset()} if intercept else set())
    names = ["Intercept"] * intercept
    recipe: list[tuple] = [()] * intercept
    for term in terms:
        if any(v in levels and frozenset(term) - {v} not in present for v in term):
            return None
        choices = [[(v, j) for j in range(1, len(levels[v]))] if v in levels else [(v, None)] for v in term]
        for column in itertools.product(*reversed(choices)):
            column = column[::-1]  # the first factor of a product varies fastest
            names.append(":".join(v if j is None else f"{v}[T.{levels[v][j]}]" for v, j in column))
            recipe.append(column)
    return (tuple(names), tuple(recipe)) if names else None
