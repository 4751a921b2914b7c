"""Tests of the terms of the fixed part: types I, II and III, each as a contrast matrix for `ddf.test`.

Type I: each term after those before it, from the Doolittle factor of X'X.  Type II: each term after all that do not contain
it.  Type III: the effects of the sum-to-zero coding, whatever coding the fit used (SAS; Kuznetsova et al. 2017).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import formulaic
import numpy as np
import pandas as pd
from scipy import linalg, stats

from lmmlite.design import CONTEXT, Design, Side, read_table
from lmmlite.expressions import tokens_of
from lmmlite.formula import quote
from lmmlite.inference.ddf import Method, test

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
    U = _doolittle(design.X.T @ design.X)
    return {term: U[columns] for term, columns in _kept_columns(design).items()}


def type_2(design: Design) -> dict[str, np.ndarray]:
    terms, gram = _kept_columns(design), design.X.T @ design.X
    factors = set(design.fixed.levels)
    out = {}
    for term, columns in terms.items():
        above = [j for other, c in terms.items() if _contains(term, other, factors) for j in c]
        order = [j for j in range(len(gram)) if j not in columns + above] + columns + above
        U = _doolittle(gram[np.ix_(order, order)])
        rows = np.zeros((len(columns), len(gram)))
        rows[:, order] = U[[order.index(j) for j in columns]]
        out[term] = rows
    return out


def type_3(fit: MixedModel) -> dict[str, np.ndarray]:
    """With the same model in sum coding, X = X_s A, so its effects of a term are A[columns] β."""
    design = fit.design
    terms = _kept_columns(design)
    factors = set(design.fixed.levels)
    if not any(_contains(a, b, factors) for a in terms for b in terms):
        return {term: np.eye(len(design.names))[columns] for term, columns in terms.items()}
    if design.dropped:
        raise ValueError(
            f"Type III tests need every cell of the design; {', '.join(design.dropped)} had to be left out. Use type 2 or 1."
        )
    table = read_table(design, fit.data)
    coded = formulaic.model_matrix(
        sum_coded(design.formula.fixed, factors), pd.DataFrame(table), context=CONTEXT, na_action="raise"
    )
    A = linalg.lstsq(coded.to_numpy(float), design.X)[0]
    indices = {tuple(_parts(str(term))): list(columns) for term, columns in coded.model_spec.term_indices.items()}
    return {term: A[indices[tuple(_parts(term))]] for term in terms}


def sum_coded(expression: str, factors: set[str]) -> str:
    """The expression with every factor in sum-to-zero coding."""
    tokens, out, i = list(tokens_of(expression)), [], 0
    while i < len(tokens):
        t = tokens[i]
        name = t.text.strip("`")
        call = i + 1 < len(tokens) and tokens[i + 1].text == "(" and t.kind == "name"
        if call:
            depth, j = 0, i + 1
            while depth or j == i + 1:
                depth += (tokens[j].text == "(") - (tokens[j].text == ")")
                j += 1
            inside = tokens[i + 2].text.strip("`")
            text = expression[t.start : tokens[j - 1].end]
            out.append(f"C({quote(inside)}, contr.sum)" if t.text == "C" else text)
            i = j
            continue
        out.append(f"C({quote(name)}, contr.sum)" if name in factors and t.kind in ("name", "quoted") else t.text)
        i += 1
    return " ".join(out)


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
        mean = result.F * fit.sigma**2
        rows.append((term, mean * result.num_df, mean, result.num_df, result.den_df, result.F, p))
    columns = ["term", "sum_sq", "mean_sq", "num_df", "den_df", "F", "p_value"]
    return pd.DataFrame(rows, columns=columns).set_index("term")
