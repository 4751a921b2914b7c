"""Refits of awkward models: profiles with several valleys, power of nested designs, tables of other libraries, saved booleans."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from lmmlite import lmer, load
from lmmlite.inference.compare import compare, drop1, ranova
from lmmlite.power import power

NESTED = "y ~ x + (1 | s / c)"


def arrow(data):
    return pytest.importorskip("pyarrow").Table.from_pandas(data)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    d = pd.DataFrame([(s, c) for s in range(6) for c in range(3) for _ in range(4)], columns=["s", "c"])
    x, u, v = rng.normal(size=72), rng.normal(size=6), rng.normal(size=18)
    return d.assign(x=x, y=x + u[d["s"]] + v[d["s"] * 3 + d["c"]] + rng.normal(size=72))


# --- Profiles ----------------------------------------------------------------------------------------------------------
def test_ends_of_a_profile_are_in_the_lowest_valley():
    """A valley that is the lowest only far from the estimate; a walk from there would not find it."""
    rng = np.random.default_rng(799)
    n = 70
    g, h, x = rng.integers(0, 9, n), rng.integers(0, 5, n), rng.normal(size=n) + 3
    _ = rng.choice(list("abc"), n), rng.integers(1, 4, n), rng.integers(0, 2, n)
    w, o = rng.uniform(0.3, 3, n), 2 * rng.normal(size=n)
    y = x + rng.normal(size=9)[g] * rng.choice([0, 0.3, 1.5]) + (x - 3) * rng.normal(size=9)[g] * rng.choice([0, 0.6])
    y += rng.normal(size=5)[h] * rng.choice([0, 1.0]) + rng.normal(size=n) / np.sqrt(w) + o
    d = pd.DataFrame({"g": g, "h": h, "x": x, "w": w, "o": o, "y": y})
    fit = lmer("y ~ x + (x || g) + (1 | h)", d, reml=False, weights="w", offset="o")
    for end in fit.profile("x", alphamax=0.05).confint().loc["x"]:
        held = d.assign(o=d["o"] + end * d["x"])
        refit = lmer("y ~ 1 + (x || g) + (1 | h)", held, reml=False, weights="w", offset="o")
        assert refit.criterion - fit.criterion == pytest.approx(3.841459, abs=1e-4)


@pytest.mark.parametrize("method", ["wald", "profile", "boot"])
def test_levels_and_options_of_intervals_are_checked_first(data, method):
    fit = lmer(NESTED, data)
    with pytest.raises(ValueError, match="level must be between 0 and 1, not 95"):
        fit.confint(method, level=95)
    with pytest.raises(TypeError, match="'wald' has no option 'n'"):
        fit.confint(n=95)


# --- Power -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("along", "levels", "groups"), [("s:c", 36, [6, 36]), ("s", 9, [9, 27]), ("s:c", 9, [3, 9])])
@pytest.mark.parametrize("table", [pd.DataFrame, pl.from_pandas, arrow])
def test_a_larger_nested_design_is_the_same_by_update(data, along, levels, groups, table):
    fit, seen = lmer(NESTED, table(data)), []

    def same(model):
        again = model.update(". ~ .")
        assert model.ngroups.to_list() == again.ngroups.to_list() == groups
        assert again.criterion == pytest.approx(model.criterion, abs=1e-8)
        seen.append(compare(model.update(". ~ . - x"), model, refit_ml=True)["p_value"].iloc[1])
        return seen[-1]

    assert power(fit, same, n=3, seed=1, along=along, levels=levels).p_values.to_list() == seen


def test_copies_that_cannot_have_labels_are_refused(data):
    fit = lmer("y ~ x + C(s) + (1 | c) + (1 | s:c)", data)
    with pytest.raises(ValueError, match="'s:c' need labels of their own, but s and c are used elsewhere"):
        power(fit, "x", n=2, along="s:c", levels=36)


def test_power_refuses_what_is_no_p_value_no_level_and_no_number(data):
    fit = lmer(NESTED, data)

    def first_row(model):
        return compare(model.update(". ~ . - x"), model, refit_ml=True)["p_value"].iloc[0]

    with pytest.raises(RuntimeError, match="the test gave nan, which is no p-value"):
        power(fit, first_row, n=3, seed=1)
    with pytest.raises(ValueError, match="alpha must be between 0 and 1, not 5"):
        power(fit, "x", n=3, alpha=5)
    with pytest.raises(TypeError, match=r"n must be a whole number, not 2\.5"):
        power(fit, "x", n=2.5)
    with pytest.raises(TypeError, match=r"levels must be a whole number, not 12\.5"):
        power(fit, "x", n=2, along="s", levels=12.5)


# --- Bootstrap -----------------------------------------------------------------------------------------------------------
def test_replicates_go_by_number(data):
    fit = lmer(NESTED, data)
    assert fit.bootstrap(3, seed=1).replicates.index.equals(pd.RangeIndex(3))
    with pytest.warns(UserWarning, match="replicates failed"):
        found = fit.bootstrap(
            8, seed=1, statistic=lambda m: m.fixef if m.fixef["x"] > fit.fixef["x"] or m is fit else 1 / 0
        )
    assert 0 < len(found.failures) < 8
    assert found.replicates.loc[found.failures.index].isna().all(axis=None)
    assert found.replicates.drop(found.failures.index).notna().all(axis=None)
    assert fit.bootstrap(2, seed=1, statistic=lambda m: m.anova()["F"]).replicates.index.to_list() == [0, 1]


def test_a_statistic_gives_the_same_numbers_each_time(data):
    fit = lmer(NESTED, data)
    with pytest.raises(ValueError, match=r"gives 3 numbers .*_3\) in replicate 0 and 2 .* for the fit"):
        fit.bootstrap(
            2, seed=1, statistic=lambda m: [1.0, 2.0] if m is fit or m.criterion == fit.criterion else [1.0, 2.0, 3.0]
        )


# --- Other tables, other columns -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("table", [pl.from_pandas, arrow])
def test_tables_of_other_libraries_are_refitted(data, table):
    fit, other = lmer(NESTED, data), lmer(NESTED, table(data))
    assert other.augment()["fitted"].to_numpy() == pytest.approx(fit.augment()["fitted"].to_numpy(), rel=1e-12)
    y = fit.simulate(1, seed=3).iloc[:, 0].to_numpy()
    smaller = [m.refit(y).update(". ~ . - x").criterion for m in (fit, other)]
    assert smaller[0] == pytest.approx(smaller[1], rel=1e-12)


def test_columns_named_by_numbers_are_refitted(data):
    numbered = data.set_axis(range(4), axis=1)
    fit = lmer("`3` ~ `2` + (1 | `0`)", numbered)
    y = fit.simulate(1, seed=3).iloc[:, 0].to_numpy()
    assert fit.refit(y).update(". ~ 1 + (1 | `0`)").criterion == pytest.approx(
        lmer("y ~ 1 + (1 | s)", data.assign(y=y)).criterion, rel=1e-12
    )


def test_a_refit_without_a_column_for_its_response_says_so(data):
    fit = lmer("np.exp(y) ~ x + (x | s)", data)
    refit = fit.refit(fit.simulate(1, seed=3).iloc[:, 0])
    for function in (ranova, drop1):
        with pytest.raises(ValueError, match="a response that no column holds"):
            function(refit)


@pytest.mark.parametrize(
    "flags",
    [
        lambda b: pd.array(b, dtype="boolean"),
        lambda b: pd.array(np.where(np.arange(len(b)) == 5, None, b), dtype="boolean"),
        lambda b: pd.Series(np.where(np.arange(len(b)) == 5, None, b), dtype=object),
        lambda b: pytest.importorskip("pyarrow") and pd.array(b, dtype="bool[pyarrow]"),
        lambda b: b,
    ],
)
def test_groups_of_true_and_false_come_back(data, flags, tmp_path):
    d = data.assign(b=flags(np.random.default_rng(1).integers(0, 2, 72) == 1))
    fit = lmer("y ~ x + (1 | s / b)", d)
    fit.save(tmp_path / "fit.npz")
    again = load(tmp_path / "fit.npz")
    assert again.ranef()["s:b"].index.equals(fit.ranef()["s:b"].index)
    pd.testing.assert_series_equal(again.predict(d.head(4)), fit.predict(d.head(4)), rtol=1e-9)


def test_groups_of_half_precision_predict(data):
    fit = lmer("y ~ x + (1 | s)", data.astype({"s": np.float16}))
    np.testing.assert_allclose(
        fit.predict(data.astype({"s": np.float16})), lmer("y ~ x + (1 | s)", data).fitted, rtol=1e-9
    )
