"""What must not change a fit, and what must change it in a known way, on random unbalanced designs."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_models import FORMULAS, random_data

from lmmlite import lmer

seeds = st.integers(0, 10**6)
models = st.sampled_from(FORMULAS)
some = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def grid_data(seed):
    """Data whose response stands on a 2⁻²⁰ grid, so that adding 1e8 to it rounds nothing."""
    data = random_data(seed)
    return data.assign(y=np.round(data["y"] * 2**20) / 2**20)


def assert_same_fit(one, other, scale_y=1.0, tolerance=1e-9):
    """The same estimates (those of ``other`` times scale_y), to a tolerance relative to their standard errors or sizes."""
    se = one.se.to_numpy()
    assert (
        np.abs(one.fixef - scale_y * other.fixef[one.fixef.index]).max()
        <= tolerance * max(1.0, abs(scale_y)) * 10 * se.max()
    )
    np.testing.assert_allclose(se, scale_y * other.se[one.se.index], rtol=tolerance)
    assert one.sigma == pytest.approx(scale_y * other.sigma, rel=tolerance)
    variances, others = one.varcorr["variance"].to_numpy(), other.varcorr["variance"].to_numpy() * scale_y**2
    assert np.abs(variances - others).max() <= 100 * tolerance * np.abs(variances).max()


@some
@given(models, seeds, st.booleans())
def test_adding_a_constant_to_y(formula, seed, reml):
    """A large offset moves the intercept and nothing else."""
    data = grid_data(seed)
    formula = formula.replace("0 + f", "f")
    one = lmer(formula, data, reml=reml)
    moved = lmer(formula, data.assign(y=data["y"] + 1e8), reml=reml)
    assert moved.criterion == pytest.approx(one.criterion, abs=1e-8)
    assert moved.fixef["Intercept"] - 1e8 == pytest.approx(one.fixef["Intercept"], abs=1e-7)
    np.testing.assert_allclose(moved.fixef.iloc[1:], one.fixef.iloc[1:], rtol=1e-9, atol=1e-9 * one.se.max())
    np.testing.assert_allclose(moved.theta, one.theta, rtol=1e-7, atol=1e-9)
    assert moved.sigma == pytest.approx(one.sigma, rel=1e-9)


@some
@given(models, seeds, st.sampled_from([1e-6, 1e6]), st.booleans())
def test_units_of_y(formula, seed, c, reml):
    data = random_data(seed)
    one, scaled = lmer(formula, data, reml=reml), lmer(formula, data.assign(y=c * data["y"]), reml=reml)
    nu = one.nobs - reml * len(one.fixef)
    assert scaled.criterion == pytest.approx(one.criterion + 2 * nu * np.log(c), abs=1e-7)
    np.testing.assert_allclose(scaled.fixef, c * one.fixef, rtol=1e-9, atol=1e-9 * c * one.se.max())
    np.testing.assert_allclose(scaled.theta, one.theta, rtol=1e-7, atol=1e-9)


@some
@given(seeds, st.sampled_from([1e-6, 1e6]), st.booleans())
def test_units_of_a_covariate(seed, c, reml):
    """x in other units, as a fixed effect and as a random slope."""
    data, formula = random_data(seed), "y ~ x + z + (x | g) + (1 | h)"
    one, scaled = lmer(formula, data, reml=reml), lmer(formula, data.assign(x=c * data["x"]), reml=reml)
    assert scaled.criterion == pytest.approx(one.criterion + reml * 2 * np.log(c), abs=1e-7)
    factor = pd.Series({"Intercept": 1.0, "x": 1 / c, "z": 1.0})
    np.testing.assert_allclose(scaled.fixef, one.fixef * factor, rtol=1e-8, atol=1e-9 * one.se.max())
    np.testing.assert_allclose(scaled.se, one.se * factor, rtol=1e-9)
    assert scaled.is_singular == one.is_singular
    np.testing.assert_allclose(scaled.fitted, one.fitted, rtol=1e-8)


@some
@given(models, seeds)
def test_order_of_rows(formula, seed):
    data = random_data(seed)
    one, other = lmer(formula, data), lmer(formula, data.sample(frac=1, random_state=seed))
    assert other.criterion == pytest.approx(one.criterion, abs=1e-8)
    assert_same_fit(one, other)
    np.testing.assert_allclose(other.fitted.sort_index(), one.fitted, rtol=1e-8)


@some
@given(models, seeds)
def test_names_and_order_of_levels(formula, seed):
    """Groups renamed, reordered, and with categories that no row has."""
    data = random_data(seed)
    order = [f"{g}!" for g in np.random.default_rng(seed).permutation(9)]
    named = data.assign(g=pd.Categorical(data["g"].astype(str) + "!", [*order, "nobody"]), h="h" + data["h"])
    one, other = lmer(formula, data), lmer(formula, named)
    assert other.criterion == pytest.approx(one.criterion, abs=1e-8)
    assert_same_fit(one, other)
    if "g" in one.ranef():
        b, c = one.ranef()["g"], other.ranef()["g"]
        assert list(c.index) == [level for level in order if int(level[:-1]) in b.index]
        np.testing.assert_allclose(c.loc[[f"{g}!" for g in b.index]], b, rtol=1e-6, atol=1e-7)


@some
@given(models, seeds)
def test_columns_that_are_constant_shifts(formula, seed):
    """Moving x moves intercepts, not predictions: the unstructured terms absorb it."""
    data = random_data(seed)
    if "||" in formula or "0 +" in formula:
        return
    one, moved = lmer(formula, data), lmer(formula, data.assign(x=data["x"] + 1000))
    assert moved.criterion == pytest.approx(one.criterion, abs=1e-7)
    np.testing.assert_allclose(moved.fitted, one.fitted, rtol=1e-8)


@some
@given(models, seeds, st.booleans())
def test_refitting_simulated_responses_converges(formula, seed, reml):
    fit = lmer(formula, random_data(seed), reml=reml)
    for _, y in fit.simulate(2, seed).items():
        again = fit.refit(y)
        assert again.converged
        assert_optimal(again)


@some
@given(models, seeds, st.booleans())
def test_optimality_conditions(formula, seed, reml):
    assert_optimal(lmer(formula, random_data(seed), reml=reml))


def assert_optimal(fit):
    """Zero gradient, and for singular blocks no direction in which a new variance would lower the criterion."""
    inside = fit.criterion_function.unitless()
    phi = np.concatenate([step["theta"] for step in fit.optimum.steps[-1:]])
    best = inside.evaluate(phi, 1)
    assert fit.criterion <= best.value + 1e-8
    for g, t in enumerate(inside.cp.templates):
        own = np.linalg.inv(inside.cp.own_maps[g])
        G = own.T @ fit.optimum.evaluation.G[g] @ own
        T = inside.cp.own_maps[g] @ t.factor(fit.theta)
        for start, stop in t.blocks:
            block = slice(start, stop)
            slope = 2 * G[block, block] @ T[block, block]
            assert np.abs(slope).max() <= 1e-4 * np.sqrt(fit.nobs)
            if (np.diag(T)[block] == 0).any():
                assert np.linalg.eigvalsh(G[block, block])[0] >= -1e-6 * (1 + np.abs(G[block, block]).max())


@some
@given(models, seeds)
def test_no_start_beats_the_optimum(formula, seed):
    fit, rng = lmer(formula, random_data(seed)), np.random.default_rng(seed)
    for _ in range(3):
        start = rng.normal(size=len(fit.theta)) / 5
        other = lmer(formula, random_data(seed), start=start)
        assert fit.criterion <= other.criterion + 1e-6
