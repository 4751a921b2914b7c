"""Denominator degrees of freedom: Satterthwaite and Kenward–Roger, from analytic derivatives, in q and p dimensions.

Satterthwaite (Giesbrecht & Burns 1985; Fai & Cornelius 1996 for several contrasts; Kuznetsova et al. 2017, JSS 82(13)): the
variance of Lβ̂ is a function of (θ, σ), whose covariance is A = 2H⁻¹ with H the Hessian of −2 log-likelihood.
Kenward & Roger (1997, Biometrics 53, 983–997): V is linear in variances and covariances; their covariance is the inverse of the
expected information, which also corrects the covariance of β̂ itself.  n × n matrices never appear: with U = Z'V⁻¹X,
X'V⁻¹VᵢV⁻¹X = Σ_l U_l'DᵢU_l, and since W⁻¹ = V − ΣᵢγᵢGᵢ everything about the residual variance follows from the rest.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lmmlite.criterion import Criterion, Derivatives, Evaluation
from lmmlite.optimize import unitless

if TYPE_CHECKING:
    from lmmlite.model import MixedModel

Method = Literal["satterthwaite", "kenward-roger", "normal"]


class Satterthwaite(NamedTuple):
    """Covariance A of the free entries of (θ, σ), θ without units, (m, m), and the derivatives of Var(β̂) along them, (m, p, p)."""

    A: np.ndarray
    gradient: np.ndarray


class KenwardRoger(NamedTuple):
    """Φ = Var(β̂) and its adjusted form Φ_A, (p, p); W, (r, r), the covariance of the variance parameters; M_r = ΦP_rΦ, (r, p, p)."""

    Phi: np.ndarray
    Phi_A: np.ndarray
    W: np.ndarray
    M: np.ndarray


def _spread(s_U: list[np.ndarray], D: list[np.ndarray], order: np.ndarray) -> np.ndarray:
    """Σ_l U_l'DᵢU_l for every direction, (m, p, p)."""
    parts = [np.einsum("apl,iab,bql->ipq", U, d, U, optimize=True) for U, d in zip(s_U, D, strict=True)]
    return np.concatenate(parts)[order]


def _order(criterion: Criterion) -> np.ndarray:
    return np.argsort(np.concatenate([t.index for t in criterion.cp.templates]))


def satterthwaite(criterion: Criterion, at: Evaluation) -> Satterthwaite:
    """A and the gradient of Var(β̂) at a fit; zero columns of T, at the boundary, are held fixed."""
    criterion, theta = criterion.unitless(), unitless(criterion, at.theta)  # far from zero, columns would cost digits
    e = criterion.evaluate(theta, 2)
    s, nu, basis = e.solution, criterion.nu, criterion.cp.basis
    N = Derivatives(criterion, s)
    D, order = N.directions(), _order(criterion)
    sigma2 = s.r2 / nu
    slopes = np.concatenate([np.einsum("iab,ab->i", d, ww) for d, ww in zip(D, N.ww, strict=True)])[order]  # y'PVᵢPy
    assert e.hessian is not None
    H = np.block(
        [
            [e.hessian + nu / s.r2**2 * np.outer(slopes, slopes), 2 * slopes[:, None] / sigma2**1.5],
            [2 * slopes[None] / sigma2**1.5, np.full((1, 1), 4 * nu / sigma2)],
        ]
    )
    free = np.append(np.concatenate([t.free(e.theta) for t in criterion.cp.templates])[order], True)
    if not free.all():
        warnings.warn(
            "The fit is singular: the degrees of freedom take the variances at zero as known, so they may be too large.",
            stacklevel=2,
        )
    C = s.beta_covariance
    dC = np.concatenate([sigma2 * C @ _spread(s.U, D, order) @ C, 2 * np.sqrt(sigma2) * C[None]])
    gradient = basis.scale**2 * basis.to_user @ dC[free] @ basis.to_user.T
    return Satterthwaite(2 * np.linalg.inv(H[np.ix_(free, free)]), gradient)


def kenward_roger(criterion: Criterion, at: Evaluation) -> KenwardRoger:
    """The Kenward–Roger quantities of a REML fit; r counts the entries of all ΛΛ' blocks, then the residual variance.

    Raises
    ------
    ValueError
        For an ML fit.
    """
    if not criterion.reml:
        raise ValueError("Kenward–Roger needs a REML fit: refit with reml=True, or use ddf='satterthwaite'.")
    cp = criterion.cp
    criterion, theta = criterion.unitless(), unitless(criterion, at.theta)  # far from zero, columns would cost digits
    s = criterion.evaluate(theta).solution
    N = Derivatives(criterion, s)
    G, gamma = [], []  # ∂V/∂γᵣ, and γᵣ over σ²: the entries of TT'
    for template, B in zip(cp.templates, criterion.maps, strict=True):
        E, T = template.directions, template.factor(theta)
        G.append(B @ np.maximum(E, E.swapaxes(1, 2)) @ B.T)
        gamma.append((T @ T.T)[template.rows, template.cols])
    order, p, m = _order(criterion), cp.p, criterion.size
    g = np.concatenate(gamma)[order]
    C = s.beta_covariance
    trace = np.concatenate([np.einsum("iab,ab->i", d, n) for d, n in zip(G, N.traces(), strict=True)])[order]  # tr(PGᵣ)
    t = np.empty((m + 1, m + 1))  # tr(PGᵣPGₛ); the last is G₀ = W⁻¹ = V − ΣᵣγᵣGᵣ
    t[:m, :m] = N.products(G)
    t[m, :m] = t[:m, m] = trace - t[:m, :m] @ g
    t[m, m] = cp.n - p - g @ trace - g @ t[:m, m]
    P = np.empty((m + 1, p, p))  # −X'V⁻¹GᵣV⁻¹X
    P[:m] = -_spread(s.U, G, order)
    P[m] = -np.linalg.inv(C) - np.tensordot(g, P[:m], 1)
    effects = [np.einsum("iab,bpl->ipal", d, U).reshape(-1, len(U), U.shape[2]) for d, U in zip(G, s.U, strict=True)]
    R = np.empty((m + 1, m + 1, p, p))  # Qᵣₛ − PᵣΦPₛ = X'V⁻¹GᵣPGₛV⁻¹X
    R[:m, :m] = N.gram(effects).reshape(m, p, m, p)[order][:, :, order].transpose(0, 2, 1, 3)
    R[:m, m] = -np.einsum("rspq,s->rpq", R[:m, :m], g)
    R[m, :m] = R[:m, m].swapaxes(1, 2)
    R[m, m] = -np.einsum("rpq,r->pq", R[:m, m], g)
    W = 2 * np.linalg.inv(t)
    adjusted = C + 2 * C @ np.einsum("rs,rspq->pq", W, R) @ C
    scale, to = cp.basis.scale**2 * s.r2 / criterion.nu, cp.basis.to_user
    return KenwardRoger(scale * to @ C @ to.T, scale * to @ adjusted @ to.T, W, scale * to @ C @ P @ C @ to.T)


class Test(NamedTuple):
    """F = λ (Lβ̂)'(L Var L')⁻¹Lβ̂ / ℓ on ℓ and den_df degrees of freedom; the scale λ is 1 but for Kenward and Roger."""

    F: float
    num_df: int
    den_df: float
    scale: float = 1.0


def satterthwaite_test(L: np.ndarray, beta: np.ndarray, V: np.ndarray, parts: Satterthwaite) -> Test:
    """Joint test of the rows of L (ℓ, p): independent contrasts with νₘ each, E = Σ νₘ/(νₘ−2) (Fai & Cornelius 1996).

    F depends on the hypothesis only; the pooled degrees of freedom also, slightly, on the rows chosen to write it (as in
    lmerTest): orthogonal changes leave them as they are.
    """
    variances, P = np.linalg.eigh(L @ V @ L.T)
    kept = variances > 1e-10 * variances.max()
    contrasts, d = P[:, kept].T @ L, variances[kept]
    g = np.einsum("cp,ipq,cq->ic", contrasts, parts.gradient, contrasts)
    nu = 2 * d**2 / np.einsum("ic,ij,jc->c", g, parts.A, g)
    F = float(((contrasts @ beta) ** 2 / d).mean())
    if np.ptp(nu) < 1e-8 * nu.max():
        return Test(F, len(d), float(nu.mean()))
    if (nu <= 2).any():
        return Test(F, len(d), 2.0)
    E = (nu / (nu - 2)).sum()
    return Test(F, len(d), float(2 * E / (E - len(d))))


def kenward_roger_test(L: np.ndarray, beta: np.ndarray, parts: KenwardRoger) -> Test:
    """Joint test of the rows of L (ℓ, p): Kenward & Roger (1997), section 2 and their A₁, A₂, B, c₁…c₃, ρ, m, λ."""
    ell = int(np.linalg.matrix_rank(L))
    L = np.linalg.qr(L.T)[0][:, :ell].T if ell < len(L) else L
    Theta = L.T @ np.linalg.solve(L @ parts.Phi @ L.T, L)
    TM = Theta @ parts.M
    traces = np.trace(TM, axis1=1, axis2=2)
    A1 = traces @ parts.W @ traces
    A2 = np.einsum("rs,rpq,sqp->", parts.W, TM, TM, optimize=True)
    B = (A1 + 6 * A2) / (2 * ell)
    g = ((ell + 1) * A1 - (ell + 4) * A2) / ((ell + 2) * A2)
    below = 3 * ell + 2 * (1 - g)
    c1, c2, c3 = g / below, (ell - g) / below, (ell + 2 - g) / below
    E = 1 / (1 - A2 / ell)
    V = 2 / ell * (1 + c1 * B) / ((1 - c2 * B) ** 2 * (1 - c3 * B))
    rho = V / (2 * E**2)
    m = 4 + (ell + 2) / (ell * rho - 1)
    lam = m / (E * (m - 2))
    estimate = L @ beta
    F = lam / ell * estimate @ np.linalg.solve(L @ parts.Phi_A @ L.T, estimate)
    return Test(float(F), ell, float(m), float(lam))


def test(fit: MixedModel, L: np.ndarray, ddf: Method) -> Test:
    """Joint test of the rows of L by the chosen method."""
    beta = fit.fixef.to_numpy()
    if ddf == "kenward-roger":
        return kenward_roger_test(L, beta, fit.kenward_roger)
    if ddf == "satterthwaite":
        return satterthwaite_test(L, beta, fit.vcov.to_numpy(), fit.satterthwaite)
    if ddf != "normal":
        raise ValueError(f"ddf is 'satterthwaite', 'kenward-roger' or 'normal', not {ddf!r}.")
    rank = int(np.linalg.matrix_rank(L))
    F = L @ beta @ np.linalg.pinv(L @ fit.vcov.to_numpy() @ L.T) @ L @ beta / rank
    return Test(float(F), rank, np.inf)


def rows(fit: MixedModel, L: np.ndarray, ddf: Method, level: float, names: list | None = None) -> pd.DataFrame:
    """A t test for each row of L, with columns ``estimate std_error df statistic p_value conf_low conf_high``."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}.")
    V = fit.kenward_roger.Phi_A if ddf == "kenward-roger" else fit.vcov.to_numpy()
    estimate = L @ fit.fixef.to_numpy()
    se = np.sqrt(np.einsum("cp,pq,cq->c", L, V, L))
    df = np.array([test(fit, row[None], ddf).den_df for row in L])
    statistic = estimate / se
    half = stats.t.ppf((1 + level) / 2, df) * se
    table = {
        "estimate": estimate,
        "std_error": se,
        "df": df,
        "statistic": statistic,
        "p_value": 2 * stats.t.sf(np.abs(statistic), df),
        "conf_low": estimate - half,
        "conf_high": estimate + half,
    }
    return pd.DataFrame(table, names)


def coefficients(fit: MixedModel, ddf: Method, level: float) -> pd.DataFrame:
    """`rows` for the fixed effects one by one; a singular fit is named in the tables that show this, so no warning here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The fit is singular")
        return rows(fit, np.eye(len(fit.fixef)), ddf, level, list(fit.fixef.index))


def contrast(fit: MixedModel, L: object, ddf: Method, level: float) -> pd.DataFrame:
    """Test of Lβ = 0; see `MixedModel.contrast`."""
    names = list(fit.fixef.index)
    if isinstance(L, dict):
        unknown = [name for name in L if name not in names]
        if unknown:
            raise ValueError(f"The model has no fixed effect '{unknown[0]}'; it has {', '.join(names)}.")
        L = [L.get(name, 0.0) for name in names]
    matrix = np.asarray(L, np.float64)
    if matrix.ndim not in (1, 2) or matrix.shape[-1] != len(names):
        raise ValueError(
            f"A contrast needs {len(names)} columns, for {', '.join(names)}; this has shape {matrix.shape}."
        )
    if not np.isfinite(matrix).all() or not matrix.any(axis=-1).all():
        raise ValueError("Every contrast needs finite coefficients that are not all zero.")
    if matrix.ndim == 1:
        return rows(fit, matrix[None], ddf, level)
    result = test(fit, matrix, ddf)
    p = stats.f.sf(result.F, result.num_df, result.den_df)
    return pd.DataFrame({"F": [result.F], "num_df": result.num_df, "den_df": result.den_df, "p_value": p})
