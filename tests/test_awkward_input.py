"""Tables as people have them: shared, relabelled, masked, with unlucky names.  What is used is right, or refused by name."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from random_models import random_data

from lmmlite import lmer, load

FORMULA = "y ~ x + f + (1 | g)"
IDS = 10**17 + 8 * random_data(0)["g"].to_numpy()  # float64 holds every sixteenth number there


@pytest.fixture(scope="module")
def data():
    return random_data(0)


@pytest.fixture(scope="module")
def fit(data):
    return lmer(FORMULA, data)


# --- What the caller does afterwards -------------------------------------------------------------------------------
def as_mapping(data):
    return {name: column.to_numpy(copy=True) for name, column in data.items()}


@pytest.mark.parametrize("kind", [pd.DataFrame, as_mapping, dict, pl.DataFrame])
def test_a_fit_does_not_change_with_the_data(kind, data):
    # A polars frame is made from its columns, which spares the tests pyarrow.
    given = kind(as_mapping(data)) if kind is pl.DataFrame else kind(data.copy())
    weights = np.linspace(1, 2, len(data))
    fit = lmer(FORMULA, given, weights=weights)
    residuals, rows = fit.residuals("pearson").copy(), fit.augment().copy()
    weights[:] = 9.0
    if isinstance(given, pd.DataFrame):
        given.loc[3:, "y"] = np.nan
        given["x"] -= 100
    elif isinstance(given, pl.DataFrame):
        given[0, "y"] = 7.0
    elif kind is dict:
        given["y"].iloc[3:] = np.nan
    else:
        given["y"][3:] = np.nan
        del given["x"]
    del fit.fitted  # computed anew
    pd.testing.assert_series_equal(fit.residuals("pearson"), residuals)
    pd.testing.assert_frame_equal(fit.augment(), rows)
    assert fit.update(". ~ . - f").nobs == len(data)


def test_a_new_response_is_copied(fit, data):
    y = data["y"].to_numpy() + data["x"].to_numpy()
    again = fit.refit(y)
    y[:] = 0.0
    assert np.ptp(again.design.y) > 0


@pytest.mark.skipif(pd.__version__ < "3", reason="before pandas 3 the data must be copied")
def test_large_data_are_shared(data):
    given = data.copy()
    assert np.shares_memory(lmer(FORMULA, given).design.y, given["y"].to_numpy())


# --- Kinds of columns ----------------------------------------------------------------------------------------------
def mapping(data, **changed):
    return {**{name: column.to_numpy() for name, column in data.items()}, **changed}


def with_ids(data, kind):
    columns = mapping(data, f=data["f"].tolist())
    if kind == "list":
        return columns | {"g": [float("nan"), *IDS[1:].tolist()]}
    if kind == "masked":
        return columns | {"g": np.ma.masked_array(IDS, np.arange(len(IDS)) == 0)}
    if kind == "extension array":
        return columns | {"g": pd.array([None, *IDS[1:]], dtype="Int64")}
    if kind == "polars":
        return pl.DataFrame(columns | {"g": [None, *IDS[1:].tolist()]})
    return pytest.importorskip("pyarrow").table(columns | {"g": [None, *IDS[1:].tolist()]})


@pytest.mark.parametrize("kind", ["list", "masked", "extension array", "polars", "pyarrow"])
def test_large_ids_stay_apart_where_one_is_missing(kind, data):
    fit = lmer(FORMULA, with_ids(data, kind))
    assert fit.n_missing == 1
    assert fit.ngroups["g"] == data["g"][1:].nunique()


def test_the_order_of_categories_is_respected(data):
    levels = sorted(data["f"].unique(), reverse=True)
    columns = mapping(data, f=data["f"].tolist())
    enum = pl.DataFrame(columns).with_columns(pl.col("f").cast(pl.Enum(levels)))
    expected = lmer(FORMULA, data.assign(f=pd.Categorical(data["f"], levels)))
    for given in (enum, columns | {"f": pd.Categorical(data["f"], levels)}):
        assert lmer(FORMULA, given).fixef.to_dict() == pytest.approx(expected.fixef.to_dict())


def test_nan_among_text_is_missing(data):
    fit = lmer(FORMULA, mapping(data, f=[float("nan"), *data["f"][1:]]))
    assert (fit.n_missing, fit.fixef.index.tolist()) == (1, lmer(FORMULA, data).fixef.index.tolist())


@pytest.mark.parametrize("column", ["x", "y", "w"])
def test_masks_are_kept(column, data):
    masked = np.ma.masked_array(data[column], np.arange(len(data)) < 3)
    weights = {"weights": masked} if column == "w" else {}
    fit = lmer(FORMULA, mapping(data) if weights else mapping(data, **{column: masked}), **weights)
    assert fit.n_missing == 3


# --- Values given next to the data ---------------------------------------------------------------------------------
@pytest.mark.parametrize("role", ["weights", "offset"])
def test_values_of_other_rows_are_refused(role, data):
    values = data["w"]
    with pytest.raises(ValueError, match=f"{role}.*same in another order: use .loc"):
        lmer(FORMULA, data.sort_values("y"), **{role: values})
    with pytest.raises(ValueError, match=f"{role}.*label 0 where row 0 of the data has 5.*to_numpy"):
        lmer(FORMULA, data.set_index(data.index + 5), **{role: values})
    with pytest.raises(ValueError, match=f"{role} must be a column's name or 60 values"):
        lmer(FORMULA, data, **{role: values[:-1]})
    shuffled = data.sort_values("y")
    expected = lmer(FORMULA, data, **{role: "w"}).criterion
    assert lmer(FORMULA, shuffled, **{role: values.loc[shuffled.index]}).criterion == pytest.approx(expected)
    assert lmer(FORMULA, mapping(data), **{role: values.set_axis(values.index + 5)}).criterion == pytest.approx(
        expected
    )


def test_series_of_other_rows_are_refused(data):
    with pytest.raises(ValueError, match="'y' and 'x' are pandas Series with different labels"):
        lmer(FORMULA, dict(data) | {"x": data["x"].sort_values()})


def test_a_response_of_other_rows_is_refused(fit, data):
    with pytest.raises(ValueError, match="new response.*another order"):
        fit.refit(data["y"].sort_values())
    assert fit.refit(data["y"]).criterion == pytest.approx(fit.criterion)


def test_weights_and_offset_of_new_rows(data):
    fit, new = lmer(FORMULA, data, offset="o"), data.head(3)
    with pytest.raises(ValueError, match="weights must be .* 3 numbers"):
        fit.predict(new, interval="prediction", weights=[1, 2])
    with pytest.raises(ValueError, match="offset.*another order"):
        fit.predict(new, offset=new["o"][::-1])


# --- Names ---------------------------------------------------------------------------------------------------------
def test_a_covariate_called_sigma(data):
    fit = lmer("y ~ sigma + (1 | g)", data.rename(columns={"x": "sigma"}))
    for ask in (lambda: fit.confint("profile"), lambda: fit.confint("boot", n=2), lambda: fit.bootstrap(2)):
        with pytest.raises(ValueError, match="Two parameters would be called 'sigma': rename"):
            ask()
    assert len(fit.tidy()) == 4


def test_names_of_groups_and_of_new_columns(data):
    with pytest.raises(ValueError, match="'Residual' has the name"):
        lmer("y ~ x + (1 | Residual)", data.rename(columns={"g": "Residual"}))
    with pytest.raises(ValueError, match="Two grouping factors would be called 'g:f'"):
        lmer("y ~ x + (1 | g:f) + (1 | `g:f`)", data.assign(**{"g:f": data["g"]}))
    with pytest.raises(ValueError, match="column 'fitted', which would be overwritten"):
        lmer("y ~ fitted + (1 | g)", data.rename(columns={"x": "fitted"})).augment()


# --- Saving --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("missing", [False, True])
def test_large_ids_are_saved(missing, data, tmp_path):
    ids = pd.Series(IDS, data.index).astype("Int64")
    fit = lmer(FORMULA, data.assign(g=ids.mask(data.index == 0) if missing else ids))
    fit.save(tmp_path / "fit.npz")
    twin = load(tmp_path / "fit.npz")
    assert twin.ranef()["g"].index.tolist() == fit.ranef()["g"].index.tolist()
    assert (twin.n_missing, twin.criterion) == (int(missing), pytest.approx(fit.criterion))


@pytest.mark.parametrize(
    "dates",
    [
        pd.date_range("2020", periods=60, freq="37min"),
        pd.date_range("2020-10-25", periods=60, freq="h", tz="Europe/Berlin"),
        pd.period_range("2020", periods=60, freq="M"),
        pd.timedelta_range(0, periods=60, freq="D"),
    ],
)
def test_dates_are_saved(dates, data, tmp_path):
    by_date = data.set_index(dates).assign(g=dates[data["g"]])
    fit = lmer(FORMULA, by_date)
    fit.save(tmp_path / "fit.npz")
    twin = load(tmp_path / "fit.npz")
    pd.testing.assert_series_equal(twin.fitted, fit.fitted, check_freq=False)
    np.testing.assert_allclose(twin.predict(by_date.head(3)), fit.predict(by_date.head(3)))


def test_what_a_file_cannot_hold_is_refused_when_saving(data, tmp_path):
    intervals = pd.interval_range(0, 60)
    with pytest.raises(ValueError, match="Column 'g' has levels that are neither"):
        lmer(FORMULA, data.assign(g=pd.cut(data["x"], 5))).save(tmp_path / "fit.npz")
    with pytest.raises(ValueError, match="The index of the data has levels that are neither"):
        lmer(FORMULA, data.set_index(intervals)).save(tmp_path / "fit.npz")
    assert not (tmp_path / "fit.npz").exists()


# --- Prediction ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("new_levels", ["error", "population"])
def test_labels_of_another_type_are_no_new_levels(new_levels, fit, data):
    with pytest.raises(ValueError, match="No level of 'g' is known: in the fit they are numbers.*text.*Convert"):
        fit.predict(data.assign(g=data["g"].astype(str)), new_levels=new_levels)
    np.testing.assert_allclose(fit.predict(data.assign(g=99), new_levels="population"), fit.predict(data, random=False))
    fit.predict(data.head(2).assign(g=pd.Series([None, None], dtype=object)), new_levels="population")


@pytest.mark.parametrize("random", [None, 0, 1.5])
def test_random_is_a_bool_or_names(random, fit):
    with pytest.raises(TypeError, match=r"random must be True, False, or names of grouping factors \(g\)"):
        fit.predict(random=random)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("formula", [FORMULA, "y ~ np.log(x) * f + (x | g)"])
def test_rows_of_missing_values_give_nan(formula, data):
    fit = lmer(formula, data.assign(x=data["x"].abs() + 1))
    for changed in ({"x": np.nan}, {"f": None}, {"x": None}, {"f": np.nan}):
        assert fit.predict(data.head(1).assign(**changed)).isna().all()


@pytest.mark.parametrize("kind", [dict, pd.DataFrame, pl.DataFrame])
def test_rows_of_which_no_column_is_needed(kind, data):
    fit = lmer("y ~ 1 + (1 | g)", data)
    assert fit.predict(kind({"q": [1, 2, 3], "r": [4, 5, 6]}), random=False).tolist() == [fit.fixef["Intercept"]] * 3


# --- Options -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reml", ["ML", 2, None])
def test_reml_is_a_bool(reml, data):
    with pytest.raises(TypeError, match="reml must be True .REML. or False"):
        lmer(FORMULA, data, reml=reml)


def test_options_of_a_wrong_type(fit, data):
    with pytest.raises(TypeError, match="start must be the numbers"):
        lmer(FORMULA, data, start="zero")
    with pytest.raises(TypeError, match=r"change must be a string such as '. ~ . - x', not int"):
        fit.update(3)
    for ask in (fit.bootstrap, fit.simulate):
        with pytest.raises(TypeError, match="n must be a whole number, not 10.0"):
            ask(10.0)


@pytest.mark.parametrize("change", [". ~ . - day", ". ~ . - x:f", ". ~ . - X * f"])
def test_only_terms_of_the_model_can_be_taken_out(change, fit):
    with pytest.raises(ValueError, match="no fixed term '(day|x:f|X)' to take out; it has x . f"):
        fit.update(change)


def test_terms_are_taken_out_in_any_order_of_their_factors(data):
    fit = lmer("y ~ x * f + (1 | g)", data)
    assert (
        fit.update(". ~ . - f:x - 1").fixef.index.tolist() == lmer("y ~ 0 + x + f + (1 | g)", data).fixef.index.tolist()
    )
