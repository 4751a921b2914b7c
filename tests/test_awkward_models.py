"""Models that are easily got wrong: several minima, one factor by two names, weights in any unit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from random_models import random_data

from lmmlite import lmer, minimize


def _uneven(seed: int, ratio: float, slope: float) -> pd.DataFrame:
    """Eight groups in which x varies widely and slopes hardly, two in which x varies little and slopes much."""
    rng = np.random.default_rng(seed)
    h = np.r_[np.repeat(range(8), 20), np.repeat([8, 9], 12)]
    x = np.where(h < 8, ratio, 1.0) * rng.normal(size=len(h))
    slopes = np.where(np.arange(10) < 8, 0.3 / ratio * rng.normal(size=10), slope * (-1.0) ** np.arange(10))
    g = rng.permutation(np.arange(len(h)) % 40)
    y = 1 + slopes[h] * x + 0.7 * rng.normal(size=40)[g] + rng.normal(size=len(h))
    return pd.DataFrame({"h": h, "g": g, "x": x, "y": y})


@pytest.mark.parametrize("formula", ["y ~ x + (0 + x | h)", "y ~ x + (1 | g) + (0 + x | h)"])
@pytest.mark.parametrize("seed", range(4))
def test_a_second_valley_of_the_criterion_is_found(formula: str, seed: int) -> None:
    for ratio, slope in ((30.0, 2.5), (10.0, 2.0)):
        fit = lmer(formula, _uneven(seed, ratio, slope))
        best = min(
            minimize(fit.criterion_function, np.r_[fit.theta[:-1], t]).evaluation.value for t in (0.003, 0.1, 1.0, 10.0)
        )
        assert fit.criterion <= best + 1e-6


def test_singletons_beside_large_groups() -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        y = np.r_[np.repeat(0.05 * rng.normal(size=8), 100) + rng.normal(size=800), 5, -5]
        fit = lmer("y ~ 1 + (1 | g)", pd.DataFrame({"y": y, "g": np.r_[np.repeat(range(8), 100), 8, 9]}))
        best = min(minimize(fit.criterion_function, [t]).evaluation.value for t in (0.01, 0.1, 1.0, 10.0))
        assert fit.criterion <= best + 1e-6


@pytest.mark.parametrize("random", ["(1 | g:h) + (1 | both)", "(1 | g) + (1 | name)", "(x | g) + (x | name)"])
@pytest.mark.parametrize("source", [lambda d: d, lambda d: [d]])
def test_one_grouping_factor_by_two_names_is_refused(random, source) -> None:
    data = random_data(3, 400)
    data = data.assign(both=data["g"].astype(str) + "_" + data["h"].astype(str), name="n" + data["g"].astype(str))
    with pytest.raises(ValueError, match="by another name"):
        lmer(f"y ~ x + {random}", source(data))
    lmer("y ~ x + (1 | g) + (0 + x | name)", source(data))  # different coefficients may


@pytest.mark.parametrize("unit", [1e-8, 1e8, 1e12])
@pytest.mark.parametrize("source", [lambda d: d, lambda d: [d]])
def test_the_unit_of_weights_changes_the_residual_variance_alone(unit, source) -> None:
    data = random_data(4, 300).assign(w=np.random.default_rng(0).uniform(0.5, 2, 300))
    for formula in ("y ~ x + (1 | g)", "y ~ x + (x | g) + (1 | h)"):
        here = lmer(formula, source(data), weights="w")
        there = lmer(formula, source(data.assign(w=unit * data["w"])), weights="w")
        assert here.is_singular == there.is_singular
        np.testing.assert_allclose(there.criterion, here.criterion, rtol=1e-10)
        np.testing.assert_allclose(there.se, here.se, rtol=1e-7)
        np.testing.assert_allclose(there.sigma, here.sigma * np.sqrt(unit), rtol=1e-7)
        np.testing.assert_allclose(there.theta, here.theta / np.sqrt(unit), rtol=1e-5, atol=1e-5 / np.sqrt(unit))


@pytest.mark.parametrize("random", ["(x + x2 | g)", "(x | g) + (0 + x2 | g)", "(1 | g) + (0 + f | g)"])
@pytest.mark.parametrize("source", [lambda d: d, lambda d: [d]])
def test_linearly_dependent_random_coefficients_are_refused(random, source) -> None:
    data = random_data(3, 400)
    data["x2"] = 2 * data["x"] + 1
    with pytest.raises(ValueError, match="of 'g' are linearly dependent"):
        lmer(f"y ~ x + {random}", source(data))
    for fine in ("(1 | g) + (0 + f || g)", "(0 + x | g) + (0 + x2 | g)", "(x | g) + (0 + z | g)"):
        lmer(f"y ~ x + {fine}", source(data))
