"""Profiles against brute force (dense matrices, a derivative-free search), against refits with an offset, and against lme4."""

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from random_models import random_data
from scipy.optimize import minimize as search
from scipy.stats import norm

from lmmlite import lmer, load_dataset
from lmmlite.inference.profile import _paths, hold, profile
from lmmlite.tidy import parameters, random_parameters

REFERENCE = json.loads(Path(__file__).with_name("reference").joinpath("profile.json").read_text("utf-8"))
CASES = [
    ("y ~ x + (1 | g)", 1),
    ("y ~ x + (z | g)", 4),
    ("y ~ 1 + z + (1 | g) + (1 | h)", 2),
    ("y ~ 0 + f + (z || g)", 3),
    ("y ~ x + (1 | a) + (0 + z | g)", 6),
]


def paths(fit):
    return {path.name: path for path in _paths(fit)}


def fitted(formula, seed, **options):
    data = random_data(seed)
    return lmer(formula, data, reml=False, weights="w", offset="o"), data


# -- the definition -----------------------------------------------------------------------------------------------


def dense_deviance(design, values, X, y):
    """−2 log-likelihood of SDs, correlations and σ, maximised over the fixed effects of X: n × n matrices, nothing shared."""
    V = np.diag(values["sigma"] ** 2 / design.weights)
    for term in design.terms:
        k, name = len(term.columns), term.bar.group
        Z = design.term_Z(term).toarray()
        sd = np.array([values[key] for key in term_names(design, term)])
        C = np.eye(k)
        for i in range(k):
            for j in range(i):
                key = f"cor_{term.side.names[i]}.{term.side.names[j]}|{name}"
                C[i, j] = C[j, i] = values.get(key, 0.0)
        V += Z @ np.kron(np.eye(design.groups[term.group].size), np.outer(sd, sd) * C) @ Z.T
    L = np.linalg.cholesky(V)
    A, b = np.linalg.solve(L, X), np.linalg.solve(L, y)
    r = b - A @ np.linalg.lstsq(A, b, rcond=None)[0] if X.shape[1] else b
    return 2 * np.log(np.diag(L)).sum() + len(y) * np.log(2 * np.pi) + r @ r


def term_names(design, term):
    suffix = ["", ".1"]
    return [
        f"sd_{name}|{term.bar.group}{suffix[j] if not term.bar.correlated else ''}"
        for j, name in enumerate(term.side.names)
    ]


def brute_force(fit, name, value, start):
    """The least deviance with one parameter held, by a search without derivatives over log SDs and Fisher's z."""
    design = fit.design
    X, y = design.X, design.y - design.offset
    if name in fit.fixef.index:
        j = list(fit.fixef.index).index(name)
        X, y = np.delete(X, j, axis=1), y - value * X[:, j]
    random = [n for n, *_ in random_parameters(fit)] + ["sigma"]
    free = [n for n in random if n != name]

    def values(v):
        pairs = zip(free, v, strict=True)
        return {n: np.tanh(u) if n.startswith("cor") else np.exp(u) for n, u in pairs} | {name: value}

    first = [np.arctanh(start[n]) if n.startswith("cor") else np.log(start[n]) for n in free]
    return min(
        search(
            lambda v: dense_deviance(design, values(v), X, y),
            np.array(first) + shift,
            method="Nelder-Mead",
            options={"xatol": 1e-6, "fatol": 1e-9, "maxfev": 3000},
        ).fun
        for shift in (0.0, 0.1)
    )


@pytest.mark.parametrize(("formula", "seed"), CASES)
def test_profile_is_the_least_deviance_of_the_definition(formula, seed):
    fit, _ = fitted(formula, seed)
    for name, path in paths(fit).items():
        value = path.estimate + (0.15 if name.startswith("cor") else 4 * path.step)
        point = path.at(value)
        start = {n: v if n.startswith("cor") else max(v, 0.05) for n, v in point.parameters.items()}
        start |= {n: np.clip(v, -0.95, 0.95) for n, v in start.items() if n.startswith("cor")}
        assert_allclose(point.deviance, brute_force(fit, name, value, start), atol=2e-5, err_msg=name)
        assert_allclose(point.zeta**2, point.deviance - fit.criterion, atol=1e-9)


@pytest.mark.parametrize(("formula", "seed"), CASES)
def test_the_other_parameters_at_a_point_have_its_deviance(formula, seed):
    fit, _ = fitted(formula, seed)
    for name, path in paths(fit).items():
        value = path.estimate - (0.15 if name.startswith("cor") else 2 * path.step)
        point = path.at(max(value, path.bounds[0]))
        assert point.parameters[name] == point.value
        fixed = np.array([point.parameters[n] for n in fit.fixef.index])
        y = fit.design.y - fit.design.offset - fit.design.X @ fixed
        values = {n: 0.0 if np.isnan(v) else v for n, v in point.parameters.items()}
        assert_allclose(dense_deviance(fit.design, values, np.empty((len(y), 0)), y), point.deviance, rtol=1e-9)


@pytest.mark.parametrize(("formula", "seed"), CASES)
def test_gradient_and_hessian_by_differences(formula, seed):
    fit, _ = fitted(formula, seed)
    rng = np.random.default_rng(seed)
    for name, path in paths(fit).items():
        restricted, _ = path.restricted(0.4 if name.startswith("cor") else path.estimate + path.step)
        phi = rng.uniform(0.5, 1.5, restricted.L.shape[1])
        _, gradient, hessian, *_ = restricted.evaluate(phi)
        for i, unit in enumerate(np.eye(len(phi)) * 1e-5):
            up, down = restricted.evaluate(phi + unit), restricted.evaluate(phi - unit)
            assert_allclose((up[0] - down[0]) / 2e-5, gradient[i], rtol=1e-5, atol=1e-5, err_msg=name)
            assert_allclose((up[1] - down[1]) / 2e-5, hessian[i], rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("formula", ["y ~ x + z + (x | g) + (1 | h)", "y ~ x + z + (1 | a / b)"])
def test_holding_a_fixed_effect_is_an_offset(formula):
    data = random_data(8)
    fit = lmer(formula, data, reml=False)
    for value in (-0.4, 0.7):
        point = paths(fit)["z"].at(value)
        held = lmer(formula.replace("+ z", ""), data, reml=False, offset=value * data["z"])
        assert_allclose(point.deviance, held.criterion, atol=1e-8)
        assert_allclose(point.parameters["x"], held.fixef["x"], rtol=1e-4)


def test_holding_a_fixed_effect_leaves_the_rest_of_the_cross_products():
    fit, _ = fitted("y ~ x + z + (1 | g) + (1 | h)", 1)
    cp = fit.criterion_function.cp
    held, c0, N = hold(cp, 1, 0.3)
    assert held.p == cp.p - 1
    assert held.rest is cp.rest
    assert_allclose(cp.basis.beta[1] + cp.basis.scale * cp.basis.to_user[1] @ c0, 0.3)
    assert_allclose(cp.basis.to_user[1] @ N, 0, atol=1e-12)


# -- lme4 and print -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", REFERENCE["intervals"], ids=lambda model: f"{model['dataset']} {model['formula']}")
def test_lme4(model):
    fit = lmer(model["formula"], load_dataset(model["dataset"]))
    ours = profile(fit).confint(model["level"])
    theirs = np.array(model["rows"])
    names = [name.replace("(Intercept)", "Intercept") for name in model["lme4_names"]]
    fixed = [name for name in names if not name.startswith(".")]
    assert list(ours.index[-len(fixed) :]) == fixed
    se = np.ptp(theirs, axis=1) / (2 * norm.ppf((1 + model["level"]) / 2))
    if "/" in model["formula"]:  # lme4 puts the finer factor first
        theirs = theirs[[1, 0, *range(2, len(theirs))]]
        se = se[[1, 0, *range(2, len(se))]]
    assert_allclose((ours.to_numpy() - theirs) / se[:, None], 0, atol=1e-3)


# -- ends ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.5, 0.95, 0.9999])
def test_ends_are_where_zeta_is_the_quantile(level):
    fit = lmer("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy"), reml=False)
    p, z = profile(fit), norm.ppf((1 + level) / 2)
    for name, (lower, upper) in p.confint(level).iterrows():
        path = p.paths[name]
        if lower > path.bounds[0]:
            assert_allclose(path.at(lower).zeta, -z, atol=1e-4)
        if upper < path.bounds[1]:
            assert_allclose(path.at(upper).zeta, z, atol=1e-4)


def test_zero_estimate_has_an_interval_from_zero():
    fit = lmer("Yield ~ 1 + (1 | Batch)", load_dataset("dyestuff2"))
    ci = profile(fit).confint()
    assert ci.loc["sd_Intercept|Batch", "lower"] == 0
    assert ci.loc["sd_Intercept|Batch", "upper"] == pytest.approx(2.084, abs=1e-3)


def test_interval_that_reaches_zero_ends_there():
    fit = lmer("Yield ~ 1 + (1 | Batch)", load_dataset("dyestuff"), reml=False)
    path = paths(fit)["sd_Intercept|Batch"]
    without = np.linalg.lstsq(np.ones((30, 1)), fit.design.y)[1][0]
    least_squares = 30 * (1 + np.log(2 * np.pi * without / 30))
    assert_allclose(path.at(0.0).deviance, least_squares, atol=1e-9)
    assert_allclose(path.at(1e-4).deviance, least_squares, atol=1e-6)
    assert profile(fit, path.name).confint(0.9999).loc[path.name, "lower"] == 0


def test_correlation_at_its_bound():
    fit = lmer("y ~ x + (1 + x | Group)", load_dataset("labs"))
    p = profile(fit, ["cor_x.Intercept|Group", "Intercept"])
    ci = p.confint()
    assert ci.loc["cor_x.Intercept|Group", "lower"] == -1
    assert -1 < ci.loc["cor_x.Intercept|Group", "upper"] < 0
    data = load_dataset("labs")
    held = lmer(
        "y ~ 0 + x + (1 + x | Group)", data, reml=False, offset=np.full(len(data), ci.loc["Intercept", "upper"])
    )
    assert_allclose(held.criterion - p.fit.criterion, norm.ppf(0.975) ** 2, atol=1e-4)


def test_correlation_is_bounded_by_the_fits_without_one_coefficient():
    """A coefficient with an SD of zero has any correlation: no ρ can fit worse than that."""
    fit, _ = fitted("y ~ x + (z | g)", 4)
    path = paths(fit)["cor_z.Intercept|g"]
    data = random_data(4)
    without = [
        lmer(f"y ~ x + ({bar} | g)", data, reml=False, weights="w", offset="o").criterion for bar in ("1", "0 + z")
    ]
    for value in (-1.0, -0.999, 0.5, 1.0):
        assert path.at(value).deviance <= min(without) + 1e-8


def test_three_coefficients():
    data = random_data(5, 120)
    fit = lmer("y ~ x + (f | g)", data, reml=False)
    p = profile(fit, [name for name, *_ in random_parameters(fit)])
    ci, estimate = p.confint(), parameters(fit)
    for name, (lower, upper) in ci.iterrows():
        assert np.isnan(estimate[name]) or lower - 1e-9 <= estimate[name] <= upper + 1e-9
        assert lower >= p.paths[name].bounds[0]


# -- invariances and manners --------------------------------------------------------------------------------------


def test_units_of_the_response_and_of_a_covariate():
    data = load_dataset("sleepstudy")
    other = data.assign(Reaction=data["Reaction"] / 1000 + 1e4, Days=data["Days"] * 86400.0)
    formula = "Reaction ~ Days + (Days | Subject)"
    one, two = (profile(lmer(formula, d, reml=False)).confint() for d in (data, other))
    assert_allclose(
        two.loc[["sd_Intercept|Subject", "sigma"]] * 1000, one.loc[["sd_Intercept|Subject", "sigma"]], rtol=1e-5
    )
    assert_allclose(
        two.loc[["sd_Days|Subject", "Days"]] * 1000 * 86400, one.loc[["sd_Days|Subject", "Days"]], rtol=1e-5
    )
    assert_allclose(two.iloc[1], one.iloc[1], atol=1e-5)
    assert_allclose((two.loc["Intercept"] - 1e4) * 1000, one.loc["Intercept"], rtol=1e-5)


def test_covariate_far_from_zero():
    data = load_dataset("sleepstudy")
    other = data.assign(Days=data["Days"] + 1e4)
    formula = "Reaction ~ Days + (Days | Subject)"
    one, two = (
        profile(lmer(formula, d, reml=False), ["sd_Days|Subject", "Days", "sigma"]).confint() for d in (data, other)
    )
    assert_allclose(two, one, rtol=1e-5)


def test_reml_fit_profiles_the_ml_deviance_and_says_so():
    data = load_dataset("dyestuff")
    one, two = (profile(lmer("Yield ~ 1 + (1 | Batch)", data, reml=reml)) for reml in (True, False))
    assert one.reml
    assert not two.reml
    assert "REML" in repr(one)
    assert "REML" not in repr(two)
    pd.testing.assert_frame_equal(one.confint(), two.confint(), rtol=1e-6)


def test_nothing_is_changed_and_processes_do_not_matter():
    fit = lmer("diameter ~ 1 + (1 | plate) + (1 | sample)", load_dataset("penicillin"), reml=False)
    theta, cp = fit.theta, pickle.dumps(fit.criterion_function.cp)
    p = profile(fit, n_jobs=2)
    assert (fit.theta == theta).all()
    assert pickle.dumps(fit.criterion_function.cp) == cp
    pd.testing.assert_frame_equal(p.zeta, profile(fit).zeta)
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(p)).confint(), p.confint())


def test_zeta_table():
    fit = lmer("diameter ~ 1 + (1 | plate) + (1 | sample)", load_dataset("penicillin"), reml=False)
    zeta = profile(fit).zeta
    names = ["sd_Intercept|plate", "sd_Intercept|sample", "sigma", "Intercept"]
    assert list(zeta) == ["parameter", "value", "zeta", *names]
    for name, rows in zeta.groupby("parameter"):
        assert (rows["value"] == rows[name]).all()
        assert rows["value"].is_monotonic_increasing
        assert rows["zeta"].is_monotonic_increasing
        assert rows["zeta"].min() < -3.2
        assert rows["zeta"].max() > 3.2
        assert (np.diff(rows["zeta"]) < 1).all()


def test_errors_say_what_to_do():
    fit = lmer("Yield ~ 1 + (1 | Batch)", load_dataset("dyestuff"))
    with pytest.raises(ValueError, match=r"no parameter 'sd_Batch'.*sd_Intercept\|Batch, sigma, Intercept"):
        profile(fit, "sd_Batch")
    with pytest.raises(ValueError, match="alphamax must be between 0 and 1"):
        profile(fit, alphamax=5)
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        profile(fit, "sigma").confint(95)
