"""The penalised least-squares problem at one θ: the solutions for β and b, and the covariance of their errors.

The notation is that of `criterion`.  The first grouping factor is eliminated level by level: H_l = I + R_l T T'R_l' replaces the
n × n matrix V.  What is left are the products S = W + Σ_l [·]'H_l⁻¹[·] of the other factors, X and y.  Those of a factor in which
the first is nested have the form of cross-products again, and the same is done with them.  The rest, [Z_r X y], is one dense
symmetric system.  V₁ = W⁻¹ + Z₁ΛΛ'Z₁' with Z₁ the columns of the factor at hand and of those eliminated before it; in S, those of the
whole chain.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.linalg import lapack

from lmmlite import blocks
from lmmlite.chain import times_parent
from lmmlite.crossproducts import CrossProducts
from lmmlite.table import compress

Combinations = dict[int, list[tuple[np.ndarray, np.ndarray]]]  # by grouping factor: levels (n,), coefficients (k, m, n)


class Solution:
    """The penalised least-squares problem solved at one θ, step by step as in section 3.4 of Bates et al.

    Everything is in the basis of the cross-products.  ``c`` counts the coefficients of the rest, [b_r β].

    Attributes
    ----------
    T : list of (k, k) arrays
        Relative covariance factors in the summed basis, not triangular there.
    inner : Solution or None
        Of what is left without the first grouping factor, where that is nested in another; S, L and the coefficients are then
        those of the inner one.
    S : (c + 1, c + 1) array
        [Z_r X y]'V₁⁻¹[Z_r X y].
    r2 : float
        y'Py.
    log_V, log_XVX : float
        Log determinants.
    coefficients : (c,) array
        b̃_r and β̂.
    """

    S: np.ndarray
    L: np.ndarray
    r2: float
    log_V: float
    log_XVX: float
    coefficients: np.ndarray

    def __init__(self, cp: CrossProducts, T: list[np.ndarray]):
        self.cp, self.T = cp, T
        # 1. the covariance factor: H_l = I + R_l TT'R_l' = C_l C_l'
        TR = np.einsum("jm,ijl->mil", cp.relative_factor(T, cp.first), cp.R)
        H = blocks.matmul(TR, TR)
        H[np.arange(len(H)), np.arange(len(H))] += 1
        self.C = blocks.cholesky(H)
        # 2. the normal equations of what is left: S = W + Σ_l (C⁻¹·)'(C⁻¹·)
        self.Z1 = blocks.forward(self.C, cp.R)
        self.nested = blocks.forward(self.C, cp.nested)
        self.rest = blocks.forward(cp.rest.at(self.C), cp.rest.values)
        self.d = blocks.forward(self.C, cp.Rd)
        S = cp.W.plus(1, cp.chain, self.nested, cp.rest, self.rest, self.d)
        self.inner = Solution(cp.after(S), T) if S.own else None
        log_H = 2 * float(np.log(np.diagonal(self.C)).sum())
        if self.inner:
            self.S, self.L, self.coefficients = self.inner.S, self.inner.L, self.inner.coefficients
            self.r2, self.log_V, self.log_XVX = self.inner.r2, log_H + self.inner.log_V, self.inner.log_XVX
        else:
            self.S = S.tail
            self._solve(log_H)

    def _solve(self, log_H: float) -> None:
        """The dense normal equations of the rest."""
        S, q, c = self.S, self.cp.rest.q, self.cp.rest.q + self.cp.p
        # 3. with u = Λ⁻¹b for b_r: Q = Λ'SΛ + I in its Z_r block, Cholesky factor L
        Q = self.scale(self.scale(S[:c, :c]).T)
        Q[np.arange(q), np.arange(q)] += 1
        self.L, failed = lapack.dpotrf(Q, lower=1, clean=1, overwrite_a=1) if c else (Q, 0)
        if failed:
            raise FloatingPointError("The normal equations are not positive definite at this theta.")
        half = lapack.dtrtrs(self.L, self.scale(S[:c, c]), lower=1)[0] if c else np.empty(0)
        self.coefficients = self.scale(lapack.dtrtrs(self.L, half, lower=1, trans=1)[0] if c else half, transpose=True)
        # 4. the parts of the criterion
        self.r2 = float(S[c, c] - half @ half)
        if not self.r2 > 0:
            raise FloatingPointError("The residual sum of squares is lost in rounding at this theta.")
        pivots = np.log(np.diag(self.L))
        self.log_V = log_H + 2 * float(pivots[:q].sum())
        self.log_XVX = 2 * float(pivots[q:].sum())

    @property
    def stages(self) -> list[Solution]:
        """This solution and the inner ones, one for each factor of the chain."""
        return [self, *(self.inner.stages if self.inner else ())]

    def scale(self, A: np.ndarray, transpose: bool = False) -> np.ndarray:
        """Λ'A, or ΛA with ``transpose``, for the rows of Z_r in A (c, …); the rows of X stay."""
        by_columns, q = A.ndim == 2 and A.flags.f_contiguous, self.cp.rest.q
        out = np.empty(A.shape, order="F" if by_columns else "C")  # a transposed copy of a large matrix is slow
        out[q:] = A[q:]
        for g, place in self.cp.others:
            T = self.T[g] if transpose else self.T[g].T
            if len(T) == 1:
                np.multiply(A[place], T[0, 0], out=out[place])
            elif by_columns:
                shape = (A.shape[1], len(T), -1)
                np.matmul(T, A.T[:, place].reshape(shape), out=out.T[:, place].reshape(shape))
            else:
                shape = (len(T), self.cp.sizes[g], -1)
                np.matmul(T, A[place].reshape(shape).swapaxes(0, 1), out=out[place].reshape(shape).swapaxes(0, 1))
        return out

    def inverse(self, known_beta: bool = False) -> np.ndarray:
        """Q⁻¹, or that of its Z_r block with β known: made anew each time, since a large one is better not kept."""
        c = self.cp.rest.q if known_beta else len(self.L)
        return blocks.symmetric(lapack.dpotri(self.L[:c, :c], lower=1)[0]) if c else np.empty((0, 0))

    @cached_property
    def G(self) -> np.ndarray:
        """Q⁻¹, (c, c): the covariance of (u_r − û_r, β̂ − β) over σ²."""
        return self.inverse()

    @cached_property
    def beta_covariance(self) -> np.ndarray:
        """(X'V⁻¹X)⁻¹, (p, p), X in the orthonormal basis."""
        q = self.cp.rest.q
        half = np.linalg.inv(self.L[q:, q:])
        return half.T @ half

    @cached_property
    def K(self) -> np.ndarray:
        """(Z'V₁⁻¹Z)_ll of the first grouping factor, (k, k, L)."""
        return blocks.matmul(self.Z1, self.Z1)

    @cached_property
    def b(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Z_l'V₁⁻¹[Z_a Z_r X] of the first grouping factor: of the factors above it (k, K, L), as rows over the rest, and (k, p, L)."""
        rest = blocks.matmul(self.cp.rest.at(self.Z1), self.rest)
        return blocks.matmul(self.Z1, self.nested), rest, blocks.matmul(self.Z1, np.ascontiguousarray(self.d[:, :-1]))

    @cached_property
    def w(self) -> list[np.ndarray]:
        """Z'Py of each grouping factor, (k, levels)."""
        q = self.cp.rest.q
        M = np.append(-self.coefficients[q:], 1.0)[:, None]
        return [w[:, 0] for w in self.cp.listed(self._weighted(M, self.coefficients[:q, None]))]

    @cached_property
    def U(self) -> list[np.ndarray]:
        """Z'V⁻¹X of each grouping factor, X in the orthonormal basis, (k, p, levels)."""
        cp, q = self.cp, self.cp.rest.q
        B = np.zeros((q, cp.p))
        if q and cp.p:  # coefficients of X on Z_r in the metric V₁⁻¹, shrunk
            half = lapack.dtrtrs(self.L[:q, :q], self.L[q:, :q].T, lower=1, trans=1)[0]
            B = self.scale(np.vstack([half, np.zeros((cp.p, cp.p))]), transpose=True)[:q]
        return cp.listed(self._weighted(np.eye(cp.p + 1)[:, :-1], B))

    def _weighted(self, M: np.ndarray, b: np.ndarray) -> dict[int, np.ndarray]:
        """Z'V⁻¹[X y]M by grouping factor, (k, m, levels), from the shrunk coefficients b of [X y]M on Z_r, (q, m)."""
        cp, q = self.cp, self.cp.rest.q
        e = np.einsum("kdl,dm->kml", self.d, M) - np.stack([cp.rest.apply(u, b.T) for u in self.rest])
        if self.inner:
            out = self.inner._weighted(M, b)
            for g, place, parent in cp.above:
                effects = _effects(cp.relative_factor(self.T, g), out[g]).swapaxes(0, 1)
                e -= times_parent(parent, effects, self.nested[:, place].swapaxes(0, 1)).swapaxes(0, 1)
        else:
            of_rest = self.S[:q, q:] @ M - self.S[:q, :q] @ b
            out = {g: of_rest[place].reshape(len(self.T[g]), cp.sizes[g], -1).swapaxes(1, 2) for g, place in cp.others}
        return out | {cp.first: blocks.matmul(self.Z1, e)}

    def regression(self, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """F, (k, k, m), and H, (K + c, k, m), of m levels of the first grouping factor: u_l = F_l'ε − H_l'[u_a u_r β], ε ~ N(0, I).

        u_a are the effects of the level's own levels above, M_l⁻¹ = F_l'F_l = (I + T'Z_l'Z_lT)⁻¹, and H_l = Λ'[Z_a Z_r X]'V₁⁻¹Z_lT;
        errors u − û follow the same regression.
        """
        cp, T = self.cp, self.cp.relative_factor(self.T, self.cp.first)
        nested, rest, X = self.b
        above = [
            np.einsum("kaL,ab->bkL", nested[:, place][:, :, levels], cp.relative_factor(self.T, g))
            for g, place, _ in cp.above
        ]
        b = [np.concatenate([cp.rest.dense(u, levels), x[:, levels]]) for u, x in zip(rest, X, strict=True)]
        RT = np.einsum("ijm,jb->ibm", cp.R[:, :, levels], T)
        identity = np.repeat(np.eye(len(T))[:, :, None], len(levels), axis=2)
        F = blocks.forward(blocks.cholesky(identity + blocks.matmul(RT, RT)), identity)
        H = np.concatenate([*above, self.scale(np.stack(b, axis=1))])
        return F, np.einsum("ckm,kb->cbm", H, T)

    def covariance(self, at: Combinations, rest: np.ndarray, known_beta: bool = False) -> np.ndarray:
        """Covariance over σ² of m combinations of the errors of u and β̂, for each of n cases: (m, m, n).

        Parameters
        ----------
        at : dict
            For grouping factors that are not in the rest, pairs of levels (n,) and the coefficients (k, m, n) of their u.
        rest : (c, m, n) array
            Coefficients of [u_r β].
        known_beta : bool
            Take β as known: errors of u only.

        Notes
        -----
        Level by level u is replaced by its regression on what comes later; what remains at last has covariance Q⁻¹.
        """
        out = np.zeros((rest.shape[1], *rest.shape[1:]))
        clusters, found = self.cp.clusters, at
        at = {g: list(found.get(g, ())) for g in self.cp.chain.factors}
        for g in clusters.parts:
            for levels, v in found.get(g, ()):
                whole = np.zeros((clusters.width, *v.shape[1:]))
                whole[clusters.rows(g)[:, levels], :, np.arange(len(levels))] = v.swapaxes(1, 2)
                at[clusters.code].append((clusters.parts[g][2][levels], whole))
        for s in self.stages:
            before: list[tuple[np.ndarray, np.ndarray]] = []
            for levels, v in at[s.cp.first]:
                number, occurring = compress(levels, s.cp.levels(s.cp.first))
                F, H = s.regression(occurring)
                e = times_parent(number, F, v)
                out += np.einsum("amn,aon->mon", e, e)
                # a second way to the same level adds a covariance; errors at different levels are independent given what follows
                for other, e2 in before:
                    both = np.einsum("amn,aon->mon", e, e2) * (levels == other)
                    out += both + both.swapaxes(0, 1)
                before.append((levels, e))
                later = times_parent(number, H, v)
                for g, place, parent in s.cp.above:
                    at[g].append((parent[levels], -later[place]))
                rest = rest - later[s.nested.shape[1] :]
        c = self.cp.rest.q if known_beta else len(rest)
        half = lapack.dtrtrs(self.L[:c, :c], rest[:c].reshape(c, -1), lower=1)[0] if c else rest[:c]
        half = half.reshape(c, *rest.shape[1:])
        return out + np.einsum("cmn,con->mon", half, half)


def _effects(T: np.ndarray, w: np.ndarray) -> np.ndarray:
    """TT'w for each level: the effects that belong to w = Z'V⁻¹(…)."""
    return np.einsum("ab,bml->aml", T @ T.T, w)
