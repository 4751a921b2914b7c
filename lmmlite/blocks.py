"""Small matrices, one for each level of a grouping factor, and the long thin matrices that couple factors.

Arrays carry the coefficient axes first and the level axis last, so a loop over k coefficients does the work of a loop over
thousands of levels.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    for j in range(len(C)):
        s = B[j]
        for i in range(j):
            s = s - C[j, i] * X[i]
        pivot = C[j, j]
        X[j] = s * np.divide(1.0, pivot, out=np.zeros_like(pivot), where=pivot != 0)
    return X


def matmul(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A'B for each level: A (k, m, L), B (k, …, L) -> (m, …, L)."""
    out = np.empty((A.shape[1], *B.shape[1:]))
    for j in range(A.shape[1]):
        out[j] = sum(A[i, j] * B[i] for i in range(len(A)))
    return out


class Rows(Protocol):
    """k1 rows for each level of the first grouping factor, over the q coefficients of the other grouping factors."""

    @property
    def values(self) -> np.ndarray: ...

    @property
    def q(self) -> int: ...

    def at(self, M: np.ndarray) -> np.ndarray:
        """A (…, L) array spread so that it broadcasts with ``values``."""

    def gram(self, U: np.ndarray, V: np.ndarray) -> np.ndarray:
        """Σ over levels of UᵢVⱼ' for one row each: (q, q)."""

    def cross(self, U: np.ndarray, D: np.ndarray) -> np.ndarray:
        """Σ over levels of U D' with D (d, L): (q, d)."""

    def apply(self, U: np.ndarray, v: np.ndarray) -> np.ndarray:
        """v U for each level, v (m, q): (m, L)."""

    def dense(self, U: np.ndarray) -> np.ndarray:
        """U written out: (q, L)."""


@dataclass(frozen=True)
class DenseRows:
    """Rows of shape (k1, q, L), multiplied by BLAS."""

    values: np.ndarray

    @property
    def q(self) -> int:
        return self.values.shape[1]

    def at(self, M: np.ndarray) -> np.ndarray:
        return M

    def gram(self, U: np.ndarray, V: np.ndarray) -> np.ndarray:
        return blas.dgemm(1.0, U.T, V.T, trans_a=True) if self.q else np.zeros((0, 0))

    def cross(self, U: np.ndarray, D: np.ndarray) -> np.ndarray:
        return blas.dgemm(1.0, U.T, D.T, trans_a=True) if self.q else np.zeros((0, len(D)))

    def apply(self, U: np.ndarray, v: np.ndarray) -> np.ndarray:
        return v @ U

    def dense(self, U: np.ndarray) -> np.ndarray:
        return U


@dataclass(frozen=True)
class SparseRows:
    """Rows of shape (k1, nonzeros) in the order of a CSR matrix (q, L), for factors that seldom meet."""

    values: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    size: int

    @property
    def q(self) -> int:
        return len(self.indptr) - 1

    def _csr(self, U: np.ndarray) -> sp.csr_array:
        return sp.csr_array((U, self.indices, self.indptr), (self.q, self.size))

    def at(self, M: np.ndarray) -> np.ndarray:
        return M[..., self.indices]

    def gram(self, U: np.ndarray, V: np.ndarray) -> np.ndarray:
        return (self._csr(U) @ self._csr(V).T).toarray()

    def cross(self, U: np.ndarray, D: np.ndarray) -> np.ndarray:
        return self._csr(U) @ np.ascontiguousarray(D.T)

    def apply(self, U: np.ndarray, v: np.ndarray) -> np.ndarray:
        return (self._csr(U).T @ v.T).T

    def dense(self, U: np.ndarray) -> np.ndarray:
        return self._csr(U).toarray()
