"""Standard errors and intervals of predictions against dense matrices and simulation; point predictions: test_model.py."""

import numpy as np
import pandas as pd
import pytest
from random_models import FORMULAS, random_data
from scipy.stats import norm
from test_effects import REFERENCE, crossed_slopes, dense, fit_reference, fitted_with

from lmmlite import lmer, load_dataset
from lmmlite.prediction import predict


def quadratic(A, C):
    return np.einsum("ij,jk,ik->i", A, C, A)


def columns_of(fit, groups):
    """Which columns of `Design.Z` belong to these grouping factors."""
    design = fit.design
    return np.concatenate(
        [np.full(design.groups[t.group].size * len(t.columns), t.bar.group in groups) for t in design.terms]
    )


@pytest.mark.parametrize("kind", ["dense", "sparse", "pieces"])
@pytest.mark.parametrize("formula", [*FORMULAS, None])
def test_errors_of_known_groups(formula, kind, monkeypatch):
    """Var(x'(β̂ − β) + z'(b̂ − b)) for the rows of the fit and for new rows; with a new residual for predictions."""
    fit = fitted_with(kind, formula, monkeypatch)
    d = dense(fit)
    expected = quadratic(np.hstack([d.X, d.Z]), d.C)
    out = predict(fit, None, True, "error", interval="confidence")
    np.testing.assert_allclose(out["fit"], fit.fitted, rtol=1e-12)
    np.testing.assert_allclose(out["se"], np.sqrt(expected), rtol=1e-9)
    out = predict(fit, None, True, "error", interval="prediction")
    np.testing.assert_allclose(out["se"] ** 2, expected + fit.sigma**2 / d.w, rtol=1e-9)

    new = fit.data.drop(columns="y").iloc[::-2]
    out = predict(fit, new, True, "error", interval="confidence")
    assert out.index.equals(new.index)
    np.testing.assert_allclose(out["se"], np.sqrt(expected[::-2]), rtol=1e-9)
    w = None if fit.design.weights is None else "w"
    out = predict(fit, new, True, "error", interval="prediction", weights=w)
    np.testing.assert_allclose(out["se"] ** 2, expected[::-2] + fit.sigma**2 / d.w[::-2], rtol=1e-9)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("new", [False, True])
def test_groups_left_out_count_with_their_whole_variance_in_predictions(formula, new):
    fit = lmer(formula, random_data(11), weights="w")
    d = dense(fit)
    rows = fit.data if new else None
    names = [levels.name for levels in fit.design.groups]
    for random in (False, names[:1], names[1:]):
        used = columns_of(fit, random or [])
        A = np.hstack([d.X, d.Z * used])
        mean = quadratic(A, d.C)
        whole = quadratic(d.Z * ~used, d.D) + fit.sigma**2 * (1.0 if new else 1 / d.w)
        out = predict(fit, rows, random, "error", interval="confidence")
        np.testing.assert_allclose(out["fit"], fit.predict(random=random), rtol=1e-12)
        np.testing.assert_allclose(out["se"], np.sqrt(mean), rtol=1e-9)
        out = predict(fit, rows, random, "error", interval="prediction")
        np.testing.assert_allclose(out["se"] ** 2, mean + whole, rtol=1e-9)


def test_population_confidence_is_that_of_the_fixed_effects():
    fit = lmer("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy"))
    new = pd.DataFrame({"Days": [0.0, 5.0, 20.0]})
    out = predict(fit, new, False, "error", interval="confidence", level=0.9)
    X = np.column_stack([np.ones(3), new["Days"]])
    se = np.sqrt(quadratic(X, fit.vcov.to_numpy()))
    np.testing.assert_allclose(out["se"], se, rtol=1e-10)
    np.testing.assert_allclose(out["upper"], X @ fit.fixef + norm.ppf(0.95) * se, rtol=1e-10)
    np.testing.assert_allclose(out["lower"] + out["upper"], 2 * out["fit"], rtol=1e-10)


def test_a_group_not_seen_has_a_mean_of_its_own():
    fit = crossed_slopes()
    d, T = dense(fit), fit._T[0]
    new = fit.data.head(3).assign(g=[fit.data["g"][0], 99, 77])
    out = predict(fit, new, True, "population", interval="confidence")
    A = np.hstack([d.X, d.Z])[:3]
    A[1:, 2:42] = 0  # the columns of g
    z = A[:, :2]
    own = fit.sigma**2 * quadratic(z, T @ T.T) * [0, 1, 1]
    np.testing.assert_allclose(out["se"] ** 2, quadratic(A, d.C) + own, rtol=1e-9)
    both = predict(fit, new, True, "population", interval="prediction")
    np.testing.assert_allclose(both["se"] ** 2, out["se"] ** 2 + fit.sigma**2, rtol=1e-9)
    stranger = predict(fit, new.assign(h=99), True, "population", interval="prediction")
    population = predict(fit, new, False, "error", interval="prediction")
    np.testing.assert_allclose(stranger[1:], population[1:], rtol=1e-9)


@pytest.mark.parametrize("model", [m for m in REFERENCE if m["sim"]], ids=lambda m: m["name"])
def test_errors_agree_with_simulation_by_arm(model):
    """SDs of the linear predictor over 20,000 joint draws of β and b."""
    out = predict(fit_reference(model), None, True, "error", interval="confidence")
    np.testing.assert_allclose(out["se"].iloc[::10], model["sim"]["eta"], rtol=0.04)


def test_prediction_intervals_cover_new_responses():
    """At the true θ, over draws of b, the first response and a second one in the same groups."""
    fit = lmer("y ~ x + (x | g) + (1 | h)", random_data(10, 200))
    d, rng, n = dense(fit), np.random.default_rng(1), 400
    half = norm.ppf(0.95) * predict(fit, None, True, "error", interval="prediction")["se"].to_numpy()
    root = np.linalg.svd(d.D)
    b = root.U * np.sqrt(root.S) @ rng.standard_normal((len(d.D), n))
    mean, noise = d.Z @ b, fit.sigma * rng.standard_normal((2, 200, n))
    y = mean + noise[0]
    fitted = y - fit.sigma**2 * (np.linalg.solve(d.V, y) - d.VX @ d.G @ d.VX.T @ y)  # y − RPy
    inside = np.abs(mean + noise[1] - fitted) < half[:, None]
    assert inside.mean() == pytest.approx(0.9, abs=0.01)


def test_missing_values_give_missing_intervals():
    data = random_data(9)
    fit = lmer("y ~ x + z + (x | g)", data)
    new = data.head(4).copy()
    new.loc[1, "x"] = np.nan
    new.loc[2, "z"] = np.nan
    out = predict(fit, new, True, "error", interval="prediction")
    assert list(out["fit"].isna()) == list(out["se"].isna()) == [False, True, True, False]
    whole = predict(fit, data.head(4), True, "error", interval="prediction")
    np.testing.assert_allclose(out.iloc[[0, 3]], whole.iloc[[0, 3]], rtol=1e-12)


def test_a_model_without_fixed_effects():
    fit = lmer("y ~ 0 + (1 | g)", random_data(2).assign(y=lambda d: d["y"] - d["y"].mean()))
    out = predict(fit, None, True, "error", interval="confidence")
    np.testing.assert_allclose(out["se"], fit.ranef_sd()["g"].loc[fit.data["g"], "Intercept"], rtol=1e-9)


def test_offset_shifts_the_interval():
    data = random_data(9)
    fit = lmer("y ~ x + (1 | g)", data, offset="o")
    one = predict(fit, data, True, "error", interval="confidence")
    other = predict(fit, data, True, "error", np.zeros(len(data)), "confidence")
    np.testing.assert_allclose(one["lower"] - other["lower"], data["o"], rtol=1e-8)
    np.testing.assert_allclose(one["se"], other["se"], rtol=1e-12)


def test_what_cannot_be_done_is_said():
    fit = lmer("y ~ x + (1 | g)", random_data(9))
    with pytest.raises(ValueError, match="'confidence' or 'prediction'"):
        predict(fit, None, True, "error", interval="wald")
    with pytest.raises(ValueError, match="between 0 and 1"):
        predict(fit, None, True, "error", interval="confidence", level=95)
    with pytest.raises(ValueError, match="new_levels='population'"):
        predict(fit, fit.data.assign(g=99), True, "error", interval="confidence")
    with pytest.raises(ValueError, match="no column 'v'"):
        predict(fit, fit.data, True, "error", interval="prediction", weights="v")
    with pytest.raises(ValueError, match="Weights must be positive; row 2 has -1"):
        predict(fit, fit.data.head(3), True, "error", interval="prediction", weights=[1, 2, -1])
