"""The same sums by a distributed engine: Spark through Ibis, on a local cluster; needs pyspark and a Java runtime."""

import ibis
import numpy as np
import pytest
from pyspark.sql import SparkSession
from random_models import random_data

from lmmlite import lmer

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def connection():
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    session = builder.config("spark.sql.shuffle.partitions", "4").config("spark.driver.memory", "1g").getOrCreate()
    yield ibis.pyspark.connect(session)
    session.stop()


@pytest.mark.parametrize("formula", ["y ~ x * f + (x | g) + (1 | h)", "y ~ np.log(x) + I(z**2) + (1 | a/b)"])
def test_same_fit(connection, tmp_path, formula):
    data = random_data(5, 400)
    data.loc[:9, "x"] = np.nan
    data.loc[30:35, "f"] = None
    data.to_parquet(tmp_path / "rows.parquet")
    table = connection.read_parquet(tmp_path / "rows.parquet")
    fit, other = lmer(formula, table, weights="w", offset="o"), lmer(formula, data, weights="w", offset="o")
    assert fit.n_missing == other.n_missing > 0
    np.testing.assert_allclose(fit.criterion, other.criterion, rtol=1e-11)
    np.testing.assert_allclose(fit.theta, other.theta, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(fit.fixef, other.fixef, rtol=1e-9)
    for group, effects in fit.ranef().items():
        np.testing.assert_allclose(effects, other.ranef()[group], rtol=1e-8, atol=1e-9)
