"""Tests of the terms of the fixed part: types I, II and III, each as a contrast matrix for `ddf.test`.

Type I: each term after those before it, from the Doolittle factor of X'X.  Type II: each term after all that do not contain
it.  Type III: effects averaged over the levels of all other factors, whatever coding the fit used (SAS; Kuznetsova et al. 2017).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import linalg, stats

from lmmlite.design import Design, read_table
from lmmlite.expressions import tokens_of
from lmmlite.inference.ddf import Method, test
from lmmlite.sides import Side, build_side

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


def _contains(term: str, other: str, factors: set[str]) -> bool:
    """Whether ``other`` has the same covariates as ``term`` and more factors (SAS's rule)."""
    one, two = set(_parts(term)), set(_parts(other))
    return one - factors == two - factors and one & factors < two & factors


def _doolittle(gram: np.ndarray) -> np.ndarray:
    """U of X'X = LU with a unit diagonal: row j is the contrast of column j after those before it."""
    R = np.linalg.cholesky(gram).T
    return R / np.diag(R)[:, None]


def type_1(design: Design) -> dict[str, np.ndarray]:
    U = _doolittle(design.XX)
    return {term: U[columns] for term, columns in _kept_columns(design).items()}


def type_2(design: Design) -> dict[str, np.ndarray]:
    terms, gram, factors = _kept_columns(design), design.XX, set(design.fixed.levels)
    out = {}
    for term, columns in terms.items():
        above = [j for other, c in terms.items() if _contains(term, other, factors) for j in c]
        rows = np.eye(len(gram))[columns]
        if above:
            order = [j for j in range(len(gram)) if j not in columns + above] + columns + above
            U = _doolittle(gram[np.ix_(order, order)])
            rows[:, order] = U[[order.index(j) for j in columns]]
        out[term] = rows
    return out


def type_3(fit: MixedModel) -> dict[str, np.ndarray]:
    """Effects averaged equally over the levels of every other factor.

    In treatment coding the effect of a column then is its coefficient plus, for each column that multiplies it by levels of
    further factors f, that coefficient over Π n_f; with any other coding, X = X_treatment M carries this over.
    """
    design = fit.design
    terms, factors = _kept_columns(design), set(design.fixed.levels)
    if not any(_contains(a, b, factors) for a in terms for b in terms):
        return {term: np.eye(len(design.names))[columns] for term, columns in terms.items()}
    if design.dropped:
        raise ValueError(
            f"Type III tests need every cell of the design; {', '.join(design.dropped)} had to be left out. Use type 2 or 1."
        )
    side, M = design.fixed, np.eye(len(design.names))
    expression = treatment_coded(design.formula.fixed)
    if expression != design.formula.fixed:
        table = read_table(design, fit.data)
        side, columns = build_side(expression, table, design.n)
        M = linalg.lstsq(np.column_stack(columns), design.X)[0]
    parts = [_split_name(name) for name in side.names]
    sizes = {v: len(levels) for v, levels in side.levels.items()}
    L = np.zeros((len(parts), len(parts)))
    for j, own in enumerate(parts):
        for i, other in enumerate(parts):
            further = [part for part in other if part not in own]
            if own <= other and all("[T." in part for part in further):
                L[j, i] = np.prod([1 / sizes[part.split("[T.")[0]] for part in further])
    indices = {tuple(_parts(term)): columns for term, columns in term_columns(side).items()}
    return {term: L[indices[tuple(_parts(term))]] @ M for term in terms}


def _split_name(name: str) -> frozenset[str]:
    """The factors of a column's name, cut at the colons outside brackets: x:f[T.b:c] -> x, f[T.b:c]."""
    if name == "Intercept":
        return frozenset()
    depth, parts, part = 0, [], ""
    for character in name:
        depth += (character in "([") - (character in ")]")
        if character == ":" and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += character
    return frozenset([*parts, part])


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


def _parts(term: str) -> list[str]:
    """The variables or transforms that a term multiplies, without the coding of factors: C(f, contr.sum):x -> f, x."""
    parts = (part[2:-1].split(",")[0] if part.startswith("C(") else part for part in term.split(":"))
    return sorted(part.strip().strip("`") for part in parts)


def anova(fit: MixedModel, ddf: Method, type: Literal[1, 2, 3]) -> pd.DataFrame:
    """F test of each term; see `MixedModel.anova`."""
    if type not in (1, 2, 3):
        raise ValueError(f"type is 1, 2 or 3, not {type!r}.")
    contrasts = type_3(fit) if type == 3 else type_2(fit.design) if type == 2 else type_1(fit.design)
    rows = []
    for term, L in contrasts.items():
        result = test(fit, L, ddf)
        p = stats.f.sf(result.F, result.num_df, result.den_df)
        mean = result.F / result.scale * fit.sigma**2
        rows.append((term, mean * result.num_df, mean, result.num_df, result.den_df, result.F, p))
    columns = ["term", "sum_sq", "mean_sq", "num_df", "den_df", "F", "p_value"]
    return pd.DataFrame(rows, columns=columns).set_index("term")
