"""Nested factors and clusters eliminated one after the other: the same numbers as one dense system, and as n × n matrices."""

import sys

import numpy as np
import pandas as pd
import pytest
from random_models import complex_step_gradient, dense_criterion, random_theta
from test_effects import dense

from lmmlite import Criterion, build_design, crossproducts, lmer, parse_formula, sums
from lmmlite.chain import by_parent, times_parent
from lmmlite.diagnostics import group_residuals
from lmmlite.effects import JointErrors
from lmmlite.inference.replicates import Responses

FORMULAS = [
    "y ~ x + (1 | a/b/c)",
    "y ~ x + (1 | a) + (x | b) + (1 | c) + (1 | item)",
    "y ~ 1 + (x || a) + (x | b) + (x | c)",
    "y ~ x + (1 | c) + (x | b) + (x || item)",
    "y ~ x + (1 | pupil) + (x | teacher) + (1 | school)",
    "y ~ x + (x | pupil) + (1 | teacher)",
]


def nested_data(seed=0, n=240):
    rng = np.random.default_rng(seed)
    c = rng.integers(0, 48, n)
    a, b, item = c // 12, c // 4, rng.integers(0, 4, n)
    data = pd.DataFrame({"a": a, "b": b, "c": c, "item": item, "x": rng.normal(0.3, 1, n), "w": rng.uniform(0.5, 2, n)})
    slope = 0.5 + rng.normal(0, 1, 4)[a] + rng.normal(0, 1, 12)[b] + rng.normal(0, 1, 48)[c] + rng.normal(0, 1, 4)[item]
    effects = rng.normal(0, 2, 4)[a] + rng.normal(0, 1.5, 12)[b] + rng.normal(0, 1, 48)[c] + rng.normal(0, 1, 4)[item]
    return data.assign(y=1 + slope * data["x"] + effects + rng.normal(0, 0.7, n))


def school_data(seed=0, n=240):
    """Pupils crossed with teachers, three to five in each of six schools; nobody moves."""
    rng = np.random.default_rng(seed)
    pupil = rng.integers(0, 60, n)
    school = pupil // 10
    teacher = 5 * school + rng.integers(0, 3 + school % 3, n)
    data = pd.DataFrame({"pupil": pupil, "teacher": teacher, "school": school, "x": rng.normal(0.3, 1, n)})
    slope = 0.5 + rng.normal(0, 1, 30)[teacher] + rng.normal(0, 1, 60)[pupil]
    effects = rng.normal(0, 1, 60)[pupil] + rng.normal(0, 1.5, 30)[teacher] + rng.normal(0, 2, 6)[school]
    return data.assign(y=1 + slope * data["x"] + effects + rng.normal(0, 0.7, n), w=rng.uniform(0.5, 2, n))


def data_of(formula, seed=0):
    return school_data(seed) if "pupil" in formula else nested_data(seed)


@pytest.fixture
def chained(monkeypatch):
    """Call with True or False: whether nested factors, for formulas with pupils clusters, are eliminated level by level."""

    def choose(yes, formula=""):
        monkeypatch.setattr(sums, "_CHAINED", 1 if yes else np.inf)
        for name, cheap in (("_LOOP", 0.0), ("_SLOW", 0.0)):
            monkeypatch.setattr(sums, name, cheap if "pupil" in formula else np.inf)

    return choose


models = pytest.mark.parametrize(("formula", "reml"), [(f, reml) for f in FORMULAS for reml in (True, False)])


@models
def test_criterion(chained, formula, reml):
    """Value, gradient and Hessian against n × n matrices and complex steps."""
    chained(True, formula)
    design = build_design(parse_formula(formula), data_of(formula), weights="w")
    criterion = Criterion(crossproducts(design), reml)
    assert len(criterion.cp.chain.factors) > 1
    theta = random_theta(criterion, np.random.default_rng(1))
    without = np.where(np.arange(len(theta)) == len(theta) - 1, 0.0, theta)  # a zero variance
    assert criterion.evaluate(without).value == pytest.approx(dense_criterion(design, without, reml), rel=1e-12)
    expected = complex_step_gradient(design, without, reml)
    assert np.abs(criterion.evaluate(without, 1).gradient - expected).max() <= 1e-10 * np.abs(expected).max()
    at = criterion.evaluate(theta, 2)
    assert at.value == pytest.approx(dense_criterion(design, theta, reml), rel=1e-12)
    gradient = complex_step_gradient(design, theta, reml)
    assert np.abs(at.gradient - gradient).max() <= 1e-10 * np.abs(gradient).max()
    for j in range(len(theta)):
        h = 1e-3 * np.eye(len(theta))[j]
        g = {i: criterion.evaluate(theta + i * h, 1).gradient for i in (-2, -1, 1, 2)}
        column = (8 * (g[1] - g[-1]) - (g[2] - g[-2])) / 0.012
        assert np.abs(at.hessian[j] - column).max() <= 1e-7 * np.abs(at.hessian).max()


@models
@pytest.mark.filterwarnings("ignore:The fit is singular")
def test_whole_fit(chained, formula, reml):
    """Whatever a fit tells, against the fit with one dense system."""
    data, rng = data_of(formula, 1), np.random.default_rng(2)
    one, other = ("teacher", "school") if "pupil" in formula else ("b", "a")
    new = data.iloc[:12].assign(**{one: np.repeat([0, 11, 77], 4), other: np.tile([0, 1, 2], 4)})  # moved, and new
    y = data["y"].to_numpy() + rng.normal(0, 1, len(data))
    told = []
    for yes in (True, False):
        chained(yes, formula)
        fit = lmer(formula, data, reml=reml, weights="w", start=None if not told else told[0]["theta"])
        assert (len(fit._cp.chain.factors) > 1) == yes
        e = fit.satterthwaite
        numbers = {
            "theta": fit.theta,
            "criterion": fit.criterion,
            "vcov": fit.vcov,
            "satterthwaite": e.A @ np.einsum("ipp->ip", e.gradient),
            "fitted": fit.predict(interval="prediction"),
            "new": fit.predict(new, new_levels="population", interval="confidence"),
            "some": fit.predict(random=list(fit.ranef())[-1:], interval="prediction"),
            "leverage": fit.leverage(),
            "edf": fit.conditional_aic(),
            "refit": Responses(fit).refit(y).criterion,
            "refit anew": lmer(formula, data.assign(y=y), reml=reml, weights="w").criterion,
        }
        numbers |= {f"ranef {g}": b for g, b in fit.ranef().items()}
        numbers |= {f"cov {g}": fit.ranef_cov(g) for g in fit.ranef()}
        numbers |= {f"residuals {g}": r for g, r in group_residuals(fit).items()}
        if reml:
            numbers |= {f"kr {i}": part for i, part in enumerate(fit.kenward_roger)}
        told.append(numbers)
    for name, value in told[0].items():
        expected = np.asarray(told[1][name])
        largest = np.nanmax(np.abs(expected))
        assert np.allclose(value, expected, rtol=0, atol=1e-6 * largest, equal_nan=True), name
    assert told[0]["refit"] == pytest.approx(told[0]["refit anew"], abs=1e-8)


def test_profile(chained):
    """Of a fixed effect (held by a change of basis) and of an SD."""
    data = nested_data(2)
    ends = []
    for yes in (True, False):
        chained(yes)
        ends.append(lmer("y ~ x + (1 | a/b/c)", data).profile(["x", "sd_Intercept|a:b:c"]).confint().to_numpy())
    assert np.allclose(ends[0], ends[1], rtol=1e-5)


@pytest.mark.parametrize("formula", [FORMULAS[1], FORMULAS[4]])
def test_joint_draws(chained, formula):
    """Their covariance against that of n × n matrices."""
    chained(True, formula)
    fit = lmer(formula, data_of(formula, 3))
    n, C = 40_000, dense(fit).C
    whole = np.empty((len(C), n))
    starts = np.cumsum([0, *(fit._cp.sizes[g] * t.k for g, t in enumerate(fit._cp.templates))]) + len(fit.fixef)
    for g, levels, errors in JointErrors(fit).draws(n, np.random.default_rng(4)):
        if g < 0:
            whole[: len(errors)] = errors
        else:
            k = errors.shape[1]
            place = starts[g] + np.arange(fit._cp.sizes[g])[levels][:, None] * k + np.arange(k)
            whole[place] = errors
    scale = np.sqrt(np.diag(C) / fit.sigma**2)
    error = (np.cov(whole) - C / fit.sigma**2) / np.outer(scale, scale)
    assert np.abs(error).max() < 6 / np.sqrt(n)


def test_many_levels(monkeypatch):
    """Memory does not grow with the square of their number: nothing dense of more than [X y] is left."""
    monkeypatch.setattr(sys.modules["lmmlite.crossproducts"], "_MOST", 50)
    monkeypatch.setattr(sums, "_CHAINED", 100)
    rng = np.random.default_rng(5)
    c = np.arange(20_000) % 4000
    data = pd.DataFrame({"a": c // 40, "b": c // 8, "c": c, "x": rng.normal(size=20_000)})
    effects = rng.normal(size=100)[data["a"]] + rng.normal(size=500)[data["b"]] + rng.normal(size=4000)[c]
    fit = lmer("y ~ x + (1 | a) + (1 | b) + (1 | c)", data.assign(y=effects + rng.normal(size=20_000)))
    assert fit._cp.W.tail.shape == (3, 3)
    assert np.allclose(fit.varcorr["variance"], 1, atol=0.35)
    assert fit.converged


def test_nearly_nested_is_crossed(chained):
    chained(True)
    data = nested_data(6)
    data["b"] = data["b"].where(data.index > 20, 0)
    assert len(lmer("y ~ x + (1 | b) + (1 | c)", data)._cp.chain.factors) == 1


def test_one_pupil_who_moves(chained):
    """Joins two clusters."""
    chained(True, FORMULAS[4])
    data = school_data(7)
    clusters = [lmer(FORMULAS[4], data)._cp.clusters.count]
    row = data.index[data["school"] == 0][0]
    data.loc[row, "teacher"] = data["teacher"].max()
    clusters.append(lmer("y ~ x + (1 | pupil) + (x | teacher)", data)._cp.clusters.count)
    assert clusters == [6, 5]


@pytest.mark.parametrize("levels", [50, 20_000])
def test_sums_over_the_levels_of_a_parent(levels):
    """Few and many levels for each parent are added up in different ways; parents without levels give zero."""
    rng = np.random.default_rng(8)
    parent = rng.choice([0, 1, 3], levels)
    A, B, F = rng.normal(size=(2, 4, levels)), rng.normal(size=(2, 5, levels)), rng.normal(size=(3, 2, 4))
    sums = by_parent(parent, A, B, 4)
    for j in range(4):
        assert np.allclose(sums[:, :, j], np.einsum("kal,kbl->ab", A[..., parent == j], B[..., parent == j]))
    assert np.allclose(times_parent(parent, F, A), np.einsum("abl,bml->aml", F[:, :, parent], A))


@pytest.mark.parametrize("formula", [FORMULAS[1], FORMULAS[4]])
def test_rows_in_pieces(chained, formula):
    chained(True, formula)
    data = data_of(formula, 9)
    whole, pieces = lmer(formula, data), lmer(formula, [data.iloc[:100], data.iloc[100:]])
    assert pieces._cp.chain.factors == whole._cp.chain.factors
    assert len(whole._cp.chain.factors) > 1
    assert pieces.criterion == pytest.approx(whole.criterion, abs=1e-8)


def test_what_is_cheapest_is_eliminated_level_by_level():
    """By the number of levels and how they meet alone, at the sizes at which it matters."""

    def order(formula, **columns):
        n = len(next(iter(columns.values())))
        x = np.random.default_rng(10).normal(size=(n, 5))
        data = pd.DataFrame(columns | {f"x{j}": x[:, j] for j in range(5)} | {"y": x.sum(axis=1)})
        design = build_design(parse_formula(formula), data.assign(y=data["y"] + np.arange(n) % 7))
        cp = crossproducts(design)
        return [design.groups[g].name for g in cp.chain.factors if g < len(design.groups)], cp.clusters.count

    i = np.arange(12_000)
    slopes = "x0 + x1 + x2 + x3 + x4"
    assert order("y ~ 1 + (1 | pupil) + (1 | teacher)", pupil=i // 3, teacher=i // 60 * 5 + i % 5) == (["pupil"], 200)
    assert order("y ~ 1 + (1 | pupil) + (x0 | teacher)", pupil=i // 30, teacher=i // 3000 * 30 + i % 30) == (
        ["pupil"],
        0,
    )
    nested = {"klass": i // 3, "school": i // 12, "district": i // 600}
    assert order(f"y ~ 1 + (1 | klass) + ({slopes} | school) + (1 | district)", **nested) == (["klass", "school"], 0)
    assert order("y ~ 1 + (1 | klass) + (1 | school)", **nested) == (["klass", "school"], 0)
    few = {"pupil": i // 3, "school": i // 30, "teacher": i // 30 * 2 + i % 2}
    assert order("y ~ 1 + (1 | pupil) + (x0 + x1 | school) + (1 | teacher)", **few) == (["pupil"], 400)
