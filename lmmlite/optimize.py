"""Damped Newton on the profiled criterion, in a θ without units.

The criterion is even in every column of T, so no bounds are needed: a zero variance is a stationary point inside.  What Newton
cannot see there — the gradient in a zero column vanishes — the optimality conditions check at the end: 𝒢T = 0 and 𝒢 ⪰ 0 in each
block; where 𝒢 has a negative eigenvalue the search goes on along its eigenvector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.linalg import eigh

from lmmlite.covariance import canonical, to_theta
from lmmlite.criterion import Criterion, Evaluation
from lmmlite.start import starting_theta

_MAX_STEPS = 200
_DECREMENT = 1e-13  # half the squared Newton decrement, in units of −2 log-likelihood, at which the search is over
_FLAT = 1e-6  # that is still the optimum when no step lowers the criterion any further
_SLOW = 30  # factor by which a step must cut the decrement near the optimum for the cheap Hessian to stay
_NO_WORSE = 1e-9  # change of the criterion that counts as none when a column of T is set to zero
_MANY_STEPS = 12  # of a search that was hard
_CLEAR = 20.0  # rise of the criterion without a block that leaves no doubt that it is needed
_MANY_LEVELS = 1000  # of a grouping factor, from which on its variances are not looked for again
_SMALL = 0.03  # singular values of a unitless block of T below which zero is tried


@dataclass(frozen=True)
class Optimum:
    """Where the search ended and how it came there.

    Attributes
    ----------
    evaluation : Evaluation
        Of the criterion it was asked to minimise, at the final θ, with gradient.
    steps : tuple of dict
        One for each evaluation of the search; see `trace`.
    message : str
        Why the search stopped.
    converged : bool
    singular : bool
        Whether some block of T is rank deficient, judged on centred and scaled columns.
    """

    evaluation: Evaluation
    steps: tuple[dict, ...]
    message: str
    converged: bool
    singular: bool

    @property
    def theta(self) -> np.ndarray:
        return self.evaluation.theta

    @property
    def trace(self) -> pd.DataFrame:
        """The search: criterion, length of the gradient, Newton decrement, fraction of the step then taken, unitless θ."""
        return pd.DataFrame(self.steps).rename_axis("step")


def minimize(criterion: Criterion, start: ArrayLike | None = None) -> Optimum:
    """Minimise a criterion over θ.

    Parameters
    ----------
    criterion : Criterion
    start : (m,) array, optional
        By default variances had without a search (`lmmlite.start`); then, where the first search was hard, some more.

    Raises
    ------
    ValueError
        Where the residual variance goes to zero or is lost in rounding: there is no maximum of the likelihood to be found.
    """
    inside = criterion.unitless()
    theta = starting_theta(criterion) if start is None else unitless(criterion, criterion.checked(start))
    try:
        best, converged, steps = _search(inside, theta)
    except FloatingPointError:
        raise ValueError(
            "The random effects dwarf the residuals so that rounding leaves nothing to compute with. Pass a smaller start, or take a "
            "known part out of the response (offset)."
        ) from None
    for theta in (*_other_starts(inside, best.theta), *(_doubts(inside, best, steps) if start is None else ())):
        try:
            found, done, taken = _search(inside, theta, best.value if converged else np.inf)
        except FloatingPointError:  # a start from which nothing can be computed
            continue
        gain = best.value - found.value
        if gain > _NO_WORSE or (done and not converged and gain > -_NO_WORSE):
            best, converged, steps = found, done, taken
    message = "the Newton decrement is at rounding level" if converged else "no step lowers the criterion enough"
    return Optimum(
        _in_users_units(criterion, best), tuple(steps), message, converged, _is_singular(criterion, best.theta)
    )


def resume(criterion: Criterion, theta: ArrayLike, message: str, converged: bool) -> Optimum:
    """The optimum that an earlier search found at θ; its steps are not known."""
    theta = criterion.checked(theta)
    found = criterion.unitless().evaluate(unitless(criterion, theta), 1)
    same = replace(_in_users_units(criterion, found), theta=theta)  # there and back again rounds
    return Optimum(same, (), message, converged, _is_singular(criterion, found.theta))


def _is_singular(criterion: Criterion, theta: np.ndarray) -> bool:
    return any((np.abs(np.diag(t.factor(theta))) < 1e-4).any() for t in criterion.cp.templates)


def _search(criterion: Criterion, theta: np.ndarray, rival: float = np.inf) -> tuple[Evaluation, bool, list[dict]]:
    """Newton from one start, until the optimality conditions hold at singular blocks, too, or a rival will not be beaten."""
    steps: list[dict] = []
    escape: Evaluation | None = criterion.evaluate(theta, 1)
    while escape is not None:
        best, converged = _newton(criterion, escape, steps, rival)
        if not best.value < rival:
            return best, False, steps
        best = _reduce_rank(criterion, best, _NO_WORSE)
        escape = _escape(criterion, best)
    return best, converged, steps


def _other_starts(criterion: Criterion, theta: np.ndarray) -> Iterator[np.ndarray]:
    """Second starts where one grouping factor has several terms whose columns are not orthogonal.

    Terms such as (1 | g) + (0 + x | g) with x far from zero explain the same variation by one of them, by the other, or by two
    large variances whose effects cancel at the mean of x: the criterion can have a minimum at each.
    """
    for t, M in zip(criterion.cp.templates, criterion.maps, strict=True):
        if len(t.blocks) == 1 or np.allclose(M, np.diag(np.diag(M))):
            continue
        sizes = np.linalg.norm(t.factor(theta), axis=0)
        largest = max(sizes.max(), 1.0)
        shapes = [largest * np.linalg.norm(np.linalg.inv(M), axis=1)]
        shapes += [np.where(np.arange(t.k) == j, largest, 0.1 * sizes) for j in np.flatnonzero(sizes == 0)]
        for shape in shapes:
            start, T = theta.copy(), np.diag(shape)
            start[t.index] = T[t.rows, t.cols]
            yield start


def _doubts(criterion: Criterion, best: Evaluation, steps: list[dict]) -> Iterator[np.ndarray]:
    """More starts, where the first search was hard or zero is a minimum, too.

    With few groups that tell something the criterion can have one minimum with a block of T and another without it, or several
    at which T is singular.
    """
    if max(criterion.cp.sizes) > _MANY_LEVELS:
        return
    hard = _is_singular(criterion, best.theta) or len(steps) > _MANY_STEPS or any(0 < s["fraction"] < 1 for s in steps)
    for g, t in enumerate(criterion.cp.templates):
        for start, stop in t.blocks:
            own = slice(start, stop)
            T = t.factor(best.theta)
            if stop - start == 1 and not T[start, start]:
                continue
            T[own, own] = 0
            theta = best.theta.copy()
            theta[t.index] = T[t.rows, t.cols]
            if hard or (
                criterion.evaluate(theta).value < best.value + _CLEAR and _is_minimum(criterion, theta, g, own)
            ):
                yield theta
    if hard:
        one = to_theta(criterion.cp.templates, [np.eye(t.k) for t in criterion.cp.templates])
        yield from (0.1 * one, 3.0 * one)
        rng = np.random.default_rng(1)
        yield from (size * rng.normal(size=len(one)) for size in (0.3, 2.0, 0.3, 2.0))


def _is_minimum(criterion: Criterion, theta: np.ndarray, g: int, own: slice) -> bool:
    """Whether the criterion rises from a block of zeros on in all directions of the block."""
    G = criterion.evaluate(theta, 1).G
    assert G is not None
    return bool(np.linalg.eigvalsh(G[g][own, own])[0] >= 0)


def _newton(criterion: Criterion, now: Evaluation, steps: list[dict], rival: float) -> tuple[Evaluation, bool]:
    """Newton steps with floored eigenvalues, a cap on their length, and backtracking.

    The cheap average-information Hessian serves until, near the optimum, a step brings less than it should; from then on the exact one.
    """
    order, last = 1, np.inf
    for _ in range(_MAX_STEPS):
        assert now.gradient is not None
        assert now.hessian is not None
        values, vectors = eigh(now.hessian)
        size = np.abs(values)
        along = vectors.T @ now.gradient / np.maximum(size, max(1e-8 * size.max(), 1e-300))
        step = -vectors @ along
        decrement = float(-now.gradient @ step) / 2
        steps.append(
            {
                "criterion": now.value,
                "gradient": float(np.linalg.norm(now.gradient)),
                "decrement": decrement,
                "hessian": "exact" if order == 2 else "average information",
                "fraction": 0.0,
                "theta": now.theta,
            }
        )
        if decrement <= _DECREMENT * (1 + 1e-3 * abs(now.value)):
            return now, True
        if decrement < 1e-3 and now.value - 2 * decrement > rival - _NO_WORSE:
            return now, False
        if order == 1 and last / _SLOW < decrement < 1:
            order, now = 2, criterion.evaluate(now.theta, 2)
            continue
        last = decrement
        fraction = min(1.0, (1 + 2 * float(np.linalg.norm(now.theta))) / float(np.linalg.norm(step)))
        rounding = 1e-12 * (abs(now.value) + 1)
        while True:
            new = _evaluated(criterion, now.theta + fraction * step, order)
            if new is not None and new.value <= now.value - 1e-4 * fraction * decrement + rounding:
                break
            fraction /= 3
            if fraction < 1e-10:
                return _stopped(criterion, now, decrement)
        steps[-1]["fraction"] = fraction
        now = _reduce_rank(criterion, new, 0.0, order) if decrement < 1 else new
        if now.solution.r2 < 1e-13 * criterion.cp.n:
            raise ValueError(
                "The residual variance goes to zero: fixed effects and groups together reproduce the response exactly, so "
                "there is no maximum of the likelihood. Is the response constant within the groups?"
            )
    return _stopped(criterion, now, decrement)


def _evaluated(criterion: Criterion, theta: np.ndarray, order: int) -> Evaluation | None:
    """None where θ is so large that the normal equations are lost in rounding."""
    try:
        return criterion.evaluate(theta, order)
    except FloatingPointError:
        return None


def _stopped(criterion: Criterion, now: Evaluation, decrement: float) -> tuple[Evaluation, bool]:
    """Where no step lowers the criterion, or none lowered it enough."""
    if decrement >= _FLAT and now.solution.r2 < 1e-8 * criterion.cp.n:
        raise ValueError(
            f"The residual variance is about {now.solution.r2 / criterion.nu:.0e} of the variance of the response, so small that "
            "rounding hides the maximum of the likelihood. Take a known part out of the response (offset), or leave out random "
            "terms: with those of the model nearly nothing is left to chance."
        )
    return now, decrement < _FLAT


def _blockwise(
    criterion: Criterion, theta: np.ndarray, change: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """θ after ``change(T_block, own map of the block)`` in every block."""
    factors = []
    for t, B in zip(criterion.cp.templates, criterion.cp.own_maps, strict=True):
        T = t.factor(theta)
        for start, stop in t.blocks:
            own = slice(start, stop)
            T[own, own] = change(T[own, own], B[own, own])
        factors.append(T)
    return to_theta(criterion.cp.templates, factors)


def _in_users_units(criterion: Criterion, found: Evaluation) -> Evaluation:
    """The evaluation of the unitless criterion as one of the criterion in the user's units, at the canonical θ."""
    assert found.G is not None
    theta = _blockwise(criterion, found.theta, lambda T, B: canonical(np.linalg.solve(B, T)))
    G = tuple(B.T @ G @ B for B, G in zip(criterion.cp.own_maps, found.G, strict=True))
    gradient = [2 * g @ t.factor(theta) for t, g in zip(criterion.cp.templates, G, strict=True)]
    return replace(found, theta=theta, G=G, gradient=to_theta(criterion.cp.templates, gradient), hessian=None)


def unitless(criterion: Criterion, theta: np.ndarray) -> np.ndarray:
    """θ of the user's columns as that of the centred and scaled ones (`Criterion.unitless`)."""
    return _blockwise(criterion, theta, lambda T, B: canonical(B @ T))


def _reduce_rank(criterion: Criterion, now: Evaluation, slack: float, order: int = 1) -> Evaluation:
    """Leave out directions of nearly zero variance where that raises the criterion by no more than ``slack``.

    Newton would creep along the curved valley that ends in a singular T; on the valley's floor, with a column of zeros, it does
    not.  `_escape` brings a direction back that is missed.
    """
    for t in criterion.cp.templates:
        for start, stop in t.blocks:
            own = slice(start, stop)
            T = t.factor(now.theta)
            U, sizes, _ = np.linalg.svd(T[own, own])
            if not 0 < sizes[-1] < _SMALL:
                continue
            T[own, own] = canonical(U * np.where(sizes < 1.001 * sizes[-1], 0.0, sizes))
            theta = now.theta.copy()
            theta[t.index] = T[t.rows, t.cols]
            new = criterion.evaluate(theta, order)
            now = new if new.value <= now.value + slack else now
    return now


def _escape(criterion: Criterion, now: Evaluation) -> Evaluation | None:
    """A better point along a negative eigenvector of 𝒢 in a singular block; None where the conditions hold."""
    assert now.G is not None
    for g, t in enumerate(criterion.cp.templates):
        for start, stop in t.blocks:
            own = slice(start, stop)
            T = t.factor(now.theta)
            if np.all(np.diag(T)[own] != 0):
                continue
            values, vectors = np.linalg.eigh(now.G[g][own, own])
            if values[0] >= -1e-9 * (np.abs(values).max() + 1):
                continue
            for length in (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3):
                changed = t.factor(now.theta)
                changed[own, own] = canonical(np.column_stack([T[own, own], length * vectors[:, 0]]))
                theta = now.theta.copy()
                theta[t.index] = changed[t.rows, t.cols]
                new = criterion.evaluate(theta, 1)
                if new.value < now.value - _NO_WORSE:
                    return new
    return None
