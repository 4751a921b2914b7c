"""Where to search again: a criterion can have several minima.

With few groups that tell something there may be one with a block of T and another without it, or several at which T is singular;
where the levels tell very different amounts, one for moderate and one for large variances.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lmmlite.covariance import Template, canonical, to_theta
from lmmlite.criterion import Criterion, Evaluation

_CLEAR = 20.0  # rise of the criterion without a block that leaves no doubt that it is needed
_MANY_LEVELS = 1000  # of a grouping factor, from which on its variances are not looked for again
_FEW_ROWS = 100  # up to which every fit is searched again
_UNEVEN = 100.0  # times the median: information of one level that makes several minima likely
_SPREAD = 50.0  # ratio of what the levels tell, from which on other valleys are looked for
_SCALES = 10 ** np.linspace(0.5, 3.5, 7)  # by which a block is made larger or smaller in that
NO_WORSE = 1e-9  # change of the criterion that counts as none
_SIZES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of T, to begin with


def restarts(criterion: Criterion, best: Evaluation, hard: bool, thorough: bool = True) -> Iterator[np.ndarray]:
    """Unitless θ to start from, after a search that was hard or not ended at a best one.

    ``thorough`` starts those, too, that do not come from terms which share a grouping factor.
    """
    yield from _shared(criterion, best.theta)
    if not thorough or max(criterion.cp.sizes) > _MANY_LEVELS:
        return
    information = (criterion.cp.R**2).sum(axis=(0, 1))
    hard = (
        hard
        or criterion.cp.n <= _FEW_ROWS
        or is_singular(criterion, best.theta)
        or information.max() > _UNEVEN * np.median(information)
    )
    if any(_is_uneven(np.einsum("aal->l", ZZ)) for ZZ in criterion.cp.ZZ):
        yield from _valleys(criterion, best)
    for g, t, own in blocks(criterion):
        T = t.factor(best.theta)[own, own]
        if len(T) == 1 and not T:
            continue
        theta = with_block(t, best.theta, own, np.zeros_like(T))
        if hard or (criterion.evaluate(theta).value < best.value + _CLEAR and _is_minimum(criterion, theta, g, own)):
            yield theta
    for count, kind in _kinds(criterion, best.theta) if hard else ():
        tried = [evaluated(criterion, theta, 0) for theta in kind]
        lowest = sorted((e for e in tried if e), key=lambda e: e.value)[:count]
        yield from (e.theta for e in lowest)


def _shared(criterion: Criterion, theta: np.ndarray) -> Iterator[np.ndarray]:
    """Second starts where one grouping factor has several terms whose columns are not orthogonal.

    Terms such as (1 | g) + (0 + x | g) with x far from zero explain the same variation by one of them, by the other, or by two
    large variances whose effects cancel at the mean of x: the criterion can have a minimum at each.
    """
    for t, M in zip(criterion.cp.templates, criterion.maps, strict=True):
        if len(t.blocks) == 1 or np.allclose(M, np.diag(np.diag(M))):
            continue
        sizes = np.linalg.norm(t.factor(theta), axis=0)
        largest = max(sizes.max(), 1.0)
        cancelling = largest * np.linalg.norm(np.linalg.inv(M), axis=1)
        alone = np.eye(t.k, dtype=bool)
        shapes = [cancelling, *np.where(alone, cancelling, 1.0)]
        shapes += [np.where(alone[j], largest, 0.1 * sizes) for j in np.flatnonzero(sizes == 0)]
        for shape in shapes:
            start, T = theta.copy(), np.diag(shape)
            start[t.index] = T[t.rows, t.cols]
            yield start


def _kinds(criterion: Criterion, theta: np.ndarray) -> list[tuple[int, list[np.ndarray]]]:
    """θ unlike a given one, and how many of each kind are worth a search, those of the lowest criterion.

    T of one size, or huge; one block with a single direction, other signs, smaller or larger, or no longer zero; drawn at random.
    """
    templates = criterion.cp.templates
    sizes = [to_theta(templates, [size * np.eye(t.k) for t in templates]) for size in _SIZES]
    directions, signs, scaled, appearing = [], [], [], []
    for _, t, own in blocks(criterion):
        T = t.factor(theta)[own, own]
        identity, size = np.eye(len(T)), max(float(np.linalg.norm(T)), 0.5)
        scaled += [with_block(t, theta, own, c * T) for c in (0.1, 10.0) if T.any()]
        appearing += [with_block(t, theta, own, c * identity) for c in (0.3, 1.0, 3.0) if not T.any()]
        if len(T) > 1:
            pairs = [identity[i] + sign * identity[j] for i in range(len(T)) for j in range(i) for sign in (-1, 1)]
            directions += [with_block(t, theta, own, size * v[:, None]) for v in (*identity, *pairs)]
            signs += [with_block(t, theta, own, (1 - 2 * e)[:, None] * T) for e in identity[1:]]
    rng = np.random.default_rng(0)
    drawn = [rng.normal(size=criterion.size) * size for size in np.repeat([0.3, 3.0, 30.0], 2)]
    return [(2, sizes[:-1]), (1, sizes[-1:]), (4, directions), (2, signs), (1, scaled), (2, appearing), (6, drawn)]


def _is_uneven(information: np.ndarray) -> bool:
    """Whether some levels of a grouping factor tell much more than others of its effects."""
    known = information[information > 0]
    return known.size > 0 and bool(known.max() > _SPREAD * known.min())


def _valleys(criterion: Criterion, best: Evaluation) -> Iterator[np.ndarray]:
    """Where the criterion falls again as one block of T grows or shrinks, the others kept."""
    for _, t, own in blocks(criterion):
        T = t.factor(best.theta)[own, own]
        T = T if np.linalg.norm(T) > 0.01 else np.eye(len(T))
        for scales in (_SCALES, 1 / _SCALES):
            tried = [with_block(t, best.theta, own, c * T) for c in scales]
            after = np.array([e.value if (e := evaluated(criterion, theta, 0)) else np.inf for theta in tried])
            values = np.append(best.value, after)
            falls = np.flatnonzero(after < values[:-1] - NO_WORSE)
            if falls.size:
                yield tried[falls[0] + int(np.argmin(values[falls[0] + 1 :]))]


def _is_minimum(criterion: Criterion, theta: np.ndarray, g: int, own: slice) -> bool:
    """Whether the criterion rises from a block of zeros on in all directions of the block."""
    G = criterion.evaluate(theta, 1).G
    assert G is not None
    return bool(np.linalg.eigvalsh(G[g][own, own])[0] >= 0)


def is_singular(criterion: Criterion, theta: np.ndarray) -> bool:
    return any((np.abs(np.diag(t.factor(theta))) < 1e-4).any() for t in criterion.cp.templates)


def evaluated(criterion: Criterion, theta: np.ndarray, order: int) -> Evaluation | None:
    """None where θ is so large that the normal equations, or the derivatives, are lost in rounding."""
    try:
        with np.errstate(all="ignore"):  # what is not finite is found below
            found = criterion.evaluate(theta, order)
    except FloatingPointError:
        return None
    return found if np.isfinite(found.value) and (found.hessian is None or np.isfinite(found.hessian).all()) else None


def blocks(criterion: Criterion) -> Iterator[tuple[int, Template, slice]]:
    """Grouping factor, template and place of each block of T."""
    for g, t in enumerate(criterion.cp.templates):
        for start, stop in t.blocks:
            yield g, t, slice(start, stop)


def with_block(t: Template, theta: np.ndarray, own: slice, A: np.ndarray) -> np.ndarray:
    """θ with AA' in place of the TT' of one block."""
    T, theta = t.factor(theta), theta.copy()
    T[own, own] = canonical(A)
    theta[t.index] = T[t.rows, t.cols]
    return theta
