"""θ ↔ T: the entries of the relative covariance factors, and where they stand (Bates et al. 2015, JSS 67(1), section 2.2).

All terms on one grouping factor share a k × k template T, block diagonal with one lower-triangular block for each correlated
term and a scalar for each coefficient after ``||``.  The relative factor of that grouping factor is Λ = I ⊗ T over its levels,
and its random effects have covariance σ²TT'.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lmmlite.design import Design

_DEPENDENT = 1e-13  # squared sine below which a random coefficient's column counts as a combination of others


@dataclass(frozen=True)
class Template:
    """Where the entries of θ stand in the k × k template of one grouping factor.

    Attributes
    ----------
    k : int
    blocks : tuple of (start, stop)
        Diagonal blocks, each with a covariance matrix of its own.
    index, rows, cols : int arrays
        ``T[rows, cols] = theta[index]``; within a block column by column, as in lme4.
    """

    k: int
    blocks: tuple[tuple[int, int], ...]
    index: np.ndarray
    rows: np.ndarray
    cols: np.ndarray

    def factor(self, theta: np.ndarray) -> np.ndarray:
        """T, lower triangular (k, k)."""
        T = np.zeros((self.k, self.k))
        T[self.rows, self.cols] = theta[self.index]
        return T

    def free(self, theta: np.ndarray) -> np.ndarray:
        """For each own entry whether its column of T is not zero: entries of a zero column stand at the boundary."""
        return np.asarray(self.factor(theta).any(axis=0))[self.cols]

    @cached_property
    def directions(self) -> np.ndarray:
        """∂T/∂θᵢ for each own entry: (m, k, k), one 1 in each."""
        E = np.zeros((len(self.index), self.k, self.k))
        E[np.arange(len(self.index)), self.rows, self.cols] = 1
        return E


def templates(design: Design) -> tuple[Template, ...]:
    """One template for each grouping factor of the design; θ runs over the terms in the order of the formula."""
    places: list[list[tuple[int, int, int]]] = [[] for _ in design.groups]
    blocks: list[list[tuple[int, int]]] = [[] for _ in design.groups]
    sizes = [0] * len(design.groups)
    count = 0
    for term in design.terms:
        for size in term.sizes:
            start = sizes[term.group]
            for c in range(start, start + size):
                for r in range(c, start + size):
                    places[term.group].append((count, r, c))
                    count += 1
            blocks[term.group].append((start, start + size))
            sizes[term.group] += size
    return tuple(Template(k, tuple(b), *np.array(p).T) for k, b, p in zip(sizes, blocks, places, strict=True))


def are_identified(template: Template, ZZ: np.ndarray, B: np.ndarray) -> bool:
    """Whether ZΨZ' tells all entries of Ψ = TT' apart: not where columns of Z are combinations of others that vary with them.

    Parameters
    ----------
    ZZ : (k, k) array
        Z'Z in some basis of the columns.
    B : (k, k) array
        The user's columns in that basis.
    """
    if template.k == 1:
        return True
    sizes = np.sqrt(np.diag(ZZ))
    values, vectors = np.linalg.eigh(ZZ / np.outer(sizes, sizes))
    kept = values > _DEPENDENT
    if kept.all():
        return True
    A = vectors[:, kept].T @ (sizes[:, None] * B)  # Z = Z̃A with independent columns
    A /= np.linalg.norm(A, axis=0)
    pairs = zip(template.rows, template.cols, strict=True)
    images = [np.outer(A[:, r], A[:, c]) + np.outer(A[:, c], A[:, r]) for r, c in pairs]
    return bool(np.linalg.matrix_rank(np.stack(images).reshape(len(images), -1), tol=1e-6) == len(images))


def to_theta(templates: tuple[Template, ...], factors: list[np.ndarray]) -> np.ndarray:
    """θ from the factors: the inverse of `Template.factor`."""
    theta = np.empty(sum(len(t.index) for t in templates))
    for t, T in zip(templates, factors, strict=True):
        theta[t.index] = T[t.rows, t.cols]
    return theta


def canonical(A: np.ndarray) -> np.ndarray:
    """The lower-triangular T ≥ 0 on its diagonal with TT' = AA', a zero column wherever a diagonal entry is zero.

    θ and every sign change of a column of T give the same model; this picks the one that lme4 and textbooks print.  A is k × m;
    Householder reflections from the right bring it to echelon form.
    """
    A = A.copy()
    k = len(A)
    T = np.zeros((k, k))
    used = 0
    for j in range(k):
        row = A[j, used:]
        size = np.linalg.norm(row)
        if used == A.shape[1] or size == 0:
            continue
        v = row.copy()
        v[0] += np.copysign(size, v[0])
        A[:, used:] -= np.outer(A[:, used:] @ v, 2 * v / (v @ v))
        T[j:, j] = A[j:, used] * np.copysign(1, A[j, used])
        used += 1
    return T
