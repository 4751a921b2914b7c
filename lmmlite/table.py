"""Columns of any data frame as plain arrays: numbers as float64, everything else as factors; missing and impossible values found.

Formulaic would turn an unseen level into zeros and a column of text numbers into a factor without a word; what it must not
decide is decided here.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd

from lmmlite.containers import from_arrow, to_array

Column = np.ndarray | pd.Categorical
Table = dict[str, Column]
LARGEST = 1e150  # squares and their sums over rows stay finite
_COPY_ON_WRITE = int(pd.__version__.split(".")[0]) >= 3
_NUMBERS = {"integer", "floating", "mixed-integer", "mixed-integer-float", "decimal", "complex"}


def own_copy(data: Any) -> Any:
    """Data that stay as they are when the caller changes a data frame or mapping afterwards.

    Raises
    ------
    TypeError
        For a bare array, whose columns have no names.
    """
    if isinstance(data, np.ndarray):
        raise TypeError("The data must be a data frame or a mapping of columns, not ndarray.")
    if isinstance(data, pd.DataFrame | pd.Series):
        # From pandas 3 on whoever writes first copies, so sharing is free; before, a write would reach the fit.
        return data.copy(deep=not _COPY_ON_WRITE)
    if isinstance(data, Mapping):
        return {key: _copy_of_column(data[key]) for key in data}
    return data.clone() if type(data).__module__.startswith("polars.") and hasattr(data, "clone") else data


def _copy_of_column(column: Any) -> Any:
    if isinstance(column, pd.Series):
        return own_copy(column)
    return column.copy() if hasattr(column, "copy") else column  # a tuple or a polars Series


def own_values(given: Any, role: str, index: pd.Index | None) -> Any:
    """A column's name, None, or a copy of values, one for each row, whose labels must be ``index`` (None: no labels).

    Raises
    ------
    ValueError
        For a pandas Series with other labels, or in another order: by position its values would be other rows'.
    """
    if given is None or isinstance(given, str) or np.ndim(given) == 0:
        return given
    labels = given.index if isinstance(given, pd.Series) else None
    if labels is not None and isinstance(index, pd.Index) and len(labels) == len(index) and not labels.equals(index):
        row = next((i for i, (a, b) in enumerate(zip(labels, index, strict=True)) if a != b), 0)
        if labels.is_unique and index.is_unique and index.isin(labels).all():
            do = "The labels are the same in another order: use .loc[index of the data]"
        else:
            do = "Give it the index of the data"
        raise ValueError(
            f"The {role} given as a pandas Series: label {_shown(labels, row)} where row {row} of the data has "
            f"{_shown(index, row)}. {do}, or .to_numpy() if its values are in the order of the rows."
        )
    values = to_array(given)
    if isinstance(values, pd.Series) and pd.api.types.is_numeric_dtype(values.dtype):
        values = values.to_numpy(np.float64, na_value=np.nan)
    return np.array(values)


def _shown(labels: pd.Index, row: int) -> str:
    return repr(labels[row : row + 1].tolist()[0])  # 7, not np.int64(7)


def row_labels(data: Any) -> pd.Index | None:
    """The labels of the rows of a pandas data frame, None for other data."""
    return data.index if isinstance(data, pd.DataFrame) else None


def own_data(data: Any) -> Any:
    """The data of a fit; ValueError where it has none."""
    if data is None:
        raise ValueError("This fit has a response that no column holds (refit): put it into the data and call lmer.")
    return data


def read_columns(data: Any, names: Iterable[str]) -> dict[str, pd.Series]:
    """The named columns of a data frame (pandas, polars, …) or of a mapping of arrays.

    Raises
    ------
    ValueError
        For an unknown name (the nearest is suggested), a name that stands for two columns, or a frame without rows.
    """
    if hasattr(data, "collect_schema") and not hasattr(data, "to_numpy"):
        raise TypeError("The data are a lazy frame: collect() it first.")
    if is_query(data):
        raise TypeError(f"The data are a query ({type(data).__name__}): fetch its rows as a data frame first.")
    if type(data).__module__.startswith("pyarrow."):
        data = from_arrow(data)
    if not isinstance(data, Mapping) and not hasattr(data, "columns"):
        raise TypeError(f"The data must be a data frame or a mapping of columns, not {type(data).__name__}.")
    keys = list(data.keys() if isinstance(data, Mapping) else data.columns)
    present = [str(key) for key in keys]
    columns, labels = {}, {}
    for name in names:
        check_names([name], present)
        if present.count(name) > 1:
            raise ValueError(f"The data have {present.count(name)} columns named '{name}'; rename them.")
        column = data[keys[present.index(name)]]
        if isinstance(column, pd.Series):
            labels[name] = column.index
        else:
            array = to_array(column)
            if array.ndim > 1:
                raise ValueError(f"Column '{name}' has the shape {array.shape}; it must have one value for each row.")
            column = array.rename(name) if isinstance(array, pd.Series) else pd.Series(np.atleast_1d(array), name=name)
        columns[name] = column
    lengths = {name: len(c) for name, c in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The columns differ in length: {lengths}.")
    other = next((name for name in labels if not labels[name].equals(next(iter(labels.values())))), None)
    if other is not None and isinstance(data, Mapping):
        raise ValueError(
            f"Columns '{next(iter(labels))}' and '{other}' are pandas Series with different labels: make one "
            "data frame of all, or pass .to_numpy() of each if their values are in the same order."
        )
    if not columns or not next(iter(lengths.values())):
        raise ValueError("The data have no rows.")
    return columns


def is_query(data: Any) -> bool:
    """Whether a thing with columns is a query of an engine, and holds no rows."""
    return type(data).__module__.partition(".")[0] in ("ibis", "duckdb", "_duckdb")


def check_names(names: Iterable[str], present: Sequence[str]) -> None:
    """ValueError for a name that is not among the columns, with the nearest one that is."""
    for name in names:
        if name not in present:
            near = difflib.get_close_matches(name, present, 1, 0.5) or [p for p in present if p.lower() == name.lower()]
            hint = f" Did you mean '{near[0]}'?" if near else f" There are: {', '.join(present[:20])}."
            raise ValueError(f"The data have no column '{name}'.{hint}")


def as_column(series: pd.Series, name: str) -> tuple[Column, np.ndarray | None]:
    """A column as float64 numbers or as a factor, and the mask of its missing values (None where there are none).

    Raises
    ------
    ValueError
        For infinite values, nothing but missing values, numbers stored as text or objects, dates and complex numbers.
    """
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        factor = series.array
        return factor, _checked(np.asarray(factor.codes) < 0, name)
    if not (isinstance(dtype, np.dtype) and dtype.kind in "fiub"):
        if pd.api.types.is_object_dtype(dtype) and kind_of_objects(series, name) == "boolean":
            series = series.astype("boolean")  # as the same column without missing values
            dtype = series.dtype
        if pd.api.types.is_string_dtype(dtype) or pd.api.types.is_object_dtype(dtype):
            factor = pd.Categorical(series)
            return factor, _checked(np.asarray(factor.codes) < 0, name)
        if not (pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype)):
            raise ValueError(
                f"Column '{name}' is of type {dtype}, which is neither a number nor a factor; convert it first."
            )
        if pd.api.types.is_complex_dtype(dtype):
            raise ValueError(f"Column '{name}' holds complex numbers.")
    numbers = series.to_numpy(dtype=np.float64, na_value=np.nan)
    missing, known = None, numbers
    if not np.isfinite(numbers).all():
        missing = _checked(np.isnan(numbers), name)
        known = numbers if missing is None else numbers[~missing]
    low, high = known.min(), known.max()
    if np.isinf(low) or np.isinf(high):
        raise ValueError(f"Column '{name}' is infinite in row {int(np.flatnonzero(np.isinf(numbers))[0])}.")
    if max(-low, high) > LARGEST or 0 < max(-low, high) < 1 / LARGEST:
        raise ValueError(
            f"Column '{name}' goes from {low:g} to {high:g}, whose squares no computer holds; change its unit."
        )
    return numbers, missing


def missing_labels(series: pd.Series, name: str) -> np.ndarray | None:
    """Mask of the missing values of a column that only labels groups, None where there are none."""
    plain = isinstance(series.dtype, np.dtype) and series.dtype.kind in "iub"
    return None if plain else _checked(series.isna().to_numpy(), name)


def _checked(missing: np.ndarray, name: str) -> np.ndarray | None:
    if missing.all():
        raise ValueError(f"Every value of column '{name}' is missing.")
    return missing if missing.any() else None


def kind_of_objects(series: pd.Series, name: str) -> str:
    """What a column of objects holds; ValueError for numbers, dates or containers: it may be text, True and False."""
    kind = pd.api.types.infer_dtype(series, skipna=True)
    some = series.dropna()
    if kind in _NUMBERS or (kind == "mixed" and any(isinstance(v, Number) and not isinstance(v, bool) for v in some)):
        raise ValueError(
            f"Column '{name}' holds numbers but is stored as objects; convert it with pd.to_numeric, or with "
            "astype(str) if the numbers are labels."
        )
    if kind == "mixed":
        check_hashable(some, name)
    if kind not in ("string", "boolean", "bytes", "empty", "mixed"):
        raise ValueError(f"Column '{name}' holds {kind} values, which are neither numbers nor text; convert it first.")
    return str(kind)


def check_hashable(values: Iterable[Any], name: str) -> None:
    container = next((v for v in values if not isinstance(v, Hashable)), None)
    if container is not None:
        raise ValueError(f"Column '{name}' holds a {type(container).__name__} where one value is needed.")


class Levels:
    """A grouping factor: integer codes of the rows and, when asked for, the labels of the levels.

    Attributes
    ----------
    name : str
        ``a`` or, for combinations, ``a:b``.
    codes : (n,) int32 array
    size : int
        Number of levels that occur.
    """

    def __init__(self, name: str, codes: np.ndarray, size: int, parts: tuple[tuple[np.ndarray, pd.Index], ...]):
        self.name, self.codes, self.size, self._parts = name, codes, size, parts

    @cached_property
    def labels(self) -> pd.Index:
        """Level labels in the order of the codes; ``"A:1"`` for combinations."""
        if len(self._parts) == 1:
            own, labels = self._parts[0]
            return labels[own].rename(self.name)
        words = [labels.astype(str).to_numpy(object)[own] for own, labels in self._parts]
        return pd.Index([":".join(w) for w in zip(*words, strict=True)], name=self.name)

    def check_kinds(self, columns: list[pd.Series]) -> None:
        """ValueError where no label of a factor is known and their kind is another, as text for numbers."""
        for (_, labels), column in zip(self._parts, columns, strict=True):
            known, new = _kind_of_labels(labels), _kind_of_labels(pd.Index(column.dropna().unique()))
            if known != new != "" and (labels.get_indexer(pd.Index(column)) < 0).all():
                raise ValueError(
                    f"No level of '{column.name}' is known: in the fit they are {known}, as {_shown(labels, 0)}, and in the "
                    f"new rows {new}, as {_shown(pd.Index(column.dropna()), 0)}. Convert the column to its type in the fit."
                )

    def codes_of(self, columns: list[pd.Series]) -> np.ndarray:
        """Codes of new rows; −1 for a level that the fit has not seen."""
        found = [labels.get_indexer(_indexed(c)) for (_, labels), c in zip(self._parts, columns, strict=True)]
        code, key = np.zeros(len(found[0]), np.int64), np.zeros(self.size, np.int64)
        for part, (own, labels) in zip(found, self._parts, strict=True):
            code = np.where((part < 0) | (code < 0), -1, code * len(labels) + part)
            key = key * len(labels) + own
        order = np.argsort(key)
        place = np.clip(np.searchsorted(key[order], code), 0, self.size - 1)
        return np.where(key[order][place] == code, order[place], -1)


def _indexed(column: pd.Series) -> pd.Index:
    return pd.Index(
        column.astype(np.float32) if column.dtype == np.float16 else column
    )  # pandas has no index of float16


def _kind_of_labels(labels: pd.Index) -> str:
    """What labels are, in a word; empty where there are none."""
    values = labels.categories if isinstance(labels, pd.CategoricalIndex) else labels
    kind = pd.api.types.infer_dtype(values) if len(values) else ""
    return "numbers" if kind in _NUMBERS | {"boolean"} else {"string": "text", "empty": ""}.get(kind, kind)


def drop_unused(factor: pd.Categorical) -> pd.Categorical:
    """The factor without the categories that no row has."""
    used = np.bincount(factor.codes[factor.codes >= 0], minlength=len(factor.categories)) > 0
    return factor if used.all() else factor.set_categories(factor.categories[used])


def levels_of(columns: dict[str, pd.Series], factors: tuple[str, ...], keep: np.ndarray | None) -> Levels:
    """The grouping factor made by one column or by the combinations of several that occur in the kept rows.

    Raises
    ------
    ValueError
        Where the factor has a single level.
    """
    code: np.ndarray = np.zeros(1, np.int64)
    own: list[np.ndarray] = []  # for each factor, the code that each combination has on it
    labels: list[pd.Index] = []
    size = 1
    for factor in factors:
        part, part_labels = _codes(columns[factor], keep)
        code, occurring = compress(code.astype(np.int64) * len(part_labels) + part, size * len(part_labels))
        size = len(occurring)
        own = [o[occurring // len(part_labels)] for o in own] + [occurring % len(part_labels)]
        labels.append(part_labels)
    name = ":".join(factors)
    if size < 2:
        raise ValueError(
            f"The grouping factor '{name}' has one level: nothing varies between groups. Drop its random terms."
        )
    return Levels(name, code.astype(np.int32, copy=False), size, tuple(zip(own, labels, strict=True)))


def _codes(series: pd.Series, keep: np.ndarray | None) -> tuple[np.ndarray, pd.Index]:
    """Codes and sorted labels (a categorical keeps its order)."""
    series = series if keep is None else series[keep]
    if isinstance(series.dtype, pd.CategoricalDtype):
        return np.asarray(series.cat.codes), pd.Index(series.cat.categories)
    values = series.to_numpy()
    if values.dtype == object and pd.api.types.infer_dtype(values, skipna=True) == "mixed":
        check_hashable(values, str(series.name))
    if values.dtype == np.float16:
        values = values.astype(np.float64)  # pandas has no such index
    if (
        values.dtype.kind == "f"
        and keep is not None
        and (np.abs(values) < 2**53).all()
        and (values == np.round(values)).all()
    ):
        values = values.astype(np.int64)  # integers that only missing values had turned into floats
    if values.dtype.kind in "iu":
        low = int(values.min())
        if int(values.max()) - low < 4 * len(values) + 1000 and int(values.max()) < 2**63:
            codes, occurring = compress(values.astype(np.int64) - low, int(values.max()) - low + 1)
            return codes, pd.Index(occurring + low)
    try:
        codes, labels = pd.factorize(values, sort=True)
    except TypeError:
        codes, labels = pd.factorize(values.astype(str), sort=True)
    return codes, pd.Index(labels)


def compress(code: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Renumber codes below size to 0, 1, … without gaps; also the old codes in their new order."""
    if size > 64 * len(code) + 1000:
        occurring, renumbered = np.unique(code, return_inverse=True)
        return renumbered, occurring
    flags = np.zeros(size, bool)
    flags[code] = True
    if flags.all():
        return code, np.arange(size)
    occurring = np.flatnonzero(flags)
    renumber = np.empty(size, np.int32)
    renumber[occurring] = np.arange(len(occurring))
    return renumber[code], occurring
