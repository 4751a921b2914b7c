"""Small matrices, one for each level of a grouping factor, and the long thin matrices that couple factors.

Arrays carry the coefficient axes first and the level axis last, so a loop over k coefficients does the work of a loop over
thousands of levels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from scipy.linalg import blas


def cholesky(A: np.ndarray, tolerance: float = 0.0) -> np.ndarray:
    """Lower C with CC' = A for each level; A is (k, k, L), of which the lower triangle is read.

    Pivots not above ``tolerance`` times their diagonal entry give zero columns (A only semidefinite).
    """
    k = len(A)
    C = np.zeros_like(A)
    for j in range(k):
        s = A[j:, j].copy()
        for i in range(j):
            s -= C[j:, i] * C[j, i]
        pivot = s[0]
        if tolerance:
            good = pivot > tolerance * A[j, j]
            C[j:, j] = np.where(good, s / np.sqrt(np.where(good, pivot, 1.0)), 0.0)
        else:
            C[j:, j] = s / np.sqrt(pivot)
    return C


def forward(C: np.ndarray, B: np.ndarray) -> np.ndarray:
    """C⁻¹B for lower-triangular C (k, k, …) and B (k, …) that broadcasts with it; rows with a zero pivot become zero."""
    X = np.empty_like(B)
    for j in range(len(C) if B.size else 0):
        s = B[j]
        for i in range(j):
            s = s - C[j, i] * X[i]
        pivot = C[j, j]
        inverse = 1 / pivot if pivot.all() else np.divide(1.0, pivot, out=np.zeros_like(pivot), where=pivot != 0)
        np.multiply(s, inverse, out=X[j])
    return X


def matmul(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A'B for each level: A (k, m, L), B (k, …, L) -> (m, …, L)."""
    out = np.zeros((A.shape[1], *B.shape[1:]))
    for j in range(A.shape[1] if out.size else 0):
        for i in range(len(A)):
            out[j] += A[i, j] * B[i]
    return out


def symmetric(A: np.ndarray, width: int = 512) -> np.ndarray:
    """The symmetric matrix of which A holds the lower triangle, and zeros above, in the place of A."""
    for start in range(0, len(A), width):
        own = slice(start, start + width)
        A[own, own] += np.tril(A[own, own], -1).T
        A[own, start + width :] = A[start + width :, own].T
    return A


class Rows(Protocol):
    """k1 rows for each level of the first grouping factor, over the q coefficients of the other grouping factors."""

    @property
    def values(self) -> np.ndarray: ...

    @property
    def q(self) -> int: ...

    def holding(self, values: np.ndarray) -> Rows:
        """Other values at the same places."""

    def at(self, M: np.ndarray) -> np.ndarray:
        """A (…, L) array spread so that it broadcasts with ``values``."""

    def gram(self, U: np.ndarray, V: np.ndarray) -> np.ndarray:
        """Σ over levels of UᵢVⱼ' for one row each: (q, q)."""

    def cross(self, U: np.ndarray, D: np.ndarray) -> np.ndarray:
        """Σ over levels of U D' with D (d, L): (q, d)."""

    def apply(self, U: np.ndarray, v: np.ndarray) -> np.ndarray:
        """v U for each level, v (m, q): (m, L)."""

    def dense(self, U: np.ndarray, levels: np.ndarray | slice = slice(None)) -> np.ndarray:
        """U written out for some or all levels: (q, L)."""


def _gram(U: np.ndarray, V: np.ndarray) -> np.ndarray:
    """UV' by BLAS, half of it where V is U."""
    if not len(U):
        return np.zeros((0, 0))
    rows = U.flags.c_contiguous
    A, B = (U.T, V.T) if rows else (U, V)  # BLAS reads column by column
    if V is U:
        return symmetric(blas.dsyrk(1.0, A, trans=rows, lower=1))
    return blas.dgemm(1.0, A, B, trans_a=rows, trans_b=not rows)


@dataclass(frozen=True)
class DenseRows:
    """Rows of shape (k1, q, L), multiplied by BLAS."""

    values: np.ndarray

    @property
    def q(self) -> int:
        return self.values.shape[1]

    def holding(self, values: np.ndarray) -> DenseRows:
        return DenseRows(values)

    def at(self, M: np.ndarray) -> np.ndarray:
        return M

    def gram(self, U: np.ndarray, V: np.ndarray) -> np.ndarray:
        return _gram(U, V)

    def cross(self, U: np.ndarray, D: np.ndarray) -> np.ndarray:
        return blas.dgemm(1.0, U.T, D.T, trans_a=True) if self.q else np.zeros((0, len(D)))

    def apply(self, U: np.ndarray, v: np.ndarray) -> np.ndarray:
        return v @ U

    def dense(self, U: np.ndarray, levels: np.ndarray | slice = slice(None)) -> np.ndarray:
        return U[:, levels]


@dataclass(frozen=True)
class SparseRows:
    """Rows of shape (k1, nonzeros) in the order of a CSR matrix (q, L), for factors that seldom meet.

    Few levels often make most of the pairs (popular films): the rows of these, ``popular``, are written out and left to BLAS.
    """

    values: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    size: int
    popular: np.ndarray

    @property
    def q(self) -> int:
        return len(self.indptr) - 1

    @cached_property
    def _split(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Which entries are popular, and their places in the array written out; the other entries, and their row pointers."""
        entries, place = np.diff(self.indptr), np.full(self.q, -1)
        place[self.popular] = np.arange(len(self.popular))
        of_entry = np.repeat(place, entries)
        popular = np.flatnonzero(of_entry >= 0)
        rare = np.concatenate([[0], np.cumsum(np.where(place < 0, entries, 0))])
        return (
            popular,
            self.indices[popular] * len(self.popular) + of_entry[popular],
            np.flatnonzero(of_entry < 0),
            rare,
        )

    def _parts(self, U: np.ndarray) -> tuple[np.ndarray, sp.csr_array]:
        """The popular rows written out, and all rows with the popular ones left empty."""
        popular, places, entries, indptr = self._split
        dense = np.zeros((len(self.popular), self.size), order="F")
        dense.T.ravel()[places] = U[popular]
        return dense, sp.csr_array((U[entries], self.indices[entries], indptr), (self.q, self.size))

    def _csr(self, U: np.ndarray) -> sp.csr_array:
        return sp.csr_array((U, self.indices, self.indptr), (self.q, self.size))

    def holding(self, values: np.ndarray) -> SparseRows:
        return replace(self, values=values)

    def at(self, M: np.ndarray) -> np.ndarray:
        return M[..., self.indices]

    def gram(self, U: np.ndarray, V: np.ndarray) -> np.ndarray:
        D, S = self._parts(U)
        E, T = (D, S) if V is U else self._parts(V)
        out, popular = (S @ T.T).toarray(), self.popular
        columns = S @ E.T
        rows = columns if V is U else T @ D.T
        columns[popular] = _gram(D, E)
        out[popular], out[:, popular] = rows.T, columns
        return out

    def cross(self, U: np.ndarray, D: np.ndarray) -> np.ndarray:
        return self._csr(U) @ np.ascontiguousarray(D.T)

    def apply(self, U: np.ndarray, v: np.ndarray) -> np.ndarray:
        return (self._csr(U).T @ v.T).T

    def dense(self, U: np.ndarray, levels: np.ndarray | slice = slice(None)) -> np.ndarray:
        columns: sp.csr_array = self._csr(U)[:, levels]  # type: ignore[index]
        return columns.toarray()


# Seconds for one product of two numbers: by BLAS, of a sparse entry with a dense row, of two sparse entries.
_DENSE, _MIXED, _SPARSE = 2e-11, 4e-10, 5e-9
_SMALL = 10**6  # entries up to which dense is quicker whatever their number


def rows(values: np.ndarray, row: np.ndarray, level: np.ndarray, q: int, L: int) -> Rows:
    """Entries (k1, m) at a row and a level each, stored in the way that multiplies fastest."""
    order = np.lexsort((level, row))
    values, row, level = values[:, order], row[order], level[order]
    entries = np.bincount(row, minlength=q)
    rank = np.empty(q, np.intp)  # 0 for the row with most entries
    rank[np.argsort(-entries, kind="stable")] = np.arange(q)
    popular = q if q * L * len(values) <= _SMALL else _cheapest(rank[row], level, q, L)
    if popular == q:
        return written_out(values, row, level, q, L)
    indptr = np.concatenate([[0], np.cumsum(entries)])
    return SparseRows(np.ascontiguousarray(values), level, indptr, L, np.flatnonzero(rank < popular))


def written_out(values: np.ndarray, row: np.ndarray, level: np.ndarray, q: int, L: int) -> DenseRows:
    """Entries (k1, m) at a row and a level each, with all zeros."""
    dense = np.zeros((len(values), q, L))
    dense[:, row, level] = values
    return DenseRows(dense)


def _cheapest(rank: np.ndarray, level: np.ndarray, q: int, L: int) -> int:
    """How many of the rows with most entries to write out; q: all."""
    work = {}
    for D in {0, *(q >> shift for shift in range(9))}:
        rare = level[rank >= D]
        pairs = (np.bincount(rare, minlength=L) ** 2.0).sum()
        work[D] = _DENSE * float(D) ** 2 * L + _MIXED * len(rare) * float(D) + _SPARSE * pairs
    return min(work, key=lambda D: work[D])
