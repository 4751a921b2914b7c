"""θ → the profiled deviance or REML criterion, its gradient and Hessian, and the solutions for β and b.

Notation (Bates, Mächler, Bolker & Walker 2015, JSS 67(1), equations 18–42; Lindstrom & Bates 1988; Gilmour, Thompson &
Cullis 1995): with σ = 1, V = W⁻¹ + ZΛΛ'Z' and P = V⁻¹ − V⁻¹X(X'V⁻¹X)⁻¹X'V⁻¹,

    d(θ) = log|V| + n (1 + log(2π r²/n)),                     r² = y'Py             (ML)
    d(θ) = log|V| + log|X'V⁻¹X| + ν (1 + log(2π r²/ν)),       ν = n − p             (REML)

The first grouping factor is eliminated level by level: H_l = I + R_l T T'R_l' replaces the n × n matrix V.  The rest,
[Z_r X y], is one dense symmetric system S = W + Σ_l [·]'H_l⁻¹[·].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import blas, lapack

from lmmlite import blocks
from lmmlite.crossproducts import CrossProducts


class Solution:
    """The penalised least-squares problem solved at one θ, step by step as in section 3.4 of Bates et al.

    Everything is in the basis of the cross-products.  ``c`` counts the coefficients of the rest, [b_r β].

    Attributes
    ----------
    T : list of (k, k) arrays
        Relative covariance factors in the summed basis, not triangular there.
    K : (k, k, L) array
        (Z'V₁⁻¹Z)_ll of the first grouping factor, V₁ = I + Z₁ΛΛ'Z₁'.
    S : (c + 1, c + 1) array
        [Z_r X y]'V₁⁻¹[Z_r X y].
    r2 : float
        y'Py.
    log_V, log_XVX : float
        Log determinants.
    coefficients : (c,) array
        b̃_r and β̂.
    """

    def __init__(self, cp: CrossProducts, T: list[np.ndarray]):
        self.cp, self.T = cp, T
        q, c = cp.rest.q, cp.rest.q + cp.p
        # 1. the covariance factor: H_l = I + R_l TT'R_l' = C_l C_l'
        TR = np.einsum("jm,ijl->mil", T[cp.first], cp.R)
        H = blocks.matmul(TR, TR)
        H[np.arange(len(H)), np.arange(len(H))] += 1
        self.C = blocks.cholesky(H)
        # 2. the normal equations of the rest: S = W + Σ_l (C⁻¹·)'(C⁻¹·)
        self.Z1 = blocks.forward(self.C, cp.R)
        self.rest = blocks.forward(cp.rest.at(self.C), cp.rest.values)
        self.d = blocks.forward(self.C, cp.Rd)
        S = cp.W.copy()
        for u, d in zip(self.rest, self.d, strict=True):
            S[:q, :q] += cp.rest.gram(u, u)
            S[:q, q:] += cp.rest.cross(u, d)
            S[q:, q:] += blas.dgemm(1.0, d.T, d.T, trans_a=True)
        S[q:, :q] = S[:q, q:].T
        self.S = S
        # 3. with u = Λ⁻¹b for b_r: Q = Λ'SΛ + I in its Z_r block, Cholesky factor L
        Q = self.scale(self.scale(S[:c, :c]).T)
        Q[np.arange(q), np.arange(q)] += 1
        self.L: np.ndarray
        self.L, failed = lapack.dpotrf(Q.T, lower=1, clean=1, overwrite_a=1) if c else (Q, 0)
        if failed:
            raise FloatingPointError("The normal equations are not positive definite at this theta.")
        half = lapack.dtrtrs(self.L, self.scale(S[:c, c]), lower=1)[0] if c else np.empty(0)
        self.coefficients = self.scale(lapack.dtrtrs(self.L, half, lower=1, trans=1)[0] if c else half, transpose=True)
        # 4. the parts of the criterion
        self.r2 = float(S[c, c] - half @ half)
        if not self.r2 > 0:
            raise FloatingPointError("The residual sum of squares is lost in rounding at this theta.")
        pivots = np.log(np.diag(self.L))
        self.log_V = 2 * float(np.log(np.diagonal(self.C)).sum() + pivots[:q].sum())
        self.log_XVX = 2 * float(pivots[q:].sum())

    def scale(self, A: np.ndarray, transpose: bool = False) -> np.ndarray:
        """Λ'A, or ΛA with ``transpose``, for the rows of Z_r in A (c, …); the rows of X stay."""
        out, q = np.empty(A.shape), self.cp.rest.q
        out[q:] = A[q:]
        for g, place in self.cp.others:
            T = self.T[g] if transpose else self.T[g].T
            if len(T) == 1:
                np.multiply(A[place], T[0, 0], out=out[place])
            else:
                out[place] = (T @ A[place].reshape(len(T), -1)).reshape(A[place].shape)
        return out

    @cached_property
    def G(self) -> np.ndarray:
        """Q⁻¹, (c, c): the covariance of (u_r − û_r, β̂ − β) over σ²."""
        if not len(self.L):
            return self.L
        return blocks.symmetric(lapack.dpotri(self.L, lower=1)[0])

    @cached_property
    def w(self) -> list[np.ndarray]:
        """Z'Py of each grouping factor, (k, levels)."""
        cp, c, q = self.cp, len(self.coefficients), self.cp.rest.q
        b, beta = self.coefficients[:q], self.coefficients[q:]
        e = np.stack(
            [d[-1] - beta @ d[:-1] - cp.rest.apply(u, b[None])[0] for u, d in zip(self.rest, self.d, strict=True)]
        )
        of_rest = self.S[:q, c] - self.S[:q, :c] @ self.coefficients
        w = {g: of_rest[place].reshape(len(self.T[g]), -1) for g, place in cp.others}
        return [blocks.matmul(self.Z1, e) if g == cp.first else w[g] for g in range(len(self.T))]

    @cached_property
    def U(self) -> list[np.ndarray]:
        """Z'V⁻¹X of each grouping factor, X in the orthonormal basis, (k, p, levels)."""
        cp, c, q = self.cp, len(self.coefficients), self.cp.rest.q
        B = np.zeros((q, cp.p))
        if cp.p:  # coefficients of X on Z_r in the metric V₁⁻¹, shrunk
            B = -self.scale(self.G, transpose=True)[:q, q:] @ np.linalg.inv(self.G[q:, q:])
        X = np.stack([d[:-1] - cp.rest.apply(u, B.T) for u, d in zip(self.rest, self.d, strict=True)])
        of_rest = self.S[:q, q:c] - self.S[:q, :q] @ B
        U = {g: of_rest[place].reshape(len(self.T[g]), cp.sizes[g], cp.p).transpose(0, 2, 1) for g, place in cp.others}
        return [blocks.matmul(self.Z1, X) if g == cp.first else U[g] for g in range(len(self.T))]


@dataclass(frozen=True)
class Evaluation:
    """The criterion at one θ.

    Attributes
    ----------
    theta : (m,) array
    value : float
    solution : Solution
        Of the penalised least-squares problem at this θ.
    gradient : (m,) array or None
        Order 1 and 2.
    hessian : (m, m) array or None
        At order 1 the average-information matrix plus the exact curvature of TT' (for the steps); at order 2 exact.
    G : tuple of (k, k) arrays or None
        𝒢 = Σ_l (Z'PZ)_ll − (ν/r²) Σ_l w_l w_l' of each grouping factor, with ∂d/∂T = 2 tril(𝒢T).
    """

    theta: np.ndarray
    value: float
    solution: Solution
    gradient: np.ndarray | None = None
    hessian: np.ndarray | None = None
    G: tuple[np.ndarray, ...] | None = None


class Criterion:
    """The profiled deviance (ML) or REML criterion as a function of θ.

    Parameters
    ----------
    cp : CrossProducts
    reml : bool
    maps : tuple of (k, k) arrays, optional
        B of each grouping factor, with BT its relative covariance factor in the summed basis; by default the one that makes
        θ that of the user's columns, as in lme4.
    """

    def __init__(self, cp: CrossProducts, reml: bool = True, maps: tuple[np.ndarray, ...] | None = None):
        self.cp, self.reml = cp, reml
        self.maps = cp.Z_maps if maps is None else maps
        self.nu = cp.n - cp.p * reml
        self._constant = self.nu * (1 + np.log(2 * np.pi * cp.basis.scale**2 / self.nu)) - cp.log_weights
        if reml:
            self._constant -= 2 * np.linalg.slogdet(cp.basis.to_user)[1]

    @property
    def size(self) -> int:
        """Length of θ."""
        return sum(len(t.index) for t in self.cp.templates)

    def unitless(self) -> Criterion:
        """The same criterion as a function of a θ for centred and scaled columns: what the optimiser works with."""
        own = (np.linalg.inv(B) for B in self.cp.own_maps)
        return Criterion(self.cp, self.reml, tuple(B @ inverse for B, inverse in zip(self.cp.Z_maps, own, strict=True)))

    def checked(self, theta: ArrayLike) -> np.ndarray:
        """θ as an array; ValueError where it has the wrong length or is not finite."""
        array = np.asarray(theta, np.float64)
        if array.shape != (self.size,) or not np.isfinite(array).all():
            raise ValueError(f"theta must be {self.size} finite numbers, not {theta!r}.")
        return array

    def evaluate(self, theta: ArrayLike, order: int = 0) -> Evaluation:
        """Value (order 0), also the gradient and a Hessian for steps (1), or the exact Hessian (2).

        Raises
        ------
        ValueError
            Where θ has the wrong length or is not finite.
        """
        theta = self.checked(theta)
        T = [B @ t.factor(theta) for B, t in zip(self.maps, self.cp.templates, strict=True)]
        s = Solution(self.cp, T)
        value = s.log_V + self.reml * s.log_XVX + self.nu * np.log(s.r2) + self._constant
        if order == 0:
            return Evaluation(theta, float(value), s)
        return Derivatives(self, s).evaluation(theta, float(value), order)


class Derivatives:
    """Gradient and Hessian of the criterion at a solution, from N = Z'PZ (REML) or Z'V⁻¹Z (ML) and w = Z'Py.

    With θᵢ an entry of T, Eᵢ = ∂T/∂θᵢ and Dᵢ = B(EᵢT' + TEᵢ')B', the derivative of V is Vᵢ = Σ_l Z_l Dᵢ Z_l'.
    """

    def __init__(self, criterion: Criterion, s: Solution):
        self.criterion, self.s, self.cp = criterion, s, s.cp
        cp, q = s.cp, s.cp.rest.q
        G = s.G
        if not criterion.reml and cp.p:
            G = G - G[:, q:] @ np.linalg.solve(G[q:, q:], G[q:])  # V⁻¹ instead of P: β known
        self.half = s.scale(G, transpose=True)  # ΛG
        self.G = s.scale(self.half.T, transpose=True)  # ΛGΛ'
        self.K = blocks.matmul(s.Z1, s.Z1)
        Z1 = cp.rest.at(s.Z1)
        self.b_rest = blocks.matmul(Z1, s.rest)
        self.b_X = blocks.matmul(s.Z1, np.ascontiguousarray(s.d[:, :-1]))
        self.ww = [w @ w.T for w in s.w]

    @cached_property
    def J(self) -> dict[tuple[int, int], np.ndarray]:
        """Σ_l b_la b_lb' with b_l = [Z_r X]'V₁⁻¹Z_l of the first grouping factor, (c, c) for a ≥ b."""
        rest, q, p = self.cp.rest, self.cp.rest.q, self.cp.p
        J = {}
        for a in range(len(self.K)):
            for b in range(a + 1):
                J[a, b] = np.empty((q + p, q + p))
                J[a, b][:q, :q] = rest.gram(self.b_rest[a], self.b_rest[b])
                J[a, b][:q, q:] = rest.cross(self.b_rest[a], self.b_X[b])
                J[a, b][q:, :q] = rest.cross(self.b_rest[b], self.b_X[a]).T
                J[a, b][q:, q:] = self.b_X[a] @ self.b_X[b].T
                J[b, a] = J[a, b].T
        return J

    def traces(self) -> list[np.ndarray]:
        """Σ_l N_ll of each grouping factor, (k, k)."""
        cp, s, q = self.cp, self.s, self.cp.rest.q
        N = [self.K.sum(axis=2)] * len(s.T)
        k = len(self.K)
        N[cp.first] = N[cp.first] - np.array([[np.vdot(self.G, self.J[a, b]) for b in range(k)] for a in range(k)])
        S = s.S[:q, : q + cp.p]
        for g, place in cp.others:
            T, shape = s.T[g], (len(s.T[g]), cp.sizes[g], -1)
            if np.linalg.cond(T) < 1e6:  # N Λ = S ΛG loses no digits, however large Λ
                N[g] = np.einsum(
                    "alc,blc->ab", S[place].reshape(shape), self.half.T[place].reshape(shape)
                ) @ np.linalg.inv(T)
            else:
                own = s.S[place, place].reshape(len(T), cp.sizes[g], len(T), cp.sizes[g])
                taken = np.einsum("alc,blc->ab", (S[place] @ self.G).reshape(shape), S[place].reshape(shape))
                N[g] = np.einsum("albl->ab", own) - taken
        return N

    def directions(self) -> list[np.ndarray]:
        """Dᵢ for the entries of θ, (m, k, k) for each grouping factor in the order of its template."""
        D = []
        for t, B, T in zip(self.cp.templates, self.criterion.maps, self.s.T, strict=True):
            half = B @ t.directions() @ T.T
            D.append(half + half.swapaxes(1, 2))
        return D

    def evaluation(self, theta: np.ndarray, value: float, order: int) -> Evaluation:
        """Gather the derivatives for all entries of θ."""
        cp, criterion, s = self.cp, self.criterion, self.s
        ratio, m = criterion.nu / s.r2, len(theta)
        G = tuple(B.T @ (N - ratio * ww) @ B for B, N, ww in zip(criterion.maps, self.traces(), self.ww, strict=True))
        D, gradient, curvature, slopes = self.directions(), np.empty(m), np.zeros((m, m)), np.empty(m)
        for g, t in enumerate(cp.templates):
            T = t.factor(theta)
            gradient[t.index] = 2 * (G[g] @ T)[t.rows, t.cols]
            curvature[np.ix_(t.index, t.index)] = 2 * G[g][np.ix_(t.rows, t.rows)] * (t.cols[:, None] == t.cols)
            slopes[t.index] = np.einsum("iab,ab->i", D[g], self.ww[g])  # y'PVᵢPy
        squares = ratio * self.quadratic(D)
        observed = squares - criterion.nu * np.outer(slopes, slopes) / s.r2**2
        if order == 2:
            observed += squares - self.products(D)
        return Evaluation(theta, value, s, gradient, observed + curvature, G)

    def quadratic(self, D: list[np.ndarray]) -> np.ndarray:
        """y'PVᵢPVⱼPy, from the working columns VᵢPy = Z gᵢ with gᵢ = Dᵢ w; (m, m)."""
        g = [np.einsum("iab,bl->ial", d, w) for d, w in zip(D, self.s.w, strict=True)]
        order = np.argsort(np.concatenate([t.index for t in self.cp.templates]))
        return self.gram(g)[np.ix_(order, order)]

    def gram(self, g: list[np.ndarray]) -> np.ndarray:
        """g'Z'PZg for columns g of random effects, (columns, k, levels) of each grouping factor; columns factor after factor."""
        cp, s, q, c = self.cp, self.s, self.cp.rest.q, len(self.s.coefficients)
        stops = np.cumsum([len(columns) for columns in g])
        b = np.zeros((q, stops[-1]))
        for f, place in cp.others:
            b[place, stops[f] - len(g[f]) : stops[f]] = g[f].reshape(len(g[f]), -1).T
        own = slice(stops[cp.first] - len(g[cp.first]), stops[cp.first])
        a = np.einsum("xbl,ibl->ixl", s.Z1, g[cp.first])
        into = np.zeros((c, stops[-1]))  # [Z_r X]'V₁⁻¹Z₁g
        for x, (u, d) in enumerate(zip(s.rest, s.d, strict=True)):
            into[:q, own] += cp.rest.cross(u, a[:, x])
            into[q:, own] += d[:-1] @ a[:, x].T
        squares = b.T @ s.S[:q, :q] @ b + b.T @ into[:q] + into[:q].T @ b
        squares[own, own] += np.einsum("ixl,jxl->ij", a, a)
        into += s.S[:c, :q] @ b
        half = lapack.dtrtrs(s.L, s.scale(into), lower=1)[0] if c else into
        return squares - half.T @ half

    def products(self, D: list[np.ndarray]) -> np.ndarray:
        """tr(PVᵢPVⱼ) (ML: tr(V⁻¹VᵢV⁻¹Vⱼ)), (m, m): Σ over levels l, m of tr(N_lm Dⱼ N_ml Dᵢ)."""
        out = np.empty((self.criterion.size,) * 2)
        for g, one in enumerate(self.cp.templates):
            for h, other in enumerate(self.cp.templates[: g + 1]):
                part = np.einsum("abcd,iac,jbd->ij", self.squares(g, h), D[g], D[h], optimize=True)
                out[np.ix_(one.index, other.index)] = part
                out[np.ix_(other.index, one.index)] = part.T
        return out

    def squares(self, g: int, h: int) -> np.ndarray:
        """Σ_lm N_lm[a,b] N_lm[c,d] over the levels of two grouping factors: (k_g, k_h, k_g, k_h), indices a, b, c, d."""
        cp, first = self.cp, self.cp.first
        if g == h == first:
            k, K = len(self.K), self.K
            b = np.concatenate([[cp.rest.dense(u) for u in self.b_rest], self.b_X], axis=1)
            B = np.einsum("acl,bcl->abl", b, np.einsum("cd,bdl->bcl", self.G, b, optimize=True), optimize=True)
            GJ = np.array([[self.G @ self.J[a, b] for b in range(k)] for a in range(k)])
            cross = np.einsum("abl,cdl->abcd", K, B)
            between = np.einsum("bdst,cats->abcd", GJ, GJ, optimize=True)
            return np.einsum("abl,cdl->abcd", K, K) - cross - cross.transpose(2, 3, 0, 1) + between
        N = self.N_rest if first not in (g, h) else self.N_first
        shape = {o: (len(self.s.T[o]), cp.sizes[o]) for o in (g, h)}
        place = dict(cp.others)
        rows = slice(None) if g == first else place.get(g)
        if first in (g, h):
            N = N[:, place[h if g == first else g]].reshape(*shape[first], *shape[h if g == first else g])
            N = N if g == first else N.transpose(2, 3, 0, 1)
        else:
            N = N[rows, place[h]].reshape(*shape[g], *shape[h])
        flat = N.transpose(0, 2, 1, 3).reshape(shape[g][0] * shape[h][0], -1)
        return (flat @ flat.T).reshape(shape[g][0], shape[h][0], shape[g][0], shape[h][0])

    @cached_property
    def N_rest(self) -> np.ndarray:
        """Z_r'PZ_r, (q, q)."""
        q, c = self.cp.rest.q, len(self.s.coefficients)
        S = self.s.S[:q, :c]
        return S[:, :q] - S @ self.G @ S.T

    @cached_property
    def N_first(self) -> np.ndarray:
        """Z₁'PZ_r, (k·L, q)."""
        cp, s, q, c = self.cp, self.s, self.cp.rest.q, len(self.s.coefficients)
        b_rest = np.stack([cp.rest.dense(u) for u in self.b_rest])  # (k, q, L)
        b = np.concatenate([b_rest, self.b_X], axis=1)
        GS = self.G @ s.S[:c, :q]
        return np.concatenate([r.T - x.T @ GS for r, x in zip(b_rest, b, strict=True)])
