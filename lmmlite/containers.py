"""Columns in the containers of other libraries, as arrays; or as Series, where an array would lose what is missing or digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


def to_array(column: Any) -> Any:
    """A column as an array, or as a Series where an array would lose missing values, categories or digits."""
    if isinstance(column, pd.Series):
        return column
    if isinstance(column, pd.Index | pd.api.extensions.ExtensionArray):
        return pd.Series(column)
    if isinstance(column, np.ma.MaskedArray):
        return _masked(np.asarray(column.data), np.ma.getmaskarray(column))
    if type(column).__module__.startswith("polars."):
        return _from_polars(column)
    if hasattr(column, "to_numpy"):
        return column.to_numpy()
    array = np.asarray(column)
    return _objects(column) if isinstance(column, list | tuple) and _is_coerced(array, column) else array


def _masked(values: np.ndarray, missing: np.ndarray) -> Any:
    """Values of which some are missing: whole numbers stay whole."""
    if values.ndim != 1 or not missing.any():
        return values
    kind = {"i": pd.Int64Dtype(), "u": pd.UInt64Dtype(), "b": pd.BooleanDtype()}.get(values.dtype.kind)
    return pd.Series(values, dtype=kind).mask(missing)


def _from_polars(column: Any) -> Any:
    if type(column.dtype).__name__ == "Enum":
        return pd.Series(pd.Categorical(column.to_list(), categories=list(column.dtype.categories)))
    if column.dtype.is_integer() and column.null_count():
        return _masked(column.fill_null(0).to_numpy(), column.is_null().to_numpy())
    return column.to_numpy()


def from_arrow(data: Any) -> Any:
    """A table of pyarrow in pandas; whole numbers with nulls stay whole."""
    if not hasattr(data, "schema"):
        return data.to_pandas()
    nulls = {field.type for field, column in zip(data.schema, data.columns, strict=True) if column.null_count}
    names = {t: str(t).replace("uint", "UInt").replace("int", "Int") for t in nulls if "int" in str(t)[:4]}
    return data.to_pandas(types_mapper={t: pd.api.types.pandas_dtype(name) for t, name in names.items()}.get)


def _is_coerced(array: np.ndarray, values: Sequence[Any]) -> bool:
    """Whether NumPy made text of things that are no text, or floats of whole numbers that float64 does not hold."""
    if array.ndim != 1 or array.dtype.kind not in "USf":
        return False
    if array.dtype.kind == "f":
        return any(isinstance(v, int | np.integer) and int(float(v)) != v for v in values)
    return not all(isinstance(v, str | bytes) for v in values)


def _objects(values: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array
