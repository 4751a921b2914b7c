"""Data frames one after the other, each summed and forgotten: from a list, a function, or Parquet files."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from lmmlite.containers import from_arrow
from lmmlite.design import check_response
from lmmlite.table import Table, as_column, check_hashable, check_names, drop_unused, is_query, read_columns
from lmmlite.tables.totals import NONE_LEFT, Facts, Needed, Plan, Request

_BATCH = 1 << 17  # rows of Parquet at a time
_WAITING = 1 << 20  # rows of partial sums that may wait to be added up
_ONCE = "an iterator can be read only once: pass a list of frames, or a function that returns a new iterator"

Piece = tuple[dict[str, pd.Series], Table, int]  # columns and values of complete rows, and the number of the others


def parquet(data: Any) -> Callable[[list[str]], Iterator[pd.DataFrame]]:
    """Batches of a Parquet file, folder or `pyarrow.dataset`: a function of the columns needed."""
    try:
        import pyarrow as pa
        import pyarrow.dataset as ds
    except ImportError:
        raise ImportError("Parquet data need pyarrow: pip install 'lmmlite[tables]'") from None
    try:
        dataset = data if hasattr(data, "to_batches") else _dataset(str(data))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"'{data}' cannot be read as Parquet files with the same columns: {error}") from error

    def read(columns: list[str]) -> Iterator[pd.DataFrame]:
        check_names(columns, dataset.schema.names)
        for file in dataset.get_fragments() if isinstance(dataset, ds.FileSystemDataset) else ():
            missing = (
                set(columns) - set(file.physical_schema.names) - set(ds.get_partition_keys(file.partition_expression))
            )
            if missing:
                raise ValueError(f"The file {file.path} has no column '{min(missing)}'.")
        for batch in dataset.to_batches(columns=columns, batch_size=_BATCH, batch_readahead=2, fragment_readahead=1):
            yield from_arrow(batch)

    return read


def _dataset(path: str) -> Any:
    """The Parquet files of a folder, columns of different numeric types in one that holds all; ``key=value`` folders are columns."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    found = ds.dataset(path, format="parquet", partitioning="hive")
    schemas = [found.schema, *(file.physical_schema for file in found.get_fragments())]
    schema = pa.unify_schemas(schemas, promote_options="permissive")
    return ds.dataset(path, schema=schema, format="parquet", partitioning="hive")


def frames(data: Any) -> Callable[[list[str]], Iterator[Any]]:
    """The frames of a list, an iterator or a function that returns one; an iterator that is given out twice is used up."""
    given: list[Iterator[Any]] = []

    def read(_: list[str]) -> Iterator[Any]:
        found = data() if callable(data) else data
        if not isinstance(found, Iterable) or isinstance(found, str | Mapping) or hasattr(found, "columns"):
            raise TypeError(f"The function must return an iterable of data frames, not {type(found).__name__}.")
        iterator = iter(found)
        if iterator is not data and any(iterator is old for old in given):
            raise ValueError(f"The data gave the same iterator twice, and {_ONCE}.")
        given[:] = [iterator]
        return iterator

    return read


class Frames:
    """Data frames one after the other, each summed and forgotten.

    Levels of factors in expressions are collected in a first reading; those of grouping factors show while summing.  The centres
    are the means of the first frame; where they turn out to be far from the data, the frames are read once more.

    Parameters
    ----------
    read : function
        Names of columns -> iterator over frames.
    data
        What was given by the user.
    """

    def __init__(self, read: Callable[[list[str]], Iterator[Any]], data: Any):
        self._read, self.data = read, data
        self._begun: Iterator[Piece] | None = None  # an iterator of which the first rows were looked at

    def sample(self, needed: Needed) -> Table:
        self._needed = needed
        pieces = self._pieces()
        begun: list[Piece] = []
        while not (begun and begun[-1][1]):
            try:
                begun.append(next(pieces))
            except StopIteration:
                raise ValueError(NONE_LEFT) from None
        self._first, table, _ = begun[-1]
        series = self._first
        for v in needed.response:
            check_response(v, isinstance(table[v], pd.Categorical), pd.api.types.is_bool_dtype(series[v].dtype))
        factors = {v: column for v, column in table.items() if isinstance(column, pd.Categorical)}
        pieces = itertools.chain(begun, pieces)
        if isinstance(self.data, Iterator):
            self._begun = pieces
            undeclared = next((v for v in factors if not isinstance(series[v].dtype, pd.CategoricalDtype)), None)
            if undeclared:
                raise ValueError(
                    f"The levels of '{undeclared}' are not known before the last frame, and {_ONCE}; or make the column a "
                    "categorical that has all its levels in every frame."
                )
            levels = {v: c.categories for v, c in factors.items()}
        else:
            levels = _collect(list(factors), pieces) if factors else {}
        self._levels = levels
        self._sample = table | {v: c.set_categories(levels[v]) for v, c in factors.items()}
        return self._sample

    def _pieces(self) -> Iterator[Piece]:
        if self._begun is not None:
            pieces, self._begun = self._begun, None
            return pieces
        return (self._piece(frame) for frame in self._read(list(self._needed.all)))

    def _piece(self, frame: Any) -> Piece:
        if type(frame).__module__.startswith("pyarrow."):
            frame = from_arrow(frame)
        is_frame = hasattr(frame, "columns") and hasattr(type(frame), "__len__") and not is_query(frame)
        if not (isinstance(frame, Mapping) or is_frame):
            raise TypeError(f"The pieces must be data frames or mappings of columns; one is a {type(frame).__name__}.")
        if not (len(frame) and len(next(iter(frame.values())) if isinstance(frame, Mapping) else frame)):
            return {}, {}, 0
        series = read_columns(frame, self._needed.all)
        missing = reduce(operator.or_, (s.isna().to_numpy() for s in series.values()))
        if missing.all():
            return {}, {}, len(missing)
        if missing.any():
            series = {name: s[~missing] for name, s in series.items()}
        for name, s in series.items():
            if s.dtype in (
                object,
                np.float16,
            ):  # True and False beside what is missing; and pandas cannot group by halves
                series[name] = s.astype(np.float64) if s.dtype == np.float16 else s.infer_objects()
                check_hashable(series[name].to_numpy(), name)
        return series, {v: as_column(series[v], v)[0] for v in self._needed.values}, int(missing.sum())

    def centred(self, plan: Plan) -> Plan:
        self._means = plan.columns(self._sample).mean(axis=1)
        return plan.about(self._means)

    def group_by(self, plan: Plan, M: np.ndarray | None, requests: list[Request]) -> tuple[list[pd.DataFrame], Facts]:
        if isinstance(self.data, Iterator) and self._begun is None:
            raise ValueError(
                f"Combinations of the columns cancel so many digits that the rows must be read again, but {_ONCE}."
            )
        waiting: list[list[pd.DataFrame]] = [[] for _ in requests]
        used = {v: np.zeros(len(levels), bool) for v, levels in self._levels.items()}
        n, missing, log_weight = 0, 0, 0.0
        first = second = np.zeros(len(plan.names))  # moments about the means of the sample
        low, high = np.full((2, len(plan.names)), [[np.inf], [-np.inf]])
        for series, table, left_out in self._pieces():
            missing += left_out
            if not table:
                continue
            if not n and not all(s.equals(self._first[v]) for v, s in series.items()):
                raise ValueError(
                    f"The frames are not the same when they are read again. If they come from an iterator: {_ONCE}."
                )
            for v, seen in used.items():
                seen |= self._levels[v].isin(_used(table[v]))
            raw = plan.columns(table)
            n += raw.shape[1]
            low, high = np.minimum(low, raw.min(axis=1)), np.maximum(high, raw.max(axis=1))
            plan.check(low, high)
            w = table[plan.weights] if plan.weights else None
            about = raw - self._means[:, None]
            first, second = first + about.sum(axis=1), second + (about**2).sum(axis=1)
            log_weight += 0.0 if w is None else float(np.log(w).sum())
            columns = plan.combined(raw, M)
            for parts, request in zip(waiting, requests, strict=True):
                sums: dict[Any, Any] = {f"key{i}": series[v].array for i, v in enumerate(request.keys)}
                for i, (a, b) in enumerate(request.products):
                    product = columns[a] * columns[b]
                    sums[i] = product if w is None else product * w
                parts.append(_added([pd.DataFrame(sums)], request))
                if sum(map(len, parts[1:])) > max(_WAITING, len(parts[0])):
                    parts[:] = [_added(parts, request)]
        for v, seen in used.items():
            if not seen.all():
                raise ValueError(
                    f"No row has the level {self._levels[v][~seen][0]!r} that '{v}' declares: declare only levels that occur."
                )
        results = [_added(parts, request) for parts, request in zip(waiting, requests, strict=True)]
        mean, sd = self._means + first / n, np.sqrt(np.maximum(second / n - (first / n) ** 2, 0))
        self._means = mean
        return results, Facts(n, missing, log_weight, low, high, mean, sd)


def _collect(factors: list[str], pieces: Iterator[Piece]) -> dict[str, pd.Index]:
    """Levels that occur; in the declared order where all frames declare the same categories."""
    seen: dict[str, list[pd.Series]] = {v: [] for v in factors}
    for series, _, _ in pieces:
        for v in factors if series else ():
            seen[v] = [pd.concat([*seen[v], series[v]]).drop_duplicates()]
    return {v: _used(as_column(s, v)[0]) for v, (s,) in seen.items()}


def _used(factor: Any) -> pd.Index:
    return drop_unused(factor).categories


def _added(parts: list[pd.DataFrame], request: Request) -> pd.DataFrame:
    """Partial sums added up by key."""
    keys = [f"key{i}" for i in range(len(request.keys))]
    return pd.concat(parts, ignore_index=True).groupby(keys, sort=False, observed=True, as_index=False).sum()
