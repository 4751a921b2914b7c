"""Grouping factors nested in one another, as pupils in classes in schools, eliminated one after the other.

Each level of such a factor meets one level only of every factor above it.  So its products with all that comes after it — the
factors above, the rest (the grouping factors that are not in the chain), [X y] — are k rows of one width for each level, and
eliminating it changes nothing about that pattern: what is left is the same problem again, one factor shorter.

Crossed factors can fall apart in the same way: where no pupil moves, the teachers of one school never meet those of another.  All
levels of such a cluster together then count as one level of a factor with many coefficients, in which the first one is nested.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.linalg import blas, block_diag
from scipy.sparse.csgraph import connected_components

from lmmlite import blocks

_MANY = 2000  # products for each parent, from which on matrices are multiplied parent by parent


@dataclass(frozen=True)
class Chain:
    """Factors in the order in which they are eliminated, each nested in those after it.

    Attributes
    ----------
    factors : tuple of int
        Numbers of the grouping factors.
    parents : tuple of tuples of int arrays
        For each factor, in each one after it, the level to which its levels belong.
    """

    factors: tuple[int, ...]
    parents: tuple[tuple[np.ndarray, ...], ...]

    @property
    def after(self) -> Chain:
        """The chain without its first factor."""
        return Chain(self.factors[1:], self.parents[1:])


@dataclass(frozen=True)
class Clusters:
    """The levels of several grouping factors, split so that each level of the first factor meets one cluster only.

    Clusters are padded to one width: a coefficient without a level has products of zero, so its u stays N(0, 1), independent of
    everything, and adds log 1 = 0 to log|V|.

    Attributes
    ----------
    code : int
        The number under which they stand in the chain as one factor.
    count : int
        Number of clusters.
    parts : dict
        For each grouping factor in them: k; n, its largest number of levels in a cluster; and of each level its cluster and its place
        there.  Coefficient a of the level at place i is coefficient a·n + i of the factor's part.
    """

    code: int
    count: int
    parts: dict[int, tuple[int, int, np.ndarray, np.ndarray]]

    @property
    def width(self) -> int:
        """Coefficients of a cluster."""
        return sum(k * n for k, n, *_ in self.parts.values())

    def relative_factor(self, T: list[np.ndarray]) -> np.ndarray:
        """The relative covariance factor of a cluster."""
        return block_diag(*(np.kron(T[g], np.eye(n)) for g, (_, n, *_) in self.parts.items()))

    def rows(self, g: int) -> np.ndarray:
        """The number in its cluster of each coefficient of each level of a factor, (k, levels)."""
        start = 0
        for h, (k, n, _, place) in self.parts.items():
            if h == g:
                return start + n * np.arange(k)[:, None] + place
            start += k * n
        raise KeyError(g)

    def gather(self, values: dict[int, np.ndarray]) -> np.ndarray:
        """(k, m, levels) of each factor -> (width, m, clusters); zero where a cluster has room left."""
        out = np.zeros((self.width, next(iter(values.values())).shape[1], self.count))
        for g, v in values.items():
            out[self.rows(g), :, self.parts[g][2]] = v.swapaxes(1, 2)
        return out

    def spread(self, values: np.ndarray) -> dict[int, np.ndarray]:
        """(width, m, clusters) -> (k, m, levels) of each factor."""
        return {g: values[self.rows(g), :, cluster].swapaxes(1, 2) for g, (_, _, cluster, _) in self.parts.items()}

    def columns(self, g: list[np.ndarray]) -> np.ndarray:
        """Columns (m, k, levels) of each factor as columns of clusters, (all m, width, clusters), factor after factor."""
        return np.concatenate([self.gather({f: g[f].swapaxes(0, 1)}) for f in self.parts], axis=1).swapaxes(0, 1)

    def blocks(self, N: np.ndarray) -> dict[int, np.ndarray]:
        """Sums over clusters (width, width) -> of each factor the sum over its levels, (k, k)."""
        out, start = {}, 0
        for g, (k, n, *_) in self.parts.items():
            own = N[start : start + k * n, start : start + k * n].reshape(k, n, k, n)
            out[g], start = np.einsum("aibi->ab", own), start + k * n
        return out


def clusters_of(
    code: int, wide: dict[int, tuple[int, int]], meet: dict[int, tuple[np.ndarray, np.ndarray]], size: int
) -> tuple[Clusters, np.ndarray]:
    """Clusters of the levels of some factors, and that of each level of the first one.

    Parameters
    ----------
    code : int
    wide : dict
        k and number of levels of each factor.
    meet : dict
        For each factor the pairs of its levels and levels of the first that meet.
    size : int
        Number of levels of the first factor.
    """
    starts = dict(zip(wide, size + np.cumsum([0, *(L for _, L in wide.values())]), strict=False))
    nodes = size + sum(L for _, L in wide.values())
    ends = [
        np.concatenate(part)
        for part in zip(*((starts[g] + one, other) for g, (one, other) in meet.items()), strict=True)
    ]
    graph = sp.coo_array((np.ones(len(ends[0]), np.int8), tuple(ends)), (nodes, nodes))
    count, cluster = connected_components(graph, directed=False)
    parts = {}
    for g, (k, L) in wide.items():
        own = cluster[starts[g] : starts[g] + L]
        order = np.argsort(own, kind="stable")
        first_of = np.searchsorted(own[order], np.arange(count))
        place = np.empty(L, np.intp)
        place[order] = np.arange(L) - first_of[own[order]]
        parts[g] = k, int(place.max()) + 1, own, place
    return Clusters(code, int(count), parts), cluster[:size]


@dataclass(frozen=True)
class Products:
    """A symmetric matrix of products of the factors of a chain, the rest and [X y], with nothing stored that must be zero.

    Attributes
    ----------
    own : tuple of (k, k, L) arrays
        Of each factor with itself, level by level.
    rows : tuple of (k, w, L) arrays
        Of each level with all that comes after: one level of each factor above it, then the rest, then [X y].
    tail : (c + 1, c + 1) array
        Of the rest and [X y].
    """

    own: tuple[np.ndarray, ...]
    rows: tuple[np.ndarray, ...]
    tail: np.ndarray

    def plus(
        self, sign: int, chain: Chain, nested: np.ndarray, kind: blocks.Rows, rest: np.ndarray, d: np.ndarray
    ) -> Products:
        """This ± Σ_l E_l'E_l with E = [nested rest d] the rows of the first factor of a chain, of which this holds the others.

        Parameters
        ----------
        sign : {1, -1}
        nested : (k, K, L) array
        kind, rest
            How the rows over the rest are stored, and their values.
        d : (k, p + 1, L) array
        """
        own, rows, start = [], [], 0
        every = np.concatenate([nested, rest, d], axis=1) if self.own else nested
        for A, E, parent in zip(self.own, self.rows, chain.parents[0], strict=True):
            stop = start + len(A)
            own.append(A + sign * by_parent(parent, every[:, start:stop], every[:, start:stop], A.shape[2]))
            rows.append(E + sign * by_parent(parent, every[:, start:stop], every[:, stop:], A.shape[2]))
            start = stop
        q, tail, add = kind.q, self.tail.copy(), np.add if sign > 0 else np.subtract
        for u, v in zip(rest, d, strict=True):
            add(tail[:q, :q], kind.gram(u, u), out=tail[:q, :q])
            add(tail[:q, q:], kind.cross(u, v), out=tail[:q, q:])
            add(tail[q:, q:], blas.dgemm(1.0, v.T, v.T, trans_a=True), out=tail[q:, q:])
        tail[q:, :q] = tail[:q, q:].T
        return Products(tuple(own), tuple(rows), tail)

    def change_data(self, M: np.ndarray) -> Products:
        """The products after [X y] → [X y] M."""
        d = len(M)
        rows = tuple(np.concatenate([E[:, :-d], np.einsum("kdl,de->kel", E[:, -d:], M)], axis=1) for E in self.rows)
        tail = np.hstack([self.tail[:, :-d], self.tail[:, -d:] @ M])
        return Products(self.own, rows, np.vstack([tail[:-d], M.T @ tail[-d:]]))


def by_parent(parent: np.ndarray, A: np.ndarray, B: np.ndarray, size: int) -> np.ndarray:
    """Σ A_l'B_l over the levels l of each parent: A (k, a, L), B (k, b, L) -> (a, b, size)."""
    out = np.empty((A.shape[1], B.shape[1], size))
    if A.shape[1] * B.shape[1] * len(parent) < _MANY * size:
        for a, b in np.ndindex(out.shape[:2]):
            out[a, b] = np.bincount(parent, sum(u * v for u, v in zip(A[:, a], B[:, b], strict=True)), size)
        return out
    A, B = A.transpose(2, 0, 1), B.transpose(2, 0, 1)
    for j, own in _children(parent, size):
        out[:, :, j] = A[own].reshape(-1, A.shape[2]).T @ B[own].reshape(-1, B.shape[2])
    return out


def times_parent(parent: np.ndarray, F: np.ndarray, v: np.ndarray) -> np.ndarray:
    """F_j v_l with j the parent of l, for each level l: F (a, b, parents), v (b, m, L) -> (a, m, L)."""
    if F[..., 0].size * len(parent) < _MANY * F.shape[2]:
        return np.einsum("abl,bml->aml", F[:, :, parent], v)
    out, v = np.empty((v.shape[2], v.shape[1], len(F))), v.transpose(2, 1, 0)
    for j, own in _children(parent, F.shape[2]):
        out[own] = v[own] @ F[:, :, j].T
    return out.transpose(2, 1, 0)


def _children(parent: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """The levels that belong to each parent."""
    order = np.argsort(parent, kind="stable")
    stops = np.cumsum(np.bincount(parent, minlength=size))
    return ((j, order[start:stop]) for j, (start, stop) in enumerate(zip([0, *stops[:-1]], stops, strict=True)))
