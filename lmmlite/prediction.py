"""Fitted values, predictions for old and new groups, and simulation from a fitted model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from lmmlite.table import Levels, Table, as_column, read_columns

if TYPE_CHECKING:
    from lmmlite.model import MixedModel

NewLevels = Literal["error", "population"]


def _sum_columns(columns: list[np.ndarray], effects: np.ndarray, n: int) -> np.ndarray:
    """Σ columnⱼ · effectⱼ, effects (k,) or one row for each row (n, k)."""
    out = np.zeros(n)
    for j, column in enumerate(columns):
        out += column * effects[..., j]
    return out


def fitted(fit: MixedModel, random: bool = True) -> np.ndarray:
    """Xβ̂ + offset, and Zb̃ with ``random``, for the rows of the fit."""
    design = fit.design
    out = _sum_columns(design.x_columns, fit.fixef.to_numpy(), design.n)
    out += 0 if design.offset is None else design.offset
    return out + (random_part(fit, fit._b) if random else 0)


def random_part(fit: MixedModel, b: list[np.ndarray]) -> np.ndarray:
    """Zb for the rows of the fit; b holds (levels, k) for each grouping factor."""
    design, out = fit.design, np.zeros(fit.design.n)
    for term, place in zip(design.terms, fit._places, strict=True):
        out += _sum_columns(term.columns, b[term.group][design.groups[term.group].codes, place], design.n)
    return out


def predict(
    fit: MixedModel, new: Any, random: bool | Sequence[str], new_levels: NewLevels, offset: Any = None
) -> pd.Series:
    """Predictions on the response's scale; see `MixedModel.predict`."""
    chosen = _chosen_groups(fit, random)
    if new_levels not in ("error", "population"):
        raise ValueError(f"new_levels is 'error' or 'population', not {new_levels!r}.")
    design = fit.design
    if new is None:
        pairs = zip(fit._b, design.groups, strict=True)
        effects = [b if levels.name in chosen else np.zeros_like(b) for b, levels in pairs]
        return pd.Series(fitted(fit, random=False) + random_part(fit, effects), design.index, name="fit")

    terms = [pair for pair in zip(design.terms, fit._places, strict=True) if pair[0].bar.group in chosen]
    if design.offset is not None and offset is None:
        offset = fit.columns[1]
        if offset is None:
            raise ValueError("The model's offset was given as an array: give the offset of the new rows, too.")
    numbers = dict.fromkeys(v for side in (design.fixed, *(t.side for t, _ in terms)) for v in side.variables)
    numbers |= {offset: None} if isinstance(offset, str) else {}
    labels = dict.fromkeys(f for t, _ in terms for f in t.bar.factors)
    series = read_columns(new, [*numbers, *labels]) if numbers or labels else {}
    index = next(iter(series.values())).index if series else getattr(new, "index", pd.RangeIndex(len(new)))
    n = len(index)
    table: Table = {v: as_column(series[v], v)[0] for v in numbers}

    columns = zip(design.fixed.columns(table, n), design.fixed.names, strict=True)
    kept = [column for column, name in columns if name not in design.dropped]
    out = _sum_columns(kept, fit.fixef.to_numpy(), n)
    if design.offset is not None:
        out += np.asarray(table[offset] if isinstance(offset, str) else offset, np.float64)
    for term, place in terms:
        codes = _codes(design.groups[term.group], [series[f] for f in term.bar.factors], new_levels)
        effects_of_rows = np.where((codes < 0)[:, None], 0.0, fit._b[term.group][codes][:, place])
        out += _sum_columns(term.side.columns(table, n), effects_of_rows, n)
    return pd.Series(out, index, name="fit")


def _codes(levels: Levels, columns: list[pd.Series], new_levels: NewLevels) -> np.ndarray:
    """Level codes of new rows, −1 for unseen ones where those are allowed."""
    codes = levels.codes_of(columns)
    unseen = np.flatnonzero(codes < 0)
    if unseen.size and new_levels == "error":
        label = ":".join(str(c.iloc[unseen[0]]) for c in columns)
        raise ValueError(
            f"Group '{levels.name}' has the level '{label}' in row {unseen[0]}, which the fit has not seen. "
            "new_levels='population' predicts such rows with a random effect of zero."
        )
    return codes


def _chosen_groups(fit: MixedModel, random: bool | Sequence[str]) -> set[str]:
    names = [levels.name for levels in fit.design.groups]
    if isinstance(random, bool | np.bool_):
        return set(names) if random else set()
    random = [random] if isinstance(random, str) else list(random)
    unknown = [g for g in random if g not in names]
    if unknown:
        raise ValueError(f"The model has no random effects for '{unknown[0]}'; it has {', '.join(names)}.")
    return set(random)


def simulate(fit: MixedModel, n: int, seed: Any) -> pd.DataFrame:
    """New responses from the fitted model; see `MixedModel.simulate`."""
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}.")
    rng, design = np.random.default_rng(seed), fit.design
    mean = fitted(fit, random=False)
    spread = fit.sigma if design.weights is None else fit.sigma / np.sqrt(design.weights)
    out = np.empty((design.n, n))
    for i in range(n):
        b = [
            fit.sigma * rng.standard_normal((levels.size, len(T))) @ T.T
            for levels, T in zip(design.groups, fit._T, strict=True)
        ]
        out[:, i] = mean + random_part(fit, b) + spread * rng.standard_normal(design.n)
    return pd.DataFrame(out, design.index, [f"sim_{i + 1}" for i in range(n)])
