"""Power by simulation against power that is known, and designs extended level by level."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from random_models import random_data
from scipy import stats

from lmmlite import lmer, load_dataset
from lmmlite.power import extend, power


@pytest.fixture(scope="module")
def sleep():
    return lmer("Reaction ~ Days + (1 | Subject)", load_dataset("sleepstudy"))


def test_power_of_a_within_group_slope(sleep):
    """The estimate is normal with a standard error that is known, whatever the number of subjects."""
    for subjects, slope in ((18, 1.5), (30, 1.5), (9, 2.0)):
        se = sleep.se["Days"] * np.sqrt(18 / subjects)
        expected = stats.norm.sf(stats.norm.ppf(0.975) - slope / se) + stats.norm.cdf(
            -stats.norm.ppf(0.975) - slope / se
        )
        found = power(sleep, "Days", 300, seed=1, effects={"Days": slope}, along="Subject", levels=subjects)
        assert found.nobs == 10 * subjects
        assert abs(found.estimate - expected) < 4 * np.sqrt(expected * (1 - expected) / 300)
        assert found.lower < found.estimate < found.upper


def test_size_and_exact_interval(sleep):
    found = power(sleep, "Days", 200, seed=2, effects={"Days": 0.0}, alpha=0.1)
    k = int((found.p_values < 0.1).sum())
    assert found.estimate == k / 200
    ends = [stats.beta.ppf(0.025, k, 201 - k), stats.beta.ppf(0.975, k + 1, 200 - k)]  # Clopper & Pearson (1934)
    assert_allclose([found.lower, found.upper], ends)
    assert found.lower < 0.1 < found.upper


def test_any_test_and_any_number_of_jobs(sleep):
    def likelihood_ratio(model):
        smaller = model.refit_ml().update(". ~ . - Days")
        return stats.chi2.sf(smaller.criterion - model.refit_ml().criterion, 1)

    options = {"seed": 5, "effects": {"Days": 2.0}, "along": "Subject", "levels": 20}
    one = power(sleep.refit_ml(), likelihood_ratio, 20, **options)
    two = power(sleep.refit_ml(), likelihood_ratio, 20, n_jobs=2, **options)
    assert (one.p_values == two.p_values).all()
    wald = power(sleep.refit_ml(), "Days", 20, **options)
    assert_allclose(stats.norm.isf(one.p_values / 2), stats.norm.isf(wald.p_values / 2), rtol=0.1)


def test_failures_do_not_reject(sleep):
    def fragile(model):
        if model.fixef["Days"] > 10.4673:
            raise ValueError("too steep")
        return 0.0

    with pytest.warns(UserWarning, match="replicates failed"):
        found = power(sleep, fragile, 40, seed=1)
    assert 0 < len(found.failures) < 40
    assert found.estimate == 1 - len(found.failures) / 40


def test_extended_design_repeats_whole_levels():
    data = random_data(1, 80)
    data.loc[[3, 7], "x"] = np.nan
    fit = lmer("y ~ x + (z | a / b) + (1 | h)", data, weights="w", offset="o")
    larger = extend(fit, "a", 10)
    assert list(larger.ngroups.index) == list(fit.ngroups.index)
    assert larger.ngroups["a"] == 10
    assert larger.ngroups["h"] == fit.ngroups["h"]
    a, nested = (fit.design.groups[list(fit.ngroups.index).index(name)] for name in ("a", "a:b"))
    sizes = np.bincount(a.codes)
    assert larger.nobs == 2 * fit.nobs + sizes[0] + sizes[1]
    repeated = [len(np.unique(nested.codes[a.codes == number % 4])) for number in range(10)]
    assert larger.ngroups["a:b"] == sum(repeated)
    again = lmer("y ~ x + (z | a / b) + (1 | h)", larger.data, weights="w", offset="o")
    assert_allclose(
        again.criterion_function.evaluate(fit.theta).value, larger.criterion_function.evaluate(fit.theta).value
    )
    assert set(map(str, a.labels)) < set(larger.design.groups[list(fit.ngroups.index).index("a")].labels)


def test_twice_the_levels_halve_the_variance():
    fit = lmer("strength ~ 1 + (1 | batch) + (1 | sample)", load_dataset("pastes"), reml=False)
    larger = extend(fit, "batch", 20)
    assert list(larger.ngroups) == [20, 60]  # sample is nested in batch, though its labels do not say so
    at = larger.criterion_function.evaluate(fit.theta)
    basis, q = at.solution.cp.basis, at.solution.cp.rest.q
    variance = basis.to_user @ at.solution.G[q:, q:] @ basis.to_user.T
    assert_allclose(fit.sigma**2 * variance[0, 0], fit.vcov.iloc[0, 0] / 2)


def test_errors_say_what_to_do(sleep):
    with pytest.raises(ValueError, match="no fixed effect 'Dose' to change; it has Intercept, Days"):
        power(sleep, "Days", 10, effects={"Dose": 1.0})
    with pytest.raises(ValueError, match="no fixed effect 'days' to test"):
        power(sleep, "days", 10)
    with pytest.raises(ValueError, match="needs both"):
        power(sleep, "Days", 10, along="Subject")
    with pytest.raises(ValueError, match="'Days' is no grouping factor of the model; it has Subject"):
        power(sleep, "Days", 10, along="Days", levels=20)
    with pytest.raises(ValueError, match="at least 2 levels"):
        power(sleep, "Days", 10, along="Subject", levels=1)
