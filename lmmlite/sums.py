"""Running sums of products over the rows, and what is eliminated level by level of them, as is cheapest."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import blas

from lmmlite import blocks
from lmmlite.basis import Scaled
from lmmlite.chain import Chain, Clusters, Products, clusters_of
from lmmlite.table import compress

Others = tuple[tuple[int, slice], ...]  # grouping factors of the rest with their places in it
Pairs = dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]]

_CHAINED = 300  # coefficients of a nested factor, from which on it is eliminated level by level
_WIDEST = 64  # coefficients of a cluster, up to which loops over them are quick enough
_WRITTEN_OUT = 2e7  # products of the first factor with what comes after it; an evaluation holds some ten such arrays
# What clusters cost, in multiplications of large matrices: a loop over two of their coefficients, and a product in it.
_LOOP, _SLOW = 3e6, 300.0


def compressed(
    own: np.ndarray, nested: np.ndarray, rest: blocks.Rows, d: np.ndarray, others: Products, chain: Chain
) -> dict[str, Any]:
    """R, R⁻ᵀ times the rows of the first factor, and what is orthogonal to them."""
    C = blocks.cholesky(own, tolerance=1e-11)
    nested, d = blocks.forward(C, nested), blocks.forward(C, d)
    values = blocks.forward(rest.at(C), rest.values)
    return {
        "R": np.ascontiguousarray(C.transpose(1, 0, 2)),
        "nested": nested,
        "rest": rest.holding(values),
        "Rd": d,
        "W": others.plus(-1, chain, nested, rest, values, d),
    }


class Sums:
    """Running sums of the products, level by level and pair of levels by pair of levels."""

    def __init__(self, z: list[list[Scaled]], codes: list[np.ndarray], sizes: tuple[int, ...], d: int):
        self._z, self._codes, self.sizes, self._d = z, codes, sizes, d
        k = [len(c) for c in z]
        self.ZZ = [np.zeros((k[g], k[g], sizes[g])) for g in range(len(z))]
        self._Zd = [np.zeros((k[g], d, sizes[g])) for g in range(len(z))]
        self._dd = np.zeros((d, d))
        self._pairs: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        for g in range(len(sizes)):
            for h in range(g):
                pair = codes[g].astype(np.int64) * sizes[h] + codes[h]
                numbers, occurring = compress(pair, sizes[g] * sizes[h])
                self._pairs[g, h] = numbers, occurring, np.zeros((k[g], k[h], len(occurring)))

    @classmethod
    def of(cls, ZZ: list[np.ndarray], Zd: list[np.ndarray], dd: np.ndarray, pairs: Pairs) -> Sums:
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
        made = cls([[]] * len(sizes), [np.zeros(0, np.int64)] * len(sizes), sizes, len(dd))
        made.ZZ, made._Zd, made._dd, made._pairs = ZZ, Zd, dd, {}
        for (g, h), (one, other, total) in pairs.items():
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
                    np.add.at(self.ZZ[g][a, b], codes, u * columns[b])
                for j, v in enumerate(D):
                    np.add.at(self._Zd[g][a, j], codes, u * v)
        for (g, h), (numbers, _, total) in self._pairs.items():
            codes = numbers[start:stop].astype(np.intp)
            for a, u in enumerate(z[g]):
                for b, v in enumerate(z[h]):
                    np.add.at(total[a, b], codes, u * v)
        self._dd += blas.dgemm(1.0, D.T, D.T, trans_a=True)

    def mirror(self) -> None:
        """Fill the upper triangles of all Z_l'Z_l, of which `add` sums the lower ones."""
        for A in self.ZZ:
            for i in range(len(A)):
                A[:i, i] = A[i, :i]

    def order(self) -> tuple[Chain, Clusters, Others]:
        """What is eliminated level by level, nested factors or clusters, as is cheapest; and the other factors with their places."""
        wide = {g: self.ZZ[g][:, 0].size for g in range(len(self.ZZ))}
        largest = max(wide, key=lambda g: wide[g])
        finest = max((g for g in wide if g == largest or self._is_nested(g, largest)), key=lambda g: self.sizes[g])
        options = []  # multiplications, and what is eliminated
        for chain in ([largest], self._links(largest, wide), self._links(finest, wide)):
            q = sum(wide[g] for g in wide if g not in chain)
            written = q * wide[chain[0]] if len(chain) > 1 else 0
            if written <= _WRITTEN_OUT:
                options.append((q**3 + q * written, chain))
        work, chain = min(options, key=lambda option: option[0])
        clusters = Clusters(len(wide), 0, {})
        parents = [tuple(self._parents(g, above) for above in chain[i + 1 :]) for i, g in enumerate(chain)]
        left = [g for g in wide if g not in chain]
        if work > _LOOP and sum(wide[g] for g in wide if g != largest) >= _CHAINED:
            found, parent = self._clusters(largest)
            if (
                found.width <= _WIDEST
                and found.width * wide[largest] <= _WRITTEN_OUT
                and _LOOP * found.width**2 + _SLOW * found.count * found.width**3 < work
            ):
                chain, parents, left, clusters = [largest, found.code], [(parent,), ()], [], found
        stops = np.cumsum([wide[g] for g in left], dtype=int)
        places = tuple((g, slice(int(stop) - wide[g], int(stop))) for g, stop in zip(left, stops, strict=True))
        return Chain(tuple(chain), tuple(parents)), clusters, places

    def _is_nested(self, g: int, h: int) -> bool:
        """Whether each level of g meets one level of h only."""
        return bool(np.bincount(self._between(g, h)[0]).max() == 1)

    def _links(self, first: int, wide: dict[int, int]) -> list[int]:
        """A chain that starts with a factor."""
        chain = [first]
        for g in sorted((g for g in wide if g != first), key=lambda g: -self.sizes[g]):
            if wide[g] >= _CHAINED and self._is_nested(chain[-1], g):
                chain.append(g)
        return chain

    def _clusters(self, first: int) -> tuple[Clusters, np.ndarray]:
        """Clusters of all factors but the first, and that of each level of the first."""
        factors = [g for g in range(len(self.ZZ)) if g != first]
        wide = {g: (len(self.ZZ[g]), self.sizes[g]) for g in factors}
        meet = {g: self._between(g, first)[:2] for g in factors}
        return clusters_of(len(self.ZZ), wide, meet, self.sizes[first])

    def compressed(self, chain: Chain, clusters: Clusters, others: Others) -> dict[str, Any]:
        """R, nested, rest, Rd and W of `CrossProducts`."""
        q = others[-1][1].stop if others else 0
        first, *real = links = [g for g in chain.factors if g < len(self.ZZ)]
        one, *above = [self._nested(g, links[i + 1 :]) for i, g in enumerate(links)]
        rest = [self._to_rest(g, others) for g in links]
        own = [self.ZZ[g] for g in real]
        rows = [
            np.concatenate([nested, blocks.written_out(*to, q, self.sizes[g]).values, self._Zd[g]], axis=1)
            for g, nested, to in zip(real, above, rest[1:], strict=True)
        ]
        if clusters.parts:
            one, products, d = self._clustered(first, clusters)
            own, rows = [products], [d]
        tail = np.empty((q + self._d,) * 2)
        tail[:q, :q] = self._rest_products(others, q)
        for g, place in others:
            tail[place, q:] = self._Zd[g].transpose(0, 2, 1).reshape(-1, self._d)
        tail[q:, :q], tail[q:, q:] = tail[:q, q:].T, self._dd
        W = Products(tuple(own), tuple(rows), tail)
        store = blocks.written_out if own else blocks.rows
        return compressed(self.ZZ[first], one, store(*rest[0], q, self.sizes[first]), self._Zd[first], W, chain)

    def _clustered(self, first: int, clusters: Clusters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Z_l'Z of the cluster of each level of the first factor, (k, width, L); Z'Z and Z'[X y] of each cluster."""
        parts = clusters.parts
        one = np.zeros((len(self.ZZ[first]), clusters.width, self.sizes[first]))
        own = np.zeros((clusters.width, clusters.width, clusters.count))
        for i, g in enumerate(parts):
            rows, cluster = clusters.rows(g), parts[g][2]
            level, other, total = self._between(first, g)
            one[:, rows[:, other], level] = total
            every = np.arange(self.sizes[g])
            meet = [(g, every, every, self.ZZ[g]), *((h, *self._between(g, h)) for h in list(parts)[:i])]
            for h, level, other, total in meet:
                for a, b in np.ndindex(total.shape[:2]):
                    at = rows[a, level], clusters.rows(h)[b, other]
                    own[*at, cluster[level]] = own[*at[::-1], cluster[level]] = total[a, b]
        return one, own, clusters.gather({g: self._Zd[g] for g in parts})

    def _nested(self, g: int, above: list[int]) -> np.ndarray:
        """Z_l'Z of the level's own levels of the factors above it in the chain, (k, K, L)."""
        out = [np.zeros((len(self.ZZ[g]), 0, self.sizes[g]))]
        for h in above:
            level, _, total = self._between(g, h)
            out.append(np.zeros((*total.shape[:2], self.sizes[g])))
            out[-1][:, :, level] = total
        return np.concatenate(out, axis=1)

    def _to_rest(self, g: int, others: Others) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Z_l'Z_r where they meet, (k, entries), with the number of the coefficient in the rest and the level of each entry."""
        values, rows, levels = [np.empty((len(self.ZZ[g]), 0))], [np.empty(0, np.intp)], [np.empty(0, np.intp)]
        for h, place in others:
            level, other, total = self._between(g, h)
            for b in range(total.shape[1]):
                values.append(total[:, b])
                rows.append(place.start + b * self.sizes[h] + other)
                levels.append(level)
        return np.hstack(values), np.concatenate(rows), np.concatenate(levels)

    def _rest_products(self, others: Others, q: int) -> np.ndarray:
        """Z_r'Z_r, coefficients of one factor together, levels fastest."""
        A = np.zeros((q, q))
        for i, (g, place) in enumerate(others):
            level = np.arange(self.sizes[g])
            meet = [(g, place.start, level, level, self.ZZ[g])]
            meet += [(h, other.start, *self._between(g, h)) for h, other in others[:i]]
            for h, start, one, other, total in meet:
                for a, b in np.ndindex(total.shape[:2]):
                    rows, cols = place.start + a * self.sizes[g] + one, start + b * self.sizes[h] + other
                    A[rows, cols] = A[cols, rows] = total[a, b]
        return A

    def _between(self, g: int, h: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The levels of two factors that meet, and their products (k_g, k_h, pairs)."""
        if (g, h) not in self._pairs:
            other, one, total = self._between(h, g)
            return one, other, total.swapaxes(0, 1)
        _, occurring, total = self._pairs[g, h]
        return *np.divmod(occurring, self.sizes[h]), total

    def _parents(self, g: int, h: int) -> np.ndarray:
        parent = np.zeros(self.sizes[g], np.intp)
        one, other, _ = self._between(g, h)
        parent[one] = other
        return parent
