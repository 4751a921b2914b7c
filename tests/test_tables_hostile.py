"""Awkward names, types, pieces and files: the fit in memory, or an error that says what is wrong."""

import datetime

import numpy as np
import pandas as pd
import pytest
from random_models import random_data
from test_tables import assert_same, given, ways

from lmmlite import lmer

ibis, duckdb = pytest.importorskip("ibis"), pytest.importorskip("duckdb")
pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ibis")
PLAIN = "y ~ x + (1 | g)"


@pytest.fixture
def data():
    return random_data(3, 400)


@ways
@pytest.mark.parametrize(
    ("name", "like", "formula"),
    [
        ("log(z)", "x", "y ~ log(z) + (1 | g)"),
        ("I(z ** 2)", "x", "y ~ I(z**2) + (1 | g)"),
        ("C(f)", "o", "y ~ I(x) + `C(f)`:z + f + (1 | g)"),
        ("C(f)", "o", "y ~ `C(f)` + I(x) + f + (1 | g)"),
        ("f[q]", "x", "y ~ 0 + I(z) + f + (0 + I(z * 2) + `f[q]` | g)"),
        ("key0", "x", "y ~ key0 + (1 | g)"),
        ("rows", "g", "y ~ x + (x | rows)"),
    ],
)
def test_names_that_look_like_something_else(data, name, like, formula, way):
    data = data.assign(**{name: data[like]})
    assert_same(lmer(formula, given(data, way)), lmer(formula, data))


def test_names_that_differ_only_by_case_are_refused_by_engines(data):
    data = data.assign(G=data["h"])
    with pytest.raises(ValueError, match="differ only by case"):
        lmer("y ~ x + (1 | G)", ibis.memtable(data))
    assert_same(lmer("y ~ x + (1 | G)", given(data, "frames")), lmer("y ~ x + (1 | G)", data))


@ways
def test_labels_too_large_for_whole_numbers(data, way):
    data["g"] = data["g"].map(lambda v: v if v < 7 else v * 1e19)
    data.loc[3, "y"] = np.nan
    assert_same(lmer(PLAIN, given(data, way)), lmer(PLAIN, data))


def test_whole_numbers_beside_missing_ones_keep_their_digits(data, tmp_path):
    labels = [None if row == 5 else 1_790_000_000_000_000_000 + 100 * int(g) for row, g in enumerate(data["g"])]
    columns = {"y": data["y"].to_numpy(), "x": data["x"].to_numpy(), "g": pa.array(labels, pa.int64())}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    whole = data.drop(index=5).assign(g=[v for v in labels if v])
    assert lmer(PLAIN, tmp_path).ngroups["g"] == lmer(PLAIN, whole).ngroups["g"]
    for source in (tmp_path, lambda: pa.table(columns).to_batches(max_chunksize=100), pa.table(columns)):
        assert lmer(PLAIN, source).criterion == pytest.approx(lmer(PLAIN, whole).criterion, rel=1e-12)


def test_a_first_piece_unlike_the_others_only_costs_another_reading():
    data = random_data(4, 2000)
    data.loc[1:, "x"] += 1e6
    pieces, formula = [data[:1], data[1:]], "y ~ x + (x + z | g)"
    there, shuffled = lmer(formula, data), lmer(formula, data.sample(frac=1, random_state=1))
    noise = abs(shuffled.criterion - there.criterion) + 1e-9 * abs(there.criterion)
    assert abs(lmer(formula, pieces).criterion - there.criterion) <= 10 * noise
    with pytest.raises(ValueError, match="must be read again.*only once"):
        lmer(formula, iter(pieces))


def test_an_iterator_that_is_given_out_twice_is_noticed(data):
    stored = iter([data[:200], data[200:]])
    with pytest.raises(ValueError, match="same iterator twice"):
        lmer(PLAIN, lambda: stored)
    hidden = iter([data[:200], data[200:]])
    with pytest.raises(ValueError, match="not the same when they are read again"):
        lmer(PLAIN, lambda: (piece for piece in hidden))


def test_columns_of_random_numbers_are_noticed(data):
    table = ibis.memtable(data)
    table = table.mutate(noise=table.x + ibis.random())
    with pytest.raises(ValueError, match="'noise' had another mean"):
        lmer("y ~ noise + I(noise + 1e-6 * z) + (1 | g)", table)


@pytest.mark.parametrize("source", [lambda d: d, lambda d: [d], ibis.memtable])
def test_a_response_explained_up_to_rounding_is_refused(data, source):
    with pytest.raises(ValueError, match="reproduce the response exactly"):
        lmer(PLAIN, source(data.assign(known=data["y"] + 3)), offset="known")
    with pytest.raises(ValueError, match="reproduce the response exactly"):
        lmer(PLAIN, source(data.assign(y=1e8 + 1e-9 * data["y"])))


@ways
@pytest.mark.parametrize("column", ["y", "w"])
def test_numbers_beyond_what_can_be_squared_are_named(data, column, way):
    data = data.assign(w=1.0)
    data[column] *= 1e-160
    with pytest.raises(ValueError, match=f"'{column}' goes from.*change its unit"):
        lmer(PLAIN, given(data, way), weights="w")


def test_sign_is_no_integer_in_the_engine():
    data = random_data(5, 3000)
    formula = "y ~ np.sign(x - 20) + (1 | g)"
    assert_same(lmer(formula, ibis.memtable(data)), lmer(formula, data))


@ways
def test_comparisons_are_numbers_and_their_sums_are_refused(data, way):
    for formula in ("y ~ I((x > 20) * z) + (1 | g)", "y ~ I(1 * (x > 20) + (z > 1)) + (1 | g)"):
        assert_same(lmer(formula, given(data, way)), lmer(formula, data))
    with pytest.raises(ValueError, match=r"write 1\*\(x > 20\)"):
        lmer("y ~ I((x > 20) + (z > 1)) + (1 | g)", given(data, way))


@pytest.mark.parametrize("order", [1, -1])
def test_truth_values_beside_missing_ones_in_one_piece(data, order):
    data["b"] = np.tile([True, False], 200)
    second = data[200:].astype({"b": object})
    second.loc[201, "b"] = None
    pieces = [data[:200], second][::order]
    assert_same(lmer("y ~ b + (1 | g)", pieces), lmer("y ~ b + (1 | g)", pd.concat(pieces)))


def test_parquet_files_of_different_types(data, tmp_path):
    first = data[:200].assign(x=data["x"][:200].round().astype(int))
    first.to_parquet(tmp_path / "1.parquet")
    data[200:].to_parquet(tmp_path / "2.parquet")
    assert_same(lmer(PLAIN, tmp_path), lmer(PLAIN, pd.concat([first, data[200:]])))
    data[:9].drop(columns="x").to_parquet(tmp_path / "3.parquet")
    with pytest.raises(ValueError, match=r"3\.parquet has no column 'x'"):
        lmer(PLAIN, tmp_path)
    (tmp_path / "README.txt").write_text("not Parquet")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        lmer(PLAIN, tmp_path)


def test_parquet_folders_named_by_a_column(data, tmp_path):
    data.to_parquet(tmp_path / "rows", partition_cols=["g"])
    assert_same(lmer(PLAIN, tmp_path / "rows"), lmer(PLAIN, data))


def test_half_precision_labels_and_labels_that_are_no_labels(data):
    assert lmer(PLAIN, [data.astype({"g": np.float16})]).ngroups["g"] == data["g"].nunique()
    with pytest.raises(ValueError, match="'g' holds a list"):
        lmer(PLAIN, [data.assign(g=[[int(g)] for g in data["g"]])])
    dates = data.assign(g=[datetime.date(2020, 1, 1 + int(g)) for g in data["g"]])
    mixed = [dates[:200], dates[200:].assign(g=pd.to_datetime(dates["g"][200:]))]
    with pytest.raises(ValueError, match="groups 'g'"):
        lmer("y ~ x + (1 | g) + (1 | h)", mixed)


def test_arrow_tables_are_data_and_queries_are_not(data):
    table = pa.Table.from_pandas(data)
    assert_same(lmer(PLAIN, table), lmer(PLAIN, data))
    assert_same(lmer(PLAIN, lambda: table.to_batches(max_chunksize=100)), lmer(PLAIN, data))
    with pytest.raises(TypeError, match="fetch its rows"):
        lmer(PLAIN, duckdb.sql("select * from data"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda d: [None], "one is a NoneType"),
        (lambda d: lambda: None, "not NoneType"),
        (lambda d: lambda: d, "not DataFrame"),
        (lambda d: [ibis.memtable(d)], "one is a Table"),
        (lambda d: ibis.memtable(d).x, "not FloatingColumn"),
        (lambda d: ibis.memtable(d).group_by("g"), "not GroupedTable"),
    ],
)
def test_what_is_no_table_is_named(data, bad, message):
    with pytest.raises(TypeError, match=message):
        lmer(PLAIN, bad(data))


def test_pieces_without_rows_are_passed_over(data):
    columns = {name: data[name].to_numpy() for name in data}
    nothing = {name: column[:0] for name, column in columns.items()}
    assert_same(lmer(PLAIN, [{}, nothing, data[:0], columns]), lmer(PLAIN, data))


def test_the_column_that_is_infinite_is_named(data):
    data.loc[3, "x"] = np.inf
    with pytest.raises(ValueError, match="'x' is not finite"):
        lmer(PLAIN, ibis.memtable(data))
    with pytest.raises(ValueError, match="'y' less 'x' is not finite"):
        lmer("y ~ z + (1 | g)", ibis.memtable(data), offset="x")
