"""θ → the profiled deviance or REML criterion, its gradient and Hessian.

Notation (Bates, Mächler, Bolker & Walker 2015, JSS 67(1), equations 18–42; Lindstrom & Bates 1988; Gilmour, Thompson &
Cullis 1995): with σ = 1, V = W⁻¹ + ZΛΛ'Z' and P = V⁻¹ − V⁻¹X(X'V⁻¹X)⁻¹X'V⁻¹,

    d(θ) = log|V| + n (1 + log(2π r²/n)),                     r² = y'Py             (ML)
    d(θ) = log|V| + log|X'V⁻¹X| + ν (1 + log(2π r²/ν)),       ν = n − p             (REML)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import blas, lapack

from lmmlite import blocks
from lmmlite.chain import by_parent
from lmmlite.covariance import canonical
from lmmlite.crossproducts import CrossProducts
from lmmlite.solution import Solution

_STEP = 3e-4  # of the differences in a chain: D times the largest z'V₁⁻¹z


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
        self._known_slopes: dict[int, list[np.ndarray]] = {}

    @cached_property
    def ww(self) -> list[np.ndarray]:
        """Σ_l w_l w_l' of each grouping factor, (k, k)."""
        return [w @ w.T for w in self.s.w]

    @cached_property
    def half(self) -> np.ndarray:
        """ΛG for P, or for V⁻¹ (β known) by ML: (c, c)."""
        known = not self.criterion.reml
        G = self.s.inverse(known)
        if known:
            G = np.asfortranarray(np.pad(G, (0, self.cp.p)))
        return self.s.scale(G, transpose=True)

    @cached_property
    def G(self) -> np.ndarray:
        """ΛGΛ'."""
        return self.s.scale(self.half.T, transpose=True)

    @cached_property
    def J(self) -> dict[tuple[int, int], np.ndarray]:
        """Σ_l b_la b_lb' with b_l = [Z_r X]'V₁⁻¹Z_l of the first grouping factor, (c, c)."""
        if isinstance(self.cp.rest, blocks.DenseRows):
            b, _ = self._written_out
            return {(i, j): b[i] @ b[j].T for i, j in np.ndindex(len(b), len(b))}
        J = {at: np.block(parts) for at, parts in self._sparse_J()}
        return J | {at[::-1]: A.T for at, A in J.items()}

    def _sparse_J(self, weights: np.ndarray | None = None) -> Iterator[tuple[tuple[int, int], list[list[np.ndarray]]]]:
        """J for a ≥ b with a weight for each level, by default 1, in the blocks of [Z_r X]."""
        kind, (_, rest, X) = self.cp.rest, self.s.b
        for a in range(len(X)):
            of_rest, of_X = (rest[a], X[a]) if weights is None else (rest[a] * kind.at(weights), X[a] * weights)
            for b in range(a + 1):
                corner = kind.cross(rest[b], of_X).T
                yield (a, b), [[kind.gram(of_rest, rest[b]), kind.cross(of_rest, X[b])], [corner, of_X @ X[b].T]]

    @cached_property
    def _written_out(self) -> tuple[np.ndarray, np.ndarray]:
        """b_l and ΛGΛ'b_l where the rows over the rest are dense: (k, c, L) each."""
        b = np.concatenate(self.s.b[1:], axis=1)
        return b, self.G @ b

    def _taken(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Σ_l weight_l b_l'ΛGΛ'b_l of the first grouping factor, (k, k); weights of 1 by default."""
        if isinstance(self.cp.rest, blocks.DenseRows):
            every, times_G = self._written_out
            weighted = every if weights is None else every * weights
            return weighted.reshape(len(every), -1) @ times_G.reshape(len(every), -1).T
        q, out = self.cp.rest.q, np.empty((len(self.s.K),) * 2)
        G = [[self.G[:q, :q], self.G[:q, q:]], [self.G[q:, :q], self.G[q:, q:]]]
        for (a, b), J in self._sparse_J(weights):  # in blocks, since a copy of a large matrix is slow
            products = [np.einsum("ij,ij->", G[i][j], J[i][j]) for i, j in np.ndindex(2, 2)]
            out[a, b] = out[b, a] = np.sum(products)
        return out

    def traces(self) -> list[np.ndarray]:
        """Σ_l N_ll of each grouping factor, (k, k)."""
        N, clusters = self._traces(), self.cp.clusters
        if clusters.parts:
            N |= clusters.blocks(N[clusters.code])
        return [N[g] for g in range(len(self.s.T))]

    def _traces(self) -> dict[int, np.ndarray]:
        cp, s, q = self.cp, self.s, self.cp.rest.q
        if s.inner:
            N = Derivatives(self.criterion, s.inner)._traces()
            nested, b_rest, b_X = s.b
            above = {
                g: [(at, np.einsum("mal,ab->bml", nested[:, place], cp.relative_factor(s.T, g)))]
                for g, place, at in cp.above
            }
            rest = s.scale(np.concatenate([b_rest, b_X], axis=1).swapaxes(0, 1))
            N[cp.first] = (s.K - s.inner.covariance(above, rest, not self.criterion.reml)).sum(axis=2)
            return N
        N = {cp.first: s.K.sum(axis=2) - self._taken()}
        S = s.S[:q, : q + cp.p]
        for g, place in cp.others:
            T, k = s.T[g], len(s.T[g])
            rows = S[place].reshape(k, cp.sizes[g], -1)
            inverse, null = _inverse(T)
            SG = np.einsum("alc,blc->ab", rows, self.half.T[place].reshape(rows.shape))
            N[g] = SG @ inverse  # N Λ = S ΛG loses no digits, however large Λ
            if null.any():
                own = s.S[place, place].reshape(k, cp.sizes[g], k, cp.sizes[g])
                SGS = np.einsum("alc,blc->ab", (S[place] @ self.G).reshape(rows.shape), rows)
                N[g] += (np.einsum("albl->ab", own) - SGS) @ null
        return N

    def directions(self) -> list[np.ndarray]:
        """Dᵢ for the entries of θ, (m, k, k) for each grouping factor in the order of its template."""
        D = []
        for t, B, T in zip(self.cp.templates, self.criterion.maps, self.s.T, strict=True):
            half = B @ t.directions @ T.T
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
            same = t.cols[:, None] == t.cols
            curvature[t.index[:, None], t.index] = 2 * G[g][t.rows[:, None], t.rows] * same
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
        return self.gram(g)[order][:, order]

    def gram(self, g: list[np.ndarray]) -> np.ndarray:
        """g'Z'PZg for columns g of random effects, (columns, k, levels) of each grouping factor; columns factor after factor."""
        s, q, c = self.s, self.cp.rest.q, len(self.s.coefficients)
        clusters, of = self.cp.clusters, dict(enumerate(g))
        if clusters.parts:
            of[clusters.code] = clusters.columns(g)
        order = [f for f in self.cp.chain.factors if f < len(g)] + [*clusters.parts, *(f for f, _ in self.cp.others)]
        starts = dict(zip(order, np.cumsum([0, *(len(g[f]) for f in order)]), strict=False))
        m, stop = sum(map(len, g)), 0
        squares, into = np.zeros((m, m)), np.zeros((c, m))  # into: [Z_r X]'V₁⁻¹Zg
        above = {f: np.zeros((of[f].shape[1], m, of[f].shape[2])) for f in self.cp.chain.factors}
        for t in s.stages:
            f, start, stop = t.cp.first, stop, stop + len(of[t.cp.first])
            h = blocks.forward(t.cp.R.swapaxes(0, 1), above[f][:, :start])  # columns of the factors before,
            own = np.einsum("xbl,ibl->xil", t.cp.R, of[f])  # and of this one
            a = blocks.forward(t.C, np.concatenate([h, own], axis=1) if start else own)
            by = [(1, a, t.nested, t.rest, t.d), (-1, h, t.cp.nested, t.cp.rest.values, t.cp.Rd)]
            for sign, x, nested, rest, d in by[: 1 + (start > 0)]:
                n = x.shape[1]
                squares[:n, :n] += sign * sum(blas.dgemm(1.0, v.T, v.T, trans_a=True) for v in x)
                for up, place, parent in t.cp.above:
                    above[up][:, :n] += sign * by_parent(parent, nested[:, place], x, t.cp.levels(up))
                for u, v, e in zip(rest, d, x, strict=True):
                    into[:q, :n] += sign * t.cp.rest.cross(u, e)
                    into[q:, :n] += sign * v[:-1] @ e.T
        b = np.zeros((q, m))
        for f, place in self.cp.others:
            b[place, starts[f] : starts[f] + len(g[f])] = g[f].reshape(len(g[f]), -1).T
        squares += b.T @ s.S[:q, :q] @ b + b.T @ into[:q] + into[:q].T @ b
        into += s.S[:c, :q] @ b
        half = lapack.dtrtrs(s.L, s.scale(into), lower=1)[0] if c else into
        back = np.concatenate([starts[f] + np.arange(len(columns)) for f, columns in enumerate(g)])
        return (squares - half.T @ half)[back][:, back]

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
        """Σ_lm N_lm[a,b] N_lm[c,d] over the levels of two grouping factors: (k_g, k_h, k_g, k_h), indices a, b, c, d.

        In a chain only the part symmetric in b and d, which is all that symmetric D sees.
        """
        first = self.cp.first
        if self.s.inner:
            return self._slopes(h)[g]
        if g == h == first:
            k, K = len(self.s.K), self.s.K
            cross, GJ = self._cross(), np.array([[self.G @ self.J[a, b] for b in range(k)] for a in range(k)])
            between = np.einsum("bdst,cats->abcd", GJ, GJ, optimize=True)
            return np.einsum("abl,cdl->abcd", K, K) - cross - cross.transpose(2, 3, 0, 1) + between
        if h == first:
            return self.squares(h, g).transpose(1, 0, 3, 2)
        place, k, L = dict(self.cp.others), len(self.s.T[h]), self.cp.sizes[h]
        if g == first:  # N_lm = b_l'A_m
            A = self._A[:, place[h]]
            out = np.empty((len(self.s.K), k, len(self.s.K), k))
            for a, c in np.ndindex(len(self.s.K), len(self.s.K)):
                JA = (self.J[a, c] @ A).reshape(-1, k, L)
                out[a, :, c] = np.einsum("xbl,xdl->bd", A.reshape(-1, k, L), JA)
            return out
        N = self.N_rest[place[g], place[h]].reshape(len(self.s.T[g]), self.cp.sizes[g], k, L).transpose(0, 2, 1, 3)
        flat = N.reshape(len(N) * k, -1)
        return (flat @ flat.T).reshape(len(N), k, len(N), k)

    def _cross(self) -> np.ndarray:
        """Σ_l K_l[a,b] b_lc'ΛGΛ'b_ld of the first grouping factor: (k, k, k, k)."""
        K, k = self.s.K, len(self.s.K)
        cross = np.empty((k, k, k, k))
        for a, b in zip(*np.tril_indices(k), strict=True):
            cross[a, b] = cross[b, a] = self._taken(K[a, b])
        return cross

    @cached_property
    def N_rest(self) -> np.ndarray:
        """Z_r'PZ_r, (q, q)."""
        q, c = self.cp.rest.q, len(self.s.coefficients)
        return self.s.S[:q, :c] @ self._A

    @cached_property
    def _A(self) -> np.ndarray:
        """A with Z_l'PZ_r = b_l'A for each level l of the first grouping factor, (c, q)."""
        q, c = self.cp.rest.q, len(self.s.coefficients)
        A = np.eye(c, q) - self.G @ self.s.S[:c, :q]
        for g, place in self.cp.others:  # AΛ = ΛG loses no digits, however large Λ
            inverse, null = _inverse(self.s.T[g])
            parts = [M[:, place].reshape(c, len(inverse), -1) for M in (self.half, A)]
            A[:, place] = sum(
                np.einsum("cal,ab->cbl", part, B).reshape(c, -1) for part, B in zip(parts, (inverse, null), strict=True)
            )
        return A

    def _slopes(self, h: int) -> list[np.ndarray]:
        """`squares` of each grouping factor with h by differences: Σ_lm N_lm D N_ml = −dN/dD, N at TT' + tD for t = 0, 1, 2, 3, D small.

        In a chain N_lm is not zero for any two levels under one level of the topmost factor: too many pairs to write out.
        """
        if h not in self._known_slopes:
            s, size = self.s, np.sqrt(_STEP / np.maximum(self._largest(h), 1e-300))
            k, here, along = len(size), self.traces(), {}
            for i, j in zip(*np.tril_indices(k), strict=True):
                v = np.diag(size)[i] + (np.diag(size)[j] if j != i else 0)
                N = [here]
                for t in (1, 2, 3):
                    T = list(s.T)
                    T[h] = canonical(np.column_stack([T[h], np.sqrt(t) * v]))
                    N.append(Derivatives(self.criterion, Solution(self.cp, T)).traces())
                along[i, j] = [(11 * a - 18 * b + 9 * c - 2 * d) / 6 for a, b, c, d in zip(*N, strict=True)]
            out = [np.empty((len(T), k, len(T), k)) for T in s.T]
            for (i, j), parts in along.items():
                for M, whole, one, other in zip(out, parts, along[i, i], along[j, j], strict=True):
                    part = whole if i == j else (whole - one - other) / 2
                    M[:, i, :, j] = M[:, j, :, i] = part / (size[i] * size[j])
            self._known_slopes[h] = out
        return self._known_slopes[h]

    def _largest(self, h: int) -> np.ndarray:
        """The largest z'V₁⁻¹z of each coefficient of a grouping factor over its levels, (k,)."""
        cp, K = self.cp, {t.cp.first: np.diagonal(t.K) for t in self.s.stages}
        if h in K:
            return K[h].max(axis=0)
        if h in cp.clusters.parts:
            return K[cp.clusters.code][cp.clusters.parts[h][2], cp.clusters.rows(h)].max(axis=1)
        return np.diag(self.s.S)[dict(cp.others)[h]].reshape(len(self.s.T[h]), -1).max(axis=1)


def _inverse(T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """T⁺, and I − TT⁺: what T does not reach, exactly zero for a regular T."""
    U, sizes, Vt = np.linalg.svd(T)
    reached = sizes > 1e-6 * sizes[0]
    return (Vt[reached].T / sizes[reached]) @ U[:, reached].T, U[:, ~reached] @ U[:, ~reached].T
