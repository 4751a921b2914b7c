"""Columns centred and scaled, X in an orthonormal basis, y as its least-squares residual: what keeps digits in the sums.

Adding 1e8 to y or measuring time in microseconds then changes no digit of the estimates, since the sums never see it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import blas, lapack

CHUNK = 1 << 15  # rows handled at a time: small enough for the cache
_ILL_CONDITIONED = 1e-7  # squared sine between a column of X and those before it, below which products lose too much
_DEPENDENT = 1e-9  # sine below which a column of X counts as a combination of those before it


@dataclass(frozen=True)
class Scaled:
    """A column as it is summed: (column − centre) / scale."""

    column: np.ndarray
    centre: float
    scale: float

    def rows(self, start: int, stop: int) -> np.ndarray:
        part = self.column[start:stop]
        if self.centre:
            part = part - self.centre
        return part / self.scale if self.scale != 1 else part


def _moments(column: np.ndarray, known: dict[int, tuple[float, float]]) -> tuple[float, float]:
    """Mean and standard deviation, (value, 0) for a constant; summed in pieces so that no n-row copy is made."""
    if column.strides == (0,):
        return float(column[0]), 0.0
    if id(column) not in known:
        mean, n = float(column.mean()), len(column)
        squares = sum(float(d @ d) for s in range(0, n, CHUNK) for d in [column[s : s + CHUNK] - mean])
        deviation = np.sqrt(squares / n)
        constant = deviation <= 1e-14 * abs(mean) and np.ptp(column) == 0
        known[id(column)] = (float(column[0]), 0.0) if constant else (mean, float(deviation))
    return known[id(column)]


def scaled(
    columns: list[np.ndarray], known: dict[int, tuple[float, float]], only_first: bool = False
) -> tuple[list[Scaled], np.ndarray]:
    """Columns scaled, and centred where one of them (or the first) is constant; the matrix B with columns = scaled @ B."""
    moments = [_moments(c, known) for c in columns]
    constant = next((j for j, (value, sd) in enumerate(moments) if sd == 0 and value != 0), None)
    constant = None if only_first and constant != 0 else constant
    B = np.zeros((len(columns), len(columns)))
    made = []
    for j, (column, (mean, sd)) in enumerate(zip(columns, moments, strict=True)):
        centre = mean if constant is not None and sd > 0 else 0.0
        scale = sd if constant is not None and sd > 0 else mean if j == constant else float(np.hypot(mean, sd)) or 1.0
        if centre:
            B[constant, j] = centre
        B[j, j] = scale
        made.append(Scaled(column, centre, scale))
    return made, B


@dataclass(frozen=True)
class Basis:
    """An orthonormal basis of the columns of X, and least squares in it.

    Attributes
    ----------
    kept : tuple of int
        Columns of X that are linearly independent of those to their left.
    beta : (p,) array
        Least-squares coefficients of the kept columns, in the user's units.
    to_user : (p, p) array
        Fixed effects = beta + scale · to_user · (coefficients in the orthonormal basis).
    scale : float
        Root mean square of the least-squares residual: the unit of y inside.
    """

    kept: tuple[int, ...]
    beta: np.ndarray
    to_user: np.ndarray
    scale: float


class FixedRows:
    """The rows of [X y] as they are summed: X nearly orthonormal, y a residual of unit size, both times √w.

    Raises
    ------
    ValueError
        Where the fixed effects reproduce the response exactly.
    """

    def __init__(
        self,
        x_columns: list[np.ndarray],
        y: np.ndarray,
        offset: np.ndarray | None,
        weights: np.ndarray | None,
    ):
        known: dict[int, tuple[float, float]] = {}
        self.n, self._offset, self._weights = len(y), offset, weights
        self._x, B = scaled(x_columns, known, only_first=True)
        intercept = float(x_columns[0][0]) if x_columns and _moments(x_columns[0], known)[1] == 0 else 0.0
        mean, deviation = _moments(y, known)
        self._y = Scaled(y, mean if intercept else 0.0, float(np.hypot(mean, deviation)) or 1.0)

        kept, self._Q, R, coefficients, squares = self._least_squares()
        self._kept, self._coefficients = kept, coefficients
        self._to_orthonormal = np.linalg.inv(R)
        if squares < 1e-8 * self.n:  # too small to be had as a difference: sum the residuals themselves
            squares = sum(float(e @ e) for s in self.starts() for e in [self.rows(s, 1.0)[-1]])
        size = np.sqrt(squares / self.n)
        if size <= 1e-14:
            raise ValueError("The fixed effects reproduce the response exactly: no variance is left to divide.")
        self._size = float(size)
        B = B[np.ix_(kept, kept)]
        beta = np.linalg.solve(B, coefficients) * self._y.scale
        if intercept and kept:
            beta[0] += self._y.centre / intercept
        to_user = np.linalg.solve(B, self._to_orthonormal)
        self.basis = Basis(tuple(kept), beta, to_user, self._size * self._y.scale)

    def starts(self) -> range:
        return range(0, self.n, CHUNK)

    def root_weights(self, start: int) -> np.ndarray | None:
        return None if self._weights is None else np.sqrt(self._weights[start : start + CHUNK])

    def rows(self, start: int, size: float | None = None) -> np.ndarray:
        """[X y]' for one chunk of rows: (p + 1, m)."""
        x, y = self._raw(start, self._kept)
        orthonormal = self._Q[:, start : start + CHUNK] if self._Q is not None else self._to_orthonormal.T @ x
        return np.vstack([orthonormal, (y - self._coefficients @ x) / (size or self._size)])

    def _raw(self, start: int, columns: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Centred and scaled columns (p, m) and response (m,) of one chunk, times √w."""
        stop = min(start + CHUNK, self.n)
        y = self._y.rows(start, stop)
        if self._offset is not None:
            y = y - self._offset[start:stop] / self._y.scale
        x = np.empty((len(columns), stop - start))
        for row, j in zip(x, columns, strict=True):
            row[:] = self._x[j].rows(start, stop)
        root = self.root_weights(start)
        return (x, y) if root is None else (x * root, y * root)

    def _least_squares(self) -> tuple[list[int], np.ndarray | None, np.ndarray, np.ndarray, float]:
        """Kept columns, Q' if the rows were needed, R, coefficients of the scaled columns, residual sum of squares."""
        p = len(self._x)
        every = list(range(p))
        gram = np.zeros((p + 1, p + 1))
        for start in self.starts():
            block = np.vstack(self._raw(start, every))
            gram += blas.dgemm(1.0, block.T, block.T, trans_a=True)
        sizes = np.sqrt(np.diag(gram)) + (np.diag(gram) == 0)
        R, failed = lapack.dpotrf(gram[:p, :p] / np.outer(sizes[:p], sizes[:p])) if p else (np.zeros((0, 0)), 0)
        if not failed and (np.diag(R) ** 2 > _ILL_CONDITIONED).all():
            R = np.triu(R) * sizes[:p]
            right = np.linalg.solve(R.T, gram[:p, p])
            return every, None, R, np.linalg.solve(R, right), float(gram[p, p] - right @ right)
        blocks = [self._raw(start, every) for start in self.starts()]
        kept, Q, R = _gram_schmidt(np.hstack([x for x, _ in blocks]))
        y = np.concatenate([y for _, y in blocks])
        right = Q @ y
        return kept, Q, R, np.linalg.solve(R, right), float(y @ y - right @ right)


def _gram_schmidt(x: np.ndarray) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Row-wise QR, column after column and each projected twice, so that dependent columns show where they stand.

    x is (p, n); returns the kept columns, Q' (rank, n) and R (rank, rank).
    """
    kept: list[int] = []
    Q, R = np.empty_like(x), np.zeros((len(x), len(x)))
    for j, column in enumerate(x):
        v, r = column.copy(), len(kept)
        for _ in range(2):
            along = Q[:r] @ v
            v -= along @ Q[:r]
            R[:r, r] += along
        size = float(np.linalg.norm(v))
        if size <= _DEPENDENT * np.linalg.norm(column):
            R[:, r] = 0
            continue
        Q[r], R[r, r] = v / size, size
        kept.append(j)
    return kept, Q[: len(kept)], R[: len(kept), : len(kept)]
