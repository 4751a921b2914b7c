"""Bad input never yields a plausible number: each error says what is wrong, where, and what to do."""

import sys

import numpy as np
import pandas as pd
import pytest
from random_models import random_data

from lmmlite import lmer, load_dataset

FORMULA = "y ~ x + f + (1 | g)"


def with_value(column, row, value):
    data = random_data(0)
    data[column] = data[column].astype(object if isinstance(value, str) else data[column].dtype)
    data.loc[row, column] = value
    return data


@pytest.mark.parametrize(
    ("formula", "data", "message"),
    [
        ("y ~ xx + (1 | g)", random_data(0), "no column 'xx'. Did you mean 'x'"),
        ("y ~ x + (1 | G)", random_data(0), "no column 'G'. Did you mean 'g'"),
        ("y ~ weight + (1 | g)", random_data(0), "There are: x, z"),
        ("f ~ x + (1 | g)", random_data(0), "response 'f' is not numeric"),
        ("t ~ x + (1 | g)", random_data(0).assign(t=lambda d: d["x"] > 20), "true or false.*logistic"),
        (FORMULA, random_data(0).assign(y=2.5), r"constant \(2.5\)"),
        (FORMULA, with_value("y", 7, np.inf), "'y' is infinite in row 7"),
        (FORMULA, with_value("x", 3, -np.inf), "'x' is infinite in row 3"),
        (FORMULA, random_data(0).assign(x=np.nan), "Every value of column 'x' is missing"),
        (FORMULA, random_data(0).assign(g=None), "Every value of column 'g' is missing"),
        (FORMULA, random_data(0).assign(g=1), "'g' has one level"),
        (FORMULA, random_data(0).assign(f="p"), "'f' has one level"),
        (FORMULA, random_data(0).assign(g=range(60)), "60 levels for 60 rows.*not|neither variance"),
        ("y ~ x + (x + z | i)", random_data(0).assign(i=np.arange(60) // 3), "60 random effects for 60 rows"),
        ("y ~ x + (x | g) + (1 | g)", random_data(0), "'Intercept' varies over 'g' in two terms"),
        ("y ~ x + (c | g)", random_data(0).assign(c=1.5), "'c' in .* same value in every row"),
        (FORMULA, random_data(0).iloc[:0], "no rows"),
        (FORMULA, pd.concat([random_data(0), random_data(0)[["x"]]], axis=1), "2 columns named 'x'"),
        (
            FORMULA,
            random_data(0).assign(x=lambda d: d["x"].astype(object)),
            "'x' holds numbers but is stored as objects",
        ),
        (FORMULA, random_data(0).assign(x=pd.Timestamp("2020-01-01")), "'x' is of type datetime64"),
        (FORMULA, random_data(0).assign(x=1j), "complex"),
        ("y ~ np.log(s) + (1 | g)", random_data(0).assign(s=lambda d: d["x"] - 20), "not finite in row"),
        ("y ~ poly(x) + bs(x, df=1) + (1 | g)", random_data(0), "cannot be evaluated"),
        ("f + x ~ z + (1 | g)", random_data(0), "not numeric"),
        ("y + x ~ z + (1 | g)", random_data(0), "gives 2 columns"),
        (FORMULA, random_data(0).assign(y=lambda d: 2 + 3 * d["x"]), "reproduce the response exactly"),
        ("y ~ 1 + (1 | g)", random_data(0).assign(y=lambda d: d["g"] ** 2), "residual variance goes to zero"),
        (FORMULA, random_data(0).to_numpy(), "must be a data frame"),
    ],
)
def test_data_that_cannot_be_fitted(formula, data, message):
    with pytest.raises((ValueError, TypeError), match=message):
        lmer(formula, data)


@pytest.mark.parametrize("formula", [None, 3, ["y ~ x"]])
def test_the_formula_is_text(formula):
    with pytest.raises(TypeError, match="must be a string"):
        lmer(formula, random_data(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "v"}, "no column 'v'"),
        ({"weights": np.ones(3)}, "60 values"),
        ({"weights": np.r_[np.ones(59), 0.0]}, "must be positive; row 59 has 0"),
        ({"weights": np.r_[-1.0, np.ones(59)]}, "row 0 has -1"),
        ({"weights": "f"}, "must be numbers"),
        ({"offset": np.ones(3)}, "60 values"),
        ({"offset": "h"}, "must be numbers"),
        ({"start": [1.0, 2.0]}, "1 finite numbers"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        lmer(FORMULA, random_data(0), **arguments)


def test_rank_deficient_fixed_effects_are_named():
    data = random_data(0).assign(twice=lambda d: 2 * d["x"] - 1)
    with pytest.warns(UserWarning, match="rank deficient: twice"):
        fit = lmer("y ~ x + twice + z + (1 | g)", data)
    assert list(fit.fixef.index) == ["Intercept", "x", "z"]
    assert fit.design.dropped == ("twice",)
    assert "twice" in str(fit.summary())
    assert fit.criterion == pytest.approx(lmer("y ~ x + z + (1 | g)", data).criterion, abs=1e-9)
    np.testing.assert_allclose(fit.predict(data), fit.fitted)


def test_an_empty_cell_of_an_interaction_is_named():
    data = random_data(1)
    data = data[~((data["f"] == "q") & (data["h"] == "t"))]
    with pytest.warns(UserWarning, match=r"f\[T.q\]:h\[T.t\]"):
        lmer("y ~ f * h + (1 | g)", data)


def test_missing_rows_are_counted_and_shown():
    data = random_data(0)
    data.loc[[3, 4], "x"] = np.nan
    data.loc[[4, 9], "y"] = np.nan
    data["g"] = data["g"].astype("Int64")
    data.loc[11, "g"] = pd.NA
    fit = lmer(FORMULA, data)
    assert (fit.nobs, fit.n_missing) == (56, 4)
    assert "4 left out for missing values" in str(fit.summary())
    whole = lmer(FORMULA, data.drop(index=[3, 4, 9, 11]))
    assert fit.criterion == whole.criterion
    assert list(fit.fitted.index) == list(whole.fitted.index)
    assert list(fit.ranef()["g"].index) == sorted(data["g"].dropna().unique())


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (
            {"f": "new"},
            {},
            "'f' has the level 'new' in row 0, which the fit has not seen; it knows 'p', 'q', 'r'",
        ),
        ({"g": 99}, {}, "'g' has the level '99' in row 0.*new_levels='population'"),
        ({"x": "a"}, {}, "numeric in the fit"),
        ({"f": 1.0}, {}, "factor in the fit"),
        ({}, {"random": ["h"]}, "no random effects for 'h'; it has g"),
        ({}, {"new_levels": "zero"}, "'error' or 'population'"),
    ],
)
def test_predict(change, arguments, message):
    fit = lmer(FORMULA, random_data(0))
    with pytest.raises(ValueError, match=message):
        fit.predict(random_data(0).head(3).assign(**change), **arguments)


def test_predict_needs_its_columns():
    with pytest.raises(ValueError, match="no column 'f'"):
        lmer(FORMULA, random_data(0)).predict(random_data(0)[["x", "g"]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fit: fit.refit(np.ones(3)), "60 values"),
        (lambda fit: fit.refit(np.full(60, np.nan)), "not finite in row 0"),
        (lambda fit: fit.residuals("working"), "'response', 'pearson'"),
        (lambda fit: fit.ranef_cov("h"), "it has g"),
        (lambda fit: fit.confint(level=95), "between 0 and 1"),
        (lambda fit: fit.simulate(0), "at least 1"),
    ],
)
def test_methods(call, message):
    with pytest.raises(ValueError, match=message):
        call(lmer(FORMULA, random_data(0)))


def test_more_random_effects_than_fit_into_memory(monkeypatch):
    """Of the factors beside the largest, before anything large is made."""
    monkeypatch.setattr(sys.modules["lmmlite.crossproducts"], "_MOST", 10)
    data = load_dataset("penicillin")
    assert lmer("diameter ~ 1 + (1 | plate) + (1 | sample)", data).converged
    monkeypatch.setattr(sys.modules["lmmlite.crossproducts"], "_MOST", 5)
    with pytest.raises(ValueError, match="has 6 random effects"):
        lmer("diameter ~ 1 + (1 | plate) + (1 | sample)", data)
