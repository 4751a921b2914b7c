"""The fitted model: labels, prediction, simulation, other fits, tables; against definitions and against each other."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import polars as pl
import pytest
from random_models import FORMULAS, dense_Lambda, random_data

from lmmlite import Criterion, lmer, load_dataset

every_formula = pytest.mark.parametrize("formula", FORMULAS)


@pytest.fixture(scope="module")
def sleep():
    return lmer("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy"))


def arrays(fit):
    """y, X, Z, Λ and V = W⁻¹ + ZΛΛ'Z' of a fit."""
    design = fit.design
    Z, Lambda = design.Z.toarray(), dense_Lambda(design, fit.theta)
    weights = np.ones(design.n) if design.weights is None else design.weights
    y = design.y - (0 if design.offset is None else design.offset)
    return y, design.X, Z, Lambda, np.diag(1 / weights) + Z @ Lambda @ Lambda.T @ Z.T


def stacked(fit, tables):
    """Random effects in the order of the columns of `Design.Z`: term after term, level after level."""
    out, used = [], {}
    for term in fit.design.terms:
        start = used.get(term.bar.group, 0)
        used[term.bar.group] = start + len(term.side.names)
        out.append(tables[term.bar.group].iloc[:, start : used[term.bar.group]].to_numpy().ravel())
    return np.concatenate(out)


@every_formula
@pytest.mark.parametrize("reml", [True, False])
def test_estimates_are_those_of_the_dense_formulas(formula, reml):
    """β̂, SE, σ̂, b̃ and the conditional covariances at θ̂, from n × n matrices."""
    fit = lmer(formula, random_data(6), reml=reml, weights="w", offset="o")
    y, X, Z, Lambda, V = arrays(fit)
    XVX = X.T @ np.linalg.solve(V, X)
    beta = np.linalg.solve(XVX, X.T @ np.linalg.solve(V, y))
    r = y - X @ beta
    sigma2 = r @ np.linalg.solve(V, r) / (fit.nobs - reml * X.shape[1])
    np.testing.assert_allclose(fit.fixef, beta, rtol=1e-8)
    assert fit.sigma == pytest.approx(np.sqrt(sigma2), rel=1e-9)
    np.testing.assert_allclose(fit.vcov, sigma2 * np.linalg.inv(XVX), rtol=1e-7)

    D = Lambda @ Lambda.T
    b = D @ Z.T @ np.linalg.solve(V, r)
    np.testing.assert_allclose(stacked(fit, fit.ranef()), b, rtol=1e-7, atol=1e-8)
    conditional = sigma2 * (D - D @ Z.T @ np.linalg.solve(V, Z @ D))
    sds = np.sqrt(np.clip(np.diag(conditional), 0, None))
    np.testing.assert_allclose(stacked(fit, fit.ranef_sd()), sds, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(fit.fitted, X @ beta + Z @ b + fit.design.offset, rtol=1e-8)


def test_conditional_covariances_of_correlated_coefficients_in_two_crossed_factors():
    rng = np.random.default_rng(5)
    g, h = np.repeat(np.arange(12), 30), np.tile(np.arange(10), 36)
    x = rng.normal(3, 1, len(g))
    b, c = rng.normal(size=(12, 2)), rng.normal(size=(10, 2)) @ [[1, 0.5], [0, 1]]
    y = b[g, 0] + b[g, 1] * x + c[h, 0] + c[h, 1] * x + 0.5 * rng.normal(size=len(g))
    fit = lmer("y ~ x + (x | g) + (x | h)", pd.DataFrame({"y": y, "x": x, "g": g, "h": h}))
    assert not fit.is_singular
    _, _, Z, Lambda, V = arrays(fit)
    D = Lambda @ Lambda.T
    conditional = fit.sigma**2 * (D - D @ Z.T @ np.linalg.solve(V, Z @ D))
    for group, start, levels in (("g", 0, 12), ("h", 24, 10)):
        blocks = [conditional[i : i + 2, i : i + 2] for i in range(start, start + 2 * levels, 2)]
        np.testing.assert_allclose(fit.ranef_cov(group), blocks, rtol=1e-7, atol=1e-10)


def test_full_conditional_covariances(sleep):
    _, _, Z, Lambda, V = arrays(sleep)
    D = Lambda @ Lambda.T
    conditional = sleep.sigma**2 * (D - D @ Z.T @ np.linalg.solve(V, Z @ D))
    blocks = [conditional[i : i + 2, i : i + 2] for i in range(0, 36, 2)]
    np.testing.assert_allclose(sleep.ranef_cov("Subject"), blocks, rtol=1e-8)


def test_labels(sleep):
    assert list(sleep.fixef.index) == ["Intercept", "Days"]
    assert list(sleep.vcov.columns) == ["Intercept", "Days"]
    assert sleep.ranef()["Subject"].shape == (18, 2)
    assert sleep.ranef()["Subject"].index.name == "Subject"
    assert (sleep.ngroups["Subject"], sleep.nobs, sleep.npar, sleep.df_resid) == (18, 180, 6, 174)
    assert list(sleep.varcorr["term1"]) == ["Intercept", "Days", "Intercept", ""]
    assert list(sleep.varcorr["term2"]) == ["", "", "Days", ""]
    coef = sleep.coef()["Subject"]
    np.testing.assert_allclose(coef, sleep.ranef()["Subject"] + sleep.fixef)


def test_likelihoods(sleep):
    assert sleep.loglik == -sleep.criterion / 2
    assert sleep.aic == pytest.approx(sleep.criterion + 12)
    assert sleep.bic == pytest.approx(sleep.criterion + 6 * np.log(180))
    assert sleep.deviance > sleep.refit_ml().deviance
    assert sleep.refit_ml().deviance == sleep.refit_ml().criterion


def test_repr_and_summary(sleep):
    text = str(sleep.summary())
    assert repr(sleep).startswith("<MixedModel Reaction ~ Days + (Days | Subject) by REML: 180 rows (Subject 18)")
    for part in (
        "fit by REML",
        "Random effects",
        "Fixed effects",
        "Subject",
        "Residual",
        "251.41",
        "10.467",
        "0.066",
    ):
        assert part in text
    html = sleep.summary()._repr_html_()
    assert html.count("<table") == html.count("</table>") == 4
    ml = str(sleep.refit_ml().summary())
    assert "maximum likelihood" in ml
    assert "AIC" in ml
    singular = lmer("Yield ~ 1 + (1 | Batch)", load_dataset("dyestuff2"))
    assert singular.is_singular
    assert "singular" in repr(singular)
    assert "direction of zero variance" in str(singular.summary())


def test_residuals():
    fit = lmer(FORMULAS[3], random_data(1), weights="w")
    y, w = fit.design.y, fit.design.weights
    np.testing.assert_allclose(fit.residuals(), y - fit.fitted)
    np.testing.assert_allclose(fit.residuals("pearson"), (y - fit.fitted) * np.sqrt(w))
    np.testing.assert_allclose(fit.residuals("scaled"), (y - fit.fitted) * np.sqrt(w) / fit.sigma)
    np.testing.assert_allclose(fit.residuals("marginal"), y - fit.predict(random=False))


@every_formula
def test_predicting_the_data_gives_the_fitted_values(formula):
    data = random_data(8)
    fit = lmer(formula, data, offset="o")
    np.testing.assert_allclose(fit.predict(data.drop(columns="y")), fit.fitted, rtol=1e-10)
    np.testing.assert_allclose(fit.predict(data, random=False), fit.predict(random=False), rtol=1e-10)
    np.testing.assert_allclose(fit.predict(data.iloc[::-3]), fit.fitted.iloc[::-3], rtol=1e-10)


def test_chosen_and_unseen_groups():
    data = random_data(9)
    fit = lmer("y ~ x + (1 | g) + (1 | h)", data)
    g, h = fit.ranef()["g"]["Intercept"], fit.ranef()["h"]["Intercept"]
    population = fit.predict(data, random=False)
    np.testing.assert_allclose(fit.predict(data, random=["g"]), population + g[data["g"]].to_numpy())
    np.testing.assert_allclose(fit.predict(random="h"), population + h[data["h"]].to_numpy())
    new = data.head(4).assign(g=[g.index[0], 99, g.index[1], -5])
    known = np.array([g.iloc[0], 0.0, g.iloc[1], 0.0])
    np.testing.assert_allclose(
        fit.predict(new, new_levels="population"), population.head(4) + known + h[new["h"]].to_numpy()
    )
    assert fit.predict(new.drop(columns="g"), random=["h"]).notna().all()


def test_unseen_combinations_of_seen_levels():
    data = random_data(9)
    fit = lmer("y ~ 1 + (1 | a/b)", data[~((data["a"] == 1) & (data["b"] == 2))])
    new = pd.DataFrame({"a": [1, 1], "b": [2, 1]})
    with pytest.raises(ValueError, match="'a:b' has the level '1:2'"):
        fit.predict(new)
    b = fit.ranef()
    expected = fit.fixef["Intercept"] + b["a"].loc[1, "Intercept"] + np.array([0.0, b["a:b"].loc["1:1", "Intercept"]])
    np.testing.assert_allclose(fit.predict(new, new_levels="population"), expected)


def test_missing_values_in_new_rows_give_missing_predictions():
    data = random_data(9)
    fit = lmer("y ~ x * f + (x | g)", data)
    new = data.head(5).copy()
    new.loc[1, "x"] = np.nan
    new.loc[3, "f"] = None
    assert list(fit.predict(new).isna()) == [False, True, False, True, False]
    np.testing.assert_allclose(fit.predict(new).dropna(), fit.fitted[[0, 2, 4]])


def test_offset_given_as_an_array_is_asked_for():
    data = random_data(9)
    fit = lmer("y ~ x + (1 | g)", data, offset=data["o"].to_numpy())
    with pytest.raises(ValueError, match="offset of the new rows"):
        fit.predict(data)
    np.testing.assert_allclose(fit.predict(data, offset=data["o"]), fit.fitted)
    np.testing.assert_allclose(fit.predict(data, offset="o"), fit.fitted)


def test_simulation_has_the_moments_of_the_model():
    fit = lmer("y ~ x + (x | g) + (1 | h)", random_data(10), weights="w")
    *_, V = arrays(fit)
    draws = fit.simulate(4000, seed=1)
    assert draws.shape == (60, 4000)
    deviation = draws.sub(fit.predict(random=False), axis=0).to_numpy()
    sd = np.sqrt(np.diag(V)) * fit.sigma
    assert np.abs(deviation.mean(axis=1) / sd).max() < 5 / np.sqrt(4000)
    error = (deviation @ deviation.T / 4000 - fit.sigma**2 * V) / np.outer(sd, sd)
    assert np.abs(error).max() < 0.12
    pd.testing.assert_frame_equal(draws, fit.simulate(4000, seed=1))


def test_refit_and_update(sleep):
    data = load_dataset("sleepstudy")
    again = sleep.refit(2 * data["Reaction"])
    np.testing.assert_allclose(again.fixef, 2 * sleep.fixef, rtol=1e-8)
    assert sleep.update(". ~ . - Days").formula == "Reaction ~ 1 + (Days | Subject)"
    smaller = sleep.update(". ~ . - (Days | Subject) + (1 | Subject)")
    assert smaller.criterion == pytest.approx(lmer("Reaction ~ Days + (1 | Subject)", data).criterion, abs=1e-9)
    weighted = lmer("y ~ x + f + (1 | g)", random_data(2), weights="w", offset=random_data(2)["o"], reml=False)
    changed = weighted.update(". ~ . - f")
    same = lmer("y ~ x + (1 | g)", random_data(2), weights="w", offset="o", reml=False)
    assert changed.criterion == pytest.approx(same.criterion, abs=1e-10)


def test_a_refit_can_be_updated(sleep):
    """The new response, not the old one, is what the changed formula is fitted to."""
    data = load_dataset("sleepstudy")
    y = sleep.simulate(1, seed=3)["sim_1"]
    changed = sleep.refit(y).update(". ~ . - Days")
    same = lmer("Reaction ~ 1 + (Days | Subject)", data.assign(Reaction=y))
    assert changed.criterion == pytest.approx(same.criterion, abs=1e-9)
    logged = lmer("np.log(Reaction) ~ Days + (1 | Subject)", data)
    with pytest.raises(ValueError, match="no column holds"):
        logged.refit(np.log(y)).update(". ~ . - Days")


def test_polars_data_can_be_augmented():
    data = random_data(4)
    data.loc[3, "x"] = np.nan
    fit = lmer("y ~ x + (1 | g)", pl.DataFrame({c: data[c].to_list() for c in data}))
    assert len(fit.augment()) == fit.nobs == 59
    assert fit.anova()["F"].notna().all()


def test_refit_ml_is_the_ml_fit(sleep):
    ml = lmer("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy"), reml=False)
    assert sleep.refit_ml().criterion == pytest.approx(ml.criterion, abs=1e-9)
    assert sleep.reml
    assert not sleep.refit_ml().reml


def test_tables(sleep):
    tidy = sleep.tidy()
    assert list(tidy.columns) == [
        "effect",
        "group",
        "term",
        "estimate",
        "std_error",
        "df",
        "statistic",
        "p_value",
        "conf_low",
        "conf_high",
    ]
    assert list(tidy["term"]) == [
        "Intercept",
        "Days",
        "sd__Intercept",
        "sd__Days",
        "cor__Intercept.Days",
        "sd__Observation",
    ]
    np.testing.assert_allclose(sleep.tidy(ddf="normal")["conf_low"][:2], sleep.fixef - 1.959963984540054 * sleep.se)
    assert tidy["conf_low"].iloc[1] == pytest.approx(sleep.contrast({"Days": 1})["conf_low"].iloc[0])
    glance = sleep.glance()
    assert list(glance.columns) == ["nobs", "npar", "sigma", "loglik", "aic", "bic", "criterion", "df_resid"]
    augmented = sleep.augment()
    np.testing.assert_allclose(augmented["fitted"] + augmented["resid"], augmented["Reaction"])


def test_a_fit_is_not_changed_by_its_methods(sleep):
    before = pickle.dumps(sleep.optimum.theta), sleep.criterion
    (
        sleep.refit_ml(),
        sleep.simulate(1, 1),
        sleep.predict(),
        sleep.summary(),
        sleep.update(". ~ 1 + (1 | Subject)"),
    )
    sleep.theta[:] = 0
    assert (pickle.dumps(sleep.optimum.theta), sleep.criterion) == before
    with pytest.raises(AttributeError):
        sleep.optimum = None


@pytest.mark.parametrize("formula", ["y ~ x + (x | g)", "y ~ poly(x, 2) + f + (1 | a/b) + (1 | h)"])
def test_copies_and_pickles(formula):
    fit = lmer(formula, random_data(3))
    for twin in (pickle.loads(pickle.dumps(fit)), copy.deepcopy(fit), copy.copy(fit)):
        pd.testing.assert_series_equal(twin.fixef, fit.fixef)
        pd.testing.assert_series_equal(twin.predict(random_data(3).head()), fit.predict(random_data(3).head()))


def test_threads_and_runs_agree():
    data = random_data(3)
    one = lmer("y ~ x + (x | g) + (1 | h)", data)
    with ThreadPoolExecutor(4) as pool:
        many = list(pool.map(lambda _: lmer("y ~ x + (x | g) + (1 | h)", data).criterion, range(8)))
    assert set(many) == {one.criterion}


def test_an_interrupt_reaches_the_user_and_leaves_nothing_half_made(monkeypatch):
    """KeyboardInterrupt in the third evaluation of a fit, and in the fourth refit of a bootstrap."""
    fit = lmer("y ~ x + (x | g)", random_data(3))
    before = pickle.dumps((fit.theta, fit.criterion_function.cp))
    calls = []

    def interrupted(*_):
        calls.append(0)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        fit.bootstrap(20, interrupted, seed=1)
    assert len(calls) == 4
    evaluate = Criterion.evaluate
    calls.clear()

    def until_interrupted(*arguments):
        interrupted()
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Criterion, "evaluate", until_interrupted)
        with pytest.raises(KeyboardInterrupt):
            lmer("y ~ x + (x | g)", random_data(3))
    assert pickle.dumps((fit.theta, fit.criterion_function.cp)) == before
    again = lmer("y ~ x + (x | g)", random_data(3))
    assert again.criterion == fit.criterion
    assert fit.bootstrap(5, seed=1).replicates.equals(again.bootstrap(5, seed=1).replicates)


@pytest.mark.parametrize("kind", ["polars", "mapping", "categories", "extension", "small floats", "index"])
def test_kinds_of_tables(kind):
    data = random_data(4)
    formula = "y ~ x + f + (x | g) + (1 | a:b)"
    fit = lmer(formula, data)
    other = {
        "polars": lambda: pl.DataFrame({c: data[c].to_list() for c in data}),
        "mapping": lambda: {c: data[c].tolist() for c in data},
        "categories": lambda: data.assign(f=pd.Categorical(data["f"]), g=pd.Categorical(data["g"])),
        "extension": lambda: data.convert_dtypes(),
        "small floats": lambda: data.astype({"g": "float32", "a": "int8", "b": "uint8"}),
        "index": lambda: data.set_index(pd.Index(range(100, 160))),
    }[kind]()
    twin = lmer(formula, other)
    assert twin.criterion == pytest.approx(fit.criterion, abs=1e-9)
    np.testing.assert_allclose(twin.predict(other), fit.fitted, rtol=1e-9)
    assert list(twin.fixef.index) == list(fit.fixef.index)
    if kind == "index":
        assert list(twin.fitted.index) == list(range(100, 160))


def test_booleans_and_labels_of_every_kind():
    data = random_data(4).assign(
        t=lambda d: d["x"] > 20, day=lambda d: pd.Timestamp("2020-01-01") + pd.to_timedelta(d["g"], "D")
    )
    fit = lmer("y ~ t + (1 | day) + (1 | t:h)", data)
    assert list(fit.fixef.index) == ["Intercept", "t"]
    assert fit.criterion == pytest.approx(
        lmer("y ~ t + (1 | g) + (1 | t:h)", data.assign(t=data["t"].astype(float))).criterion, abs=1e-9
    )
