"""Models compared: likelihood-ratio tests that know about boundaries, single-term deletions.

A variance cannot be negative, so under the hypothesis that it is zero the likelihood-ratio statistic is not χ² but, where the
rows fall into many independent groups, a mixture of χ² distributions (chi-bar-square).  Two mixtures are known and used here:

    one variance (a scalar random term) added                         ½ χ²₀ + ½ χ²₁
    a random term of k coefficients grows to k + 1, with covariances  ½ χ²ₖ + ½ χ²ₖ₊₁

Everywhere else the plain χ² with as many degrees of freedom as parameters gives too large a p-value, a bound (unless the smaller
model itself is singular; then it is only a guide).

References
----------
Self & Liang (1987). Asymptotic properties of maximum likelihood estimators … under nonstandard conditions. JASA 82:605.
Stram & Lee (1994). Variance components testing in the longitudinal mixed effects model. Biometrics 50:1171, cases 1–3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.linalg import null_space
from scipy.stats import chi2

from lmmlite.criterion import Criterion
from lmmlite.crossproducts import crossproducts
from lmmlite.design import Design, Term, build_design
from lmmlite.formula import Bar, parse_formula, terms_of
from lmmlite.inference.anova import between, fixed_rows
from lmmlite.inference.ddf import Method, Test
from lmmlite.inference.ddf import test as f_test
from lmmlite.optimize import minimize
from lmmlite.table import own_data, read_columns

if TYPE_CHECKING:
    from lmmlite.model import MixedModel

_FEW_GROUPS = 10  # independent groups below which no asymptotic mixture is trusted
_NO_WORSE = 1e-4  # fall of the statistic below zero that rounding and the search's tolerance may explain


# --- Which random terms a model has, and how those of two models are related ------------------------------------
class Block(NamedTuple):
    """Random coefficients with one covariance matrix: level codes of the rows, number of levels, k columns of n rows."""

    codes: np.ndarray
    size: int
    columns: list[np.ndarray]


class Candidate(NamedTuple):
    """A model in a comparison: its criterion at the optimum, number of parameters, design, and random terms."""

    criterion: float
    npar: int
    design: Design
    blocks: list[Block]
    singular: bool


def blocks_of(design: Design) -> list[Block]:
    """The covariance blocks of a design, term after term."""
    out = []
    for term in design.terms:
        levels, stops = design.groups[term.group], np.cumsum(term.sizes)
        pairs = zip(stops - term.sizes, stops, strict=True)
        out += [Block(levels.codes, levels.size, term.columns[start:stop]) for start, stop in pairs]
    return out


def spans(columns: list[np.ndarray], others: list[np.ndarray]) -> bool:
    """Whether every one of ``others`` is a linear combination of ``columns``."""
    if not columns or not others:
        return not others
    if any(np.ptp(c) == 0 and c[0] for c in columns):  # far from zero a column would look like the constant
        columns, others = ([c - c[0] - (c - c[0]).mean() for c in side] for side in (columns, others))
    A, B = (np.column_stack([c / (np.linalg.norm(c) or 1.0) for c in side]) for side in (columns, others))
    return bool(np.linalg.norm(B - A @ np.linalg.lstsq(A, B)[0], axis=0).max() < 1e-8)


def _pairs(a: Block, b: Block) -> int:
    """Number of pairs of levels that occur together."""
    return len(np.unique(a.codes.astype(np.int64) * b.size + b.codes))


def within(small: Block, large: Block) -> bool:
    """Whether one block is a special case of the other: the same groups, and columns that the other's columns span."""
    same_groups = small.size == large.size == _pairs(small, large)
    return same_groups and spans(large.columns, small.columns)


def assign(small: list[Block], large: list[Block]) -> list[list[Block]] | None:
    """For each block of the larger model those of the smaller inside it; None where one is inside none: not nested."""
    inside: list[list[Block]] = [[] for _ in large]
    for block in small:
        homes = [i for i, other in enumerate(large) if within(block, other)]
        if not homes:
            return None
        inside[min(homes, key=lambda i: len(large[i].columns))].append(block)
    return inside


def _independent_groups(blocks: list[Block]) -> int:
    """Levels of the coarsest grouping factor if all others are nested in it, so that its levels are independent; else 0."""
    coarsest = min(blocks, key=lambda b: b.size)
    return coarsest.size if all(_pairs(b, coarsest) == b.size for b in blocks) else 0


# --- The distribution under the smaller model --------------------------------------------------------------------
def null_distribution(small: Candidate, large: Candidate, inside: list[list[Block]]) -> tuple[tuple[int, ...], str]:
    """Degrees of freedom of the χ² distributions, mixed in equal parts, that the likelihood ratio follows, and a note.

    Where the mixture is not known it is the plain χ², and the note says why.  ``inside`` holds the blocks of the smaller model inside each block of the larger one, from `assign`.
    """
    df = large.npar - small.npar
    changes = []  # coefficients of a changed block, how many of them are new, and how many blocks the others come from
    for block, parts in zip(large.blocks, inside, strict=True):
        k, sizes = len(block.columns), [len(part.columns) for part in parts]
        if sizes != [k]:
            changes.append((k, k - sum(sizes), len(parts)))
    if changes and small.singular:
        return (
            df,
        ), "the smaller model is singular, so other variances are at their boundary and p is rough: use pb_compare"
    if all(new == 0 for _, new, _ in changes):  # fixed effects, or covariances of coefficients that vary in both
        return (df,), ""
    k, new, parents = changes[0]
    groups = _independent_groups(large.blocks)
    if len(large.design.x_columns) != len(small.design.x_columns):
        why = "fixed and random effects change together"
    elif len(changes) > 1 or new > 1 or parents > 1:
        why = "several variances change at once"
    elif not groups:
        why = "the grouping factors are crossed, so no groups of rows are independent"
    elif groups < _FEW_GROUPS:
        why = f"with {groups} independent groups (fewer than {_FEW_GROUPS}) the asymptotic mixture is a poor guide"
    else:
        return (k - 1, k), ""
    remedy = "exact_rlrt or pb_compare" if df == 1 else "pb_compare"
    return (df,), f"{why}: chi2({df}) is a bound that makes p too large; use {remedy}"


#: The columns of a test, where there is none.
_NO_TEST: dict[str, Any] = dict.fromkeys(("chisq", "df", "p_value", "p_chi2"), np.nan) | {"null": "", "note": ""}


def likelihood_ratio(small: Candidate, large: Candidate) -> dict[str, Any]:
    """Refer the fall of the criterion to its distribution under the smaller model, and to the plain χ²."""
    if large.npar == small.npar:
        return _NO_TEST | {"note": "as many parameters: compare AIC or BIC, there is no test"}
    inside = assign(small.blocks, large.blocks)
    if inside is None or not spans(large.design.x_columns, small.design.x_columns):
        which = "random" if inside is None else "fixed"
        return _NO_TEST | {"note": f"the {which} effects are not nested: compare AIC or BIC, there is no test"}
    null, note = null_distribution(small, large, inside)
    fall, df = small.criterion - large.criterion, large.npar - small.npar
    if fall < -_NO_WORSE:
        note = "the larger model fits worse, so its search ended in a local optimum: refit it with another start"
    chisq = max(fall, 0.0)
    return {
        "chisq": chisq,
        "df": df,
        "p_value": float(np.mean([chi2.sf(chisq, d) if d else float(chisq <= 0) for d in null])),  # χ²₀ is always 0
        "p_chi2": float(chi2.sf(chisq, df)),
        "null": " + ".join(f"{'0.5 ' * (len(null) > 1)}chi2({d})" for d in null),
        "note": note,
    }


def _table(models: list[Candidate], tests: list[dict], index: list[str], notes: list[str]) -> pd.DataFrame:
    rows = []
    for m, test, note in zip(models, tests, notes, strict=True):
        criteria = {"aic": m.criterion + 2 * m.npar, "bic": m.criterion + np.log(m.design.n) * m.npar}
        likelihood = {"loglik": -m.criterion / 2, "deviance": m.criterion}
        rows.append({"npar": m.npar} | criteria | likelihood | test)
        rows[-1]["note"] = "; ".join(filter(None, [note, test["note"]]))
    return pd.DataFrame(rows, index)


# --- Several models ------------------------------------------------------------------------------------------------
def compare(
    m0: MixedModel, m1: MixedModel, *more: MixedModel, refit_ml: bool | None = None, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Compare fitted models by likelihood-ratio tests, AIC and BIC.

    Parameters
    ----------
    m0, m1, *more : MixedModel
        Fits to the same response and rows, in any order; each is tested against the one before it in number of parameters.
    refit_ml : bool, optional
        Refit by ML what was fitted by REML, and say so in the table.  Without it nothing is refitted: REML fits with the same
        fixed effects are compared by their restricted likelihoods, others are refused.
    names : sequence of str, optional
        Names for the rows; by default the formulas.

    Returns
    -------
    DataFrame
        Columns ``npar aic bic loglik deviance chisq df p_value p_chi2 null note``.  ``deviance`` is −2 loglik (the REML criterion
        where REML fits are compared).  ``null`` names the distribution behind ``p_value``, boundary-aware where a variance is
        tested; ``p_chi2`` is the plain χ² p-value that R's anova prints.  Models that are not nested get no test.

    Raises
    ------
    ValueError
        For different rows, responses, weights or offsets, and REML fits that only ML can compare.

    Notes
    -----
    For fixed effects the χ² is asymptotic, and p too small when groups are few: prefer F tests with denominator degrees of
    freedom there.
    """
    models = [m0, m1, *more]
    check_same_data(models)
    index = [m.formula for m in models] if names is None else list(names)
    if len(index) != len(models):
        raise ValueError(f"{len(models)} models need {len(models)} names, not {len(index)}.")
    notes = ["refitted by ML" if refit_ml and m.reml else "" for m in models]
    models = [m.refit_ml() if note else m for m, note in zip(models, notes, strict=True)]
    _check_likelihoods(models)
    order = sorted(range(len(models)), key=lambda i: models[i].npar)
    candidates = [_candidate(models[i]) for i in order]
    tests = [_NO_TEST, *(likelihood_ratio(small, large) for small, large in pairwise(candidates))]
    return _table(candidates, tests, [index[i] for i in order], [notes[i] for i in order])


def _candidate(m: MixedModel) -> Candidate:
    return Candidate(m.criterion, m.npar, m.design, blocks_of(m.design), m.is_singular)


def check_same_data(models: Sequence[MixedModel]) -> None:
    """Raise unless all are fitted models of the same response, rows, weights and offset."""
    for m in models:
        if not hasattr(m, "criterion_function"):
            raise TypeError(f"Fitted models from lmer are compared, not {type(m).__name__}.")
    first = models[0].design
    for design in (m.design for m in models[1:]):
        if design.n != first.n or not design.index.equals(first.index):
            raise ValueError(
                f"The models use different rows ({first.n} and {design.n}): likelihoods of different data cannot be compared. "
                "Drop the rows with missing values in any column used, then fit all models to what is left."
            )
        if not np.array_equal(design.y, first.y):
            raise ValueError(
                f"The models describe different responses ('{first.formula.response}' and '{design.formula.response}'): "
                "fit both to the same one."
            )
        for role, neutral in (("weights", 1.0), ("offset", 0.0)):
            a, b = (neutral if v is None else v for v in (getattr(first, role), getattr(design, role)))
            if not np.array_equal(np.broadcast_to(a, first.n), np.broadcast_to(b, first.n)):
                raise ValueError(f"The models have different {role}: fit both with the same.")


def _check_likelihoods(models: Sequence[MixedModel]) -> None:
    if len({m.reml for m in models}) > 1:
        raise ValueError("Some models are fitted by REML and some by ML: pass refit_ml=True to refit the former by ML.")
    X = models[0].design.X
    if models[0].reml and not all(np.array_equal(m.design.X, X) for m in models[1:]):
        raise ValueError(
            "REML fits with different fixed effects cannot be compared: each restricted likelihood is that of other contrasts "
            "of the data. Pass refit_ml=True to refit by ML."
        )


# --- One model, a term less ----------------------------------------------------------------------------------------
def reduced_design(fit: MixedModel, formula: str) -> Design:
    """The design of another formula on the rows that the fit used, with its response, weights and offset."""
    old = fit.design
    parsed = parse_formula(formula)
    data = pd.DataFrame(read_columns(own_data(fit.data), parsed.variables))
    data = data if old.kept is None else data[old.kept]
    return replace(build_design(parsed, data, weights=old.weights, offset=old.offset), y=old.y)


def _deletions(fit: MixedModel, formulas: dict[str, str | None], note: str = "") -> pd.DataFrame:
    """Test smaller models, each given by its formula (None: the same fixed effects and no random ones), within a fit."""
    full, old = _candidate(fit), fit.criterion_function
    models = [full]
    for formula in formulas.values():
        if formula is None:  # θ = 0 is the linear model
            value = old.evaluate(np.zeros(old.size)).value
            models.append(Candidate(value, full.npar - old.size, full.design, [], False))
            continue
        design = reduced_design(fit, formula)
        criterion = Criterion(crossproducts(design), fit.reml)
        design, optimum = design.keep_columns(criterion.cp.basis.kept), minimize(criterion)
        npar = criterion.cp.p + criterion.size + 1
        models.append(Candidate(optimum.evaluation.value, npar, design, blocks_of(design), optimum.singular))
    tests = [_NO_TEST, *(likelihood_ratio(small, full) for small in models[1:])]
    return _table(models, tests, ["<none>", *formulas], [note] * len(models))


def _without(terms: dict[str, frozenset[str]], name: str) -> str:
    rest = [t for t in terms if t not in ("1", name)]
    return " + ".join((["1"] if "1" in terms and name != "1" else ["0"]) + rest)


def _droppable(terms: dict[str, frozenset[str]]) -> list[str]:
    """Terms but the intercept that are part of no other (marginality)."""
    return [t for t, factors in terms.items() if t != "1" and not any(factors < other for other in terms.values())]


def drop1(fit: MixedModel, ddf: Method | None = None) -> pd.DataFrame:
    """Test each fixed term that is part of no interaction in the model, by leaving it out.

    Parameters
    ----------
    fit : MixedModel
    ddf : {"satterthwaite", "kenward-roger", "normal"}, optional
        F tests with these denominator degrees of freedom; by default likelihood-ratio tests, for which a REML fit is refitted
        by ML (and the table says so), since restricted likelihoods cannot compare fixed effects.

    Returns
    -------
    DataFrame
        Likelihood ratio: a row for the model itself, ``<none>``, and one for each term left out, with the columns of `compare`.
        F: a row for each term, ``F num_df den_df p_value``.
    """
    old = fit.design.formula
    terms, bars = dict(terms_of(old.fixed)), " + ".join(map(str, old.bars))
    formulas = {name: f"{old.response} ~ {_without(terms, name)} + {bars}" for name in _droppable(terms)}
    if ddf is None:
        return _deletions(fit.refit_ml() if fit.reml else fit, dict(formulas), "refitted by ML" if fit.reml else "")
    rows = []
    for formula in formulas.values():
        L = left_out(fit.design, reduced_design(fit, formula))
        test = f_test(fit, L, ddf) if len(L) else Test(np.nan, 0, np.nan)
        rows.append(test._asdict() | {"p_value": test.p_value})
    return pd.DataFrame(rows, [*formulas], ["F", "num_df", "den_df", "p_value"])


def left_out(design: Design, smaller: Design) -> np.ndarray:
    """The hypothesis Lγ = 0 that a smaller design makes, its rows orthonormal in the user's units.

    In orthonormal bases Q of X and Q₀ of X₀, Qγ is in the span of X₀ = XC where γ is in that of Q'Q₀.
    """
    one, other = fixed_rows(design), fixed_rows(smaller)
    L = null_space(between(one, other).T, rcond=1e-8).T
    if not len(L):
        return L
    return np.linalg.solve(np.linalg.qr(np.linalg.solve(one.basis.to_user.T, L.T))[1].T, L)


def ranova(fit: MixedModel) -> pd.DataFrame:
    """Test each random term by leaving it out, or by leaving one of its slopes out, as lmerTest's ranova.

    The likelihood is that of the fit: restricted for a REML fit.

    Returns
    -------
    DataFrame
        A row for the model itself, ``<none>``, and one for each reduction, such as ``(1 | g)`` or ``x in (x | g)``, with the
        columns of `compare`; ``p_chi2`` is what lmerTest prints.
    """
    old = fit.design.formula
    formulas: dict[str, str | None] = {}
    for i, term in enumerate(fit.design.terms):
        for label, rest in _reductions(term):
            bars = [*old.bars[:i], *rest, *old.bars[i + 1 :]]
            formulas[label] = f"{old.response} ~ {' + '.join([old.fixed, *map(str, bars)])}" if bars else None
    return _deletions(fit, formulas)


def _reductions(term: Term) -> list[tuple[str, list[Bar]]]:
    """A label and what is left of a random term, for each way to make it smaller by one term of its formula."""
    bar, terms = term.bar, dict(terms_of(term.bar.terms))
    if len(terms) == 1:
        whole = [np.ones(len(term.columns[0]))]  # (0 + f | g) of a factor holds (1 | g), as lmerTest sees it
        if bar.correlated and len(term.columns) > 1 and spans(term.columns, whole):
            return [(f"{bar.terms} in {bar}", [replace(bar, terms="1")])]
        return [(str(bar), [])]
    names = _droppable(terms) + ["1"] * ("1" in terms and not bar.correlated)
    return [(f"{name} in {bar}", [replace(bar, terms=_without(terms, name))]) for name in names]


# --- Conditional AIC -----------------------------------------------------------------------------------------------
