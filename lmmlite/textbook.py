"""The book's formulas, dense and literal: what the engine computes by other means, written as it is defined.

Every function costs O(n^3) and is meant to be read beside its equation; the tests hold the engine to these.
The letters, everywhere: ``y`` (n,) response; ``X`` (n, p) of full column rank; ``beta`` (p,) fixed effects;
``Z`` (n, q); ``b`` (q,) random effects with covariance ``G`` (q, q); ``R`` (n, n) covariance of the errors;
``V`` (n, n) = ZGZ' + R. Variances (``tau2`` between groups, ``sigma2`` within) are in squared units of y;
weights and ``rho`` have no unit; deviances are -2 log densities. Functions of scalars also take arrays.
Arrays that do not fit raise ``ValueError``; a matrix that should be positive definite and is not raises
``LinAlgError``.

Sources: Henderson (1975) Biometrics 31:423; Patterson & Thompson (1971) Biometrika 58:545; Harville (1974)
Biometrika 61:383; Kish (1965) Survey Sampling; Robinson (1991) Statist. Sci. 6:15; SCM: Searle, Casella &
McCulloch (1992) Variance Components; BMBW: Bates, Maechler, Bolker & Walker (2015) JSS 67(1).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
Scalar: TypeAlias = Any  # a number or an array of numbers; what comes out has the shape of what went in
LOG_2PI = float(np.log(2 * np.pi))


class GLS(NamedTuple):
    """Generalised least squares: ``beta`` (p,) and its covariance ``cov`` (p, p)."""

    beta: Array
    cov: Array


class MixedModelEquations(NamedTuple):
    """Henderson's system ``matrix @ [beta, b] = rhs`` of size p + q, and its solution.

    ``cov`` is the inverse of ``matrix``: the covariance of the errors (estimated minus true beta, predicted
    minus true b). Its first p rows and columns are those of GLS; its last q hold the prediction error
    covariance of b.
    """

    matrix: Array
    rhs: Array
    beta: Array
    b: Array
    cov: Array


# --- Covariance of the response -----------------------------------------------------------------------------
def marginal_covariance(Z: Array, Lambda: Array, sigma2: float, weights: Array | None = None) -> Array:
    """V = sigma2 (W^-1 + Z Lambda Lambda' Z') from the relative factor Lambda (q, q) and prior weights (n,).

    From BMBW eq. 2-4: Var[y|b] = sigma2 W^-1 and Var[b] = sigma2 Lambda Lambda'.
    """
    W = np.eye(len(Z)) if weights is None else np.diag(weights)
    return sigma2 * (np.linalg.inv(W) + Z @ Lambda @ Lambda.T @ Z.T)


def marginal_covariance_from_terms(terms: Sequence[tuple[Array, Array]], R: Array) -> Array:
    """V = R + sum of Z G Z' over independent random terms, pairs Z (n, q_i), G (q_i, q_i) (SCM ch. 6)."""
    return R + sum((Z @ G @ Z.T for Z, G in terms), np.zeros_like(R))


def compound_symmetric(n: int, tau2: float, sigma2: float) -> Array:
    """Covariance (n, n) of one group of n rows under a random intercept: sigma2 I + tau2 J (SCM ch. 3)."""
    return sigma2 * np.eye(n) + tau2 * np.ones((n, n))


# --- Fixed and random effects, the variances known ----------------------------------------------------------
def gls(y: Array, X: Array, V: Array) -> GLS:
    """Best linear unbiased estimator (X'V^-1 X)^-1 X'V^-1 y and its covariance (X'V^-1 X)^-1 (SCM ch. 6)."""
    Vinv_X = np.linalg.solve(V, X)
    cov = np.linalg.inv(X.T @ Vinv_X)
    return GLS(cov @ Vinv_X.T @ y, cov)


def mixed_model_equations(y: Array, X: Array, Z: Array, G: Array, R: Array) -> MixedModelEquations:
    """Set up and solve Henderson's equations (Henderson 1975; BMBW eq. 42); G must be invertible."""
    p, T = X.shape[1], np.hstack([X, Z])
    Rinv_T = np.linalg.solve(R, T)
    matrix, rhs = T.T @ Rinv_T, Rinv_T.T @ y
    matrix[p:, p:] += np.linalg.inv(G)  # without this: least squares on [X Z]; with it b is shrunk
    solution = np.linalg.solve(matrix, rhs)
    return MixedModelEquations(matrix, rhs, solution[:p], solution[p:], np.linalg.inv(matrix))


def conditional_normal(mean: Array, cov: Array, given: Sequence[int], value: Array) -> tuple[Array, Array]:
    """Mean and covariance of the other coordinates of N(mean, cov) once those in ``given`` equal ``value``.

    E[u|w] = m_u + C_uw C_ww^-1 (w - m_w) and Var[u|w] = C_uu - C_uw C_ww^-1 C_wu (SCM appendix S).
    """
    w = np.asarray(given)
    u = np.setdiff1d(np.arange(len(mean)), w)
    slope = np.linalg.solve(cov[np.ix_(w, w)], cov[np.ix_(w, u)]).T
    return mean[u] + slope @ (value - mean[w]), cov[np.ix_(u, u)] - slope @ cov[np.ix_(w, u)]


def blup(y: Array, X: Array, beta: Array, Z: Array, G: Array, V: Array) -> Array:
    """E[b|y] = G Z' V^-1 (y - X beta), (q,), at a given beta; G may be singular (Robinson 1991)."""
    return G @ Z.T @ np.linalg.solve(V, y - X @ beta)


def blup_conditional_variance(Z: Array, G: Array, V: Array) -> Array:
    """Var[b|y] = G - G Z' V^-1 Z G, (q, q): prediction error covariance if beta is known (SCM ch. 7)."""
    return G - G @ Z.T @ np.linalg.solve(V, Z @ G)


# --- The random intercept in scalars ------------------------------------------------------------------------
def icc(tau2: Scalar, sigma2: Scalar) -> Scalar:
    """Intraclass correlation rho = Corr(y_ij, y_ij'), j != j': tau2 / (tau2 + sigma2) (SCM ch. 3)."""
    return tau2 / (tau2 + sigma2)


def shrinkage_weight(n: Scalar, tau2: Scalar, sigma2: Scalar) -> Scalar:
    """Weight of a group's own mean, its share of the precision: (n/sigma2) / (n/sigma2 + 1/tau2) (SCM ch. 3).

    Both variances must be positive (``ValueError``): a precision is one over a variance.
    """
    if np.any(np.asarray(tau2) <= 0) or np.any(np.asarray(sigma2) <= 0):
        raise ValueError("tau2 and sigma2 must be positive, for a precision is one over a variance")
    data, prior = n / sigma2, 1 / tau2
    return data / (data + prior)


def shrinkage_weight_icc(n: Scalar, rho: Scalar) -> Scalar:
    """Compute the same weight from the ICC: n rho / (1 + (n-1) rho), Spearman-Brown reliability."""
    return n * rho / (1 + (n - 1) * rho)


def shrink(mean: Scalar, mu: Scalar, n: Scalar, tau2: Scalar, sigma2: Scalar) -> Scalar:
    """Predict a group's level: precision-weighted mean of its own mean and mu, units of y (SCM ch. 3)."""
    weight = shrinkage_weight(n, tau2, sigma2)
    return weight * mean + (1 - weight) * mu


def design_effect(n: Scalar, rho: Scalar) -> Scalar:
    """Variance of a mean of grouped rows over that of independent rows: 1 + (n-1) rho (Kish 1965)."""
    return 1 + (n - 1) * rho


def effective_sample_size(n: Scalar, groups: Scalar, rho: Scalar) -> Scalar:
    """Count the independent rows whose mean is as precise as that of ``groups`` groups of n (Kish 1965)."""
    return groups * n / design_effect(n, rho)


def variance_of_mean(n: Scalar, groups: Scalar, tau2: Scalar, sigma2: Scalar) -> Scalar:
    """Variance of the mean of ``groups`` groups of n rows: (tau2 + sigma2/n) / groups (SCM ch. 3)."""
    return (tau2 + sigma2 / n) / groups


# --- Estimating one variance: ML and REML -------------------------------------------------------------------
def residual_sum_of_squares(y: Array, X: Array | None = None) -> float:
    """Squared length of the least-squares residual, about the mean if X is None; expects (n-p) sigma2."""
    X = np.ones((len(y), 1)) if X is None else X
    r = y - X @ gls(y, X, np.eye(len(y))).beta
    return float(r @ r)


def ml_variance(y: Array, X: Array | None = None) -> float:
    """ML estimate RSS / n of sigma2 if y ~ N(X beta, sigma2 I), on average sigma2 p/n too low (SCM ch. 6)."""
    return residual_sum_of_squares(y, X) / len(y)


def reml_variance(y: Array, X: Array | None = None) -> float:
    """REML estimate RSS / (n-p), unbiased (Patterson & Thompson 1971); ``ValueError`` unless n > p."""
    df = len(y) - (1 if X is None else X.shape[1])
    if df < 1:
        raise ValueError("REML needs more rows than fixed effects: no degrees of freedom are left")
    return residual_sum_of_squares(y, X) / df


# --- Criteria -----------------------------------------------------------------------------------------------
def logdet(A: Array) -> float:
    """Log determinant of a positive definite matrix; ``LinAlgError`` where it is not one."""
    return float(2 * np.log(np.diag(np.linalg.cholesky(A))).sum())


def quadratic_form(y: Array, X: Array, V: Array) -> float:
    """r'V^-1 r with r = y - X beta at the GLS estimate: the misfit in both criteria."""
    r = y - X @ gls(y, X, V).beta
    return float(r @ np.linalg.solve(V, r))


def ml_deviance(y: Array, X: Array, V: Array) -> float:
    """-2 log-likelihood maximised over beta: n log 2pi + log|V| + r'V^-1 r (SCM ch. 6; BMBW eq. 31)."""
    return len(y) * LOG_2PI + logdet(V) + quadratic_form(y, X, V)


def reml_deviance(y: Array, X: Array, V: Array) -> float:
    """REML criterion (n-p) log 2pi + log|V| + log|X'V^-1 X| + r'V^-1 r (Harville 1974; BMBW eq. 39)."""
    nu = float(X.shape[0] - X.shape[1])
    return nu * LOG_2PI + logdet(V) + logdet(X.T @ np.linalg.solve(V, X)) + quadratic_form(y, X, V)


def profiled_sigma2(y: Array, X: Array, H: Array, *, reml: bool = True) -> float:
    """Best sigma2 for V = sigma2 H: r'H^-1 r over n-p for REML, over n for ML (BMBW eq. 40, 33)."""
    return quadratic_form(y, X, H) / float(len(y) - X.shape[1] if reml else len(y))


def profiled_deviance(y: Array, X: Array, H: Array, *, reml: bool = True) -> float:
    """Criterion for V = sigma2 H at that sigma2, with nu = n-p for REML, n for ML (BMBW eq. 41, 34).

    log|H| + nu (1 + log 2pi sigma2), to which REML adds log|X'H^-1 X|.
    """
    nu = float(len(y) - X.shape[1] if reml else len(y))
    penalty = logdet(X.T @ np.linalg.solve(H, X)) if reml else 0.0
    return logdet(H) + penalty + nu * (1 + LOG_2PI + float(np.log(profiled_sigma2(y, X, H, reml=reml))))


def error_contrasts(X: Array) -> Array:
    """K (n, n-p), orthonormal, K'X = 0: directions of y free of beta (Patterson & Thompson 1971)."""
    return np.linalg.qr(X, mode="complete").Q[:, X.shape[1] :]


def error_contrast_deviance(y: Array, X: Array, V: Array) -> float:
    """-2 log density of K'y ~ N(0, K'VK); adding log|X'X| gives the REML criterion (Harville 1974)."""
    K = error_contrasts(X)
    e, C = K.T @ y, K.T @ V @ K
    return len(e) * LOG_2PI + logdet(C) + float(e @ np.linalg.solve(C, e))
