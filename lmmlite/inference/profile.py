"""Likelihood profiles of every parameter, on the scale of standard deviations and correlations.

For a parameter ψ the profile is D(ψ) = min of the ML deviance over all others, and ζ(ψ) = sign(ψ − ψ̂) √(D(ψ) − D(ψ̂)), which is
standard normal to a good approximation; {abs(ζ) ≤ z} is the profile interval.  Each kind of parameter is held fixed so that what is
left is a smooth function without constraints, with exact gradient and Hessian:

- a fixed effect by a change of basis of the cross-products: y loses the fixed part, X the direction;
- σ directly; an SD σ‖t‖, t a row of the factor T, by putting that row first, where it is (t₁₁, 0, …), and setting
  σ = v/(a|t₁₁|); an SD of zero by leaving its row of T out;
- a correlation ρ of the first two rows by making the second b(ρ, √(1 − ρ²), 0, …): T is linear in what is left.

References
----------
Bates, Mächler, Bolker & Walker (2015). Fitting linear mixed-effects models using lme4. JSS 67(1), section 5.1.
Venzon & Moolgavkar (1988). A method for computing profile-likelihood-based confidence intervals. Applied Statistics 37(1).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import norm

from lmmlite.checks import check_share
from lmmlite.covariance import canonical, to_theta
from lmmlite.criterion import Criterion
from lmmlite.crossproducts import hold
from lmmlite.inference.replicates import parallel
from lmmlite.inference.restricted import Restricted
from lmmlite.optimize import minimize
from lmmlite.tidy import named, parameters, random_parameters

if TYPE_CHECKING:
    from lmmlite.model import MixedModel

_STEP = 0.4  # of ζ between points
_POINTS = 80  # on one side, after which the search for an end is given up
_AWAY = 0.2  # from zero, where the search for the diagonal of a factor starts at least
_ANOTHER = 1e-6  # fall of the deviance by which a search of its own shows another minimum
_RIDGE = 0.03  # unitless SD that a coefficient gets at least in the frame of the search


@dataclass(frozen=True)
class Point:
    """The best fit with one parameter held at a value: ζ, all parameters there, and where the search ended."""

    value: float
    zeta: float
    deviance: float
    parameters: dict[str, float]
    phi: np.ndarray


@dataclass(frozen=True)
class _Path:
    """One parameter of an ML fit and how to hold it fixed.

    Attributes
    ----------
    kind : {"sd", "cor", "sigma", "fixed"}
    rows : tuple
        Grouping factor, and rows of its T that the SD or correlation is about; the number of a fixed effect.
    estimate, step : float
        Estimate and a first step from it.
    bounds : (float, float)
        Range of the parameter.
    """

    fit: MixedModel
    name: str
    kind: str
    rows: tuple[int, int, int]
    estimate: float
    step: float
    bounds: tuple[float, float]

    @cached_property
    def frame(self) -> tuple[list[np.ndarray], np.ndarray]:
        """A of each grouping factor, with the user's T = AT' and T' near I at the estimates, ``rows`` first; and that θ'.

        A is the Cholesky factor of the estimated covariance, of its diagonal for a correlation; a ridge keeps it regular.
        """
        templates, own_maps = self.fit.criterion_function.cp.templates, self.fit.criterion_function.cp.own_maps
        frames, starts = [], []
        for g, (t, own) in enumerate(zip(templates, own_maps, strict=True)):
            A, start = np.zeros((t.k, t.k)), np.zeros((t.k, t.k))
            for first, stop in t.blocks:
                block, here = slice(first, stop), g == self.rows[0] and first <= self.rows[1] < stop
                lead = list(dict.fromkeys(self.rows[1:])) if here else []
                order = lead + [i for i in range(first, stop) if i not in lead]
                T, unit = self.fit._T[g][order, block], np.linalg.inv(own)[order, block]
                covariance = T @ T.T + _RIDGE**2 * unit @ unit.T
                diagonal = here and self.kind == "cor"
                a = np.linalg.cholesky(np.diag(np.diag(covariance)) if diagonal else covariance)
                A[order, block] = a
                start[block, block] = np.linalg.solve(a, np.linalg.cholesky(covariance))
            frames.append(A)
            starts.append(start)
        return frames, to_theta(templates, starts)

    def _entry(self, row: int, col: int) -> int:
        """Number in θ' of an entry of T', counted from the corner of the block that ``rows`` leads."""
        t = self.fit.criterion_function.cp.templates[self.rows[0]]
        first = next(start for start, stop in t.blocks if start <= self.rows[1] < stop)
        return int(t.index[(t.rows == first + row) & (t.cols == first + col)][0])

    def restricted(self, value: float) -> tuple[Restricted, np.ndarray]:
        """The deviance of the other parameters, and the entries of θ' that it is a function of."""
        frames, theta = self.frame
        cp, L, free = self.fit.criterion_function.cp, np.eye(len(theta)), np.ones(len(theta), bool)
        tau, tied, same_sign = None, None, []
        if self.kind == "fixed":
            cp = hold(cp, self.rows[0], value)[0]
        elif self.kind == "sigma":
            tau = 2 * np.log(value / cp.basis.scale)
        elif self.kind == "sd" and value > 0:
            tied = self._entry(0, 0)
            tau = 2 * np.log(value / cp.basis.scale / np.linalg.norm(frames[self.rows[0]][self.rows[1]]))
        elif self.kind == "sd":
            t = cp.templates[self.rows[0]]
            free[t.index[t.cols == t.cols[t.index == self._entry(0, 0)]]] = False
        else:
            corner, below, b = self._entry(0, 0), self._entry(1, 0), self._entry(1, 1)
            L[below, b], L[b, b], free[below] = value, np.sqrt(1 - value**2), False
            same_sign = [int(free[:m].sum()) for m in (corner, b)]
        maps = tuple(B @ A for B, A in zip(cp.Z_maps, frames, strict=True))
        return Restricted(Criterion(cp, False, maps), L[:, free], tau, tied, same_sign), free

    def at(self, value: float, near: Point | None = None) -> Point:
        """The best fit with the parameter at ``value``, searched for from a neighbouring point."""
        (restricted, free), (frames, theta) = self.restricted(value), self.frame
        templates = restricted.criterion.cp.templates
        diagonal = to_theta(templates, [np.eye(t.k) for t in templates])[free] == 1
        starts = [np.linalg.pinv(restricted.L) @ theta]
        if near is not None and len(near.phi) == len(starts[0]):  # several terms on one factor: several local minima
            starts = [near.phi, *starts] if any(len(t.blocks) > 1 for t in templates) else [near.phi]
        ends = [restricted.minimise(_away_from_zero(phi, diagonal, restricted.same_sign)) for phi in starts]
        phi = min(ends, key=lambda phi: restricted.evaluate(phi)[0])
        deviance, _, _, variance, s = restricted.evaluate(phi)
        best = min(self.edges, key=lambda edge: edge.deviance, default=None)
        if best is not None and best.deviance <= deviance:
            deviance, values = best.deviance, dict(best.parameters)
        else:
            T = [A @ t.factor(restricted.L @ phi) for A, t in zip(frames, templates, strict=True)]
            basis, coefficients = self.fit.criterion_function.cp.basis, s.coefficients[s.cp.rest.q :]
            if self.kind == "fixed":
                _, c0, N = hold(self.fit.criterion_function.cp, self.rows[0], value)
                coefficients = c0 + N @ coefficients
            beta = basis.beta + basis.scale * basis.to_user @ coefficients
            values = named(self.fit, T, np.sqrt(variance), beta)
        zeta = float(np.copysign(np.sqrt(max(deviance - self.fit.criterion, 0.0)), value - self.estimate))
        return Point(value, zeta, deviance, values | {self.name: value}, phi)

    def searched(self, point: Point) -> Point:
        """For a fixed effect a better point at the same value, if a search of its own ends in another minimum."""
        if self.kind != "fixed":
            return point
        cp = hold(self.fit.criterion_function.cp, self.rows[0], point.value)[0]
        templates, frames = cp.templates, self.frame[0]
        try:
            theta = minimize(Criterion(cp, False)).theta
        except ValueError:  # there is none
            return point
        T = [canonical(np.linalg.solve(A, t.factor(theta))) for A, t in zip(frames, templates, strict=True)]
        other = self.at(point.value, replace(point, phi=to_theta(templates, T)))
        return other if other.deviance < point.deviance - _ANOTHER else point

    @cached_property
    def edges(self) -> list[Point]:
        """For a correlation, the fits without one of its coefficients: there it may have any value."""
        if self.kind != "cor":
            return []
        g, *rows = self.rows
        names = {place[1:]: place[0] for place in random_parameters(self.fit)}
        return [replace(self, kind="sd", rows=(g, i, i), name=names[g, i, i], estimate=0.0).at(0.0) for i in rows]

    def walk(self, start: Point, direction: int, target: float) -> tuple[list[Point], str]:
        """Points from ``start`` until abs(ζ) reaches the target or the parameter its bound; why it stopped before, if so."""
        points, step, bound = [start], self.step, self.bounds[direction > 0]
        while abs(points[-1].zeta) < target and points[-1].value != bound:
            if len(points) > _POINTS:
                return points, f"abs(ζ) stays below {target:.2f} up to {points[-1].value:.6g}"
            last = points[-1]
            value = last.value + direction * step
            value = bound if (bound - value) * direction <= 0 else value
            value = max(value, last.value / 2) if self.kind == "sigma" else value  # its bound has no likelihood
            try:
                points.append(self.at(value, last))
            except (FloatingPointError, ValueError, np.linalg.LinAlgError) as error:
                return points, f"at {value:.6g}: {error}"
            change = abs(points[-1].zeta - last.zeta)
            step *= np.clip(_STEP / max(change, 1e-12), 1 / 3, 3)
        return points, ""


def _away_from_zero(phi: np.ndarray, diagonal: np.ndarray, positive: Sequence[int]) -> np.ndarray:
    """A start: where a diagonal entry of a factor is zero the gradient is, too, so that a search would never leave."""
    phi = phi.copy()
    phi[positive] = np.abs(phi[positive])
    small = diagonal & (np.abs(phi) < _AWAY)
    phi[small] = np.copysign(_AWAY, phi[small])
    return phi


@dataclass(frozen=True)
class Profile:
    """Profiles of some or all parameters of a model.

    Attributes
    ----------
    fit : MixedModel
        The ML fit that was profiled.
    reml : bool
        Whether it was fitted by REML and refitted by ML for the profile, as lme4 does.
    points : dict of str to list of Point
        Of each parameter, in increasing order.
    notes : dict of str to str
        What went wrong, if anything, by parameter.
    """

    fit: MixedModel
    reml: bool
    paths: dict[str, _Path]
    points: dict[str, list[Point]]
    notes: dict[str, str]

    @property
    def zeta(self) -> pd.DataFrame:
        """``parameter value zeta`` and all parameters at that point, with which pairs of profiles are drawn."""
        rows = [
            {"parameter": name, "value": p.value, "zeta": p.zeta, **p.parameters}
            for name, ps in self.points.items()
            for p in ps
        ]
        return pd.DataFrame(rows)

    def confint(self, level: float = 0.95) -> pd.DataFrame:
        """{abs(ζ) ≤ z}, columns ``lower`` and ``upper``: the ends are roots of ζ ∓ z, found by further refits.

        Where ζ does not reach z the end is that of the parameter's range (0; −1 or 1), or missing with a warning.  At the ends
        for a fixed effect a search of its own makes sure that no other minimum of the deviance is lower there.
        """
        check_share(level, "level")
        z = float(norm.ppf((1 + level) / 2))
        ends = {name: [self._end(name, side, z) for side in (-1, 1)] for name in self.points}
        return pd.DataFrame.from_dict(ends, "index", columns=["lower", "upper"])

    def _end(self, name: str, side: int, z: float) -> float:
        path = self.paths[name]
        points = [p for p in self.points[name] if (p.value - path.estimate) * side >= 0][::side]
        while True:
            more, why = path.walk(points[-1], side, z)
            points += more[1:]
            far = next((i for i, p in enumerate(points) if abs(p.zeta) >= z), None)
            if far is None:
                if why:
                    warnings.warn(f"The interval of {name} has no {'lower' if side < 0 else 'upper'} end: {why}.")
                return np.nan if why else points[-1].value
            inner, outer = points[far - 1], points[far]
            width = abs(outer.value - inner.value)
            end = brentq(
                lambda v, near: abs(path.at(v, near).zeta) - z, inner.value, outer.value, (inner,), xtol=1e-6 * width
            )
            found = path.at(end, inner)
            points = [path.searched(found)]
            if points[0] is found:
                return float(end)

    def __repr__(self) -> str:
        how = "the ML deviance (the model was fitted by REML)" if self.reml else "the deviance"
        return f"Profile of {how} of {self.fit.formula}: {', '.join(self.points)}"


def profile(
    fit: MixedModel,
    which: str | Sequence[str] | None = None,
    alphamax: float = 0.001,
    n_jobs: int | None = 1,
    progress: bool = False,
) -> Profile:
    """Profile the likelihood of a fit.

    Parameters
    ----------
    fit : MixedModel
        A REML fit is refitted by ML, since REML deviances with other fixed effects do not compare.
    which : str or sequence of str, optional
        Parameters, by default all: ``sd_Intercept|g``, ``cor_x.Intercept|g``, ``sigma`` and the fixed effects by name.
    alphamax : float
        Profiles go out to the 1 − alphamax interval; `Profile.confint` goes further where asked to.
    n_jobs : int or None
        As in `lmmlite.inference.bootstrap.bootstrap`; the parameters are shared out.
    progress : bool
        Show a bar, with tqdm.
    """
    check_share(alphamax, "alphamax")
    ml = fit.refit_ml() if fit.reml else fit
    paths = {path.name: path for path in _paths(ml)}
    names = list(paths) if which is None else [which] if isinstance(which, str) else list(which)
    unknown = [name for name in names if name not in paths]
    if unknown:
        raise ValueError(f"The model has no parameter '{unknown[0]}' to profile; it has {', '.join(paths)}.")
    results = parallel(partial(_both_ways, z=norm.isf(alphamax / 2)), [paths[name] for name in names], n_jobs, progress)
    points = {name: found for name, (found, _) in zip(names, results, strict=True)}
    notes = {name: note for name, (_, note) in zip(names, results, strict=True) if note}
    for name, note in notes.items():
        warnings.warn(f"Profile of {name}: {note}.")
    return Profile(ml, fit.reml, {name: paths[name] for name in names}, points, notes)


def _paths(fit: MixedModel) -> Iterator[_Path]:
    estimates = parameters(fit).fillna(0.0)
    for name, g, i, j in random_parameters(fit):
        few, estimate = np.sqrt(fit.design.groups[g].size), estimates[name]
        if i == j:
            path = _Path(fit, name, "sd", (g, i, i), estimate, 0.0, (0.0, np.inf))
            yield replace(path, step=_STEP * fit.sigma * np.linalg.norm(path.frame[0][g][i]) / few)
        else:
            yield _Path(fit, name, "cor", (g, i, j), estimate, _STEP * max(1 - estimate**2, 0.05) / few, (-1.0, 1.0))
    step = _STEP * fit.sigma / np.sqrt(2 * fit.nobs)
    yield _Path(fit, "sigma", "sigma", (-1, -1, -1), fit.sigma, step, (0.0, np.inf))
    for j, name in enumerate(fit.design.names):
        step = _STEP * float(fit.se.iloc[j])
        yield _Path(fit, name, "fixed", (j, -1, -1), estimates[name], step, (-np.inf, np.inf))


def _both_ways(path: _Path, z: float) -> tuple[list[Point], str]:
    """The points of one profile in increasing order, and a note on what is wrong with it."""
    estimates = named(path.fit, path.fit._T, path.fit.sigma, path.fit.fixef) | {path.name: path.estimate}
    start = Point(path.estimate, 0.0, path.fit.criterion, estimates, np.empty(0))
    (down, why_down), (up, why_up) = (path.walk(start, side, z) for side in (-1, 1))
    points, notes = down[:0:-1] + up, [why for why in (why_down, why_up) if why]
    lowest = min(p.deviance for p in points)
    if lowest < path.fit.criterion - 1e-6:
        notes.append(
            f"the deviance falls {path.fit.criterion - lowest:.2g} below that of the fit: pass lmer another start"
        )
    if any(b.zeta < a.zeta - 1e-6 for a, b in pairwise(points)):
        notes.append("ζ is not monotone: the likelihood has several local maxima")
    return points, "; ".join(notes)
