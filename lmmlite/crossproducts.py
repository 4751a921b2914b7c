"""One pass over the rows to centre and scale, one to sum: after this n never appears again.

The grouping factor with the most coefficients ("first") is compressed level by level: with Z_l its rows in level l, the
triangular factor Z_l'Z_l = R_l'R_l replaces those rows by k rows [R_l, R_l⁻ᵀZ_l'·], and what is orthogonal to them, the
within-level cross-products W, does not depend on θ.  All other columns — the other grouping factors' Z, X and y, in this
order — are "the rest".  X stands in an orthonormal basis and y is replaced by its scaled least-squares residual, so that
neither a large offset nor the units of a column costs digits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import blas, null_space

from lmmlite import blocks
from lmmlite.basis import Basis, FixedRows, Scaled, scaled
from lmmlite.covariance import Template, templates
from lmmlite.design import Design
from lmmlite.table import compress

Pairs = dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]]

_MOST = 15_000  # random effects beside those of the first factor: one matrix of them takes 1.8 GB


@dataclass(frozen=True)
class CrossProducts:
    """Everything that the criterion needs of the data.

    Attributes
    ----------
    n, p : int
    log_weights : float
        Σ log w.
    basis : Basis
    templates : tuple of Template
        For each grouping factor, in the order of the design.
    sizes : tuple of int
        Their numbers of levels.
    first : int
        The grouping factor that is eliminated level by level.
    Z_maps : tuple of (k, k) arrays
        B with Z = Zᶜ(I ⊗ B): the user's columns in terms of the centred and scaled ones.
    own_maps : tuple of (k, k) arrays
        The part of B that respects the blocks of the template; a term's θ in this basis has no units.
    R : (k, k, L) array
        Triangular factors of the first grouping factor, levels last.
    rest : blocks.DenseRows or blocks.SparseRows
        R_l⁻ᵀZ_l'Z_r of the other grouping factors.
    Rd : (k, p + 1, L) array
        R_l⁻ᵀZ_l'[X y].
    W : (c + 1, c + 1) array
        Within-level cross-products of the rest, c = q_rest + p.
    """

    n: int
    p: int
    log_weights: float
    basis: Basis
    templates: tuple[Template, ...]
    sizes: tuple[int, ...]
    first: int
    Z_maps: tuple[np.ndarray, ...]
    own_maps: tuple[np.ndarray, ...]
    R: np.ndarray
    rest: blocks.Rows
    Rd: np.ndarray
    W: np.ndarray

    @property
    def others(self) -> list[tuple[int, slice]]:
        """The grouping factors among the rest, each with its place; coefficients run over levels fastest."""
        places, start = [], 0
        for g, (t, size) in enumerate(zip(self.templates, self.sizes, strict=True)):
            if g != self.first:
                places.append((g, slice(start, start + t.k * size)))
                start += t.k * size
        return places


def crossproducts(design: Design) -> CrossProducts:
    """Sum the products of all columns of [Z X y] over the rows of a design."""
    made = templates(design)
    known: dict[int, tuple[float, float]] = {}
    columns = [[c for t in design.terms if t.group == g for c in t.columns] for g in range(len(design.groups))]
    z_columns, Z_maps = zip(*(scaled(c, known) for c in columns), strict=True)
    own_maps = tuple(np.zeros_like(B) for B in Z_maps)
    for own, template, c in zip(own_maps, made, columns, strict=True):
        for start, stop in template.blocks:
            own[start:stop, start:stop] = scaled(c[start:stop], known)[1]
    sizes = tuple(levels.size for levels in design.groups)
    first = _largest(sizes, made)

    fixed = FixedRows(design.x_columns, design.y, design.offset, design.weights)
    codes = [levels.codes for levels in design.groups]
    sums = Sums(list(z_columns), codes, sizes, first, len(fixed.basis.beta) + 1)
    for start in fixed.starts():
        sums.add(start, fixed.rows(start), fixed.root_weights(start))
    log_weights = 0.0 if design.weights is None else float(np.log(design.weights).sum())
    return assemble(sums, design.n, log_weights, fixed.basis, made, Z_maps, own_maps)


def _largest(sizes: tuple[int, ...], made: tuple[Template, ...]) -> int:
    """The grouping factor with most coefficients: the one to eliminate."""
    return max(range(len(sizes)), key=lambda g: sizes[g] * made[g].k)


def assemble(
    sums: Sums,
    n: int,
    log_weights: float,
    basis: Basis,
    made: tuple[Template, ...],
    Z_maps: tuple[np.ndarray, ...],
    own_maps: tuple[np.ndarray, ...],
) -> CrossProducts:
    """Cross-products from sums over columns that are centred and scaled already; for the arguments see `CrossProducts`."""
    q = sum(size * t.k for g, (size, t) in enumerate(zip(sums._sizes, made, strict=True)) if g != sums._first)
    if q > _MOST:
        raise ValueError(
            f"Beside its largest grouping factor the model has {q:,} random effects; their cross-products, {q:,} × {q:,} numbers, are "
            f"dense and limited to {_MOST:,}. Leave out a grouping factor (of a nested chain the middle one), or fit a part of the data."
        )
    R, rest, Rd, W = sums.compressed()
    p = Rd.shape[1] - 1
    return CrossProducts(n, p, log_weights, basis, made, sums._sizes, sums._first, Z_maps, own_maps, R, rest, Rd, W)


def hold(cp: CrossProducts, j: int, value: float) -> tuple[CrossProducts, np.ndarray, np.ndarray]:
    """Cross-products with fixed effect j held at a value; c₀ and N with the old coefficients of X = c₀ + N · the new ones."""
    q, a = cp.rest.q, cp.basis.scale * cp.basis.to_user[j]
    c0, N = a * (value - cp.basis.beta[j]) / (a @ a), null_space(a[None])
    M = np.block([[N, -c0[:, None]], [np.zeros((1, cp.p - 1)), np.ones((1, 1))]])
    W = np.hstack([cp.W[:, :q], cp.W[:, q:] @ M])
    W = np.vstack([W[:q], M.T @ W[q:]])
    return replace(cp, p=cp.p - 1, Rd=np.einsum("kdl,de->kel", cp.Rd, M), W=W), c0, N


class Sums:
    """Running sums of the products, level by level and pair of levels by pair of levels."""

    def __init__(self, z: list[list[Scaled]], codes: list[np.ndarray], sizes: tuple[int, ...], first: int, d: int):
        self._z, self._codes, self._sizes, self._first, self._d = z, codes, sizes, first, d
        self._others = [g for g in range(len(sizes)) if g != first]
        k = [len(c) for c in z]
        self._ZZ = [np.zeros((k[g], k[g], sizes[g])) for g in range(len(z))]
        self._Zd = [np.zeros((k[g], d, sizes[g])) for g in range(len(z))]
        self._dd = np.zeros((d, d))
        self._pairs: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        for i, g in enumerate(self._others):
            for h in [first, *self._others[:i]]:
                pair = codes[g].astype(np.int64) * sizes[h] + codes[h]
                numbers, occurring = compress(pair, sizes[g] * sizes[h])
                self._pairs[g, h] = numbers, occurring, np.zeros((k[g], k[h], len(occurring)))

    @classmethod
    def of(
        cls, ZZ: list[np.ndarray], Zd: list[np.ndarray], dd: np.ndarray, pairs: Pairs, templates: tuple[Template, ...]
    ) -> Sums:
        """Sums that were made elsewhere.

        Parameters
        ----------
        ZZ, Zd : list of arrays
            For each grouping factor Z_l'Z_l (k, k, L) and Z_l'[X y] (k, d, L).
        dd : (d, d) array
            [X y]'[X y].
        pairs : dict
            For pairs of factors (g, h): the codes of the levels that meet, in g and in h, with Z_g'Z_h (k_g, k_h, m).
        """
        sizes = tuple(A.shape[2] for A in ZZ)
        first = _largest(sizes, templates)
        made = cls([[]] * len(sizes), [np.zeros(0, np.int64)] * len(sizes), sizes, first, len(dd))
        made._ZZ, made._Zd, made._dd, made._pairs = ZZ, Zd, dd, {}
        for (g, h), (one, other, total) in pairs.items():
            if g == first or (h != first and g < h):
                g, h, one, other, total = h, g, other, one, total.swapaxes(0, 1)
            pair = one.astype(np.int64) * sizes[h] + other
            made._pairs[g, h] = pair, pair, total
        return made

    def add(self, start: int, D: np.ndarray, root_weights: np.ndarray | None) -> None:
        """Add one chunk: its rows of [X y] (d, m), already times √w."""
        stop = start + D.shape[1]
        z = [[np.ascontiguousarray(c.rows(start, stop)) for c in columns] for columns in self._z]
        if root_weights is not None:
            z = [[c * root_weights for c in columns] for columns in z]
        for g, columns in enumerate(z):
            codes = self._codes[g][start:stop].astype(np.intp)
            for a, u in enumerate(columns):
                for b in range(a + 1):
                    np.add.at(self._ZZ[g][a, b], codes, u * columns[b])
                for j, v in enumerate(D):
                    np.add.at(self._Zd[g][a, j], codes, u * v)
        for (g, h), (numbers, _, total) in self._pairs.items():
            codes = numbers[start:stop].astype(np.intp)
            for a, u in enumerate(z[g]):
                for b, v in enumerate(z[h]):
                    np.add.at(total[a, b], codes, u * v)
        self._dd += blas.dgemm(1.0, D.T, D.T, trans_a=True)

    def compressed(self) -> tuple[np.ndarray, blocks.Rows, np.ndarray, np.ndarray]:
        """R, R⁻ᵀZ_first'Z_rest, R⁻ᵀZ_first'[X y] and the within-level cross-products W of the rest."""
        C = blocks.cholesky(self._ZZ[self._first], tolerance=1e-11)
        Rd = blocks.forward(C, self._Zd[self._first])
        rest = self._couple(C)
        q = rest.q
        W = np.empty((q + self._d, q + self._d))
        W[:q, :q] = self._rest_products() - sum(rest.gram(v, v) for v in rest.values)
        Zd = [self._Zd[g].transpose(0, 2, 1).reshape(-1, self._d) for g in self._others]
        W[:q, q:] = np.vstack([*Zd, np.empty((0, self._d))]) - sum(
            rest.cross(v, D) for v, D in zip(rest.values, Rd, strict=True)
        )
        W[q:, :q] = W[:q, q:].T
        W[q:, q:] = self._dd - sum(blas.dgemm(1.0, D.T, D.T, trans_a=True) for D in Rd)
        return np.ascontiguousarray(C.transpose(1, 0, 2)), rest, Rd, W

    def _rest_products(self) -> np.ndarray:
        """Z_rest'Z_rest, coefficients of one factor together, levels fastest."""
        starts = dict(zip(self._others, np.cumsum([0, *(self._ZZ[g][:, 0].size for g in self._others)]), strict=False))
        q = sum(self._ZZ[g][:, 0].size for g in self._others)
        A = np.zeros((q, q))
        for g in self._others:
            L = self._sizes[g]
            level = np.arange(L)
            for a in range(len(self._ZZ[g])):
                for b in range(a + 1):
                    rows, cols = starts[g] + a * L + level, starts[g] + b * L + level
                    A[rows, cols] = A[cols, rows] = self._ZZ[g][a, b]
        for (g, h), (_, occurring, total) in self._pairs.items():
            if h == self._first:
                continue
            one, other = np.divmod(occurring, self._sizes[h])
            for a in range(total.shape[0]):
                for b in range(total.shape[1]):
                    rows, cols = starts[g] + a * self._sizes[g] + one, starts[h] + b * self._sizes[h] + other
                    A[rows, cols] = A[cols, rows] = total[a, b]
        return A

    def _couple(self, C: np.ndarray) -> blocks.Rows:
        """R⁻ᵀZ_first'Z_rest."""
        L, k = self._sizes[self._first], len(C)
        values, rows, levels = [np.empty((k, 0))], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        start = 0
        for g in self._others:
            _, occurring, total = self._pairs[g, self._first]
            one, level = np.divmod(occurring, L)
            solved = blocks.forward(C[:, :, level], np.ascontiguousarray(total.swapaxes(0, 1)))
            for a in range(len(total)):
                values.append(solved[:, a])
                rows.append(start + a * self._sizes[g] + one)
                levels.append(level)
            start += len(total) * self._sizes[g]
        return blocks.rows(np.hstack(values), np.concatenate(rows), np.concatenate(levels), start, L)
