"""Damped Newton on the profiled criterion, in a θ without units.

The criterion is even in every column of T, so no bounds are needed: a zero variance is a stationary point inside.  What Newton
cannot see there — the gradient in a zero column vanishes — the optimality conditions check at the end: 𝒢T = 0 and 𝒢 ⪰ 0 in each
block; where 𝒢 has a negative eigenvalue the search goes on along its eigenvector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.linalg import lapack

from lmmlite.covariance import canonical, to_theta
from lmmlite.criterion import Criterion, Evaluation
from lmmlite.restarts import NO_WORSE, blocks, evaluated, is_singular, restarts, with_block
from lmmlite.start import starting_theta

_MAX_STEPS = 200
_PATIENCE = 50  # steps of a search for something better
_MANY_STEPS = 12  # of a search that was hard
_DECREMENT = 1e-14  # half the squared Newton decrement, in units of −2 log-likelihood, at which the search is over
_MORE_ROWS = 0.04  # times that for each row: variances known better need fewer digits of their standard errors
_FLAT = 1e-6  # that is still the optimum when no step lowers the criterion any further
_SLOW = 30  # factor by which a step must cut the decrement near the optimum for the cheap Hessian to stay
_EPSILON = 2e-16  # relative error of a number; that of r² is as many parts of y'y
_IDLE = 5  # steps that change the criterion by no more than its rounding, after which the search ends
_LOST = 30.0  # times the average information's curvature: the exact one is lost in rounding, as happens where T is huge
_SAME = 0.05  # relative difference of TT' by which a search counts as on its way to a minimum that is known
_ANOTHER = 1e-3  # gain by which a second minimum is told from a better approximation of the first
_UNKNOWN = 1e-3  # change of the criterion when the random effects are made much larger, below which it is called flat
_HUGE = 1e5  # entry of a unitless T that, squared, leaves the residuals too few digits
_ZERO = 1e-9  # diagonal entry of a unitless T that rounding may leave of a zero
_SMALL = 0.03  # singular values of a unitless block of T below which zero is tried

_FLAT_BLOCK = (
    "The data cannot estimate the variances of a random term: however large they are, the criterion is the same. Do the fixed "
    "effects already give each of its levels a mean (or a slope) of its own? Leave the one or the other out."
)
_NO_RESIDUAL = (
    "The residual variance goes to zero: the larger the random effects are in units of it the better, or no worse, so that there is "
    "no maximum of the likelihood. Fixed effects and groups together nearly reproduce the response; leave out random terms."
)
_DWARFED = (
    "The random effects dwarf the residuals so that rounding leaves nothing to compute with. Pass a smaller start, or take a "
    "known part out of the response (offset)."
)


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
        By default variances had without a search (`lmmlite.start`); then, where the first search was hard, some more
        (`lmmlite.restarts`), until none is better.

    Raises
    ------
    ValueError
        Where the residual variance goes to zero or is lost in rounding, or a variance cannot be told from the rest of the
        model: there is no maximum of the likelihood to be found.
    """
    inside = criterion.unitless()
    theta = starting_theta(criterion) if start is None else unitless(criterion, criterion.checked(start))
    try:
        best, converged, steps = _search(inside, theta)
    except FloatingPointError:
        raise ValueError(_DWARFED) from None
    again = True
    while again:
        again = False
        hard = not converged or len(steps) > _MANY_STEPS or any(0 < step["fraction"] < 1 for step in steps)
        for theta in restarts(inside, best, hard, thorough=start is None):
            try:
                found, done, taken = _search(inside, theta, best if converged and len(steps) < _MAX_STEPS else None)
            except FloatingPointError:  # a start from which nothing can be computed
                continue
            gain = best.value - found.value
            if gain > NO_WORSE or (done and not converged and gain > -NO_WORSE):
                best, converged, steps = found, done, taken
                again |= gain > _ANOTHER
    _check_identified(inside, best)
    if not converged and np.abs(best.theta).max() > _HUGE:
        raise ValueError(_DWARFED)
    message = "the Newton decrement is at rounding level" if converged else "no step lowers the criterion enough"
    return Optimum(
        _in_users_units(criterion, best), tuple(steps), message, converged, is_singular(criterion, best.theta)
    )


def resume(criterion: Criterion, theta: ArrayLike, message: str, converged: bool) -> Optimum:
    """The optimum that an earlier search found at θ; its steps are not known."""
    theta = criterion.checked(theta)
    found = criterion.unitless().evaluate(unitless(criterion, theta), 1)
    same = replace(_in_users_units(criterion, found), theta=theta)  # there and back again rounds
    return Optimum(same, (), message, converged, is_singular(criterion, found.theta))


def _check_identified(criterion: Criterion, best: Evaluation) -> None:
    """ValueError where the criterion is flat in the size of one block of T, or does not rise when all of T grows."""
    assert best.hessian is not None
    alone = [best.theta - with_block(t, best.theta, own, np.zeros((1, 1))) for _, t, own in blocks(criterion)]
    for along, times, words in [*((one, 100.0, _FLAT_BLOCK) for one in alone), (best.theta, 3.0, _NO_RESIDUAL)]:
        size = float(np.linalg.norm(along))
        if not size or (size < 100 and along @ best.hessian @ along > 0.05 * min(1.0, size**2)):
            continue
        larger = evaluated(criterion, best.theta + (times * max(1.0, 1 / size) - 1) * along, 0)
        if larger is not None and larger.value < best.value + _UNKNOWN:
            raise ValueError(words)


def _search(
    criterion: Criterion, theta: np.ndarray, rival: Evaluation | None = None
) -> tuple[Evaluation, bool, list[dict]]:
    """Newton from one start, until the optimality conditions hold at singular blocks, too, or a rival will not be beaten."""
    steps: list[dict] = []
    escape = evaluated(criterion, theta, 1)
    if escape is None:
        raise FloatingPointError("Nothing can be computed at the start.")
    while escape is not None:
        best, converged = _newton(criterion, escape, steps, rival)
        if rival and not best.value < rival.value:
            return best, False, steps
        best = _reduce_rank(criterion, best, NO_WORSE)
        escape = _escape(criterion, best) if len(steps) < _MAX_STEPS else None
    return best, converged, steps


def _newton(
    criterion: Criterion, now: Evaluation, steps: list[dict], rival: Evaluation | None
) -> tuple[Evaluation, bool]:
    """Newton steps with floored eigenvalues, a cap on their length, and backtracking.

    The cheap average-information Hessian serves until, near the optimum, a step brings less than it should; from then on the exact one,
    unless it is lost in rounding.
    """
    order, last, idle, trusted = 1, np.inf, 0, True
    for _ in range(_PATIENCE if rival else _MAX_STEPS):
        assert now.gradient is not None
        assert now.hessian is not None
        unit = _lengths(criterion, now.theta)
        values, vectors, _ = lapack.dsyevd(now.hessian * np.outer(unit, unit))
        size = np.abs(values)
        along = vectors.T @ (unit * now.gradient) / np.maximum(size, max(1e-10 * size.max(), 1e-300))
        step = -unit * (vectors @ along)
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
        if decrement <= _DECREMENT * (1 + _MORE_ROWS * criterion.nu):
            return now, True
        if rival and _is_known(criterion, now, decrement, rival):
            return now, False
        if order == 1 and last / _SLOW < decrement < 1 and trusted:
            exact = criterion.evaluate(now.theta, 2)
            assert exact.hessian is not None
            known, curvature = np.diag(now.hessian) * unit**2, np.diag(exact.hessian) * unit**2
            trusted = bool(np.all(np.abs(curvature) <= _LOST * (np.abs(known) + 1)))
            if trusted:
                order, now = 2, exact
                continue
        last = decrement
        fraction = min(1.0, (1 + 2 * float(np.linalg.norm(now.theta / unit))) / float(np.linalg.norm(step / unit)))
        rounding = _rounding(criterion, now)
        while True:
            new = evaluated(criterion, now.theta + fraction * step, order)
            if new is not None and new.value <= now.value - 1e-4 * fraction * decrement + rounding:
                break
            fraction /= 3
            if fraction < 1e-10:
                return _stopped(criterion, now, decrement, rival)
        steps[-1]["fraction"] = fraction
        idle = idle + 1 if new.value > now.value - rounding else 0
        now = _reduce_rank(criterion, new, 0.0, order) if decrement < 1 else new
        if now.solution.r2 < 1e-13 * criterion.cp.n and not (rival and now.value > rival.value - NO_WORSE):
            raise ValueError(
                "The residual variance goes to zero: fixed effects and groups together reproduce the response exactly, so "
                "there is no maximum of the likelihood. Is the response constant within the groups?"
            )
        if idle > _IDLE:
            break
    return _stopped(criterion, now, decrement, rival)


def _lengths(criterion: Criterion, theta: np.ndarray) -> np.ndarray:
    """For each entry of θ the length of its row of T, at least about 1: what a change of large variances is measured by."""
    lengths = np.empty(len(theta))
    for t in criterion.cp.templates:
        lengths[t.index] = np.sqrt(1 + (t.factor(theta) ** 2).sum(axis=1))[t.rows]
    return lengths


def _rounding(criterion: Criterion, now: Evaluation) -> float:
    """About how well the criterion is known."""
    return 1e-12 * (abs(now.value) + 1) + _EPSILON * criterion.nu * criterion.cp.n / now.solution.r2


def _is_known(criterion: Criterion, now: Evaluation, decrement: float, rival: Evaluation) -> bool:
    """Whether the search is about to end at the rival, or above it."""
    if decrement < 1e-3 and now.value - 2 * decrement > rival.value - NO_WORSE:
        return True
    T, R = ([t.factor(e.theta) for t in criterion.cp.templates] for e in (now, rival))
    return decrement < 1 and all(
        np.linalg.norm(a @ a.T - b @ b.T) <= _SAME * (0.1 + np.linalg.norm(b @ b.T)) for a, b in zip(T, R, strict=True)
    )


def _stopped(
    criterion: Criterion, now: Evaluation, decrement: float, rival: Evaluation | None
) -> tuple[Evaluation, bool]:
    """Where no step lowers the criterion, or none lowered it enough."""
    better = rival is None or now.value < rival.value - NO_WORSE
    if decrement >= _FLAT and now.solution.r2 < 1e-8 * criterion.cp.n and better:
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
    for _, t, own in blocks(criterion):
        U, sizes, _ = np.linalg.svd(t.factor(now.theta)[own, own])
        if not 0 < sizes[-1] < _SMALL:
            continue
        less = U * np.where(sizes < 1.001 * sizes[-1], 0.0, sizes)
        new = criterion.evaluate(with_block(t, now.theta, own, less), order)
        now = new if new.value <= now.value + slack else now
    return now


def _escape(criterion: Criterion, now: Evaluation) -> Evaluation | None:
    """A better point along a negative eigenvector of 𝒢 in a singular block; None where the conditions hold."""
    assert now.G is not None
    for g, t, own in blocks(criterion):
        T = t.factor(now.theta)[own, own]
        if np.abs(np.diag(T)).min() > _ZERO:
            continue
        values, vectors = np.linalg.eigh(now.G[g][own, own])
        if values[0] >= -1e-9 * (np.abs(values).max() + 1):
            continue
        for length in (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3):
            more = np.column_stack([T, length * vectors[:, 0]])
            new = criterion.evaluate(with_block(t, now.theta, own, more), 1)
            if new.value < now.value - NO_WORSE - _rounding(criterion, now):
                return new
    return None
