"""Where the search starts: variances had without a search are near those it finds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmmlite import build_design, crossproducts, load_dataset, minimize, parse_formula
from lmmlite.criterion import Criterion
from lmmlite.crossproducts import CrossProducts
from lmmlite.start import backfitted, moments, starting_theta


def _products(formula: str, data: pd.DataFrame) -> CrossProducts:
    return crossproducts(build_design(parse_formula(formula), data))


def _optimum(cp: CrossProducts) -> list[np.ndarray]:
    """diag(TT') of each grouping factor at the optimum, without units."""
    theta = minimize(Criterion(cp)).steps[-1]["theta"]
    return [(t.factor(theta) ** 2).sum(axis=1) for t in cp.templates]


def _crossed(rng: np.random.Generator, n: int = 30_000) -> pd.DataFrame:
    """Two crossed factors; x is 0 or 1 and hardly varies within many levels of b, so that its slopes lean on the intercepts."""
    a, b = rng.integers(0, 500, n), rng.integers(0, 400, n)
    x = (rng.random(n) < rng.beta(0.3, 0.3, 400)[b]).astype(float)
    y = 0.6 * rng.normal(size=500)[a] + 0.8 * rng.normal(size=400)[b] + 0.4 * rng.normal(size=400)[b] * x
    return pd.DataFrame({"y": y + rng.normal(size=n), "a": a, "b": b, "x": x})


@pytest.mark.parametrize(
    "formula", ["y ~ x + (1 | a) + (1 + x | b)", "y ~ x + (x | a) + (1 | b)", "y ~ (1 | a) + (1 | b)"]
)
def test_backfitted_variances_are_near_the_optimum(formula: str) -> None:
    cp = _products(formula, _crossed(np.random.default_rng(1)))
    assert cp.rest.q > 300
    for found, best in zip(backfitted(cp), _optimum(cp), strict=True):
        np.testing.assert_allclose(found, best, rtol=0.2, atol=0.01)


def test_a_large_crossed_model_needs_few_evaluations() -> None:
    cp = _products("y ~ x + (1 | a) + (1 + x | b)", _crossed(np.random.default_rng(2)))
    assert len(minimize(Criterion(cp)).steps) <= 6


def test_moments_of_a_balanced_one_way_layout_are_those_of_the_analysis_of_variance() -> None:
    rng, L, m = np.random.default_rng(3), 60, 8
    y = 0.7 * np.repeat(rng.normal(size=L), m) + rng.normal(size=L * m)
    cp = _products("y ~ 1 + (1 | g)", pd.DataFrame({"y": y, "g": np.repeat(np.arange(L), m)}))
    groups = y.reshape(L, m)
    within = groups.var(axis=1, ddof=1).mean()
    for reml in (True, False):
        between = m * groups.mean(axis=1).var(ddof=int(reml))
        np.testing.assert_allclose(moments(cp, reml)[0], (between / within - 1) / m, rtol=1e-9)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("sleepstudy", "Reaction ~ Days + (Days | Subject)"),
        ("dyestuff", "Yield ~ 1 + (1 | Batch)"),
        ("machines", "score ~ Machine + (Machine | Worker)"),
    ],
)
def test_in_a_balanced_design_the_start_is_the_optimum(name: str, formula: str, reml: bool) -> None:
    criterion = Criterion(_products(formula, load_dataset(name)), reml)
    assert len(minimize(criterion).steps) == 1
    away = minimize(criterion, np.ones(criterion.size))
    assert len(away.steps) > 1
    np.testing.assert_allclose(minimize(criterion).theta, away.theta, rtol=1e-6, atol=1e-7)


def test_balanced_crossed_factors_start_at_the_optimum_of_reml() -> None:
    criterion = Criterion(_products("diameter ~ 1 + (1 | plate) + (1 | sample)", load_dataset("penicillin")))
    assert len(minimize(criterion).steps) == 1


@pytest.mark.parametrize("formula", ["y ~ x + (x | g)", "y ~ x + (x || g)", "y ~ x + (1 | g) + (0 + x | g)"])
def test_a_start_is_moderate_in_every_direction_of_a_block(formula: str) -> None:
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"y": rng.normal(size=300), "x": rng.normal(size=300), "g": rng.integers(0, 30, 300)})
    for y in (data.y, data.y + 1e4 * rng.normal(size=30)[data.g]):
        criterion = Criterion(_products(formula, data.assign(y=y)))
        template = criterion.cp.templates[0]
        T = template.factor(starting_theta(criterion))
        for start, stop in template.blocks:
            sizes = np.linalg.svd(T[start:stop, start:stop], compute_uv=False)
            assert (sizes >= 0.1 * (1 - 1e-9)).all()
            assert (sizes <= 10 * (1 + 1e-9)).all()
