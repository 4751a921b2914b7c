"""Models of every kind from a seed, and what must hold of each: an optimum that nothing beats, or an error that says why.

Used by `test_campaign` (300 of them) and by ``make campaign`` (5,000, with peers).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from random_models import random_theta

from lmmlite import lmer, minimize
from lmmlite.optimize import unitless

DESIGNS = ("one", "crossed", "nested", "partly crossed", "chain", "singletons", "giant")
FIXED = ("1", "x", "x + z", "x * f", "f", "0 + f", "poly(x, 2)", "x + z + twice")
OF_ONE = (
    "(1 | g)",
    "(x | g)",
    "(0 + x | g)",
    "(x || g)",
    "(x + z | g)",
    "(f | g)",
    "(0 + f || g)",
    "(1 | g) + (0 + x | g)",
    "(poly(x, 2) | g)",
)
OF_TWO = ("(1 | g) + (1 | h)", "(x | g) + (1 | h)", "(x | g) + (z | h)", "(x || g) + (x || h)", "(1 | g) + (0 + z | h)")
RESTARTS = 10
WORSE = 1e-6  # of the criterion, in which a log-likelihood unit is 2
TOLERATED = 1e-6  # of the Newton decrement: what one more Newton step would bring


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
    between = rng.random() < 0.2
    x = rng.normal(size=n)[g] if between else x  # a covariate of the groups
    size = {k: _sizes(rng) for k in "gh"}
    u, v = (rng.normal(size=(n, 2)) for _ in "gh")
    if rng.random() < 0.2:
        u[:, 1] = u[:, 0]  # intercepts and slopes perfectly correlated
    noise = float(rng.choice([1.0, 1.0, 0.1, 1e-2]))
    y = 1 + 0.5 * x + size["g"][0] * u[g, 0] + size["g"][1] * u[g, 1] * x
    y = y + size["h"][0] * v[h, 0] + size["h"][1] * v[h, 1] * z + noise * rng.normal(size=n)
    kinds = [design, *(["covariate of the groups"] if between else []), *(["little noise"] if noise < 1 else [])]
    if rng.random() < 0.3:
        unit, offset = 10.0 ** rng.uniform(-6, 6, 2)
        y, kinds = offset + unit * y, [*kinds, "units of y"]
    if rng.random() < 0.3:
        unit, offset = 10.0 ** rng.uniform(-4, 4, 2)
        x, kinds = offset + unit * x, [*kinds, "units of x"]
    data = pd.DataFrame({"y": y, "x": x, "z": z, "f": f, "g": g, "h": h, "twice": 2 * x - 1})
    if rng.random() < 0.25:
        kinds.append("missing")
        for column in rng.choice(["y", "x", "z", "g"], 2, replace=False):
            data[column] = data[column].where(rng.random(n) > 0.1)
    weights = None
    if rng.random() < 0.3:
        weights, kinds = "w", [*kinds, "weights"]
        data["w"] = 10.0 ** rng.uniform(-1, 1, n) if rng.random() < 0.7 else 10.0 ** rng.uniform(-4, 4, n)
    fixed = str(rng.choice(FIXED))
    return Model(f"y ~ {fixed} + {random}", data, bool(rng.random() < 0.6), weights, tuple(kinds))


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


def shortfall(fitted: Any, seed: int, restarts: int = RESTARTS) -> tuple[float, float]:
    """What one Newton step would bring, and by how much the best of some random starts is better (0 where none is)."""
    criterion, rng = fitted.criterion_function, np.random.default_rng(seed)
    inside = criterion.unitless().evaluate(unitless(criterion, fitted.theta), 2)
    values, vectors = np.linalg.eigh(inside.hessian)
    along = vectors.T @ inside.gradient
    decrement = float((along**2 / np.maximum(np.abs(values), 1e-8 * np.abs(values).max() + 1e-300)).sum() / 2)
    starts = [random_theta(criterion, rng) * rng.choice([0.05, 0.3, 2.0]) for _ in range(restarts)]
    best = min((_minimum(criterion, start) for start in starts), default=np.inf)
    return decrement, max(0.0, fitted.criterion - best)


def _minimum(criterion: Any, start: np.ndarray) -> float:
    """Where a search from a start ends; infinity where it starts beyond what can be computed."""
    try:
        return minimize(criterion, start).evaluation.value
    except ValueError:
        return np.inf
