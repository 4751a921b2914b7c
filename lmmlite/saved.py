"""A fit in a file that holds numbers and text only, so that opening one runs nothing.

The file is a zip archive of NumPy arrays (``.npz``, read without pickle).  One of them, ``header``, is JSON:

    {"format": "lmmlite fit", "version": 1, "formula": …, "reml": …, "theta": […], "criterion": …, "message": …,
     "converged": …, "columns": [{"name": …, "kind": "numbers"} | {"name": …, "kind": "factor", "levels": […],
     "ordered": …, "categorical": …, "dtype": …}, …],
     "weights": null | true | name, "offset": likewise, "index": number of columns}

Dates, and whole numbers beyond float64 of which some are missing, are factors; ``dtype`` is what their levels become again
(null for other factors).

The columns are the arrays ``column0``, ``column1`` …: numbers, or codes of levels with −1 for missing; the last ones are the
index.  What was searched for, θ, is kept; everything else is computed anew from the columns when a file is opened, and the
criterion must come out as it was.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lmmlite.table import kind_of_objects, own_data, read_columns

if TYPE_CHECKING:
    from lmmlite.model import MixedModel

FORMAT, VERSION = "lmmlite fit", 1
_SAME = 1e-8  # relative difference of the criterion that other versions of NumPy may make


def save(fit: MixedModel, path: str | Path) -> None:
    """Write a fit and the columns it uses to a file.

    Raises
    ------
    ValueError
        For a fit whose response is no column of its data, and for levels that are neither text nor numbers.
    """
    design = fit.design
    names: dict[Any, None] = dict.fromkeys([*design.formula.variables, *(name for name in fit.columns if name)])
    series = list(read_columns(own_data(fit.data), names).values())
    index = series[0].index
    columns = list(zip(names, series, strict=True))
    if not isinstance(index, pd.RangeIndex) or index.start or index.step != 1:
        columns += [(index.names[i], index.get_level_values(i).to_series()) for i in range(index.nlevels)]
    what = [f"Column '{name}'" for name in names] + ["The index of the data"] * (len(columns) - len(names))
    described, arrays = zip(*(_encoded(name, s, w) for (name, s), w in zip(columns, what, strict=True)), strict=True)
    given: list[str | bool | None] = []
    extra = {}
    for role, name, values in zip(("weights", "offset"), fit.columns, (design.weights, design.offset), strict=True):
        given.append(name or (None if values is None else True))
        if given[-1] is True:
            extra[role] = np.full(len(index), 1.0)  # of rows left out nothing is known, nor needed
            extra[role][slice(None) if design.kept is None else design.kept] = values
    header = {
        "format": FORMAT,
        "version": VERSION,
        "formula": fit.formula,
        "reml": fit.reml,
        "theta": fit.theta.tolist(),
        "criterion": fit.criterion,
        "message": fit.optimum.message,
        "converged": fit.optimum.converged,
        "columns": described,
        "weights": given[0],
        "offset": given[1],
        "index": len(columns) - len(names),
    }
    stored: dict[str, Any] = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8), **extra}
    stored |= {f"column{i}": values for i, values in enumerate(arrays)}
    with open(path, "wb") as file:
        np.savez_compressed(file, **stored)


def read(path: str | Path) -> tuple[dict[str, Any], pd.DataFrame, dict[str, Any]]:
    """Header, data, and weights and offset (a column's name, an array or None) of a file made by `save`.

    Raises
    ------
    ValueError
        When the file is not one of these, or of a later version than this one knows.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays["header"].tobytes())
        known = header["format"] == FORMAT
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a fit saved by lmmlite.") from error
    if not known:
        raise ValueError(f"{path} is not a fit saved by lmmlite.")
    if header["version"] > VERSION:
        raise ValueError(
            f"{path} has version {header['version']} of the format; this lmmlite knows {VERSION}: update it."
        )
    columns = [_decoded(c, arrays[f"column{i}"]) for i, c in enumerate(header["columns"])]
    of_index = len(columns) - header["index"]
    data = pd.DataFrame({c["name"]: s for c, s in zip(header["columns"][:of_index], columns, strict=False)})
    if header["index"]:
        names = [c["name"] for c in header["columns"][of_index:]]
        levels = pd.MultiIndex.from_arrays(columns[of_index:], names=names)
        data.index = levels if header["index"] > 1 else levels.get_level_values(0)
    given = {role: arrays[role] if header[role] is True else header[role] for role in ("weights", "offset")}
    return header, data, given


def check(header: dict[str, Any], fit: MixedModel) -> None:
    """Raise ValueError where a fit read from a file is not the one that was written."""
    if not abs(fit.criterion - header["criterion"]) <= _SAME * (1 + abs(header["criterion"])):
        raise ValueError(
            f"The file says that the criterion is {header['criterion']!r}; from its columns it is {fit.criterion!r}. The file is "
            "damaged, or this version reads the formula in another way: fit the model again."
        )


def _encoded(name: Any, series: pd.Series, what: str) -> tuple[dict[str, Any], np.ndarray]:
    """A column's description and its array; ``what`` names it in errors."""
    if series.dtype == object and not series.isna().all() and kind_of_objects(series, what) == "boolean":
        series = series.astype("boolean")
    dtype = series.dtype
    categorical = isinstance(dtype, pd.CategoricalDtype)
    large = pd.api.types.is_integer_dtype(dtype) and bool(series.isna().any()) and bool((series.abs() > 2**53).any())
    if (pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype)) and not categorical and not large:
        if isinstance(dtype, np.dtype):
            return {"name": name, "kind": "numbers"}, series.to_numpy()
        if pd.api.types.is_integer_dtype(dtype) and not series.isna().any():  # of any size
            return {"name": name, "kind": "numbers"}, series.to_numpy(f"{dtype.kind}8")
        kind = "booleans" if pd.api.types.is_bool_dtype(dtype) else "numbers"
        return {"name": name, "kind": kind}, series.to_numpy(np.float64, na_value=np.nan)
    is_date = isinstance(dtype, pd.PeriodDtype) or (dtype.kind in "mM" and not isinstance(dtype, pd.ArrowDtype))
    factor = series.array if categorical else pd.Categorical(series)
    labels = factor.categories
    levels = [str(label) for label in labels] if is_date else [int(v) for v in labels] if large else labels.tolist()
    if not all(isinstance(level, str | int | float) for level in levels):
        raise ValueError(f"{what} has levels that are neither text nor numbers; convert them before fitting.")
    described = {
        "name": name,
        "kind": "factor",
        "levels": levels,
        "ordered": bool(factor.ordered),
        "categorical": categorical,
        "dtype": str(dtype) if is_date or large else None,
    }
    codes = np.asarray(factor.codes)
    if is_date and not pd.Index(_decoded(described, codes)).equals(pd.Index(series)):
        raise ValueError(f"{what} is of type {dtype}, which a file cannot hold; convert it to text before fitting.")
    return described, codes


def _decoded(described: dict[str, Any], values: np.ndarray) -> pd.Series:
    if described["kind"] == "numbers":
        return pd.Series(values)
    if described["kind"] == "booleans":
        return pd.Series(values).astype("boolean")
    factor = pd.Categorical.from_codes(values, described["levels"], ordered=described["ordered"])
    if described.get("dtype"):
        labels = pd.Index(described["levels"], dtype=object).astype(described["dtype"])
        return pd.Series(labels.take(values, fill_value=pd.NA))
    return pd.Series(factor) if described["categorical"] else pd.Series(factor).astype(object)
