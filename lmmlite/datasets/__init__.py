"""Packaged data sets: one table and one data card each.

A data set ``name`` is two files in this folder:

* ``name.csv`` (or ``name.csv.gz``): the rows, UTF-8, a header line, an empty field for a missing value;
* ``name.toml``: the card. Keys ``title, description, source, licence``; ``kind``, one of :data:`KINDS`;
  ``notes``, a list of strings; tables ``[columns]`` (column = "description (unit)"), ``[factors]``
  (column = its levels in order) and, optionally, ``[references]`` (key = citation).

The order of columns and levels is the order in the card. Nothing is downloaded.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from gzip import decompress
from html import escape
from importlib.resources import files
from io import StringIO
from textwrap import fill
from typing import Any

import pandas as pd

__all__ = ["KINDS", "DatasetCard", "dataset_card", "dataset_names", "load_dataset"]

KINDS = {
    "original": "Original: the published observations.",
    "reconstructed": "Reconstructed: rows built to give back published figures; not observations.",
    "simulated": "Simulated: rows drawn from a model; not observations.",
}

_FOLDER = files(__package__)


@dataclass(frozen=True, slots=True)
class DatasetCard:
    """What one should know about a data set before using it.

    Attributes
    ----------
    name, title, description, source, licence : str
        Identity and origin.
    kind : str
        A key of :data:`KINDS`: ``"original"``, ``"reconstructed"`` or ``"simulated"``.
    columns : mapping of str to str
        Meaning (and unit) of each column, in the order of the table.
    factors : mapping of str to tuple of str
        Levels of each categorical column, in order.
    notes : tuple of str
        Choices made when the data were prepared, and what they do not reproduce.
    references : mapping of str to str
        Where to read more.
    """

    name: str
    title: str
    description: str
    source: str
    licence: str
    kind: str
    columns: Mapping[str, str]
    factors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    references: Mapping[str, str] = field(default_factory=dict)

    def _column_rows(self) -> list[tuple[str, str]]:
        """Columns with their meaning, and the levels of a factor that has few of them."""
        rows = []
        for column, meaning in self.columns.items():
            levels = self.factors.get(column, ())
            rows.append((column, f"{meaning}: {', '.join(levels)}" if 0 < len(levels) <= 12 else meaning))
        return rows

    def __str__(self) -> str:
        parts = [f"{self.name}: {self.title}", KINDS[self.kind], self.description]
        width = max(map(len, self.columns))
        parts.append("\n".join(f"  {column:<{width}}  {text}" for column, text in self._column_rows()))
        parts += [f"Source: {self.source}", f"Licence: {self.licence}"]
        if self.notes:
            parts.append("Notes\n" + "\n".join(fill(f"- {n}", 88, subsequent_indent="  ") for n in self.notes))
        parts += [f"[{key}] {text}" for key, text in self.references.items()]
        return "\n".join(part if "\n" in part or part.startswith(" ") else fill(part, 88) for part in parts)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td><code>{escape(column)}</code></td><td>{escape(text)}</td></tr>"
            for column, text in self._column_rows()
        )
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        references = "".join(f"<li>{escape(text)}</li>" for text in self.references.values())
        return (
            f'<div class="lmmlite-card"><p><strong><code>{escape(self.name)}</code>: {escape(self.title)}</strong></p>'
            f"<p><b>{escape(KINDS[self.kind])}</b> {escape(self.description)}</p>"
            f"<table>{rows}</table>"
            f"<p>Source: {escape(self.source)}<br>Licence: {escape(self.licence)}</p>"
            + (f"<ul>{notes}</ul>" if notes else "")
            + (f"<p>References</p><ul>{references}</ul>" if references else "")
            + "</div>"
        )


def dataset_names() -> list[str]:
    """Names of the packaged data sets, sorted."""
    return sorted(entry.name.removesuffix(".toml") for entry in _FOLDER.iterdir() if entry.name.endswith(".toml"))


@cache
def _card(name: str) -> DatasetCard:
    if name not in (names := dataset_names()):
        near = get_close_matches(str(name).lower(), names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}"
        raise ValueError(f"no data set is called {name!r}: {hint}")
    raw: dict[str, Any] = tomllib.loads((_FOLDER / f"{name}.toml").read_text("utf-8"))
    raw["factors"] = {column: tuple(levels) for column, levels in raw.get("factors", {}).items()}
    raw["notes"] = tuple(raw.get("notes", ()))
    return DatasetCard(name=name, **raw)


def dataset_card(name: str) -> DatasetCard:
    """The data card of a packaged data set.

    Parameters
    ----------
    name : str
        One of :func:`dataset_names`.

    Returns
    -------
    DatasetCard
        Prints as text and, in a notebook, as HTML.

    Raises
    ------
    ValueError
        If there is no such data set; the message names the nearest one.
    """
    return _card(name)


def load_dataset(name: str) -> pd.DataFrame:
    """A packaged data set as a new data frame.

    Parameters
    ----------
    name : str
        One of :func:`dataset_names`.

    Returns
    -------
    pandas.DataFrame
        The columns of the card, factors as categoricals with the card's order of levels.

    Raises
    ------
    ValueError
        If there is no such data set; the message names the nearest one.

    Examples
    --------
    >>> load_dataset("schools").shape
    (1200, 7)
    """
    card = dataset_card(name)
    table = next(entry for end in (".csv", ".csv.gz") if (entry := _FOLDER / f"{name}{end}").is_file())
    raw = table.read_bytes()
    text = (decompress(raw) if table.name.endswith(".gz") else raw).decode("utf-8")
    data = pd.read_csv(StringIO(text), dtype=dict.fromkeys(card.factors, str))
    return data[list(card.columns)].assign(
        **{column: pd.Categorical(data[column], categories=levels) for column, levels in card.factors.items()}
    )
