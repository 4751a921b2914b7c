"""Rows that never stand in memory together: the same fit as from a data frame, and named errors for what needs the rows."""

import itertools
import pickle
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
from random_models import FORMULAS, random_data

from lmmlite import compare, lmer, load_dataset
from lmmlite.tables import RowsError

ibis = pytest.importorskip("ibis")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ibis")
ways = pytest.mark.parametrize("way", ["frames", "engine"])


def given(data, way):
    """The rows in three unequal pieces, or in DuckDB."""
    if way == "engine":
        return ibis.memtable(data)
    cuts = [0, len(data) // 2, len(data) // 2 + 1, len(data)]
    return [data.iloc[start:stop] for start, stop in itertools.pairwise(cuts)]


def assert_same(fit, other, rtol=1e-9):
    """Everything that the criterion and its derivatives give."""
    assert fit.nobs == other.nobs
    assert fit.n_missing == other.n_missing
    assert fit.design.dropped == other.design.dropped
    pd.testing.assert_series_equal(fit.ngroups, other.ngroups)
    np.testing.assert_allclose(fit.criterion, other.criterion, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(fit.sigma, other.sigma, rtol=rtol)
    np.testing.assert_allclose(fit.theta, other.theta, rtol=rtol, atol=rtol * np.abs(other.theta).max())
    pd.testing.assert_series_equal(fit.fixef, other.fixef, rtol=rtol, atol=rtol * np.abs(other.fixef).max())
    pd.testing.assert_frame_equal(fit.vcov, other.vcov, rtol=rtol, atol=rtol * np.abs(other.vcov.to_numpy()).max())
    for mine, theirs in ((fit.ranef(), other.ranef()), (fit.ranef_sd(), other.ranef_sd())):
        assert list(mine) == list(theirs)
        for group in mine:
            size = np.abs(theirs[group].to_numpy()).max()
            pd.testing.assert_frame_equal(mine[group], theirs[group], rtol=rtol, atol=rtol * size)


@ways
@pytest.mark.parametrize("formula", FORMULAS)
def test_same_fit_for_every_structure(formula, way):
    data = random_data(5, 200)
    assert_same(lmer(formula, given(data, way)), lmer(formula, data))


@ways
@pytest.mark.parametrize(
    "formula",
    [
        "y ~ x * f * g + (1 | h)",
        "y ~ x:f + (1 | g)",
        "y ~ f - 1 + (0 + f | h)",
        "y ~ np.log(x) + I(z**2) + sqrt(abs(z - 1)) + I(-x / 2 + z) + (1 | g)",
        "log(y + 100) ~ C(f) * x + (C(f) || g)",
        "y ~ `a name` + scale + (`a name` | g) + (1 | a/b)",
        "y ~ (x + z)**2 + I(x > 20) + (1 | g)",
    ],
)
def test_columns_become_expressions(formula, way):
    data = random_data(6, 300).assign(
        scale=lambda d: d["z"], **{"a name": lambda d: d["x"] % 3, "g": lambda d: "it's " + (d["g"] % 3).astype(str)}
    )
    assert_same(lmer(formula, given(data, way)), lmer(formula, data))


@ways
@pytest.mark.parametrize(
    ("name", "formula", "rows"),
    [
        ("sleepstudy", "Reaction ~ Days + (Days | Subject)", None),
        ("penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", None),
        ("insteval", "y ~ service + (1 | s) + (1 | d) + (1 | dept)", 1500),
    ],
)
def test_same_fit_on_data_sets(name, formula, rows, way):
    data = load_dataset(name)
    data = data if rows is None else data.sample(rows, random_state=1)
    if way == "engine":  # which knows text and numbers, but no order of levels
        data = data.astype(dict.fromkeys(data.columns[data.dtypes == "category"], str))
    assert_same(lmer(formula, given(data, way), reml=False), lmer(formula, data, reml=False))


@ways
def test_weights_offset_and_missing_values(way):
    data = random_data(7, 300)
    rng = np.random.default_rng(0)
    for column in ("x", "f", "g", "w", "o", "y"):
        data[column] = data[column].where(rng.random(300) > 0.03)
    formula = "y ~ x * f + (z | g) + (1 | h)"
    fit = lmer(formula, given(data, way), weights="w", offset="o")
    assert fit.n_missing > 20
    assert_same(fit, lmer(formula, data, weights="w", offset="o"))


@ways
def test_large_offsets_lose_no_digits(way):
    """On a grid on which adding 1e8 rounds nothing, the fit moves by exactly that."""
    near = random_data(8, 400)
    near[["x", "y", "o"]] = np.round(near[["x", "y", "o"]] * 2**20) / 2**20
    far = near.assign(x=near["x"] + 1e8, y=near["y"] + 1e8, o=near["o"] - 1e8)
    formula = "y ~ x + f + (z | g) + (1 | h)"
    fit, other = lmer(formula, given(far, way), offset="o"), lmer(formula, near, offset="o")
    np.testing.assert_allclose(fit.criterion, other.criterion, rtol=1e-10)
    np.testing.assert_allclose(fit.theta, other.theta, rtol=1e-9)
    np.testing.assert_allclose(fit.fixef.iloc[1:], other.fixef.iloc[1:], rtol=1e-9)
    np.testing.assert_allclose(fit.se.iloc[1:], other.se.iloc[1:], rtol=1e-9)
    for group, table in fit.ranef().items():
        np.testing.assert_allclose(table, other.ranef()[group], rtol=1e-8, atol=1e-9)


@ways
def test_collinear_columns_are_formed_row_by_row(way):
    data = random_data(9, 300)
    rng = np.random.default_rng(1)
    data = data.assign(near=data["x"] + 1e-6 * rng.normal(size=300), twice=2 * data["x"] - data["z"], one=1.0)
    assert_same(lmer("y ~ x + near + (1 | g)", given(data, way)), lmer("y ~ x + near + (1 | g)", data), rtol=1e-7)
    formula = "y ~ x + one + z + twice + f + (1 | g)"
    with pytest.warns(UserWarning, match="one, twice can be written"):
        fit = lmer(formula, given(data, way))
    with pytest.warns(UserWarning, match="rank deficient"):
        assert_same(fit, lmer(formula, data))
    steep = data.assign(y=1e5 * data["x"] + data["y"])
    assert_same(lmer("y ~ x + (1 | g)", given(steep, way)), lmer("y ~ x + (1 | g)", steep))


def test_what_needs_no_rows():
    data = load_dataset("sleepstudy").assign(late=lambda d: np.where(d["Days"] > 4, "late", "soon"))
    formula = "Reaction ~ Days + late + (Days | Subject)"
    fit, other = lmer(formula, ibis.memtable(data)), lmer(formula, data)
    for ddf in ("satterthwaite", "kenward-roger"):
        for type in (1, 2, 3):
            pd.testing.assert_frame_equal(fit.anova(ddf, type), other.anova(ddf, type), rtol=1e-8)
    pd.testing.assert_frame_equal(fit.varcorr, other.varcorr, rtol=1e-8)
    pd.testing.assert_frame_equal(fit.tidy(), other.tidy(), rtol=1e-8)
    pd.testing.assert_frame_equal(fit.contrast({"Days": 1}), other.contrast({"Days": 1}), rtol=1e-8)
    pd.testing.assert_frame_equal(fit.confint("profile"), other.confint("profile"), rtol=1e-5)
    new = data.iloc[5:15]
    for options in ({"interval": "prediction"}, {"interval": "confidence", "random": False}):
        pd.testing.assert_frame_equal(fit.predict(new, **options), other.predict(new, **options), rtol=1e-9)
    assert "scaled residuals" not in str(fit.summary())
    assert str(fit.summary()) == "\n".join(
        line for line in str(other.summary()).split("\n") if "scaled res" not in line
    )
    np.testing.assert_allclose(fit.refit_ml().criterion, other.refit_ml().criterion, rtol=1e-12)
    assert_same(fit.update(". ~ . - late"), other.update(". ~ . - late"))
    assert_same(pickle.loads(pickle.dumps(fit)), other)


@pytest.mark.parametrize(
    "ask",
    [
        lambda fit: fit.fitted,
        lambda fit: fit.residuals(),
        lambda fit: fit.predict(),
        lambda fit: fit.simulate(seed=1),
        lambda fit: fit.bootstrap(2, seed=1),
        lambda fit: fit.refit(np.zeros(fit.nobs)),
        lambda fit: fit.augment(),
        lambda fit: fit.leverage(),
        lambda fit: fit.influence(),
        lambda fit: fit.drop1(),
        lambda fit: fit.r2(),
        lambda fit: fit.plot_residuals(),
        lambda fit: fit.plot_groups("Days"),
        lambda fit: fit.design.X,
        lambda fit: fit.design.Z,
        lambda fit: np.asarray(fit.design.y),
        lambda fit: compare(fit, fit.update(". ~ . - Days")),
        lambda fit: pickle.loads(pickle.dumps(fit)).update(". ~ . - Days"),
    ],
)
def test_what_needs_rows_says_so(ask):
    fit = lmer("Reaction ~ Days + (Days | Subject)", given(load_dataset("sleepstudy"), "frames"), reml=False)
    with pytest.raises(RowsError, match=r"predict\(new\)"):
        ask(fit)


def test_parquet_polars_and_functions(tmp_path):
    data = random_data(10, 500)
    formula = "y ~ x * f + (x | g) + (1 | h)"
    whole = lmer(formula, data)
    for i in range(5):
        data.iloc[100 * i : 100 * i + 100].to_parquet(tmp_path / f"part{i}.parquet")
    assert_same(lmer(formula, tmp_path), whole)
    assert_same(lmer(formula, str(tmp_path / "part0.parquet")), lmer(formula, data.iloc[:100]))
    assert_same(lmer(formula, ibis.read_parquet(tmp_path / "*.parquet")), whole)
    assert_same(lmer(formula, lambda: iter([pl.from_pandas(data.iloc[:99]), data.iloc[99:99], data.iloc[99:]])), whole)
    with pytest.raises(ValueError, match="no column 'X'. Did you mean 'x'"):
        lmer("y ~ X + (1 | g)", tmp_path)


def test_iterator_needs_declared_levels():
    data = random_data(11, 300)
    formula = "y ~ x * f + (x | g) + (1 | h)"

    def pieces(frame):
        return (frame.iloc[i : i + 70] for i in range(0, 300, 70))

    assert_same(lmer("y ~ x + (x | g) + (1 | h)", pieces(data)), lmer("y ~ x + (x | g) + (1 | h)", data))
    with pytest.raises(ValueError, match="levels of 'f' are not known .* pass a list"):
        lmer(formula, pieces(data))
    declared = data.assign(f=pd.Categorical(data["f"], ["q", "p", "r"]))
    assert_same(lmer(formula, pieces(declared)), lmer(formula, declared))
    assert_same(lmer(formula, given(declared, "frames")), lmer(formula, declared))
    more = data.assign(f=pd.Categorical(data["f"], ["q", "never", "p", "r"]))
    assert_same(lmer(formula, given(more, "frames")), lmer(formula, more))
    with pytest.raises(ValueError, match="No row has the level 'never'"):
        lmer(formula, pieces(more))
    with pytest.raises(ValueError, match="read again, but an iterator"):
        lmer("y ~ x + I(x + 1e-6 * z) + (1 | g)", pieces(data))
    used = pieces(data)
    lmer("y ~ x + (1 | g)", used)
    with pytest.raises(ValueError, match="used up"):
        lmer("y ~ x + (1 | g)", used)


@ways
@pytest.mark.parametrize(
    ("formula", "options", "message"),
    [
        ("y ~ poly(x, 2) + (1 | g)", {}, "poly.* depends on all rows at once"),
        ("y ~ C(g) + (1 | h)", {}, "'g' into text or a categorical"),
        ("y ~ x + (1 | g)", {"weights": np.ones(200)}, "weights must be the name of a column"),
        ("y ~ x + (1 | g)", {"weights": "x0"}, "Weights must be positive"),
        ("y ~ x + (1 | g)", {"offset": "f"}, "offset must be numbers"),
        ("y ~ inf + (1 | g)", {}, "inf.* is infinite|inf.* not finite"),
        ("y ~ np.exp(x * 100) + (1 | g)", {}, "not finite"),
        ("f ~ x + (1 | g)", {}, "'f' is not numeric"),
        ("true ~ x + (1 | g)", {}, "true or false"),
        ("one ~ x + (1 | g)", {}, "is constant"),
        ("x ~ I(2 * x) + (1 | g)", {}, "reproduce the response exactly"),
        ("y ~ none + (1 | g)", {}, "There are no rows"),
        ("y ~ x + (one | g)", {}, "'one' in .* has the same value in every row"),
        ("y ~ x + (1 | row)", {}, "200 levels for 200 rows"),
        ("y ~ x + (1 | one)", {}, "one level"),
        ("y ~ day + (1 | g)", {}, "'day' is of type"),
        ("y ~ x + (1 | G)", {}, "no column 'G'. Did you mean 'g'"),
    ],
)
def test_errors_name_the_reason(formula, options, message, way):
    data = random_data(12, 200).assign(
        x0=lambda d: d["x"] - 20,
        inf=lambda d: np.where(np.arange(200) == 150, np.inf, d["x"]),
        true=lambda d: d["x"] > 20,
        one=1.0,
        none=np.nan,
        row=np.arange(200),
        day=pd.Timestamp("2024-01-01"),
    )
    with pytest.raises((ValueError, TypeError), match=message):
        lmer(formula, given(data, way), **options)


@pytest.mark.parametrize("expression", ["C(f, contr.sum)", "np.cbrt(x)", "I(x % 2)"])
def test_what_cannot_be_pushed_down_is_named(expression):
    data = random_data(13, 200)
    formula = f"y ~ {expression} + (1 | g)"
    with pytest.raises(ValueError, match="cannot be pushed down to the engine.*table.mutate"):
        lmer(formula, ibis.memtable(data))
    assert_same(lmer(formula, given(data, "frames")), lmer(formula, data))


def test_a_table_that_loses_rows_is_noticed():
    connection = ibis.duckdb.connect()
    connection.raw_sql("create sequence seen")  # counts the rows that queries have seen: each query finds 20 fewer
    table = connection.sql(
        "select i, i % 7 as g, i % 11 as x, i % 13 as y from range(1000) t(i) where i + nextval('seen') / 50 < 900"
    )
    with pytest.raises(ValueError, match="gave other rows"):
        lmer("y ~ x + (1 | g)", table)


def test_parquet_without_pyarrow_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.dataset", None)
    with pytest.raises(ImportError, match=r"lmmlite\[tables\]"):
        lmer("y ~ x + (1 | g)", "rows.parquet")
