"""Data that hurt: the right answer, from an independent computation or from the same data in kinder units, or a named error."""

import datetime
from decimal import Decimal
from fractions import Fraction

import mpmath
import numpy as np
import pandas as pd
import pytest
from random_models import dense_criterion, dense_Lambda, random_data

from lmmlite import build_design, lmer, parse_formula, textbook

FORMULA = "y ~ x + z + (x | g) + (1 | h)"


def kind_data(seed=3):
    """Numbers on a 2⁻¹⁰ grid, so that adding 1e8 or 1e12 to them rounds nothing."""
    data = random_data(seed)
    return data.assign(**{name: np.round(data[name] * 2**10) / 2**10 for name in ("x", "y", "z")})


DATA = kind_data()
FIT = lmer(FORMULA, DATA)


def assert_optimal_by_definition(fit, rtol=1e-7):
    """Criterion, β̂, standard errors and σ̂ are those of the n × n matrix V, and no step from θ̂ lowers the criterion."""
    design = fit.design
    value = dense_criterion(design, fit.theta, fit.reml)
    assert fit.criterion == pytest.approx(value, abs=1e-7)
    V = textbook.marginal_covariance(design.Z.toarray(), dense_Lambda(design, fit.theta), fit.sigma**2, design.weights)
    if design.X.shape[1]:
        beta, cov = textbook.gls(design.y, design.X, V)
        np.testing.assert_allclose(fit.fixef, beta, rtol=rtol, atol=rtol * fit.se.max())
        np.testing.assert_allclose(fit.se, np.sqrt(np.diag(cov)), rtol=rtol)
    for j, size in enumerate(fit.theta):
        for step in (-1, 1):
            theta = fit.theta.copy()
            theta[j] += step * 1e-3 * max(abs(size), 1e-2)
            assert dense_criterion(design, theta, fit.reml) >= value - 1e-9


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1e6, 1e12, 1e-140, 1e140])
@pytest.mark.parametrize("column", ["y", "x", "z"])
def test_units(column, unit):
    fit = lmer(FORMULA, DATA.assign(**{column: unit * DATA[column]}))
    factor = pd.Series(unit if column == "y" else 1.0, FIT.fixef.index)
    factor[column] = 1 / unit
    factor = factor[FIT.fixef.index]
    np.testing.assert_allclose(fit.fixef, FIT.fixef * factor, rtol=1e-10)
    np.testing.assert_allclose(fit.se, FIT.se * factor, rtol=1e-10)
    scale_y = unit if column == "y" else 1.0
    assert fit.sigma == pytest.approx(scale_y * FIT.sigma, rel=1e-10)
    np.testing.assert_allclose(fit.fitted, scale_y * FIT.fitted, rtol=1e-10)
    power = 2 * (60 - 3) if column == "y" else 2
    assert fit.criterion == pytest.approx(FIT.criterion + power * np.log(unit), abs=1e-7)


@pytest.mark.parametrize("unit", [1e-200, 1e200, 5e-324])
def test_units_beyond_floating_point(unit):
    for column in ("y", "x"):
        data = DATA.assign(**{column: (DATA[column] > 10) * unit + DATA[column] * unit / 100})
        with pytest.raises(ValueError, match=f"'{column}' goes from .* change its unit"):
            lmer(FORMULA, data)


@pytest.mark.parametrize("shift", [1e4, 1e8, 1e12])
def test_offsets_of_x(shift):
    """Seconds since 1970, say: slopes, variances and what is fitted stay, the intercept stands at x = 0."""
    fit = lmer(FORMULA, DATA.assign(x=DATA["x"] + shift))
    np.testing.assert_allclose(fit.fixef.iloc[1:], FIT.fixef.iloc[1:], rtol=1e-9)
    np.testing.assert_allclose(fit.se.iloc[1:], FIT.se.iloc[1:], rtol=1e-9)
    assert fit.fixef["Intercept"] == pytest.approx(FIT.fixef["Intercept"] - shift * FIT.fixef["x"], rel=1e-9)
    assert fit.sigma == pytest.approx(FIT.sigma, rel=1e-9)
    assert fit.criterion == pytest.approx(FIT.criterion, abs=1e-8)
    rounding = shift * 1e-15
    np.testing.assert_allclose(fit.fitted, FIT.fitted, atol=1e-8 + 100 * rounding)
    np.testing.assert_allclose(fit.ranef()["h"], FIT.ranef()["h"], atol=1e-8)


@pytest.mark.parametrize("shift", [1e4, 1e8, 1e12])
def test_offsets_of_y(shift):
    fit = lmer(FORMULA, DATA.assign(y=DATA["y"] + shift))
    assert fit.fixef["Intercept"] - shift == pytest.approx(FIT.fixef["Intercept"], abs=1e-15 * shift + 1e-9)
    np.testing.assert_allclose(fit.fixef.iloc[1:], FIT.fixef.iloc[1:], rtol=1e-9)
    np.testing.assert_allclose(fit.se, FIT.se, rtol=1e-9)
    np.testing.assert_allclose(fit.theta, FIT.theta, rtol=1e-7)
    np.testing.assert_allclose(fit.residuals(), FIT.residuals(), atol=1e-15 * shift + 1e-9)


@pytest.mark.parametrize("distance", [1e-4, 1e-6, 1e-8])
def test_nearly_collinear_columns(distance):
    """x and x + distance · z, whose coefficients at the same θ are known from 50 digits."""
    data = DATA.assign(x=(DATA["x"] - 20) / 2, twin=lambda d: d["x"] + distance * d["z"])
    fit = lmer("y ~ x + twin + (1 | g)", data)
    V = textbook.marginal_covariance(fit.design.Z.toarray(), dense_Lambda(fit.design, fit.theta), 1.0)
    with mpmath.workdps(50):
        X, W = mpmath.matrix(fit.design.X), mpmath.matrix(V) ** -1
        M = (X.T * W * X) ** -1
        beta = np.array((M * X.T * W * mpmath.matrix(data["y"])).tolist(), float).ravel()
        se = fit.sigma * np.array([float(mpmath.sqrt(M[j, j])) for j in range(3)])
    digits = 1e-15 / distance
    np.testing.assert_allclose(fit.se, se, rtol=1e-9 + 10 * digits)
    assert (np.abs(fit.fixef - beta) <= (1e-9 + 100 * digits) * se).all()


def test_columns_too_collinear_to_tell_are_named():
    """A scaled condition number of 1e10 leaves no digits that mean anything: the column goes, with a warning."""
    data = DATA.assign(twin=DATA["x"] + 1e-10 * DATA["z"])
    with pytest.warns(UserWarning, match="rank deficient: twin"):
        fit = lmer("y ~ x + twin + (1 | g)", data)
    assert list(fit.fixef.index) == ["Intercept", "x"]


@pytest.mark.parametrize("noise", [1e-2, 1e-5])
def test_nearly_constant_groups(noise):
    """Groups that hardly vary inside: θ̂ is large, and still the optimum."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": np.repeat(np.arange(8), 6), "x": rng.normal(size=48)})
    data["y"] = data["x"] + rng.normal(size=8)[data["g"]] + noise * rng.normal(size=48)
    fit = lmer("y ~ x + (1 | g)", data)
    assert fit.converged
    assert 0.5 < fit.sigma / noise < 1.5
    within = data.groupby("g")[["x", "y"]].transform(lambda v: v - v.mean())
    slope = within["x"] @ within["y"] / (within["x"] @ within["x"])
    assert fit.fixef["x"] == pytest.approx(slope, abs=noise * 1e-2)
    assert fit.sigma == pytest.approx(np.linalg.norm(within["y"] - slope * within["x"]) / np.sqrt(48 - 8 - 1), rel=1e-3)


@pytest.mark.parametrize("noise", [0.0, 1e-14])
def test_constant_within_groups(noise):
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"g": np.repeat(np.arange(8), 6), "x": rng.normal(size=48)})
    data["y"] = rng.normal(size=8)[data["g"]] + noise * rng.normal(size=48)
    with pytest.raises(ValueError, match="constant within the groups"):
        lmer("y ~ x + (1 | g)", data)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e8])
def test_exactly_linear_response(scale):
    data = DATA.assign(y=scale * (2 + 3 * DATA["x"] - DATA["z"]))
    with pytest.raises(ValueError, match="reproduce the response exactly"):
        lmer(FORMULA, data)


def test_one_giant_group_and_singletons():
    """The balanced one-way layout's closed form does not hold here; the definition does, and large n agrees with its parts."""
    rng = np.random.default_rng(2)
    g = np.r_[np.zeros(60, int), np.arange(1, 41)]
    data = pd.DataFrame({"g": g, "x": rng.normal(size=100)})
    data["y"] = 1 + data["x"] + rng.normal(size=41)[g] + rng.normal(size=100)
    for reml in (True, False):
        assert_optimal_by_definition(lmer("y ~ x + (1 | g)", data, reml=reml))


def test_thousands_of_singletons():
    """Singletons have variance τ² + σ², the giant group σ² inside: both are found, and the labels belong to their rows."""
    rng = np.random.default_rng(4)
    g = np.r_[np.zeros(4000, int), np.arange(1, 4001)]
    data = pd.DataFrame(
        {"g": rng.permutation(10**6)[:4001][g], "y": rng.normal(size=8000) + 2 * rng.normal(size=4001)[g]}
    )
    fit = lmer("y ~ 1 + (1 | g)", data)
    assert fit.sigma == pytest.approx(data["y"][:4000].std(), rel=1e-3)
    assert fit.varcorr["sd_or_corr"].iloc[0] ** 2 + fit.sigma**2 == pytest.approx(data["y"][4000:].var(), rel=1e-2)
    b = fit.ranef()["g"]["Intercept"]
    weight = 1 - fit.sigma**2 / (fit.varcorr["variance"].iloc[0] + fit.sigma**2)
    single = data.iloc[4000:]
    np.testing.assert_allclose(b[single["g"]], weight * (single["y"] - fit.fixef.iloc[0]), rtol=1e-8)


@pytest.mark.parametrize("reml", [True, False])
def test_weights_over_twelve_orders(reml):
    weights = 10 ** np.random.default_rng(5).uniform(-6, 6, 60)
    fit = lmer("y ~ x + z + (1 | g)", DATA, weights=weights, reml=reml)
    assert fit.criterion == pytest.approx(dense_criterion(fit.design, fit.theta, reml), abs=1e-7)
    assert_optimal_by_definition(fit, rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_units_of_weights(factor):
    one, other = (lmer("y ~ x + (1 | g)", DATA, weights=c * DATA["w"]) for c in (1.0, factor))
    np.testing.assert_allclose(other.fixef, one.fixef, rtol=1e-7)
    np.testing.assert_allclose(other.se, one.se, rtol=1e-7)
    assert other.sigma == pytest.approx(np.sqrt(factor) * one.sigma, rel=1e-7)
    assert other.criterion == pytest.approx(one.criterion, abs=1e-8)


def whole(data):
    """x, y and g as whole numbers that every type below can hold."""
    return data.assign(x=(data["x"] - 20).round(), y=(4 * data["y"]).round(), g=data["g"] + 1)


NUMBER_TYPES = ["float32", "float16", "int8", "int16", "int64", "longdouble", "Int64", "Int8", "Float64", "Float32"]
NUMBER_TYPES += ["double[pyarrow]", "int64[pyarrow]", "Sparse[float]"]


@pytest.mark.parametrize("dtype", NUMBER_TYPES)
def test_types_of_numbers(dtype):
    data = whole(DATA)
    one, other = lmer("y ~ x + (1 | g)", data), lmer("y ~ x + (1 | g)", data.astype(dict.fromkeys("xyg", dtype)))
    assert other.criterion == one.criterion
    assert list(other.ranef()["g"].index) == list(one.ranef()["g"].index)


@pytest.mark.parametrize("dtype", ["bool", "boolean", "bool[pyarrow]"])
def test_true_and_false_are_one_and_zero(dtype):
    data = DATA.assign(x=DATA["x"] > 20)
    one = lmer("y ~ x + (1 | g)", data.astype({"x": float}))
    other = lmer("y ~ x + (1 | g)", data.astype({"x": dtype}))
    np.testing.assert_array_equal(other.fixef, one.fixef)


@pytest.mark.parametrize("dtype", ["string", "string[pyarrow]", "object", "category", "S1"])
def test_types_of_text(dtype):
    one = lmer("y ~ f + (1 | h)", DATA)
    values = DATA["f"].to_numpy(str).astype(dtype).tolist() if dtype == "S1" else DATA["f"].astype(dtype)
    other = lmer("y ~ f + (1 | h)", DATA.assign(f=values))
    assert other.criterion == one.criterion


MISSING = {
    "nan": (np.nan, "float64"),
    "None": (None, "object"),
    "NA": (pd.NA, "Float64"),
    "Arrow": (None, "double[pyarrow]"),
}


@pytest.mark.parametrize("kind", MISSING)
def test_missing_values_leave_the_row_out(kind):
    value, dtype = MISSING[kind]
    columns = {"x": dtype} if dtype != "object" else {"f": "object"}
    data = DATA.astype(columns)
    data.loc[[4, 17], list(columns)] = value
    fit = lmer("y ~ x + f + (1 | g)", data)
    whole_rows = lmer("y ~ x + f + (1 | g)", DATA.drop(index=[4, 17]))
    assert fit.n_missing == 2
    assert fit.criterion == whole_rows.criterion
    assert list(fit.fitted.index) == list(whole_rows.fitted.index)


def test_an_empty_string_and_the_word_nan_are_levels():
    data = DATA.assign(
        f=DATA["f"].map({"p": "", "q": "nan", "r": "None"}), h=DATA["h"].map(dict(zip("stuv", " 0-\n", strict=True)))
    )
    fit = lmer("y ~ f + (1 | h)", data)
    assert fit.n_missing == 0
    assert fit.fixef.size == 3
    assert fit.criterion == pytest.approx(lmer("y ~ f + (1 | h)", DATA).criterion, abs=1e-9)


def test_levels_that_look_like_numbers():
    """Text stays text: "10", "9", "1e1" and "010" are four levels; a category of numbers is a factor, too."""
    numbers = dict(zip("stuv", ["10", "9", "1e1", "010"], strict=True))
    fit = lmer("y ~ h + (1 | g)", DATA.assign(h=DATA["h"].map(numbers)))
    assert set(fit.fixef.index) == {"Intercept", "h[T.10]", "h[T.1e1]", "h[T.9]"}
    codes = pd.Categorical(DATA["h"].map(dict(zip("stuv", [40, 3, 2, 10], strict=True))))
    fit = lmer("y ~ h + (1 | g)", DATA.assign(h=codes))
    assert list(fit.fixef.index) == ["Intercept", "h[T.3]", "h[T.10]", "h[T.40]"]
    np.testing.assert_allclose(fit.predict(DATA.assign(h=codes).iloc[:5]), fit.fitted.iloc[:5])


def test_huge_category_lists():
    """A hundred thousand declared categories, of which a few occur, in their declared order."""
    categories = [f"c{i}" for i in range(100_000)][::-1]
    big = DATA.assign(f=pd.Categorical(DATA["f"].map({"p": "c9", "q": "c5", "r": "c1"}), categories))
    big["g"] = pd.Categorical("c" + (DATA["g"] * 7).astype(str), categories)
    fit, one = lmer("y ~ x * f + (1 | g)", big), lmer("y ~ x * f + (1 | g)", DATA)
    assert fit.criterion == pytest.approx(one.criterion, abs=1e-9)
    assert list(fit.fixef.index[2:4]) == ["f[T.c5]", "f[T.c1]"]
    assert list(fit.ranef()["g"].index) == [f"c{7 * g}" for g in sorted(set(DATA["g"]))][::-1]


@pytest.mark.parametrize("dtype", ["int8", "int16", "int64", "uint64"])
def test_level_codes_do_not_overflow(dtype):
    """Groups −120 … 119 in eight bits: their differences need nine."""
    rng = np.random.default_rng(6)
    levels = rng.permutation(240)[:200] - (120 if dtype != "uint64" else 0)
    g = np.repeat(levels, 3)
    data = pd.DataFrame(
        {"y": rng.normal(size=600) + rng.normal(size=600)[g], "g": g.astype(dtype), "text": g.astype(str)}
    )
    fit, other = lmer("y ~ 1 + (1 | g)", data), lmer("y ~ 1 + (1 | text)", data)
    assert fit.ngroups["g"] == 200
    assert fit.criterion == pytest.approx(other.criterion, abs=1e-9)
    assert list(fit.ranef()["g"].index) == sorted(levels)


@pytest.mark.parametrize("extreme", [2**63 - 1, -(2**63), 2**53 + 1])
def test_extreme_integers_are_levels(extreme):
    data = DATA.assign(g=DATA["g"].astype("int64").replace(3, extreme))
    assert extreme in lmer("y ~ x + (1 | g)", data).ranef()["g"].index


def test_infinite_and_missing_labels():
    data = DATA.assign(g=DATA["g"].astype(float).replace({3.0: np.inf, 4.0: np.nan}))
    fit = lmer("y ~ x + (1 | g)", data)
    assert fit.n_missing == (DATA["g"] == 4).sum()
    assert np.inf in fit.ranef()["g"].index


def test_combinations_of_many_levels():
    """50,000 × 50,000 possible combinations do not fit into 32 bits; the labels must still be those of the rows."""
    rng = np.random.default_rng(7)
    a, b = (np.repeat(rng.permutation(50_000), 2) for _ in range(2))
    data = pd.DataFrame({"a": pd.Categorical.from_codes(a, np.arange(50_001)), "b": b, "y": rng.normal(size=100_000)})
    levels = build_design(parse_formula("y ~ 1 + (1 | a:b)"), data).groups[0]
    assert levels.size == 50_000
    assert list(levels.labels[levels.codes]) == [f"{i}:{j}" for i, j in zip(a, b, strict=True)]


def test_polars():
    pl = pytest.importorskip("polars")
    missing = DATA["x"].mask(DATA["x"] > 23)
    frame = pl.from_pandas(DATA.assign(x=missing)).with_columns(
        pl.col("f").cast(pl.Categorical), pl.col("g").cast(pl.Int8), pl.col("x").fill_nan(None)
    )
    fit, one = (lmer("y ~ x + f + (1 | g)", data) for data in (frame, DATA.assign(x=missing)))
    assert fit.criterion == one.criterion
    with pytest.raises(TypeError, match="collect"):
        lmer("y ~ x + f + (1 | g)", frame.lazy())
    with pytest.raises(ValueError, match="'x' holds numbers but is stored as objects"):
        lmer("y ~ x + f + (1 | g)", frame.with_columns(pl.col("x").cast(pl.Decimal(12, 4))))


DAY = pd.Timestamp("2024-02-29")
COLUMNS = [
    ([Decimal("1.5")] * 59 + [Decimal(2)], "stored as objects"),
    ([Fraction(1, 3)] * 59 + [Fraction(2)], "stored as objects"),
    ([1.5] * 59 + ["2.5"], "stored as objects"),
    (["2.5"] + [1.5] * 59, "stored as objects"),
    ([1 + 2j] * 59 + ["a"], "stored as objects"),
    ([[1]] * 60, "holds a list"),
    ([{"a": 1}] * 60, "holds a dict"),
    ([np.ones(2)] * 60, "holds a ndarray"),
    ([datetime.date(2024, 1, 1 + i % 28) for i in range(60)], "holds date values"),
    ([datetime.time(i % 24) for i in range(60)], "holds time values"),
    ([DAY] * 60, "of type datetime64"),
    (pd.date_range(DAY, periods=60, tz="UTC"), "of type datetime64"),
    (pd.date_range(DAY, periods=60) - DAY, "of type timedelta64"),
    (pd.period_range(DAY, periods=60), "of type period"),
    (np.arange(60) * 1j, "complex"),
    ([np.inf] * 60, "infinite in row 0"),
    ([np.nan] * 60, "Every value of column 'x' is missing"),
    ([None] * 60, "Every value of column 'x' is missing"),
    ([pd.NA] * 60, "Every value of column 'x' is missing"),
    ([""] * 60, "one level"),
]


@pytest.mark.parametrize(("values", "message"), COLUMNS)
def test_columns_that_are_neither_numbers_nor_factors(values, message):
    with pytest.raises(ValueError, match=message):
        lmer("y ~ x + (1 | g)", DATA.assign(x=pd.Series(values)))


def test_names_of_columns():
    """Numbers, tuples, words with blanks, and Python's keywords are names like any other; duplicates are refused."""
    one = lmer("y ~ x + (1 | g)", DATA)
    for names in (
        {"x": 0, "g": 1},
        {"x": "the x", "g": "for"},
        {"x": "名 前", "g": "größe 2"},
        {"x": ("x", "a"), "g": 2.5},
    ):
        x, g = (f"`{name}`" for name in names.values())
        data = pd.DataFrame({names.get(name, name): DATA[name] for name in ("x", "g", "y")})
        assert lmer(f"y ~ {x} + (1 | {g})", data).criterion == one.criterion
    with pytest.raises(ValueError, match="2 columns named '1'"):
        lmer("y ~ `1` + (1 | g)", DATA.rename(columns={"x": 1, "z": "1"}))
    with pytest.raises(ValueError, match="both be called 'Intercept'"):
        lmer("y ~ Intercept + (1 | g)", DATA.rename(columns={"x": "Intercept"}))
    with pytest.raises(ValueError, match=r"both be called 'x:f\[T.q\]'"):
        lmer("y ~ x * f + `x:f[T.q]` + (1 | g)", DATA.rename(columns={"z": "x:f[T.q]"}))
    with pytest.raises(ValueError, match="no column 'y'. There are: \\('top', 'x'\\)"):
        lmer("y ~ x + (1 | g)", pd.concat({"top": DATA}, axis=1))


def test_an_index_with_duplicates():
    data = DATA.set_index(np.zeros(60, int)).astype({"x": "Float64"})
    data.iloc[7, data.columns.get_loc("x")] = pd.NA
    fit, one = lmer(FORMULA, data), lmer(FORMULA, DATA.drop(index=7))
    assert fit.criterion == one.criterion
    np.testing.assert_array_equal(fit.fitted, one.fitted)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"y": np.ones((60, 2)), "x": DATA["x"], "g": DATA["g"]}, r"'y' has the shape \(60, 2\)"),
        ({"y": DATA["y"], "x": 3.0, "g": DATA["g"]}, "differ in length"),
        ({"y": DATA["y"], "x": DATA["x"][:3], "g": DATA["g"]}, "differ in length"),
        ({}, "no column 'y'"),
        (DATA.iloc[:0], "no rows"),
    ],
)
def test_tables_that_are_none(data, message):
    with pytest.raises(ValueError, match=message):
        lmer("y ~ x + (1 | g)", data)


@pytest.mark.parametrize("n", range(1, 7))
@pytest.mark.parametrize("formula", ["y ~ 1 + (1 | g)", "y ~ x + (1 | g)", "y ~ 0 + (1 | g)", "y ~ x + z + (1 | g)"])
@pytest.mark.parametrize("reml", [True, False])
def test_a_handful_of_rows(n, formula, reml):
    """Two to six rows give the optimum of the criterion, or say what is missing."""
    data, reason = DATA.iloc[:n].assign(g=[0, 0, 1, 1, 2, 2][:n]), ""
    try:
        fit = lmer(formula, data, reml=reml)
    except ValueError as error:
        reason = str(error)
    if not reason:
        assert_optimal_by_definition(fit)
    else:
        assert n < 5 or (n == 5 and "z" in formula)  # three fixed effects and three groups reproduce five rows
        assert any(words in reason for words in ("constant", "one level", "cannot estimate", "reproduce the response"))
