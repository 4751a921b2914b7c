"""Grouping factors nested in one another, as pupils in classes in schools: products that are block-diagonal however many levels.

Each level of such a factor meets one level only of every factor above it.  So its products with all that comes after it — the
factors above, the rest (the grouping factors that are not in the chain), [X y] — are k rows of one width for each level, and
eliminating it changes nothing about that pattern: what is left is the same problem again, one factor shorter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import blas

from lmmlite import blocks


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
        q, tail = kind.q, self.tail.copy()
        for u, v in zip(rest, d, strict=True):
            tail[:q, :q] += sign * kind.gram(u, u)
            tail[:q, q:] += sign * kind.cross(u, v)
            tail[q:, q:] += sign * blas.dgemm(1.0, v.T, v.T, trans_a=True)
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
    for a, b in np.ndindex(out.shape[:2]):
        out[a, b] = np.bincount(parent, sum(u * v for u, v in zip(A[:, a], B[:, b], strict=True)), size)
    return out
