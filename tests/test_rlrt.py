"""Exact tests of a variance against RLRsim, dense matrices, and refits to simulated responses."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import eigh
from scipy.stats import ks_2samp

from lmmlite import lmer, load_dataset
from lmmlite import textbook as tb
from lmmlite.inference.rlrt import exact_lrt, exact_rlrt, simulate_null, spectrum, supremum

REFERENCE = json.loads((Path(__file__).parent / "reference" / "compare.json").read_text())
DRAWS = 100_000


def small_data(seed=2):
    """48 rows in 9 groups of unequal size, two covariates, weights."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(9), [2, 3, 3, 4, 5, 6, 7, 8, 10])
    n = len(g)
    data = pd.DataFrame({"g": g, "x": rng.normal(20, 2, n), "z": rng.normal(size=n), "w": rng.uniform(0.3, 3, n)})
    return data.assign(y=rng.normal(size=9)[g] + rng.normal(size=n))


def same_distribution(case, simulated):
    """Quantiles and mass at zero of RLRsim's draws, both samples of 100,000, within four standard errors."""
    for level, quantile in zip(REFERENCE["levels"], case["quantiles"], strict=True):
        if quantile > 1e-6:
            error = np.sqrt(2 * level * (1 - level) / DRAWS)
            assert (simulated <= quantile).mean() == pytest.approx(level, abs=4 * error)
    # RLRsim's grid begins at e^-10, so a few of its zeros are tiny positive values
    assert (simulated < 1e-10).mean() == pytest.approx(case["zero"], abs=4 * np.sqrt(0.5 / DRAWS))


def names(case):
    return f"{case['dataset']}: {case['formula'].split('~')[1]} / {case['null']}"


# --- RLRsim --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", REFERENCE["rlrt"], ids=names)
def test_rlrt_is_that_of_rlrsim(case):
    data = load_dataset(case["dataset"])
    models = [lmer(case[role], data) for role in ("formula", "alone", "null") if case[role]]
    test = exact_rlrt(*models, n=DRAWS, seed=3)
    assert test.statistic == pytest.approx(case["statistic"], abs=1e-6)
    same_distribution(case, test.simulated)
    if case["statistic"] > 1e-6:
        error = np.sqrt(2 * max(case["p"], 1e-5) / DRAWS)
        assert test.p_value == pytest.approx(case["p"], abs=4 * error)
    else:  # RLRsim has 5.7e-14 for the statistic, above all draws that are 0
        assert (test.statistic, test.p_value) == (0.0, 1.0)


@pytest.mark.parametrize("case", REFERENCE["lrt"], ids=names)
def test_lrt_is_that_of_rlrsim(case):
    model = lmer(case["formula"], load_dataset(case["dataset"]), reml=False)
    test = exact_lrt(model, case["null"], n=DRAWS, seed=3)
    assert test.statistic == pytest.approx(case["statistic"], abs=1e-6)
    assert test.p_value == pytest.approx(case["p"], abs=4 * np.sqrt(2 * max(case["p"], 1e-5) / DRAWS))
    same_distribution(case, test.simulated)


def test_no_p_value_below_what_10000_draws_can_give():
    model = lmer("extro ~ open + agree + social + (1 | school)", load_dataset("schools"))
    lrt, rlrt = exact_lrt(model, seed=1), exact_rlrt(model, seed=1)
    assert lrt.p_value == rlrt.p_value == 1 / 10001
    assert (lrt.note, rlrt.note) == ("m1 was refitted by ML.", "")
    assert repr(lrt).startswith("LRT = 2957.99, p = 9.999e-05 (10000 simulated values, ")
    by_ml = model.refit_ml()
    assert exact_lrt(by_ml, seed=1).statistic == pytest.approx(lrt.statistic, abs=1e-8)
    assert exact_rlrt(by_ml, seed=1).statistic == pytest.approx(rlrt.statistic, abs=1e-8)
    assert exact_rlrt(by_ml, seed=1).note == "ML fits were refitted by REML."


# --- The spectral representation -----------------------------------------------------------------------------------------
SCALAR = ["y ~ x + (1 | g)", "y ~ x + z + (0 + z | g)", "y ~ 0 + x + (0 + x | g)", "y ~ 0 + (1 | g)"]


def dense(model):
    """Z and X of the model after multiplication by √w."""
    root = 1.0 if model.design.weights is None else np.sqrt(model.design.weights)[:, None]
    return root * model.design.Z.toarray(), root * model.design.X


@pytest.mark.parametrize("weights", [None, "w"])
@pytest.mark.parametrize("formula", SCALAR)
def test_eigenvalues_from_cross_products(formula, weights):
    model = lmer(formula, small_data(), weights=weights)
    Z, X = dense(model)
    K = tb.error_contrasts(X) if X.shape[1] else np.eye(len(X))
    xi = np.sort(np.linalg.svd(Z, compute_uv=False) ** 2)
    mu = np.sort(np.linalg.svd(K.T @ Z, compute_uv=False) ** 2)
    found = spectrum(model.criterion_function.cp)
    np.testing.assert_allclose(np.sort(np.repeat(found.xi, found.xi_count)), xi / xi.max(), rtol=1e-10)
    mu = mu[mu > 1e-9 * xi.max()]
    np.testing.assert_allclose(np.sort(np.repeat(found.mu, found.mu_count)), mu / xi.max(), rtol=1e-8)


def test_balanced_designs_have_few_distinct_eigenvalues():
    found = spectrum(lmer("Reaction ~ Days + (1 | Subject)", load_dataset("sleepstudy")).criterion_function.cp)
    assert found.xi.tolist() == [1.0]
    assert found.xi_count.tolist() == [18]
    assert found.mu_count.sum() == 17  # one direction is the fixed intercept
    assert len(found.mu) <= 2
    many = lmer("y ~ 1 + (1 | s)", load_dataset("insteval"))
    found = spectrum(many.criterion_function.cp)
    assert found.mu_count.sum() == 2971
    assert len(found.mu) < 200


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("weights", [None, "w"])
@pytest.mark.parametrize("formula", SCALAR[:3])
def test_each_draw_is_the_statistic_of_a_refit(formula, weights, reml):
    """The supremum for the w_s that belong to a response is the (restricted) likelihood ratio of its fit."""
    model = lmer(formula, small_data(), weights=weights, reml=reml)
    Z, X = dense(model)
    cp, K = model.criterion_function.cp, tb.error_contrasts(X)
    values, vectors = eigh(K.T @ Z @ Z.T @ K)
    found, root = spectrum(cp), 1.0 if weights is None else np.sqrt(model.design.weights)
    size = (np.linalg.svd(Z, compute_uv=False) ** 2).max()
    assert (found.mu_count == 1).all()
    place = np.argmin(np.abs(values[:, None] / size - found.mu), axis=0)
    rng = np.random.default_rng(9)
    for strength in np.array([0.0] * 15 + [1.0] * 5 + [3.0] * 5 + [100.0] * 5) / np.sqrt(size):
        y = rng.normal(size=len(X)) / root + strength * model.design.Z @ rng.normal(size=Z.shape[1])
        again = model.refit(y)
        null = again.criterion_function.evaluate([0.0]).value
        w2 = (vectors.T @ K.T @ (root * y)) ** 2
        left = w2.sum() - w2[place].sum()
        got = supremum(found, w2[None, place], np.array([left]), cp.n - cp.p * reml, reml)[0]
        assert got == pytest.approx(null - again.criterion, abs=1e-6)


@pytest.mark.parametrize("reml", [True, False])
def test_draws_have_the_distribution_of_refits(reml):
    model = lmer("y ~ x + (1 | g)", small_data(), reml=reml)
    rng, refits = np.random.default_rng(4), []
    for _ in range(450):
        again = model.refit(rng.normal(size=model.nobs))
        refits.append(again.criterion_function.evaluate([0.0]).value - again.criterion)
    refits = np.where(np.array(refits) > 1e-9, refits, 0.0)
    draws = simulate_null(model.criterion_function.cp, reml, 0, DRAWS, 5)
    assert (refits == 0).mean() == pytest.approx((draws == 0).mean(), abs=4 * np.sqrt(0.25 / 450))
    assert ks_2samp(refits[refits > 0], draws[draws > 0]).pvalue > 0.01


def test_lrt_with_fixed_effects_has_the_distribution_of_refits():
    data = small_data()
    model = lmer("y ~ x + z + (1 | g)", data, reml=False)
    null = lmer("y ~ 1 + (1 | g)", data, reml=False)
    rng, refits = np.random.default_rng(6), []
    for _ in range(450):
        y = rng.normal(size=model.nobs)
        refits.append(null.refit(y).criterion_function.evaluate([0.0]).value - model.refit(y).criterion)
    test = exact_lrt(model, "y ~ 1", n=DRAWS, seed=7)
    assert ks_2samp(refits, test.simulated).pvalue > 0.01
    expected = null.criterion_function.evaluate([0.0]).value - model.criterion
    assert test.statistic == pytest.approx(expected, abs=1e-8)


# --- Conduct -------------------------------------------------------------------------------------------------------------
def test_seeds_and_counts():
    model = lmer("normexam ~ standLRT + (1 | school)", load_dataset("exam"))
    one = exact_rlrt(model, seed=11)
    assert np.array_equal(one.simulated, exact_rlrt(model, seed=11).simulated)
    assert not np.array_equal(one.simulated, exact_rlrt(model, seed=12).simulated)
    assert (one.n, len(one.simulated)) == (10_000, 10_000)
    three = exact_rlrt(model, n=3, seed=1)
    assert three.p_value == 1 / 4
    assert (one.simulated >= 0).all()
    assert 0.4 < (one.simulated == 0).mean() < 0.7


def test_units_and_offsets_change_nothing():
    data = small_data()
    base = exact_rlrt(lmer("y ~ x + (0 + x | g)", data), n=500, seed=1)
    data = data.assign(y=1e3 * data["y"] + 5, x=1e-3 * data["x"])
    other = exact_rlrt(lmer("y ~ x + (0 + x | g)", data), n=500, seed=1)
    assert other.statistic == pytest.approx(base.statistic, abs=1e-6)
    np.testing.assert_allclose(other.simulated, base.simulated, atol=1e-7)


def test_what_cannot_be_tested_says_what_to_do():
    data = load_dataset("sleepstudy")
    full, double, one, slope = (
        lmer(f"Reaction ~ Days + {bar}", data)
        for bar in ("(Days | Subject)", "(Days || Subject)", "(1 | Subject)", "(0 + Days | Subject)")
    )
    for test in (exact_lrt, exact_rlrt):
        with pytest.raises(ValueError, match="correlated coefficients.*pb_compare"):
            test(full)
        with pytest.raises(ValueError, match="several variances.*m_alone.*pb_compare"):
            test(double)
        with pytest.raises(ValueError, match="at least 1, not 0"):
            test(one, n=0)
        with pytest.raises(TypeError, match="Fitted models"):
            test("Reaction ~ Days + (1 | Subject)")
    with pytest.raises(ValueError, match="both are needed"):
        exact_rlrt(double, slope)
    with pytest.raises(ValueError, match=r"m1 must be m0 with .* pb_compare"):
        exact_rlrt(full, slope, one)
    with pytest.raises(ValueError, match="m1 must be m0 with"):
        exact_rlrt(double, one, one)
    with pytest.raises(ValueError, match="same fixed effects"):
        exact_rlrt(double, slope, lmer("Reaction ~ 1 + (1 | Subject)", data))
    with pytest.raises(ValueError, match="different rows"):
        exact_rlrt(double, slope, lmer("Reaction ~ Days + (1 | Subject)", data.iloc[1:]))
    with pytest.raises(ValueError, match="not nested"):
        exact_lrt(lmer("Reaction ~ 1 + (1 | Subject)", data), "Reaction ~ Days")
    with pytest.raises(ValueError, match="without random terms"):
        exact_lrt(one, "Reaction ~ Days + (0 + Days | Subject)")
    with pytest.raises(ValueError, match="without random terms"):
        exact_lrt(one, "np.log(Reaction) ~ Days")
