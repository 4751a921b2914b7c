"""Exact likelihood-ratio tests of one variance, by simulation from the spectral decomposition of their null distribution.

In y = Xβ + Zb + ε with one variance λσ² of the K independent b, whether λ = 0, let μ_s be the eigenvalues of Z'P₀Z, with
P₀ = I − X(X'X)⁻¹X', and ξ_s those of Z'Z.  With independent w_s ~ N(0, 1), s = 1 … n − p, under λ = 0

    RLRT = sup_λ (n − p) log(1 + N(λ)/D(λ)) − Σ log(1 + λμ_s)
    LRT  = sup_λ  n log(1 + N(λ)/D(λ)) − Σ log(1 + λξ_s)   +   n log(1 + Σ u_j² / Σ w_s²)
    N(λ) = Σ λμ_s/(1 + λμ_s) w_s²,      D(λ) = Σ_{s ≤ K} w_s²/(1 + λμ_s) + Σ_{s > K} w_s²

the last part of the LRT for q fixed effects tested together with the variance, u_j ~ N(0, 1).  Since N + D = Σ w_s² does not
depend on λ, only D is computed, for all draws and a grid of λ at once.

References
----------
Crainiceanu & Ruppert (2004). Likelihood ratio tests in linear mixed models with one variance component. JRSS B 66:165.
Scheipl, Greven & Küchenhoff (2008). Size and power of tests for a zero random effect variance … CSDA 52:3283.
Greven, Crainiceanu, Küchenhoff & Peters (2008). Restricted likelihood ratio testing for zero variance components in linear
mixed models. JCGS 17:870 (with nuisance variances).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.polynomial.polynomial import polyder, polyval

from lmmlite.criterion import Criterion
from lmmlite.crossproducts import CrossProducts, crossproducts
from lmmlite.inference.compare import assign, blocks_of, check_same_data, reduced_design, spans, within
from lmmlite.optimize import minimize

if TYPE_CHECKING:
    from lmmlite.model import MixedModel

_LOG_LAMBDA = np.arange(-12, 12.05, 0.1)  # of λ times the largest ξ; between them a quartic is exact to 1e-6
_AT_ONCE = 4_000_000  # numbers in the arrays of one batch of draws


@dataclass(frozen=True, eq=False, repr=False)
class ExactTest:
    """An exact test of one variance.

    Attributes
    ----------
    kind : {"RLRT", "LRT"}
    statistic : float
        Twice the difference of the (restricted) log-likelihoods.
    p_value : float
        (1 + number of simulated values ≥ statistic)/(n + 1), never 0.
    n : int
        Number of simulated values.
    simulated : (n,) array
        Draws from the null distribution.
    note : str
        What was refitted, or is approximate.
    """

    kind: str
    statistic: float
    p_value: float
    n: int
    simulated: np.ndarray
    note: str = ""

    def __repr__(self) -> str:
        zero = np.mean(self.simulated == 0)
        text = f"{self.kind} = {self.statistic:.6g}, p = {self.p_value:.4g} ({self.n} simulated values, {zero:.0%} of them 0)"
        return text + (f"\n{self.note}" if self.note else "")


class Spectrum(NamedTuple):
    """Positive eigenvalues μ of Z'P₀Z and ξ of Z'Z, with multiplicities, both over the largest ξ."""

    mu: np.ndarray
    mu_count: np.ndarray
    xi: np.ndarray
    xi_count: np.ndarray


def spectrum(cp: CrossProducts) -> Spectrum:
    """Eigenvalues for a model with one scalar random term; X is orthonormal in the cross-products.

    Z'P₀Z = D − BB' with D = Z'Z diagonal and B = Z'X.  Among the m levels with the same entry of D, a rotation leaves at most p
    nonzero rows of B; the others are eigenvectors of that entry.  So balanced data need the eigenvalues of a p × p matrix only.
    """
    R, p = cp.R[0, 0], cp.p
    B = (R * cp.Rd[0, :p]).T / R.max()
    xi, level, count = np.unique(np.round((R / R.max()) ** 2, 12), return_inverse=True, return_counts=True)
    rows = [np.linalg.qr(B[level == j], mode="r") for j in range(len(xi))]
    sizes, B = [len(r) for r in rows], np.concatenate(rows)
    mu = np.concatenate([xi, np.linalg.eigvalsh(np.diag(np.repeat(xi, sizes)) - B @ B.T)])
    mu_count = np.concatenate([count - sizes, np.ones(len(B), int)])
    kept, positive = (mu_count > 0) & (mu > 1e-9), xi > 0
    return Spectrum(mu[kept], mu_count[kept], xi[positive], count[positive])


def supremum(of: Spectrum, w2: np.ndarray, leftover: np.ndarray, nu: int, reml: bool) -> np.ndarray:
    """sup over λ ≥ 0 of ν log((N + D)/D) − log det, for each row of w2: sums of w_s² of each eigenvalue, (m, eigenvalues).

    ``leftover`` (m,) is the sum of the other w_s², ν = n − p for the RLRT and n for the LRT.
    """
    grid = np.concatenate([[0.0], np.exp(_LOG_LAMBDA)])
    log_det = of.mu_count @ np.log1p(np.outer(of.mu, grid)) if reml else of.xi_count @ np.log1p(np.outer(of.xi, grid))
    D = w2 @ (1 / (1 + np.outer(of.mu, grid))) + leftover[:, None]
    profile = nu * np.log(D[:, :1] / D) - log_det  # at λ = 0, D is all there is
    best = profile.argmax(axis=1)
    value = profile[np.arange(len(best)), best]
    inside = np.flatnonzero((best > 2) & (best < len(grid) - 2))
    five = profile[inside[:, None], best[inside, None] + np.arange(-2, 3)]
    c = np.linalg.solve(np.vander(np.arange(-2.0, 3.0), increasing=True), five.T)  # the quartic through five points
    u = np.zeros(len(inside))
    for _ in range(4):
        slope, bend = (polyval(u, polyder(c, d), tensor=False) for d in (1, 2))
        u = np.clip(u - slope / np.minimum(bend, -1e-12), -1, 1)
    value[inside] = np.maximum(value[inside], polyval(u, c, tensor=False))
    return value


def simulate_null(cp: CrossProducts, reml: bool, q: int, n: int, seed: Any) -> np.ndarray:
    """n draws of the RLRT, or of the LRT with q fixed effects that are zero under the null hypothesis, too."""
    if n < 1:
        raise ValueError(f"n, the number of draws, must be at least 1, not {n}.")
    of = spectrum(cp)
    rest = cp.n - cp.p - int(of.mu_count.sum())
    rng, out = np.random.default_rng(seed), np.empty(n)
    for draws in np.array_split(out, -(-n * max(len(_LOG_LAMBDA), len(of.mu)) // _AT_ONCE)):
        w2, leftover = rng.chisquare(of.mu_count, (len(draws), len(of.mu))), rng.chisquare(rest, len(draws))
        draws[:] = supremum(of, w2, leftover, cp.n - cp.p * reml, reml)
        if q:
            draws += cp.n * np.log1p(rng.chisquare(q, len(draws)) / (w2.sum(axis=1) + leftover))
    return out


def exact_lrt(m1: MixedModel, m0: str | None = None, n: int = 10_000, seed: Any = None) -> ExactTest:
    """Exact likelihood-ratio test of the variance of the only random term of a model, by ML.

    Parameters
    ----------
    m1 : MixedModel
        With one random term of one coefficient; a REML fit is refitted by ML, and the result says so.
    m0 : str, optional
        Formula of the null model, without random terms, such as ``"y ~ x"``: it may leave out fixed effects, which are then
        tested together with the variance.  By default the fixed effects of m1.
    n : int
        Draws from the null distribution.
    seed
        Anything that `numpy.random.default_rng` takes.

    Returns
    -------
    ExactTest
    """
    bar, cp = _only_bar(m1), m1.criterion_function.cp
    cp0 = cp
    if m0 is not None:
        small, response = reduced_design(m1, f"{m0} + {bar}"), m1.design.formula.response
        if len(small.terms) > 1 or small.formula.response != response:
            raise ValueError(f"m0 is a formula without random terms, such as '{response} ~ 1', not {m0!r}.")
        if not spans(m1.design.x_columns, small.x_columns):
            raise ValueError(f"The fixed effects of m0, '{small.formula.fixed}', are not nested in those of m1.")
        cp0 = crossproducts(small)
    statistic = _linear(cp0, False) - _minimum(m1, False)
    simulated = simulate_null(cp, False, cp.p - cp0.p, n, seed)
    return _result("LRT", statistic, simulated, "m1 was refitted by ML." if m1.reml else "")


def exact_rlrt(
    m1: MixedModel, m_alone: MixedModel | None = None, m0: MixedModel | None = None, n: int = 10_000, seed: Any = None
) -> ExactTest:
    """Exact restricted likelihood-ratio test of one variance.

    Parameters
    ----------
    m1 : MixedModel
        The full model; an ML fit is refitted by REML, and the result says so.  If it has one random term of one coefficient,
        that is all.
    m_alone, m0 : MixedModel, optional
        For a model with other random terms: the model with the tested term as its only one, and the model with all terms but
        the tested one, independent of it.  The statistic compares m1 with m0; the null distribution is that of m_alone,
        as if the other random effects were known, a good approximation (Greven et al. 2008; R's RLRsim does the same).
    n : int
        Draws from the null distribution.
    seed
        Anything that `numpy.random.default_rng` takes.

    Returns
    -------
    ExactTest
    """
    if (m_alone is None) != (m0 is None):
        raise ValueError("With other random terms both are needed: m_alone with the tested term only, m0 without it.")
    alone, models = (m1, [m1]) if m_alone is None or m0 is None else (m_alone, [m1, m_alone, m0])
    check_same_data(models)
    _only_bar(alone)
    cp = alone.criterion_function.cp
    note = "" if m1.reml and (m0 is None or m0.reml) else "ML fits were refitted by REML. "
    if m0 is not None:
        _check_nuisance(m1, alone, m0)
        note += "Null distribution as if the other random effects were known (Greven et al. 2008)."
    statistic = (_linear(cp, True) if m0 is None else _minimum(m0, True)) - _minimum(m1, True)
    return _result("RLRT", statistic, simulate_null(cp, True, 0, n, seed), note.strip())


def _linear(cp: CrossProducts, reml: bool) -> float:
    """The criterion of a model with one variance where it is zero."""
    return Criterion(cp, reml).evaluate([0.0]).value


def _result(kind: str, statistic: float, simulated: np.ndarray, note: str) -> ExactTest:
    statistic = statistic if statistic > 1e-8 else 0.0  # the search stops within rounding of the boundary
    n = len(simulated)
    return ExactTest(kind, statistic, (1 + int((simulated >= statistic).sum())) / (n + 1), n, simulated, note)


def _minimum(m: MixedModel, reml: bool) -> float:
    """The ML deviance or REML criterion at its own optimum."""
    cp = m.criterion_function.cp
    return m.criterion if m.reml == reml else minimize(Criterion(cp, reml), m.theta).evaluation.value


def _only_bar(m: MixedModel) -> str:
    """The random term of a model that has one of one coefficient; ValueError for any other model."""
    check_same_data([m])
    if len(blocks_of(m.design)) > 1:
        raise ValueError(
            f"'{m.formula}' has several variances; the exact distribution is that of one alone. Pass m_alone (the tested term "
            "only) and m0 (all terms but that one) to exact_rlrt, or use pb_compare."
        )
    if m.criterion_function.size > 1:
        raise ValueError(
            f"{m.design.formula.bars[0]} has correlated coefficients, so more than one variance is tested: use pb_compare, or "
            "test one slope that is independent of the others with exact_rlrt."
        )
    return str(m.design.formula.bars[0])


def _check_nuisance(m1: MixedModel, alone: MixedModel, m0: MixedModel) -> None:
    if not all(np.array_equal(m.design.X, m1.design.X) for m in (alone, m0)):
        raise ValueError("m1, m_alone and m0 must have the same fixed effects: else REML cannot compare them.")
    full, null, tested = (blocks_of(m.design) for m in (m1, m0, alone))
    inside = assign(null, full)
    new = None if inside is None else [b for b, parts in zip(full, inside, strict=True) if not parts]
    if m1.npar != m0.npar + 1 or not new or not within(tested[0], new[0]):
        raise ValueError(
            "m1 must be m0 with the random term of m_alone added, uncorrelated with the others, such as "
            "(1 | g) + (0 + x | g). For anything else use pb_compare."
        )
