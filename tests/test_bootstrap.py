"""Bootstrap: fast refits are the refits, draws have the moments they should, and the numbers depend on the seed alone."""

import importlib
import json
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from dask.distributed import Client, LocalCluster
from numpy.testing import assert_allclose
from random_models import FORMULAS, random_data
from scipy import stats

from lmmlite import lmer, load_dataset
from lmmlite.inference.bootstrap import Bootstrap, bootstrap, pb_compare
from lmmlite.inference.replicates import Responses, reflated, resampled
from lmmlite.prediction import draw
from lmmlite.tidy import parameters

REFERENCE = json.loads(Path(__file__).with_name("reference").joinpath("profile.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def sleep():
    return lmer("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy"))


# -- parameters and refits ----------------------------------------------------------------------------------------


def test_names_and_order(sleep):
    assert list(parameters(sleep).index) == [
        "sd_Intercept|Subject",
        "cor_Days.Intercept|Subject",
        "sd_Days|Subject",
        "sigma",
        "Intercept",
        "Days",
    ]
    assert_allclose(parameters(sleep), [24.74045, 0.06555, 5.92213, 25.59182, 251.40510, 10.46729], atol=1e-5)


@pytest.mark.parametrize("formula", FORMULAS)
def test_parameters_are_those_of_varcorr(formula):
    fit = lmer(formula, random_data(3, 90))
    p, v = parameters(fit), fit.varcorr
    sds = [
        f"sd_{t}|{g}" for g, t, u in v[["group", "term1", "term2"]].itertuples(index=False) if g != "Residual" and not u
    ]
    assert_allclose(p[sds], v.loc[(v["term2"] == "") & (v["group"] != "Residual"), "sd_or_corr"])
    cors = [f"cor_{u}.{t}|{g}" for g, t, u in v[["group", "term1", "term2"]].itertuples(index=False) if u]
    assert_allclose(p[cors], v.loc[v["term2"] != "", "sd_or_corr"])
    assert len(p) == fit.npar


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("options", [{}, {"weights": "w", "offset": "o", "reml": False}])
def test_fast_refit_is_the_refit(formula, options):
    fit = lmer(formula, random_data(5, 100), **options)
    responses, rng = Responses(fit), np.random.default_rng(1)
    y = rng.normal(fit.design.y, 2.0) * 3 - 1000
    cp, other = responses.crossproducts(y), lmer(formula, random_data(5, 100), **options).refit(y)
    assert_allclose(responses.refit(y).criterion, other.criterion, rtol=1e-10)
    for theta in rng.normal(size=(3, len(fit.theta))):
        ours = type(fit.criterion_function)(cp, fit.reml).evaluate(theta, 1)
        theirs = other.criterion_function.evaluate(theta, 1)
        assert_allclose(ours.value, theirs.value, rtol=1e-10)
        assert_allclose(ours.gradient, theirs.gradient, rtol=1e-6, atol=1e-6)


def test_refit_far_from_zero_keeps_its_digits():
    data = random_data(2)
    far = data.assign(x=data["x"] + 1e6, y=np.round(data["y"] * 2**20) / 2**20 + 1e8)
    fit = lmer("y ~ x + (1 | g)", far, reml=False)
    y = fit.design.y + np.round(np.random.default_rng(1).normal(size=len(far)) * 2**20) / 2**20
    assert_allclose(Responses(fit).refit(y).criterion, fit.refit(y).criterion, rtol=1e-10)


# -- draws --------------------------------------------------------------------------------------------------------


def test_parametric_draws_have_the_covariance_of_the_model():
    fit = lmer("y ~ x + (z | g)", random_data(4, 30), weights="w")
    rng, mean = np.random.default_rng(1), fit.predict(random=False).to_numpy()
    draws = np.array([draw(rng, fit, mean, fit._T, fit.sigma) for _ in range(20000)]) - mean
    (term,) = fit.design.terms
    Z = fit.design.term_Z(term).toarray()
    V = Z @ np.kron(np.eye(fit.ngroups["g"]), fit.covariances[0][2]) @ Z.T + np.diag(fit.sigma**2 / fit.design.weights)
    spread = np.sqrt(np.outer(np.diag(V), np.diag(V)) + V**2) / np.sqrt(20000)
    assert (np.abs(draws.T @ draws / 20000 - V) < 5 * spread).all()


def test_reflated_effects_and_residuals_have_the_estimated_variances():
    fit = lmer("y ~ x + (z | g) + (1 | h)", random_data(4, 200), weights="w")
    u, e = reflated(fit)
    for v, T in zip(u, fit._T, strict=True):
        assert_allclose(v.mean(axis=0), 0, atol=1e-12)
        assert_allclose(T @ (v.T @ v / len(v)) @ T.T, T @ T.T, atol=1e-10)
    assert_allclose([e.mean(), np.mean(e**2)], [0, fit.sigma**2], atol=1e-9)
    mean, rng = np.zeros(200), np.random.default_rng(2)
    draws = np.array([resampled(rng, fit, mean, u, e) for _ in range(4000)])
    model = np.array([draw(rng, fit, mean, fit._T, fit.sigma) for _ in range(4000)])
    assert_allclose(np.mean(draws**2, axis=0).mean(), np.mean(model**2, axis=0).mean(), rtol=0.05)


def test_reflated_singular_fit():
    fit = lmer("Yield ~ 1 + (1 | Batch)", load_dataset("dyestuff2"))
    u, _ = reflated(fit)
    assert (u[0] == 0).all()
    assert np.isfinite(bootstrap(fit, 20, seed=1, kind="residual").replicates).all(axis=None)


def test_means_of_replicates(sleep):
    """Estimates of a balanced design are unbiased: β̂ exactly, σ̂² by REML."""
    for kind in ("parametric", "residual"):
        b = bootstrap(sleep, 400, seed=3, kind=kind)
        error = b.replicates.std() / np.sqrt(400)
        fixed = ["Intercept", "Days"]
        assert (abs(b.replicates.mean() - b.estimate)[fixed] < 4 * error[fixed]).all()
        assert_allclose(b.replicates.std()[fixed], sleep.se, rtol=0.15)
        assert (b.replicates["sigma"] ** 2).mean() == pytest.approx(sleep.sigma**2, rel=0.05)


# -- reproducible -------------------------------------------------------------------------------------------------


def test_same_numbers_from_any_backend(sleep):
    def slope(model):
        return model.fixef["Days"]

    one = bootstrap(sleep, 70, slope, seed=11)
    assert list(one.replicates) == ["statistic"]
    for backend in ("threading", "loky"):
        with joblib.parallel_backend(backend, n_jobs=2):
            other = bootstrap(sleep, 70, slope, seed=11, n_jobs=None)
        pd.testing.assert_frame_equal(one.replicates, other.replicates)
    pd.testing.assert_frame_equal(one.replicates, bootstrap(sleep, 70, slope, seed=11, n_jobs=2).replicates)
    pd.testing.assert_frame_equal(one.replicates.head(10), bootstrap(sleep, 10, slope, seed=11).replicates)
    assert not one.replicates.equals(bootstrap(sleep, 70, slope, seed=12).replicates)


def test_progress_bar_and_missing_packages(sleep, capsys, monkeypatch):
    bootstrap(sleep, 3, seed=1, progress=True)
    assert "3/3" in capsys.readouterr().err
    bootstrap(sleep, 4, seed=1, n_jobs=2, progress=True)
    assert "4/4" in capsys.readouterr().err

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"n_jobs=2 needs joblib: pip install joblib"):
        bootstrap(sleep, 3, n_jobs=2)
    with pytest.raises(ImportError, match="progress=True needs tqdm"):
        bootstrap(sleep, 3, progress=True)


# -- statistics and failures --------------------------------------------------------------------------------------


def test_statistic_sees_the_new_response_everywhere(sleep):
    def check(model):
        smaller = model.update(". ~ . - Days")
        assert (smaller.design.y == model.design.y).all()
        return {"share": (model.data["Reaction"] == model.design.y).mean(), "rss": (model.residuals() ** 2).sum()}

    b = bootstrap(sleep, 4, check, seed=1)
    assert list(b.replicates) == ["share", "rss"]
    assert (b.replicates["share"] == 1).all()
    assert b.failures.empty


def test_failures_are_counted_and_shown(sleep):
    calls = []

    def fragile(model):
        calls.append(1)
        if len(calls) % 4 == 0:
            raise ZeroDivisionError("a bad day")
        return model.sigma

    with pytest.warns(UserWarning, match="5 of 20 replicates failed"):
        b = bootstrap(sleep, 20, fragile, seed=1)
    assert len(b.replicates) == 20
    assert list(b.failures.index) == [3, 7, 11, 15, 19]
    assert b.failures[3] == "ZeroDivisionError: a bad day"
    assert b.replicates["statistic"].isna().sum() == 5
    assert b.confint().notna().all(axis=None)

    def broken(model):
        raise TypeError("no such thing")

    with pytest.raises(RuntimeError, match="Every replicate failed; the first with TypeError: no such thing"):
        bootstrap(sleep, 3, broken)


def test_undefined_correlations_are_named():
    fit = lmer("y ~ x + (1 + x | Group)", load_dataset("labs"))
    b = Bootstrap(
        pd.Series({"cor": 0.1, "none": np.nan}),
        pd.DataFrame({"cor": [0.1, np.nan, 0.3], "none": [np.nan] * 3}),
        pd.Series(dtype=object),
        "parametric",
    )
    with pytest.warns(UserWarning, match="left out .*: cor 1, none 3"):
        ci = b.confint()
    assert ci.loc["none"].isna().all()
    assert parameters(fit)["cor_x.Intercept|Group"] == pytest.approx(-1)


def test_intervals_by_hand():
    values = np.random.default_rng(1).permutation(np.arange(1.0, 1000.0))
    b = Bootstrap(pd.Series({"t": 600.0}), pd.DataFrame({"t": values}), pd.Series(dtype=object), "parametric")
    assert_allclose(b.confint(0.95), [[25, 975]])
    assert_allclose(b.confint(0.95, "basic"), [[1200 - 975, 1200 - 25]])
    half = stats.norm.ppf(0.975) * values.std(ddof=1)
    assert_allclose(b.confint(0.95, "normal"), [[700 - half, 700 + half]])


def test_errors_say_what_to_do(sleep):
    with pytest.raises(ValueError, match="kind is 'parametric' or 'residual', not 'wild'"):
        bootstrap(sleep, 3, kind="wild")
    with pytest.raises(ValueError, match="n must be at least 1"):
        bootstrap(sleep, 0)
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        bootstrap(sleep, 3, seed=1).confint(95)
    with pytest.raises(ValueError, match="kind is 'percentile', 'basic' or 'normal'"):
        bootstrap(sleep, 3, seed=1).confint(kind="bca")


# -- the bootstrap test -------------------------------------------------------------------------------------------


def test_pbkrtest():
    data = load_dataset("sleepstudy")
    few = data[data["Subject"].astype(str).isin(["308", "309", "310", "330", "331"])]
    m1, m0 = (lmer(f"Reaction ~ {fixed} + (Days | Subject)", few) for fixed in ("Days", "1"))
    test, theirs = pb_compare(m0, m1, 500, seed=1), REFERENCE["bootstrap"]
    assert test.df == 1
    assert test.statistic == pytest.approx(theirs["statistic"], abs=1e-5)
    error = np.sqrt(theirs["p_value"] * (1 - theirs["p_value"]) * (1 / 500 + 1 / theirs["nsim"]))
    assert abs(test.p_value - theirs["p_value"]) < 4 * error
    error = theirs["sd"] * np.sqrt(1 / 500 + 1 / theirs["nsim"])
    assert abs(test.replicates.mean() - theirs["mean"]) < 4 * error
    assert test.p_value == (1 + (test.replicates >= test.statistic).sum()) / 501
    table = test.table
    assert list(table.index) == ["LRT", "bootstrap", "Bartlett", "gamma", "F"]
    assert table.loc["LRT", "p_value"] < table["p_value"].drop("LRT").min()


def test_approximations_match_the_moments_they_are_named_after():
    data = random_data(3, 30)
    test = pb_compare(lmer("y ~ 1 + (1 | a)", data), lmer("y ~ x + f + (1 | a)", data), 60, seed=1)
    row = test.table.loc["F"]
    assert test.df == 3
    assert_allclose(stats.f.mean(test.df, row["den_df"]) * test.df, test.replicates.mean())
    assert_allclose(test.table.loc["Bartlett", "statistic"], test.statistic * 3 / test.replicates.mean())


def test_null_p_values_are_uniform_enough():
    """Under the null of a fixed effect in a tiny design, where χ² rejects too often."""
    data = random_data(3, 24)
    base = lmer("y ~ 1 + (1 | a)", data, reml=False)
    rejected = []
    for i, y in enumerate(base.simulate(40, seed=4).to_numpy().T):
        now = data.assign(y=y)
        test = pb_compare(lmer("y ~ 1 + (1 | a)", now), lmer("y ~ x + f + (1 | a)", now), 19, seed=i)
        rejected.append(test.p_value <= 0.2)
    assert abs(np.mean(rejected) - 0.2) < 3.5 * np.sqrt(0.16 / 40)


def test_models_that_do_not_compare(sleep):
    data = load_dataset("sleepstudy")
    smaller = partial(lmer, "Reaction ~ 1 + (Days | Subject)")
    with pytest.raises(ValueError, match=r"different rows \(179 and 180"):
        pb_compare(smaller(data.iloc[1:]), sleep)
    with pytest.raises(ValueError, match="different responses"):
        pb_compare(smaller(data.assign(Reaction=data["Reaction"] + 1)), sleep)
    with pytest.raises(ValueError, match="different weights"):
        pb_compare(smaller(data, weights=np.linspace(1, 2, 180)), sleep)
    with pytest.raises(ValueError, match="first model must be the smaller one"):
        pb_compare(sleep, smaller(data))
    larger = lmer("Reaction ~ np.exp(Days / 10) + I(Days**2) + np.sin(Days) + np.cos(Days) + (1 | Subject)", data)
    with pytest.raises(ValueError, match="not nested"):
        pb_compare(sleep, larger)


def test_any_joblib_backend_gives_the_same_numbers(sleep):
    """A cluster, here dask.distributed's local one, replicates exactly what one process does."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
        joblib.parallel_backend("dask"),
    ):
        spread = bootstrap(sleep, 12, seed=3, n_jobs=None)
    pd.testing.assert_frame_equal(spread.replicates, bootstrap(sleep, 12, seed=3).replicates)
