"""compare, drop1, ranova and conditional AIC against lme4 and lmerTest, dense matrices, and simulation."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from random_models import FORMULAS, dense_Lambda, random_data
from scipy.stats import chi2

from lmmlite import lmer, load_dataset
from lmmlite.diagnostics import conditional_aic
from lmmlite.inference.compare import compare, drop1, ranova

REFERENCE = json.loads((Path(__file__).parent / "reference" / "compare.json").read_text())
LABS = ["y ~ x + (1 | Group)", "y ~ x + (1 | Group) + (0 + x | Group)", "y ~ x + (1 + x | Group)"]
COLUMNS = ["npar", "aic", "bic", "loglik", "deviance", "chisq", "df", "p_value", "p_chi2", "null", "note"]


def fit(dataset, formula, reml=True):
    return lmer(formula, load_dataset(dataset), reml=reml)


def numbers(values):
    """A column of the reference, without the first row where that has no test."""
    return np.array([np.nan if v is None else v for v in np.atleast_1d(values)], float)


@pytest.fixture(scope="module")
def sleep():
    data = load_dataset("sleepstudy")
    bars = {
        "one": "(1 | Subject)",
        "slope": "(0 + Days | Subject)",
        "two": "(Days || Subject)",
        "full": "(Days | Subject)",
    }
    return {name: lmer(f"Reaction ~ Days + {bar}", data) for name, bar in bars.items()}


# --- Reference values ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", REFERENCE["compare"], ids=lambda c: c["dataset"])
def test_compare_is_anova_of_lme4(case):
    models = [fit(case["dataset"], f, case["reml"]) for f in case["formulas"]]
    table = compare(*models[::-1])  # sorted by number of parameters whatever the order
    assert list(table.columns) == COLUMNS
    assert list(table.index) == [m.formula for m in models]
    assert list(table["npar"]) == case["npar"]
    for column in ("aic", "bic", "loglik", "deviance"):
        np.testing.assert_allclose(table[column], case[column], atol=2e-6)
    np.testing.assert_allclose(table["chisq"], numbers(case["chisq"]), atol=2e-6)
    np.testing.assert_allclose(table["p_chi2"], numbers(case["p"]), rtol=2e-6)


@pytest.mark.parametrize("case", REFERENCE["drop1"], ids=lambda c: c["dataset"])
def test_drop1_is_that_of_lme4_and_lmertest(case):
    model = fit(case["dataset"], case["formula"])
    table = drop1(model)
    assert list(table.index) == ["<none>", *np.atleast_1d(case["terms"])]
    assert set(table["note"]) == {"refitted by ML"}
    np.testing.assert_allclose(table["aic"], case["aic"], atol=2e-6)
    for column, name in {"df": "df", "chisq": "chisq", "p_value": "p"}.items():
        np.testing.assert_allclose(table[column][1:], numbers(case[name]), rtol=1e-5)
    F = drop1(model, ddf="satterthwaite")
    assert list(F.index) == list(np.atleast_1d(case["f_terms"]))
    for column, name in {"F": "F", "num_df": "num_df", "den_df": "den_df", "p_value": "f_p"}.items():
        np.testing.assert_allclose(F[column], numbers(case[name]), rtol=1e-4)


@pytest.mark.parametrize("case", REFERENCE["ranova"], ids=lambda c: c["formula"].split("~")[1])
def test_ranova_is_that_of_lmertest(case):
    table = ranova(fit(case["dataset"], case["formula"], case["reml"]))
    rows = ["(0 + Days | Subject)" if r == "Days in (0 + Days | Subject)" else r for r in case["rows"]]
    rows = [f"0 + {r}" if "0 + Machine" in r else r for r in rows]
    assert list(table.index) == rows
    assert list(table["npar"]) == case["npar"]
    for column, name in {"aic": "aic", "loglik": "loglik", "chisq": "chisq", "df": "df"}.items():
        np.testing.assert_allclose(table[column], numbers(case[name]), atol=2e-6)
    np.testing.assert_allclose(table["p_chi2"], numbers(case["p"]), rtol=2e-6)
    assert (table["p_value"][1:] <= table["p_chi2"][1:]).all()


# --- REML and ML ----------------------------------------------------------------------------------------------------------
def test_fits_by_reml_and_by_ml_are_compared_only_on_request():
    one, two, three = fit("labs", LABS[0], False), fit("labs", LABS[1], False), fit("labs", LABS[2])
    with pytest.raises(ValueError, match="refit_ml=True"):
        compare(one, two, three)
    table = compare(one, two, three, refit_ml=True)
    assert list(table["note"]) == ["", "", "refitted by ML"]
    assert list(table["null"]) == ["", "0.5 chi2(0) + 0.5 chi2(1)", "chi2(1)"]
    outer = compare(one, three, refit_ml=True).iloc[1]
    assert outer["p_value"] == pytest.approx((chi2.sf(outer["chisq"], 1) + chi2.sf(outer["chisq"], 2)) / 2)


def test_reml_fits_with_the_same_fixed_effects_are_compared_as_they_are(sleep):
    table = compare(sleep["one"], sleep["full"])
    assert table["deviance"].tolist() == [sleep["one"].criterion, sleep["full"].criterion]
    assert (table["note"] == "").all()
    by_ml = compare(sleep["one"], sleep["full"], refit_ml=True)
    assert by_ml["deviance"].tolist() == pytest.approx(
        [sleep["one"].refit_ml().criterion, sleep["full"].refit_ml().criterion]
    )
    assert (by_ml["note"] == "refitted by ML").all()
    assert sleep["one"].reml  # the fit itself is left alone


# --- Which distribution ------------------------------------------------------------------------------------------------
def panel(seed=5, groups=24):
    """Two factors, b nested in a, h crossed, with effects of all of them, and covariates x, z."""
    rng = np.random.default_rng(seed)
    a = np.repeat(np.arange(groups), 12)
    n = len(a)
    data = pd.DataFrame(
        {"a": a, "b": np.tile(np.repeat([0, 1, 2], 4), groups), "h": np.arange(n) % 11, "f": np.arange(n) % 3}
    )
    data["f"] = data["f"].map({0: "p", 1: "q", 2: "r"})
    data["x"], data["z"] = rng.normal(size=n), rng.normal(2, 1, n)
    effects = rng.normal(size=(groups, 3))[a]
    data["y"] = effects[:, 0] + effects[:, 1] * data["x"] + 0.7 * effects[:, 2] * data["z"] + rng.normal(size=n)
    data["y"] += rng.normal(size=(groups, 3))[a, data["b"]] + 0.7 * rng.normal(size=11)[data["h"]]
    return data


CASES = [  # smaller, larger, distribution, part of the note
    ("(1 | a)", "(x || a)", "0.5 chi2(0) + 0.5 chi2(1)", None),
    ("(1 | a)", "(x | a)", "0.5 chi2(1) + 0.5 chi2(2)", None),
    ("(0 + x | a)", "(x | a)", "0.5 chi2(1) + 0.5 chi2(2)", None),
    ("(x | a)", "(x + z | a)", "0.5 chi2(2) + 0.5 chi2(3)", None),
    ("(x || a)", "(x | a)", "chi2(1)", None),
    ("(x + z || a)", "(x + z | a)", "chi2(3)", None),
    ("(1 | a)", "(1 | a / b)", "0.5 chi2(0) + 0.5 chi2(1)", None),
    ("(1 | a:b)", "(1 | a) + (1 | b:a)", "0.5 chi2(0) + 0.5 chi2(1)", None),
    ("(I(x - 3) | a)", "(x + z | a)", "0.5 chi2(2) + 0.5 chi2(3)", None),
    ("(1 | a)", "(f | a)", "chi2(5)", "several variances"),
    ("(1 | a)", "(0 + f | a)", "chi2(5)", "several variances"),
    ("(1 | a)", "(x + z || a)", "chi2(2)", "several variances"),
    ("(x || a)", "(x + z | a)", "chi2(4)", "several variances"),
    ("(1 | a)", "(1 | a) + (1 | h)", "chi2(1)", "crossed"),
    ("(1 | h)", "(1 | h) + (0 + z | h)", "0.5 chi2(0) + 0.5 chi2(1)", None),
    ("x + (1 | a)", "x + z + (1 | a)", "chi2(1)", None),
    ("x + (1 | a)", "x + z + (z | a)", "chi2(3)", "fixed and random"),
    ("x + (x || a)", "x + z + (x | a)", "chi2(2)", None),
]


@pytest.mark.parametrize(("small", "large", "null", "note"), CASES, ids=[f"{s} in {m}" for s, m, *_ in CASES])
def test_the_null_distribution(small, large, null, note):
    data = panel()
    m0, m1 = (lmer(f"y ~ {bars}", data, reml=False) for bars in (small, large))
    row = compare(m0, m1).iloc[1]
    assert row["null"] == null
    assert note in row["note"] if note else row["note"] == ""
    df = [int(d) for d in re.findall(r"chi2\((\d)\)", null)]
    assert row["p_value"] == pytest.approx(np.mean([chi2.sf(row["chisq"], d) if d else 0.0 for d in df]), rel=1e-12)
    if note:
        assert "a bound that makes p too large" in row["note"]
        assert ("exact_rlrt" in row["note"]) == (row["df"] == 1)
        assert row["p_value"] == row["p_chi2"]


def test_few_groups_and_singular_smaller_models_get_the_bound():
    table = ranova(fit("schools", "extro ~ open + agree + social + (1 | school)"))
    assert "with 6 independent groups (fewer than 10)" in table["note"].iloc[1]
    assert table["null"].iloc[1] == "chi2(1)"
    data = panel()
    data["y"] -= data.groupby("a")["y"].transform("mean")  # no variance between groups is left
    small, large = lmer("y ~ x + (1 | a)", data), lmer("y ~ x + (z || a)", data)
    assert small.is_singular
    assert "singular, so other variances are at their boundary" in compare(small, large)["note"].iloc[1]
    small, large = lmer("y ~ x + (z || a)", data), lmer("y ~ x + (z | a)", data)
    assert "p is rough" in compare(small, large)["note"].iloc[1]


def test_a_statistic_of_zero_has_p_one():
    data = load_dataset("dyestuff2").assign(Batch2=np.tile(np.arange(15), 2))
    table = ranova(lmer("Yield ~ 1 + (1 | Batch2) + (1 | Batch)", data))
    assert (table["p_value"][1:] <= 1).all()
    data = panel()
    data["y"] -= data.groupby("a")["y"].transform("mean")
    row = ranova(lmer("y ~ x + (1 | a)", data)).iloc[1]
    assert (row["null"], row["chisq"], row["p_value"]) == ("0.5 chi2(0) + 0.5 chi2(1)", 0.0, 1.0)


@pytest.mark.parametrize(
    ("one", "other", "part"),
    [
        ("x + (1 | a)", "z + (x | a)", "fixed"),
        ("x + (1 | h)", "x + (x | a)", "random"),
        ("x + (x | a)", "x + (1 + z || a) + (1 | h) + (1 | a:b)", "random"),
        ("x + (I(x - 3) || a)", "x + (x || a) + (1 | h)", "random"),
        ("x + (1 | a)", "x + (1 | a:b) + (1 | h)", "random"),
    ],
)
def test_models_that_are_not_nested_get_no_test(one, other, part):
    data = panel()
    table = compare(*(lmer(f"y ~ {bars}", data, reml=False) for bars in (one, other)))
    assert table[["chisq", "df", "p_value", "p_chi2"]].isna().all(axis=None)
    assert table["note"].iloc[1].startswith(f"the {part} effects are not nested")
    assert table[["aic", "bic"]].notna().all(axis=None)


def test_models_of_the_same_size_get_no_test(sleep):
    note = compare(sleep["one"], sleep["slope"])["note"].iloc[1]
    assert "as many parameters" in note


def test_the_coding_of_fixed_effects_does_not_matter_to_ml():
    data = panel()
    small = lmer("y ~ C(f, contr.sum) + (1 | a)", data, reml=False)
    large = lmer("y ~ f * x + (1 | a)", data, reml=False)
    assert compare(small, large).iloc[1]["df"] == 3


@pytest.mark.parametrize(("small", "large", "df"), [("(1 | g)", "(x || g)", (0, 1)), ("(1 | g)", "(x | g)", (1, 2))])
def test_the_mixture_is_the_distribution_in_many_groups_and_the_plain_chi2_is_not(small, large, df):
    rng = np.random.default_rng(8)
    g = np.repeat(np.arange(150), 6)
    data = pd.DataFrame({"g": g, "x": rng.normal(size=len(g)), "y": rng.normal(size=len(g))})
    m0, m1 = (lmer(f"y ~ x + {bars}", data) for bars in (small, large))
    statistic = []
    for _ in range(250):
        y = rng.normal(size=150)[g] + rng.normal(size=len(g))
        statistic.append(max(m0.refit(y).criterion - m1.refit(y).criterion, 0.0))
    statistic = np.array(statistic)
    for level in (0.5, 0.2, 0.1):
        p = np.mean([chi2.sf(statistic, d) if d else statistic <= 1e-9 for d in df], axis=0)
        assert (p < level).mean() == pytest.approx(level, abs=3 * np.sqrt(level * (1 - level) / 250))
    assert (chi2.sf(statistic, df[1]) < 0.2).mean() < 0.16


# --- What cannot be compared -------------------------------------------------------------------------------------------
def test_what_cannot_be_compared_says_why(sleep):
    data, full = load_dataset("sleepstudy"), sleep["full"]
    formula = "Reaction ~ Days + (1 | Subject)"
    with pytest.raises(ValueError, match=r"different rows \(180 and 170\)"):
        compare(full, lmer(formula, data.iloc[10:]))
    with pytest.raises(ValueError, match="different rows"):
        compare(lmer(formula, data.iloc[10:]), lmer(formula, data.iloc[:-10]))
    with pytest.raises(ValueError, match="different responses"):
        compare(full, lmer("np.log(Reaction) ~ Days + (1 | Subject)", data))
    with pytest.raises(ValueError, match="different weights"):
        compare(full, lmer(formula, data, weights=np.linspace(1, 2, 180)))
    with pytest.raises(ValueError, match="different offset"):
        compare(full, lmer(formula, data, offset="Days"))
    with pytest.raises(ValueError, match="restricted likelihood"):
        compare(full, lmer("Reaction ~ 1 + (Days | Subject)", data))
    with pytest.raises(ValueError, match="some by ML"):
        compare(full, lmer(formula, data, reml=False))
    with pytest.raises(ValueError, match="2 models need 2 names, not 3"):
        compare(full, sleep["one"], names=["a", "b", "c"])
    with pytest.raises(TypeError, match="Fitted models"):
        compare(full, "Reaction ~ Days")
    ones = lmer(formula, data, weights=np.ones(180), offset=np.zeros(180))
    assert compare(full, ones)["df"].iloc[1] == 2


# --- Deletions ---------------------------------------------------------------------------------------------------------
def test_deletions_keep_the_rows_response_weights_and_offset_of_the_fit():
    data = panel().assign(w=lambda d: np.linspace(0.5, 2, len(d)), o=lambda d: d["z"] / 2)
    data["my x"] = data["x"]
    data.loc[[3, 50, 51], "my x"] = np.nan
    model = lmer("y ~ `my x` * f + z + (z || a)", data, weights="w", offset="o")
    model = model.refit(model.design.y + np.cos(np.arange(model.nobs)))
    table, used = drop1(model), data.dropna().assign(y=model.design.y)
    assert list(table.index) == ["<none>", "z", "`my x`:f"]
    small = lmer("y ~ `my x` * f + (z || a)", used, weights="w", offset="o", reml=False)
    assert small.nobs == model.nobs
    assert table.loc["z", "aic"] == pytest.approx(small.aic, rel=1e-9)
    random = ranova(model)
    assert list(random.index) == ["<none>", "z in (z || a)", "1 in (z || a)"]
    for row, bars in zip(random.index[1:], ("(1 | a)", "(0 + z | a)"), strict=True):
        expected = lmer(f"y ~ `my x` * f + z + {bars}", used, weights="w", offset="o")
        assert random.loc[row, "aic"] == pytest.approx(expected.aic, rel=1e-9)


def test_f_tests_of_terms_agree_with_both_methods_and_contrasts():
    model = fit("machines", "score ~ Machine + (1 | Worker)")
    one, other = (drop1(model, ddf).loc["Machine"] for ddf in ("satterthwaite", "kenward-roger"))
    assert one["F"] == pytest.approx(other["F"], rel=1e-9)
    beta, V = model.fixef[1:], model.vcov.iloc[1:, 1:]
    assert one["F"] == pytest.approx(beta @ np.linalg.solve(V, beta) / 2)


def test_terms_that_repeat_others_have_nothing_to_test():
    data = panel().assign(twice=lambda d: 2 * d["x"])
    with pytest.warns(UserWarning, match="rank deficient"):
        model = lmer("y ~ x + twice + z + (1 | a)", data)
    table = drop1(model)
    assert list(table["df"].notna()) == [False, False, False, True]
    assert "as many parameters" in table.loc["x", "note"]
    F = drop1(model, ddf="satterthwaite")
    assert list(F["num_df"]) == [0, 0, 1]
    assert F.loc["z", "p_value"] == pytest.approx(table.loc["z", "p_value"], rel=0.2)
    assert ranova(model)["df"].iloc[1] == 1


def test_without_a_fixed_intercept_a_lone_factor_can_still_be_dropped():
    table = drop1(fit("machines", "score ~ 0 + Machine + (1 | Worker)"))
    assert list(table.index) == ["<none>", "Machine"]
    assert table.loc["Machine", "npar"] == 2


# --- Conditional AIC ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("formula", FORMULAS)
def test_conditional_aic_from_the_hat_matrix(formula, weighted, reml):
    model = lmer(formula, random_data(4), reml=reml, **({"weights": "w", "offset": "o"} if weighted else {}))
    design, n = model.design, model.nobs
    W = np.diag(np.ones(n) if design.weights is None else design.weights)
    ZL, X = design.Z.toarray() @ dense_Lambda(design, model.theta), design.X
    V_inverse = np.linalg.inv(np.linalg.inv(W) + ZL @ ZL.T)
    P = V_inverse - V_inverse @ X @ np.linalg.solve(X.T @ V_inverse @ X, X.T @ V_inverse)
    H = np.eye(n) - np.linalg.solve(W, P)
    offset = 0 if design.offset is None else design.offset
    np.testing.assert_allclose(H @ (design.y - offset) + offset, model.fitted, rtol=1e-7)
    e = design.y - model.fitted
    loglik = -(n * np.log(2 * np.pi * model.sigma**2) - np.log(np.diag(W)).sum() + e @ W @ e / model.sigma**2) / 2
    found = conditional_aic(model)
    assert found["edf"] == pytest.approx(np.trace(H), rel=1e-8)
    assert found["loglik"] == pytest.approx(loglik, rel=1e-9)
    assert found["caic"] == pytest.approx(-2 * loglik + 2 * (np.trace(H) + 1), rel=1e-9)


def test_effective_degrees_of_freedom_of_a_balanced_design_and_at_zero_variance():
    data = load_dataset("dyestuff")
    model = lmer("Yield ~ 1 + (1 | Batch)", data)
    shrink = 5 * model.theta[0] ** 2 / (1 + 5 * model.theta[0] ** 2)
    assert conditional_aic(model)["edf"] == pytest.approx(1 + 5 * shrink)
    zero = lmer("Yield ~ 1 + (1 | Batch)", load_dataset("dyestuff2"), reml=False)
    assert conditional_aic(zero)["edf"] == pytest.approx(1)
    assert conditional_aic(zero)["caic"] == pytest.approx(zero.aic - 2)  # the variance that is 0 costs nothing
