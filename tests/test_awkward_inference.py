"""Tests, means and contrasts of awkward data: brackets in levels, covariates far from zero, empty cells, labels."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2
from scipy.stats import t as student

from lmmlite import lmer
from lmmlite.inference.compare import compare, drop1
from lmmlite.means import means, pairwise

F_COLUMNS = ["num_df", "den_df", "F"]
METHODS = ["satterthwaite", "kenward-roger", "normal"]
FAR = 1e8
quiet = pytest.mark.filterwarnings("ignore:The fit is singular", "ignore:The fixed effects are rank deficient")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    n = 240
    d = pd.DataFrame(
        {
            "g": rng.integers(0, 12, n),
            "x": rng.normal(size=n),
            "z": rng.normal(size=n),
            "f": rng.choice(list("abc"), n),
            "k": rng.choice(list("uv"), n),
            "w": rng.uniform(0.2, 3, n),
        }
    )
    b = rng.normal(size=(12, 2))
    both = (d["f"] == "b") * (1.0 + 2 * (d["k"] == "v"))
    return d.assign(y=d["x"] + both + b[d["g"], 0] + 0.5 * b[d["g"], 1] * d["x"] + rng.normal(size=n))


def same(one, other, rtol=1e-5):
    np.testing.assert_allclose(one.to_numpy(float), other.to_numpy(float), rtol=rtol, atol=1e-9)


# --- Names of levels ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "levels", [("a)", "b)", "c)"), ("a", "<5)", "c:)"), ("a", "[T.b]", "b[T."), ("(a", "b]:k[T.v", "x")]
)
@pytest.mark.parametrize("formula", ["x * f * k", "I(x + 1) * f * k", "x * C(f, contr.sum) * k"])
def test_type_3_does_not_read_the_names_of_levels(data, levels, formula):
    named = data.assign(f=pd.Categorical.from_codes(data["f"].map(ord) - ord("a"), levels))
    one, other = (lmer(f"y ~ {formula} + (1 | g)", d).anova()[F_COLUMNS] for d in (data, named))
    same(one, other, 1e-6)


def test_type_3_knows_a_column_whose_name_is_no_word(data):
    named = data.rename(columns={"f": "f [T.b]", "k": "k)"})
    one, other = (
        lmer(f"y ~ {formula} + (1 | g)", d).anova()[F_COLUMNS]
        for formula, d in [("f * k + I(x - 1)", data), ("`f [T.b]` * `k)` + I(x - 1)", named)]
    )
    same(one, other, 1e-6)


@quiet
@pytest.mark.parametrize("type", [2, 3])
def test_numbers_in_C_are_levels(data, type):
    numbers = data.assign(h=data["k"].map({"u": 10, "v": 2}) + 3 * (data["f"] == "b"))
    one, other = (
        lmer(f"y ~ {h} * x + (1 | g)", numbers.assign(t=numbers["h"].astype(str))).anova(type=type)[F_COLUMNS]
        for h in ("C(h)", "t")
    )
    same(one[["num_df", "F"]], other[["num_df", "F"]], 1e-6)


# --- Far from zero -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ddf", METHODS)
@pytest.mark.parametrize("weights", [None, "w"])
def test_drop1_of_a_time_in_seconds(data, ddf, weights):
    one, other = (
        lmer("y ~ x + z + f + (1 | g)", d, weights=weights).drop1(ddf)
        for d in (data, data.assign(x=1.7e9 + 3600 * data["x"]))
    )
    assert one["F"].nunique() == 3
    same(one, other)


@quiet
@pytest.mark.parametrize("ddf", METHODS)
def test_means_and_joint_tests_far_from_zero(data, ddf):
    near, far = (lmer("y ~ x + f + (x | g)", d) for d in (data, data.assign(x=data["x"] + FAR)))
    same(means(near, "f", ddf=ddf).iloc[:, 1:], means(far, "f", ddf=ddf).iloc[:, 1:])
    same(near.contrast(np.eye(4)[1:], ddf), far.contrast(np.eye(4)[1:], ddf))
    every, moved = near.contrast(np.eye(4), ddf), far.contrast(np.eye(4), ddf)
    assert moved["num_df"].iloc[0] == 4
    shift = np.eye(4)
    shift[0, 1] = -FAR  # the intercept of x + 1e8 as a contrast of the other fit
    assert moved["F"].iloc[0] == pytest.approx(near.contrast(shift, ddf)["F"].iloc[0], rel=1e-5)
    assert every["F"].iloc[0] == pytest.approx(moved["F"].iloc[0], rel=1e-5)


@quiet
@pytest.mark.parametrize("type", [1, 2, 3])
@pytest.mark.parametrize("weights", [None, "w"])
@pytest.mark.parametrize("fixed", ["z + x + f * k", "x + z + C(f, contr.sum) * k"])
def test_anova_far_from_zero(data, type, weights, fixed):
    near, far = (
        lmer(f"y ~ {fixed} + (x | g)", d, weights=weights).anova(type=type)[F_COLUMNS]
        for d in (data, data.assign(x=data["x"] + FAR))
    )
    same(near, far)


@pytest.mark.parametrize("weights", [None, "w"])
def test_types_1_and_2_are_sums_of_squares_of_x(data, weights):
    """Against the Doolittle factor of X'X (weights are no part of it, as in lmerTest), where X'X can be trusted."""
    fit = lmer("y ~ x + f * k + (1 | g)", data, weights=weights)
    R = np.linalg.qr(fit.design.X)[1]
    f, k, both = [2, 3], [4], [5, 6]
    assert list(fit.design.names)[2:] == ["f[T.b]", "f[T.c]", "k[T.v]", "f[T.b]:k[T.v]", "f[T.c]:k[T.v]"]
    U = R / np.diag(R)[:, None]
    for term, rows in (("f", f), ("k", k), ("f:k", both)):
        assert fit.anova(type=1).loc[term, "den_df"] == pytest.approx(fit.contrast(U[rows])["den_df"].iloc[0], rel=1e-7)
        assert fit.anova(type=1).loc[term, "F"] == pytest.approx(fit.contrast(U[rows])["F"].iloc[0], rel=1e-7)
    order = [0, 1, *k, *f, *both]
    R = np.linalg.qr(fit.design.X[:, order])[1]
    rows = np.zeros((2, 7))
    rows[:, order] = R[3:5] / np.diag(R)[3:5, None]
    same(fit.contrast(rows)[F_COLUMNS[::-1]], fit.anova(type=2).loc[["f"], F_COLUMNS[::-1]], 1e-7)


def test_dependent_rows_count_once(data):
    fit = lmer("y ~ x + f + (1 | g)", data)
    for ddf in METHODS:
        same(fit.contrast(np.eye(4)[[1]], ddf), fit.contrast(np.eye(4)[[1, 1]], ddf), 1e-9)


# --- Infinite degrees of freedom ---------------------------------------------------------------------------------------
def test_normal_f_tests_are_chi2(data):
    fit = lmer("y ~ x + f + (1 | g)", data)
    tables = fit.anova("normal"), fit.drop1("normal"), fit.contrast(np.eye(4)[[1]], "normal")
    p = fit.contrast({"x": 1}, "normal")["p_value"].iloc[0]
    for table in tables:
        assert table["p_value"].between(0, 1).all()
        assert table["p_value"].iloc[0] == pytest.approx(p, rel=1e-9)
    beta, V = fit.fixef[2:], fit.vcov.iloc[2:, 2:]
    assert tables[0].loc["f", "p_value"] == pytest.approx(chi2.sf(beta @ np.linalg.solve(V, beta), 2))


# --- Labels of contrasts -----------------------------------------------------------------------------------------------
def test_contrasts_with_labels_are_read_by_label(data):
    fit = lmer("y ~ x + f + (1 | g)", data)
    expected = fit.contrast({"x": 1})
    for L in (
        pd.Series({"x": 1, "Intercept": 0}),
        pd.Series([0, 1, 0, 0]),
        pd.Series([0, 0, 1, 0], fit.fixef.index[::-1]),
    ):
        pd.testing.assert_frame_equal(fit.contrast(L), expected)
    frame = pd.DataFrame({"f[T.b]": [0, 1], "x": [1, 0]})
    pd.testing.assert_frame_equal(fit.contrast(frame), fit.contrast([[0, 1, 0, 0], [0, 0, 1, 0]]))


@pytest.mark.parametrize(
    ("L", "message"),
    [
        ("x", "a dict such as .* not 'x'"),
        (["x"], "A contrast holds numbers"),
        ({"x": "1 - f"}, "A contrast holds numbers"),
        (pd.Series({"q": 1}), "no fixed effect 'q'; it has Intercept, x, f"),
        (pd.DataFrame({"x": [1.0], "q": [1.0]}), "no fixed effect 'q'"),
        (pd.Series([1, 2], ["x", "x"]), "names 'x' twice"),
        (pd.Series({"x": np.nan}), "finite coefficients"),
        (np.empty((0, 4)), "not all zero"),
    ],
)
def test_contrasts_that_cannot_be_read(data, L, message):
    with pytest.raises(ValueError, match=message):
        lmer("y ~ x + f + (1 | g)", data).contrast(L)


# --- Empty cells -------------------------------------------------------------------------------------------------------
@quiet
@pytest.mark.parametrize("shift", [0, FAR])
@pytest.mark.parametrize("weights", [None, "w"])
def test_means_that_no_data_determine_are_nan(data, shift, weights):
    table = data[~((data["f"] == "c") & (data["k"] == "v"))].assign(x=data["x"] + shift)
    fit = lmer("y ~ x + f * k + (1 | g)", table, weights=weights)
    with pytest.warns(UserWarning, match=r"do not determine c v \(nan in the table\)"):
        cells = means(fit, ["f", "k"])
    assert cells["estimate"].isna().tolist() == [False] * 5 + [True]
    with pytest.warns(UserWarning, match="do not determine v"):
        assert means(fit, "k").isna().any(axis=1).tolist() == [False, True]
    with pytest.warns(UserWarning, match="a - c, b - c"):
        pairs = pairwise(fit, "f")
    assert pairs["p_value"].isna().tolist() == [False, True, True]
    known = lmer("y ~ x + f * k + (1 | g)", table[table["f"] != "c"], weights=weights)
    assert cells["estimate"].iloc[0] == pytest.approx(means(known, ["f", "k"])["estimate"].iloc[0], abs=0.2)


@quiet
def test_only_pairs_that_exist_count_in_the_family(data):
    fit = lmer("y ~ f * k + (1 | g)", data[~((data["f"] == "c") & (data["k"] == "v"))])
    with pytest.warns(UserWarning, match="do not determine"):
        plain, holm, tukey = (pairwise(fit, "f", adjust=a).iloc[0] for a in ("none", "holm", "tukey"))
    assert plain["p_value"] == holm["p_value"] == pytest.approx(tukey["p_value"], rel=1e-6)


@quiet
@pytest.mark.parametrize("shift", [0, FAR])
def test_a_repeated_covariate_leaves_estimable_what_holds_it_to_the_data(data, shift):
    table = data.assign(x=data["x"] + shift, twice=lambda d: 2 * d["x"] + 1)
    fit = lmer("y ~ x + twice + f + (1 | g)", table)
    same(means(fit, "f").iloc[:, 1:], means(lmer("y ~ x + f + (1 | g)", table), "f").iloc[:, 1:])
    at = {"x": shift + 1}
    with pytest.warns(UserWarning, match="do not determine a, b, c"):
        assert means(fit, "f", at=at)["estimate"].isna().all()
    assert pairwise(fit, "f", at=at)["estimate"].notna().all()  # the covariate cancels
    assert means(fit, "f", at=at | {"twice": 2 * shift + 3})["estimate"].notna().all()


def test_a_factor_named_twice(data):
    with pytest.raises(ValueError, match="'f' is named twice"):
        means(lmer("y ~ f + (1 | g)", data), ["f", "f"])


def test_leverages_lost_in_rounding_are_refused() -> None:
    rng = np.random.default_rng(1)
    a, b, x = rng.integers(0, 20, 600), rng.integers(0, 15, 600), rng.normal(size=600)
    effects = rng.normal(size=20)[a] + rng.normal(size=15)[b] + x
    for noise in (1.0, 1e-2):
        data = pd.DataFrame({"y": effects + noise * rng.normal(size=600), "x": x, "a": a, "b": b})
        assert lmer("y ~ x + (1 | a) + (1 | b)", data).leverage()["fixed"].sum() == pytest.approx(2, abs=1e-3)
    with pytest.raises(ValueError, match="lost in rounding"):
        lmer("y ~ x + (1 | a) + (1 | b)", data.assign(y=effects + 1e-5 * rng.normal(size=600))).leverage()


# --- Two degrees of freedom --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("units", "formula"),
    [
        ([(a, b) for a in "xy" for b in "pqr"], "y ~ t + (1 | g) + (1 | g:t)"),
        ([(a + b, b) for a in "xy" for b in "pq"], "y ~ t + (1 | g)"),
    ],
)
def test_in_balanced_data_kenward_roger_is_the_exact_f_test(units, formula, seed):
    """With 2 df the method's formulas divide 0 by 0: F(ℓ, 2) has no mean to match."""
    rng = np.random.default_rng(seed)
    d = pd.DataFrame([unit for unit in units for _ in range(4)], columns=["g", "t"])
    fit = lmer(formula, d.assign(y=3 * rng.normal(size=len(units)).repeat(4) + rng.normal(size=len(d))))
    if not fit.is_singular:
        found = fit.anova("kenward-roger")
        assert found["den_df"].to_list() == pytest.approx([2])
        same(found, fit.anova(), 1e-6)
        assert fit.tidy(ddf="kenward-roger")["df"][1] == pytest.approx(2, abs=1e-6)


# --- Levels that are no text -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "levels",
    [
        [2000, 2001, 2002],
        [0.5, 1.5, 2.5],
        ["a", 1, 2.5],
        list(pd.interval_range(0, 3)),
        list(pd.date_range("2024", periods=3)),
    ],
)
@pytest.mark.parametrize("formula", ["f * k", "f * np.exp(x) + k"])
def test_means_of_levels_that_are_no_text(data, levels, formula):
    codes = data["f"].map(ord) - ord("a")
    other = lmer(f"y ~ {formula} + (1 | g)", data.assign(f=pd.Categorical.from_codes(codes, levels)))
    fit = lmer(f"y ~ {formula} + (1 | g)", data)
    for factor in ("f", "k", ["k", "f"]):
        same(means(fit, factor).filter(regex="^[^fk]"), means(other, factor).filter(regex="^[^fk]"))
    assert list(means(other, "f")["f"]) == levels
    same(means(fit, "k", at={"f": ["a"]}).iloc[:, 1:], means(other, "k", at={"f": levels[:1]}).iloc[:, 1:])


def test_numbers_that_stand_for_levels_have_means(data):
    data = data.assign(year=data["f"].map(ord) + 1903)
    fit, other = lmer("y ~ C(year) * k + x + (1 | g)", data), lmer("y ~ f * k + x + (1 | g)", data)
    for one, two in [("year", "f"), ("k", "k")]:
        same(means(fit, one).iloc[:, 1:], means(other, two).iloc[:, 1:])
    assert means(fit, "year")["year"].to_list() == [2000, 2001, 2002]
    with pytest.raises(ValueError, match="'year' has no level 1999; it has 2000.0, 2001.0, 2002.0"):
        means(fit, "k", at={"year": [1999]})
    with pytest.raises(ValueError, match="'f' has no level 'q'; it has 'a', 'b', 'c'"):
        means(other, "k", at={"f": "q"})


@pytest.mark.parametrize(
    "formula", ["y ~ C(year) * x + (1 | g)", "y ~ x + (0 + C(year) | g)", "y ~ C(abs(year)) + (1 | g)"]
)
def test_a_number_as_level_that_the_fit_has_not_seen_is_refused(data, formula):
    data = data.assign(year=data["f"].map(ord) + 1903)
    fit = lmer(formula, data)
    with pytest.raises(ValueError, match=r"1999.*not seen|not seen.*1999"):
        fit.predict(data.tail(3).assign(year=[2001, 1999, 2000]))
    expected = fit.predict(data.tail(2))
    found = fit.predict(data.tail(2).assign(year=[np.nan, data["year"].iloc[-1]]))
    assert np.isnan(found.iloc[0])
    assert found.iloc[1] == pytest.approx(expected.iloc[1], rel=1e-12)


# --- Offsets, constants, nothing to do -----------------------------------------------------------------------------------
def test_means_are_at_the_mean_of_the_offset(data):
    plain, moved = (
        lmer("y ~ f + x + (1 | g)", data),
        lmer("y ~ f + x + (1 | g)", data.assign(y=data["y"] + data["w"]), offset="w"),
    )
    expected, found = means(plain, "f").set_index("f"), means(moved, "f").set_index("f")
    shifted = ["estimate", "conf_low", "conf_high"]
    same(found[shifted], expected[shifted] + data["w"].mean())
    same(found[["std_error", "df"]], expected[["std_error", "df"]])
    t = found["estimate"] / found["std_error"]
    np.testing.assert_allclose(found["p_value"], 2 * student.sf(abs(t), found["df"]), rtol=1e-9)
    same(pairwise(moved, "f").iloc[:, 1:], pairwise(plain, "f").iloc[:, 1:])


def test_a_covariate_far_from_zero_is_not_taken_for_the_constant(data):
    far = data.assign(t=1.7e18 + 1e9 * data["w"])
    small, other, large = (lmer(f"y ~ {text} + (1 | g)", far, reml=False) for text in ("t", "x + z", "t + z"))
    assert "not nested" in compare(small, other)["note"].iloc[1]
    assert compare(small, large)["df"].iloc[1] == 1


def test_nothing_to_test_is_an_empty_table_or_an_error(data):
    assert list(drop1(lmer("y ~ 1 + (1 | g)", data), "satterthwaite").columns) == ["F", "num_df", "den_df", "p_value"]
    fit = lmer("y ~ f * x + (1 | g)", data)
    with pytest.raises(ValueError, match="Name a factor whose levels get a mean each: f, x"):
        means(fit, [])
    with pytest.raises(ValueError, match="at has no value of 'x'"):
        means(fit, "f", at={"x": []})
