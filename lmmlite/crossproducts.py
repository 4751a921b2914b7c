"""One pass over the rows to centre and scale, one to sum: after this n never appears again.

The grouping factor with the most coefficients ("first") is compressed level by level (or the finest of those nested in it, where that
is cheaper): with Z_l its rows in level l, the triangular factor Z_l'Z_l = R_l'R_l replaces those rows by k rows [R_l, R_l⁻ᵀZ_l'·], and what is orthogonal to them, the
within-level cross-products W, does not depend on θ.  Factors above it in a chain of nested ones are eliminated level by level
after it (`lmmlite.chain`); crossed factors that fall apart into clusters are eliminated cluster by cluster.  All columns of neither
kind — the other grouping factors' Z, X and y, in this order — are "the rest".  X stands
in an orthonormal basis and y is replaced by its scaled least-squares residual, so that neither a large offset nor the units of
a column costs digits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import null_space

from lmmlite import blocks
from lmmlite.basis import Basis, FixedRows, scaled
from lmmlite.chain import Chain, Clusters, Products
from lmmlite.covariance import Template, templates
from lmmlite.design import Design
from lmmlite.sums import Others, Sums, compressed

_MOST = 15_000  # random effects of the rest: one matrix of them takes 1.8 GB


@dataclass(frozen=True)
class CrossProducts:
    """Everything that the criterion needs of the data.

    Attributes
    ----------
    n, p : int
    weight, log_weights : float
        Mean of w, and Σ log w.
    basis : Basis
    templates : tuple of Template
        For each grouping factor, in the order of the design.
    sizes : tuple of int
        Their numbers of levels.
    chain : Chain
        The grouping factor that is eliminated first, and those above it that are eliminated after it.
    clusters : Clusters
        The other factors as one, the last of the chain, where they fall apart; otherwise empty.
    others : tuple of (int, slice)
        The grouping factors that are not in the chain, each with its place in the rest; coefficients run over levels fastest.
    Z_maps : tuple of (k, k) arrays
        B with Z = Zᶜ(I ⊗ B): the user's columns in terms of the centred and scaled ones.
    own_maps : tuple of (k, k) arrays
        The part of B that respects the blocks of the template, times √weight; a term's θ in this basis has no units.
    ZZ : tuple of (k, k, L) arrays
        Z_l'Z_l of each grouping factor.
    R : (k, k, L) array
        Upper triangular R_l with R_l'R_l = Z_l'Z_l, of the first grouping factor, levels last.
    nested : (k, K, L) array
        R_l⁻ᵀZ_l'Z of the level's own levels of the other factors of the chain.
    rest : blocks.DenseRows or blocks.SparseRows
        R_l⁻ᵀZ_l'Z_r of the grouping factors that are not in the chain.
    Rd : (k, p + 1, L) array
        R_l⁻ᵀZ_l'[X y].
    W : Products
        Within-level cross-products of the other factors of the chain, the rest, X and y; c = q_rest + p.
    """

    n: int
    p: int
    weight: float
    log_weights: float
    basis: Basis
    templates: tuple[Template, ...]
    sizes: tuple[int, ...]
    chain: Chain
    clusters: Clusters
    others: Others
    Z_maps: tuple[np.ndarray, ...]
    own_maps: tuple[np.ndarray, ...]
    ZZ: tuple[np.ndarray, ...]
    R: np.ndarray
    nested: np.ndarray
    rest: blocks.Rows
    Rd: np.ndarray
    W: Products

    @property
    def first(self) -> int:
        """The grouping factor that is eliminated first."""
        return self.chain.factors[0]

    @property
    def above(self) -> list[tuple[int, slice, np.ndarray]]:
        """The other factors of the chain: each with its place in ``nested`` and the levels of it to which those of the first belong."""
        places, start = [], 0
        for g, parent in zip(self.chain.factors[1:], self.chain.parents[0], strict=True):
            stop = start + (self.templates[g].k if g < len(self.templates) else self.clusters.width)
            places.append((g, slice(start, stop), parent))
            start = stop
        return places

    def relative_factor(self, T: list[np.ndarray], g: int) -> np.ndarray:
        """The relative covariance factor of a factor of the chain."""
        return T[g] if g < len(self.templates) else self.clusters.relative_factor(T)

    def levels(self, g: int) -> int:
        """Number of levels of a factor of the chain."""
        return self.sizes[g] if g < len(self.templates) else self.clusters.count

    def listed(self, values: dict[int, np.ndarray]) -> list[np.ndarray]:
        """(k, m, levels) by factor of the chain -> a list by grouping factor."""
        if self.clusters.code in values:
            values = values | self.clusters.spread(values[self.clusters.code])
        return [values[g] for g in range(len(self.templates))]

    def after(self, S: Products) -> CrossProducts:
        """What is left when the first factor is eliminated: cross-products again, made of S = [·]'V₁⁻¹[·] instead of [·]'[·]."""
        E, K, q = S.rows[0], S.rows[0].shape[1] - self.rest.q - self.p - 1, self.rest.q
        left = Products(S.own[1:], S.rows[1:], S.tail)
        parts = compressed(S.own[0], E[:, :K], blocks.DenseRows(E[:, K : K + q]), E[:, K + q :], left, self.chain.after)
        return replace(self, chain=self.chain.after, **parts)


def crossproducts(design: Design) -> CrossProducts:
    """Sum the products of all columns of [Z X y] over the rows of a design."""
    made = templates(design)
    known: dict[int, tuple[float, float]] = {}
    columns = [[c for t in design.terms if t.group == g for c in t.columns] for g in range(len(design.groups))]
    z_columns, Z_maps = zip(*(scaled(c, known) for c in columns), strict=True)
    weight = 1.0 if design.weights is None else float(design.weights.mean())
    own_maps = tuple(np.zeros_like(B) for B in Z_maps)
    for own, template, c in zip(own_maps, made, columns, strict=True):
        for start, stop in template.blocks:
            own[start:stop, start:stop] = np.sqrt(weight) * scaled(c[start:stop], known)[1]
    sizes = tuple(levels.size for levels in design.groups)

    fixed = FixedRows(design.x_columns, design.y, design.offset, design.weights)
    codes = [levels.codes for levels in design.groups]
    sums = Sums(list(z_columns), codes, sizes, len(fixed.basis.beta) + 1)
    for start in fixed.starts():
        sums.add(start, fixed.rows(start), fixed.root_weights(start))
    log_weights = 0.0 if design.weights is None else float(np.log(design.weights).sum())
    return assemble(sums, design.n, (weight, log_weights), fixed.basis, made, Z_maps, own_maps)


def assemble(
    sums: Sums,
    n: int,
    weights: tuple[float, float],
    basis: Basis,
    made: tuple[Template, ...],
    Z_maps: tuple[np.ndarray, ...],
    own_maps: tuple[np.ndarray, ...],
) -> CrossProducts:
    """Cross-products from sums over columns that are centred and scaled already; for the arguments see `CrossProducts`."""
    sums.mirror()
    chain, clusters, others = sums.order()
    q = others[-1][1].stop if others else 0
    if q > _MOST:
        raise ValueError(
            f"Beside its largest grouping factor and those eliminated with it the model has {q:,} random effects; their "
            f"cross-products, {q:,} × {q:,} numbers, are dense and limited to {_MOST:,}. Leave out a grouping factor, or fit a "
            "part of the data."
        )
    parts = sums.compressed(chain, clusters, others)
    p = parts["Rd"].shape[1] - 1
    ZZ, sizes = tuple(sums.ZZ), sums.sizes
    return CrossProducts(n, p, *weights, basis, made, sizes, chain, clusters, others, Z_maps, own_maps, ZZ, **parts)


def hold(cp: CrossProducts, j: int, value: float) -> tuple[CrossProducts, np.ndarray, np.ndarray]:
    """Cross-products with fixed effect j held at a value; c₀ and N with the old coefficients of X = c₀ + N · the new ones."""
    a = cp.basis.scale * cp.basis.to_user[j]
    c0, N = a * (value - cp.basis.beta[j]) / (a @ a), null_space(a[None])
    M = np.block([[N, -c0[:, None]], [np.zeros((1, cp.p - 1)), np.ones((1, 1))]])
    return replace(cp, p=cp.p - 1, Rd=np.einsum("kdl,de->kel", cp.Rd, M), W=cp.W.change_data(M)), c0, N
