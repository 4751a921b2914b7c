"""Denominator degrees of freedom: Satterthwaite and Kenward–Roger, from analytic derivatives, in q and p dimensions.

Satterthwaite (Giesbrecht & Burns 1985; Fai & Cornelius 1996 for several contrasts; Kuznetsova et al. 2017, JSS 82(13)): the
variance of Lβ̂ is a function of (θ, σ), whose covariance is A = 2H⁻¹ with H the Hessian of −2 log-likelihood.
Kenward & Roger (1997, Biometrics 53, 983–997): V is linear in variances and covariances; their covariance is the inverse of the
expected information, which also corrects the covariance of β̂ itself.  n × n matrices never appear: with U = Z'V⁻¹X,
X'V⁻¹VᵢV⁻¹X = Σ_l U_l'DᵢU_l, and since W⁻¹ = V − ΣᵢγᵢGᵢ everything about the residual variance follows from the rest.

Hypotheses are tested in the orthonormal basis of the cross-products, β = (to_user) γ: with a covariate far from zero L Var(β̂) L' in
the user's units is a small difference of numbers that are huge, and squared.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lmmlite.checks import check_share
from lmmlite.criterion import Criterion, Derivatives, Evaluation
from lmmlite.optimize import unitless

if TYPE_CHECKING:
    from lmmlite.model import MixedModel

Method = Literal["satterthwaite", "kenward-roger", "normal"]

_DEPENDENT = 1e-11  # relative singular value below which a row of L counts as a combination of the others
_ONE_STRATUM = 1e-8  # relative difference up to which A₁ and ℓA₂ of Kenward and Roger count as equal: exact F tests
_NO_MEAN = 0.01  # distance from m = 2, where F(ℓ, m) has no mean to match, within which λ is 1 (as in pbkrtest)


class Satterthwaite(NamedTuple):
    """Covariance A of the free entries of (θ, σ), θ without units, (m, m), and the derivatives of Var(γ̂) along them, (m, p, p)."""

    A: np.ndarray
    gradient: np.ndarray


class KenwardRoger(NamedTuple):
    """Φ = Var(γ̂) and its adjusted form, (p, p); W, (r, r), the covariance of the variance parameters; M_r = ΦP_rΦ, (r, p, p)."""

    Phi: np.ndarray
    adjusted: np.ndarray
    W: np.ndarray
    M: np.ndarray
    to_user: np.ndarray

    @property
    def Phi_A(self) -> np.ndarray:
        """The adjusted covariance of β̂, in the user's units."""
        return self.to_user @ self.adjusted @ self.to_user.T


def _spread(s_U: list[np.ndarray], D: list[np.ndarray], order: np.ndarray) -> np.ndarray:
    """Σ_l U_l'DᵢU_l for every direction, (m, p, p)."""
    parts = [np.einsum("apl,iab,bql->ipq", U, d, U, optimize=True) for U, d in zip(s_U, D, strict=True)]
    return np.concatenate(parts)[order]


def _order(criterion: Criterion) -> np.ndarray:
    return np.argsort(np.concatenate([t.index for t in criterion.cp.templates]))


def satterthwaite(criterion: Criterion, at: Evaluation) -> Satterthwaite:
    """A and the gradient of Var(γ̂) at a fit; zero columns of T, at the boundary, are held fixed."""
    criterion, theta = criterion.unitless(), unitless(criterion, at.theta)  # far from zero, columns would cost digits
    e = criterion.evaluate(theta, 2)
    s, nu = e.solution, criterion.nu
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
    return Satterthwaite(2 * np.linalg.inv(H[np.ix_(free, free)]), criterion.cp.basis.scale**2 * dC[free])


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
    scale = cp.basis.scale**2 * s.r2 / criterion.nu
    return KenwardRoger(scale * C, scale * adjusted, W, scale * C @ P @ C, cp.basis.to_user)


class Test(NamedTuple):
    """F = λ (Lβ̂)'(L Var L')⁻¹Lβ̂ / ℓ on ℓ and den_df degrees of freedom; the scale λ is 1 but for Kenward and Roger."""

    F: float
    num_df: int
    den_df: float
    scale: float = 1.0

    @property
    def p_value(self) -> float:
        """P(F > observed); with infinite ``den_df`` F · ℓ is χ²."""
        if np.isinf(self.den_df):
            return float(stats.chi2.sf(self.F * self.num_df, self.num_df))
        return float(stats.f.sf(self.F, self.num_df, self.den_df))


class Fixed(NamedTuple):
    """The fixed effects in the orthonormal basis: γ̂, (p,), and a factor of its covariance, Var(γ̂) = half half', (p, p)."""

    gamma: np.ndarray
    half: np.ndarray


def fixed(fit: MixedModel) -> Fixed:
    """γ̂ and the factor of its covariance, from the triangular factors that the solution holds."""
    s = fit.optimum.evaluation.solution
    q = s.cp.rest.q
    return Fixed(np.linalg.solve(s.cp.basis.to_user, fit.fixef.to_numpy()), fit.sigma * np.linalg.inv(s.L[q:, q:]).T)


def comparable(L: np.ndarray, half: np.ndarray) -> np.ndarray:
    """L with rows of unit variance, where their standard errors are so different that rounding would hide the smallest."""
    se = np.linalg.norm(L @ half, axis=1)
    return L / se[:, None] if se.min() > 0 and se.max() > 1e4 * se.min() else L


def row_space(L: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Orthonormal rows, (rank, p), that span those of L."""
    _, sizes, rows = np.linalg.svd(comparable(L, half), full_matrices=False)
    return rows[sizes > _DEPENDENT * sizes[0]]


def satterthwaite_test(L: np.ndarray, at: Fixed, parts: Satterthwaite) -> Test:
    """Joint test of the rows of L (ℓ, p): independent contrasts with νₘ each, E = Σ νₘ/(νₘ−2) (Fai & Cornelius 1996).

    F depends on the hypothesis only; the pooled degrees of freedom also, slightly, on the rows chosen to write it (as in
    lmerTest): orthogonal changes leave them as they are.
    """
    L = comparable(L, at.half)
    P, sizes, _ = np.linalg.svd(L @ at.half, full_matrices=False)
    kept = sizes > _DEPENDENT * sizes[0]
    contrasts, d = P[:, kept].T @ L, sizes[kept] ** 2
    g = np.einsum("cp,ipq,cq->ic", contrasts, parts.gradient, contrasts)
    nu = 2 * d**2 / np.einsum("ic,ij,jc->c", g, parts.A, g)
    F = float(((contrasts @ at.gamma) ** 2 / d).mean())
    if np.ptp(nu) < 1e-8 * nu.max():
        return Test(F, len(d), float(nu.mean()))
    if (nu <= 2).any():
        return Test(F, len(d), 2.0)
    E = (nu / (nu - 2)).sum()
    return Test(F, len(d), float(2 * E / (E - len(d))))


def kenward_roger_test(L: np.ndarray, at: Fixed, parts: KenwardRoger) -> Test:
    """Joint test of the rows of L (ℓ, p): Kenward & Roger (1997), section 2 and their A₁, A₂, B, c₁…c₃, ρ, m, λ."""
    L = row_space(L, at.half)
    ell = len(L)
    Theta = L.T @ np.linalg.solve(L @ parts.Phi @ L.T, L)
    TM = Theta @ parts.M
    traces = np.trace(TM, axis1=1, axis2=2)
    A1 = traces @ parts.W @ traces
    A2 = np.einsum("rs,rpq,sqp->", parts.W, TM, TM, optimize=True)
    m, lam = _moments_matched(ell, A1, A2)
    estimate = L @ at.gamma
    F = lam / ell * estimate @ np.linalg.solve(L @ parts.adjusted @ L.T, estimate)
    return Test(float(F), ell, float(m), float(lam))


def _moments_matched(ell: int, A1: float, A2: float) -> tuple[float, float]:
    """m and λ with which λF has mean and variance of F(ℓ, m), to the order of the paper."""
    if abs(A1 - ell * A2) <= _ONE_STRATUM * A1:  # so that for m = 2 nothing is 0/0, and ℓ = 1 loses no digits
        return 2 * ell / A2, 1.0
    B = (A1 + 6 * A2) / (2 * ell)
    g = ((ell + 1) * A1 - (ell + 4) * A2) / ((ell + 2) * A2)
    below = 3 * ell + 2 * (1 - g)
    c1, c2, c3 = g / below, (ell - g) / below, (ell + 2 - g) / below
    E = 1 / (1 - A2 / ell)
    V = 2 / ell * (1 + c1 * B) / ((1 - c2 * B) ** 2 * (1 - c3 * B))
    rho = V / (2 * E**2)
    m = 4 + (ell + 2) / (ell * rho - 1)
    return m, m / (E * (m - 2)) if abs(m - 2) > _NO_MEAN else 1.0


def normal_test(L: np.ndarray, at: Fixed) -> Test:
    """Joint Wald test of the rows of L (ℓ, p), the variances taken as known."""
    L = row_space(L, at.half)
    U, sizes, _ = np.linalg.svd(L @ at.half, full_matrices=False)
    return Test(float(((U.T @ L @ at.gamma / sizes) ** 2).mean()), len(L), np.inf)


def test(fit: MixedModel, L: np.ndarray, ddf: Method) -> Test:
    """Joint test of Lγ = 0 by the chosen method, L (ℓ, p) in the orthonormal basis; see `in_basis`."""
    if ddf == "kenward-roger":
        return kenward_roger_test(L, fixed(fit), fit.kenward_roger)
    if ddf == "satterthwaite":
        return satterthwaite_test(L, fixed(fit), fit.satterthwaite)
    if ddf != "normal":
        raise ValueError(f"ddf is 'satterthwaite', 'kenward-roger' or 'normal', not {ddf!r}.")
    return normal_test(L, fixed(fit))


def in_basis(fit: MixedModel, L: np.ndarray) -> np.ndarray:
    """The rows of L, (ℓ, p) for the fixed effects, as combinations of coefficients in the orthonormal basis."""
    return L @ fit.criterion_function.cp.basis.to_user


def rows(
    fit: MixedModel, L: np.ndarray, ddf: Method, level: float, names: list | None = None, offset: float = 0.0
) -> pd.DataFrame:
    """A t test of Lβ plus a known offset for each row of L, with columns ``estimate std_error df statistic p_value conf_low conf_high``."""
    check_share(level, "level")
    estimate, inside = L @ fit.fixef.to_numpy() + offset, in_basis(fit, L)
    if ddf == "kenward-roger":
        se = np.sqrt(np.einsum("cp,pq,cq->c", inside, fit.kenward_roger.adjusted, inside))
    else:
        se = np.linalg.norm(inside @ fixed(fit).half, axis=1)
    df = np.array([test(fit, row[None], ddf).den_df for row in inside])
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
    matrix = _coefficients_of(_by_name(L, names), names)
    if matrix.ndim == 1:
        return rows(fit, matrix[None], ddf, level)
    result = test(fit, in_basis(fit, matrix), ddf)
    columns = {"F": [result.F], "num_df": result.num_df, "den_df": result.den_df, "p_value": result.p_value}
    return pd.DataFrame(columns)


def _by_name(L: object, names: list[str]) -> object:
    """What has labels (a dict, Series or DataFrame) in the order of the fixed effects, 0 for those it leaves out."""
    if isinstance(L, pd.DataFrame):
        labels = L.columns
    elif isinstance(L, pd.Series):
        labels = L.index
    elif isinstance(L, dict):
        labels = pd.Index(list(L), dtype=object)
    else:
        return L
    if isinstance(labels, pd.RangeIndex) and not isinstance(L, dict):  # pandas' numbers, no names: by position
        return L.to_numpy()
    unknown = [name for name in labels if name not in names]
    if unknown:
        raise ValueError(f"The model has no fixed effect '{unknown[0]}'; it has {', '.join(names)}.")
    if not labels.is_unique:
        raise ValueError(f"The contrast names '{labels[labels.duplicated()][0]}' twice; give one coefficient for it.")
    if isinstance(L, pd.DataFrame):
        return L.reindex(columns=names, fill_value=0.0).to_numpy()
    return [L.get(name, 0.0) for name in names]


def _coefficients_of(L: object, names: list[str]) -> np.ndarray:
    """L as a vector or matrix of numbers with a column for each fixed effect, or an error that says what is wrong."""
    try:
        matrix = np.asarray(L, np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"A contrast holds numbers: a dict such as {{{names[-1]!r}: 1}}, or an array with a column for each of "
            f"{', '.join(names)}; not {L!r}."
        ) from None
    if matrix.ndim not in (1, 2) or matrix.shape[-1] != len(names):
        raise ValueError(
            f"A contrast needs {len(names)} columns, for {', '.join(names)}; this has shape {matrix.shape}."
        )
    if not len(matrix) or not np.isfinite(matrix).all() or not matrix.any(axis=-1).all():
        raise ValueError("Every contrast needs finite coefficients that are not all zero.")
    return matrix
