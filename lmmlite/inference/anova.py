"""Tests of the terms of the fixed part: types I, II and III, each as a contrast matrix for `ddf.test`.

Type I: each term after those before it, from the Doolittle factor of X'X.  Type II: each term after all that do not contain
it.  Type III: effects averaged over the levels of all other factors, whatever coding the fit used (SAS; Kuznetsova et al. 2017).
The matrices are for the coefficients in the orthonormal basis X = QR, where no covariate is far from zero.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd

from lmmlite.basis import FixedRows
from lmmlite.design import Design, read_table
from lmmlite.expressions import tokens_of
from lmmlite.inference.ddf import Method, in_basis, test
from lmmlite.sides import Side, build_side, coded

if TYPE_CHECKING:
    from lmmlite.model import MixedModel


def term_columns(side: Side) -> dict[str, list[int]]:
    """The terms of an expression, named as in the formula, and the columns each has; the intercept is left out."""
    if isinstance(side.recipe, tuple):
        labels = [":".join(variable for variable, _ in column) for column in side.recipe]
    else:
        labels = [""] * len(side.names)
        for term, indices in side.recipe.term_indices.items():
            for j in indices:
                labels[j] = "" if str(term) == "1" else str(term)
    terms: dict[str, list[int]] = {}
    for j, label in enumerate(labels):
        if label:
            terms.setdefault(label, []).append(j)
    return terms


def _kept_columns(design: Design) -> dict[str, list[int]]:
    """`term_columns` counted among the columns that were not dropped; a term without any is an error."""
    place = {name: j for j, name in enumerate(design.names)}
    names = design.fixed.names
    terms = {t: [place[names[j]] for j in c if names[j] in place] for t, c in term_columns(design.fixed).items()}
    return {t: c for t, c in terms.items() if c}


def term_variables(side: Side) -> dict[str, frozenset[str]]:
    """The variables or transforms that each term multiplies, without the coding of factors: C(f, contr.sum):x -> {f, x}."""
    if isinstance(side.recipe, tuple):
        return {":".join(v for v, _ in column): frozenset(v for v, _ in column) for column in side.recipe if column}
    expression, out = side.recipe.expression, {}
    for term in side.recipe.spec.term_indices:
        parts = (str(factor.expr) for factor in term.factors)
        bare = (coded(part) or part for part in parts)
        out[expression.restore(str(term))] = frozenset(expression.columns.get(p, expression.restore(p)) for p in bare)
    return out


def factors_of(side: Side) -> set[str]:
    """Variables that stand for their levels: factors, and numbers that occur in C(…) only."""
    if isinstance(side.recipe, tuple):
        return set(side.levels)
    parts = {str(factor.expr) for term in side.recipe.spec.term_indices for factor in term.factors}
    columns = side.recipe.expression.columns
    named = {columns[name] for name in map(coded, parts) if name in columns}
    return set(side.levels) | (named - {columns[part] for part in parts if part in columns})


def _contains(term: frozenset[str], other: frozenset[str], factors: set[str]) -> bool:
    """Whether ``other`` has the same covariates as ``term`` and more factors (SAS's rule)."""
    return term - factors == other - factors and term & factors < other & factors


def fixed_rows(design: Design) -> FixedRows:
    """The rows of X, in an orthonormal basis, as the cross-products sum them."""
    return FixedRows(design.x_columns, design.y, design.offset, design.weights)


def between(one: FixedRows, other: FixedRows) -> np.ndarray:
    """Q'Q₀ of two orthonormal bases over the same rows."""
    products = np.zeros((len(one.basis.kept), len(other.basis.kept)))
    for start in one.starts():
        products += one.rows(start)[:-1] @ other.rows(start)[:-1].T
    return products


def _root(design: Design) -> np.ndarray:
    """H, (p, p), with H'H = X̃'X̃ for the X̃ = XR⁻¹ of the basis, orthonormal as it stands only where rows have no weights."""
    if not design.has_rows:
        return np.eye(len(design.XX))  # with weights an error that says what is missing
    if design.weights is None:
        return np.eye(len(design.names))
    rows, gram = fixed_rows(design), np.zeros((len(design.names),) * 2)
    for start in rows.starts():
        x = rows.rows(start)[:-1] / rows.root_weights(start)
        gram += x @ x.T
    return np.linalg.cholesky(gram).T


def _doolittle(root: np.ndarray, R: np.ndarray) -> np.ndarray:
    """Row j is the contrast of column j of X̃R after those before it, as from X'X = LU with a unit diagonal."""
    X = root @ R
    Q = np.linalg.qr(X / np.linalg.norm(X, axis=0))[0]
    return Q.T @ root / np.einsum("ij,ij->j", Q, X)[:, None]


def type_1(fit: MixedModel) -> dict[str, np.ndarray]:
    U = _doolittle(_root(fit.design), np.linalg.inv(fit.criterion_function.cp.basis.to_user))
    return {term: U[columns] for term, columns in _kept_columns(fit.design).items()}


def type_2(fit: MixedModel) -> dict[str, np.ndarray]:
    design, to_user = fit.design, fit.criterion_function.cp.basis.to_user
    terms, variables, factors = _kept_columns(design), term_variables(design.fixed), factors_of(design.fixed)
    out = {}
    for term, columns in terms.items():
        above = [j for o, c in terms.items() if _contains(variables[term], variables[o], factors) for j in c]
        out[term] = to_user[columns]
        if above:
            order = [j for j in range(len(to_user)) if j not in columns + above] + columns + above
            U = _doolittle(_root(design), np.linalg.inv(to_user)[:, order])
            out[term] = U[[order.index(j) for j in columns]]
    return out


def type_3(fit: MixedModel) -> dict[str, np.ndarray]:
    """Effects averaged equally over the levels of every other factor; of a fully coded factor, its averaged means."""
    design = fit.design
    side, factors = design.fixed, factors_of(design.fixed)
    terms, variables = _kept_columns(design), term_variables(side)
    alone = not any(_contains(variables[a], variables[b], factors) for a in terms for b in terms)
    if alone and (not factors or "Intercept" in design.names):
        return {term: in_basis(fit, np.eye(len(design.names))[columns]) for term, columns in terms.items()}
    expression, to_basis = treatment_coded(design.formula.fixed), fit.criterion_function.cp.basis.to_user
    kept = [j for j, name in enumerate(side.names) if name not in design.dropped]
    if expression != design.formula.fixed:
        table = read_table(design, fit.data)
        numbers = {v: pd.Categorical(table[v]) for v in factors - set(side.levels)}
        side, columns = build_side(expression, {**table, **numbers}, design.n)
        own = FixedRows(columns, design.y, design.offset, design.weights)
        kept, to_basis = list(own.basis.kept), own.basis.to_user @ between(own, fixed_rows(design))
    L, places = _averages(side), term_columns(side)
    indices = {parts: [j for j in places[t] if j in kept] for t, parts in term_variables(side).items() if t in places}
    left_out = np.delete(L, kept, axis=1)[kept]
    if left_out.any():
        missing = np.delete(side.names, kept)[left_out.any(axis=0)]
        raise ValueError(
            f"Type III tests need every cell of the design; {', '.join(missing)} had to be left out. Use type 2 or 1."
        )
    return {term: L[np.ix_(indices[variables[term]], kept)] @ to_basis for term in terms}


def _averages(side: Side) -> np.ndarray:
    """The effect that each column stands for, averaged over the levels of all other factors, in terms of all columns: (p, p).

    A column is a product.  Of its factors in treatment coding the effect is a difference from the first level, of fully coded
    ones the value at a level, of numbers the slope; and along every other factor it is averaged.  The effect of a sum of
    columns is that of each.
    """
    parts, sizes = column_parts(side), {v: len(levels) for v, levels in side.levels.items()}
    L = np.zeros((len(parts), len(parts)))
    for (j, own), (i, other) in itertools.product(enumerate(parts), enumerate(parts)):
        if {v for v in own if v not in sizes} != {v for v in other if v not in sizes}:
            continue
        L[j, i] = 1.0
        for v in (own.keys() | other.keys()) & sizes.keys():
            here, there = own.get(v), other.get(v)
            if here is None:
                L[j, i] /= sizes[v]
            elif here.full:
                L[j, i] *= there is None or there.level == here.level
            else:
                L[j, i] *= 0 if there is None else (there.level == here.level) - (there.level == 0)
    return L


class Coded(NamedTuple):
    """One level of a factor as a column of 0 and 1: with ``full`` all levels of the factor have one, otherwise all but the first."""

    level: int
    full: bool = False


def column_parts(side: Side) -> list[dict[str, Coded | None]]:
    """What each column of a treatment-coded side multiplies: factors, and anything else with None.

    Names that formulaic made are read with neutral column names and the known levels, so that no level's text is.
    """
    if isinstance(side.recipe, tuple):
        return [{v: None if j is None else Coded(j) for v, j in column} for column in side.recipe]
    known: dict[str, tuple[str, Coded]] = {}
    for new, v in side.recipe.expression.columns.items():
        for j, level in enumerate(side.levels.get(v, ())):
            known |= {f"{new}[T.{level}]": (v, Coded(j)), f"{new}[{level}]": (v, Coded(j, full=True))}
    of_levels = re.compile("|".join(map(re.escape, sorted(known, key=len, reverse=True))) or "(?!)")
    out = []
    for name in side.recipe.spec.column_names:
        numbers = {part: None for part in _split_name(of_levels.sub("", name)) if part not in ("", "Intercept")}
        out.append(dict(known[part] for part in of_levels.findall(name)) | numbers)
    return out


def _split_name(name: str) -> list[str]:
    """A product cut at the colons outside brackets, as in x:bs(z, df=4)[1]."""
    depths = itertools.accumulate((character in "([") - (character in ")]") for character in name)
    cuts = [i for i, (character, depth) in enumerate(zip(name, depths, strict=True)) if character == ":" and depth == 0]
    return [name[start + 1 : stop] for start, stop in itertools.pairwise([-1, *cuts, len(name)])]


def treatment_coded(expression: str) -> str:
    """The expression with C(f, …) replaced by f, so that every factor has treatment coding."""
    tokens, out, copied = list(tokens_of(expression)), "", 0
    for i, t in enumerate(tokens[:-2]):
        if t.text == "C" and tokens[i + 1].text == "(" and t.start >= copied:
            depths = itertools.accumulate((u.text == "(") - (u.text == ")") for u in tokens[i + 1 :])
            end = tokens[i + 1 + next(n for n, depth in enumerate(depths) if depth == 0)].end
            out += expression[copied : t.start] + expression[tokens[i + 2].start : tokens[i + 2].end]
            copied = end
    return out + expression[copied:]


def anova(fit: MixedModel, ddf: Method, type: Literal[1, 2, 3]) -> pd.DataFrame:
    """F test of each term; see `MixedModel.anova`."""
    if type not in (1, 2, 3):
        raise ValueError(f"type is 1, 2 or 3, not {type!r}.")
    contrasts = type_3(fit) if type == 3 else type_2(fit) if type == 2 else type_1(fit)
    rows = []
    for term, L in contrasts.items():
        result = test(fit, L, ddf)
        mean = result.F / result.scale * fit.sigma**2
        rows.append((term, mean * result.num_df, mean, result.num_df, result.den_df, result.F, result.p_value))
    columns = ["term", "sum_sq", "mean_sq", "num_df", "den_df", "F", "p_value"]
    return pd.DataFrame(rows, columns=columns).set_index("term")
