"""Models of every kind from a seed, and what must hold of each: an optimum that nothing beats, or an error that says why.

Used by `test_campaign` (300 of them) and by ``make campaign`` (7,000, with peers).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from random_models import random_theta

from lmmlite import lmer, minimize
from lmmlite.covariance import canonical
from lmmlite.optimize import unitless

DESIGNS = ("one", "crossed", "nested", "partly crossed", "chain", "three", "singletons", "giant")
FIXED = ("1", "x", "x + z", "x * f", "f", "0 + f", "poly(x, 2)", "x + z + twice")
OF_ONE = (
    "(1 | g)",
    "(x | g)",
    "(0 + x | g)",
    "(x || g)",
    "(x + z | g)",
    "(0 + x + z | g)",
    "(f | g)",
    "(0 + f || g)",
    "(1 | g) + (0 + x | g)",
    "(poly(x, 2) | g)",
)
OF_TWO = (
    "(1 | g) + (1 | h)",
    "(x | g) + (1 | h)",
    "(x | g) + (z | h)",
    "(x || g) + (x || h)",
    "(1 | g) + (0 + z | h)",
    "(1 | g) + (0 + x | g) + (1 | h)",
    "(f | g) + (1 | h)",
    "(0 + f || h) + (1 | g)",
)
OF_THREE = ("(1 | g) + (1 | h) + (1 | k)", "(x | g) + (1 | h) + (0 + z | k)", "(x || g) + (1 | h) + (1 | g:k)")
RESTARTS = 10
WORSE = 1e-6  # of the criterion, in which a log-likelihood unit is 2
TOLERATED = 1e-6  # of what `violation` tells


@dataclass(frozen=True)
class Model:
    """A generated model.

    Attributes
    ----------
    formula : str
    data : DataFrame
    reml : bool
    weights : str or None
    kinds : tuple of str
        What is special about it.
    """

    formula: str
    data: pd.DataFrame
    reml: bool
    weights: str | None
    kinds: tuple[str, ...]


def generate(seed: int) -> Model:
    """A model by its seed: design × structure × variances × scaling × missing values × weights."""
    rng = np.random.default_rng(seed)
    n = int(np.exp(rng.uniform(np.log(12), np.log(500))))
    design = str(rng.choice(DESIGNS))
    g, h, random = _groups(rng, design, n)
    x, z, f = rng.normal(size=n), rng.exponential(size=n), rng.choice(list("pqr"), n)
    kinds = [design]
    if rng.random() < 0.2:
        kinds.append("covariate of the groups")
        x = rng.normal(size=n)[g] + (1e-6 * rng.normal(size=n) if rng.random() < 0.2 else 0)
    size = {k: _sizes(rng) for k in "gh"}
    u, v = (rng.normal(size=(n, 2)) for _ in "gh")
    if rng.random() < 0.2:
        u[:, 1] = u[:, 0]  # intercepts and slopes perfectly correlated
    noise = np.full(n, rng.choice([1.0, 1.0, 0.1, 1e-2]))
    if noise[0] < 1:
        kinds.append("little noise")
    if rng.random() < 0.05:
        kinds.append("nearly constant groups")
        noise = np.where(rng.random(n)[g] < 0.7, 1e-6, noise)
    y = 1 + 0.5 * x + size["g"][0] * u[g, 0] + size["g"][1] * u[g, 1] * x
    y = y + size["h"][0] * v[h, 0] + size["h"][1] * v[h, 1] * z + noise * rng.normal(size=n)
    twice = 2 * x - 1
    if rng.random() < 0.3:
        kinds.append("nearly collinear")
        twice = twice + 10.0 ** rng.uniform(-7, -2) * rng.normal(size=n)
    if rng.random() < 0.3:
        kinds.append("units of y")
        y = 10.0 ** rng.uniform(-12, 12) * (10.0 ** rng.uniform(-4, 8) + y)
    if rng.random() < 0.3:
        kinds.append("units of x")
        unit, offset = 10.0 ** rng.uniform(-12, 12), 10.0 ** rng.uniform(-4, 8)
        x, twice = unit * (offset + x), unit * (offset + twice)
    data = pd.DataFrame({"y": y, "x": x, "z": z, "f": f, "g": g, "h": h, "k": rng.integers(0, 4, n), "twice": twice})
    kinds += _coarsen(rng, data)
    if rng.random() < 0.25:
        kinds.append("missing")
        for column in rng.choice(["y", "x", "z", "g"], 2, replace=False):
            data[column] = data[column].where(rng.random(n) > 0.1)
    weights = None
    if rng.random() < 0.3:
        weights = "w"
        kinds.append("weights")
        data["w"] = 10.0 ** rng.uniform(-1, 1, n) if rng.random() < 0.7 else 10.0 ** rng.uniform(-4, 4, n)
    fixed = str(rng.choice(FIXED))
    return Model(f"y ~ {fixed} + {random}", data, bool(rng.random() < 0.6), weights, tuple(kinds))


def _coarsen(rng: np.random.Generator, data: pd.DataFrame) -> list[str]:
    """Some columns with fewer digits: single precision, or whole numbers."""
    kinds = []
    if rng.random() < 0.1:
        kinds.append("float32")
        data[["x", "z"]] = data[["x", "z"]].astype(np.float32)
    if rng.random() < 0.1 and data["y"].std() < 1e6:
        kinds.append("integers")
        data["y"] = np.round(data["y"] * 10.0 ** rng.integers(0, 3)).astype(np.int64)
    return kinds


def _groups(rng: np.random.Generator, design: str, n: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Codes of two factors, and random terms for them."""
    L = int(rng.integers(2, max(3, min(60, n // 2))))
    g, h = rng.integers(0, L, n), rng.integers(0, int(rng.integers(2, 12)), n)
    if design == "crossed":
        return np.arange(n) % L, np.arange(n) // L % 7, str(rng.choice(OF_TWO))
    if design == "nested":
        return g, h, str(rng.choice(["(1 | g/h)", "(x | g/h)", "(1 | g) + (x | g:h)"]))
    if design == "partly crossed":
        return g, (g // 3 + rng.integers(0, 2, n)) % 9, str(rng.choice(OF_TWO))
    if design == "chain":
        return g // 4, g, "(1 | g) + (1 | h)"
    if design == "three":
        return g, h, str(rng.choice(OF_THREE))
    if design == "singletons":
        return np.where(rng.random(n) < 0.6, np.arange(n), 0), h, str(rng.choice(OF_ONE[:3]))
    if design == "giant":
        return np.where(rng.random(n) < 0.8, 0, g), h, str(rng.choice(OF_ONE))
    return g, h, str(rng.choice(OF_ONE))


def _sizes(rng: np.random.Generator) -> np.ndarray:
    """SDs of intercepts and slopes: none, hardly any, moderate, large."""
    return rng.choice([0.0, 0.0, 0.01, 0.3, 1.0, 30.0], 2)


def fit(model: Model) -> Any:
    """The fitted model, warnings aside; a ValueError that says why there is none is passed on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return lmer(model.formula, model.data, reml=model.reml, weights=model.weights)


def rounding(fitted: Any) -> float:
    """About how well the criterion and its slopes can be known.

    r² = y'Py is a difference of numbers as large as y'y, here n, and Z'PZ one of numbers as large as nTT'.
    """
    criterion = fitted.criterion_function
    largest = np.abs(unitless(criterion, fitted.theta)).max()
    return 4e-16 * criterion.cp.n * max(criterion.nu / fitted.optimum.evaluation.solution.r2, largest**2)


def violation(fitted: Any) -> tuple[float, float]:
    """How far the fit is from the optimality conditions, whatever the library says of its convergence.

    Both are in units of the criterion.  The first number is half the squared Newton decrement: what one more Newton step would bring, by the average-information matrix
    or the exact Hessian, whichever promises more; each variance is measured in units of itself or of σ², whatever is larger.  The second is what steps in the
    steepest direction of a singular block bring: in a zero variance, in which the gradient of θ vanishes.
    """
    inside = fitted.criterion_function.unitless()
    theta = unitless(fitted.criterion_function, fitted.theta)
    now = inside.evaluate(theta, 1)
    unit, gain = np.ones(len(theta)), 0.0
    for t, G in zip(inside.cp.templates, now.G, strict=True):
        T = t.factor(now.theta)
        unit[t.index] = np.sqrt(1 + (T**2).sum(axis=1))[t.rows]
        for start, stop in t.blocks:
            own = slice(start, stop)
            if np.abs(np.diag(T)[own]).min() < 1e-4:
                steepest = np.linalg.eigh(G[own, own])[1][:, 0]
                for length in (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3):
                    larger, other = T.copy(), theta.copy()
                    larger[own, own] = canonical(np.column_stack([T[own, own], length * steepest]))
                    other[t.index] = larger[t.rows, t.cols]
                    gain = max(gain, now.value - inside.evaluate(other).value)
    decrement = 0.0
    for hessian in (now.hessian, inside.evaluate(theta, 2).hessian):
        values, vectors = np.linalg.eigh(hessian * np.outer(unit, unit))
        along = vectors.T @ (unit * now.gradient)
        gains = along**2 / np.maximum(np.abs(values), 1e-8 * np.abs(values).max())
        decrement = max(decrement, float(gains.sum() / 2))
    return decrement, gain


def shortfall(fitted: Any, seed: int, restarts: int = RESTARTS) -> float:
    """By how much the best of some random starts is better (0 where none is)."""
    criterion, rng = fitted.criterion_function, np.random.default_rng(seed)
    starts = [random_theta(criterion, rng) * rng.choice([0.05, 0.3, 2.0]) for _ in range(restarts)]
    best = min((_minimum(criterion, start) for start in starts), default=np.inf)
    return max(0.0, fitted.criterion - best)


def _minimum(criterion: Any, start: np.ndarray) -> float:
    """Where a search from a start ends; infinity where it starts beyond what can be computed."""
    try:
        return minimize(criterion, start).evaluation.value
    except ValueError:
        return np.inf
