"""Fitted values, predictions with their errors for old and new groups, and simulation from a fitted model.

A confidence interval is for the mean that ``random`` chooses: x'β + z'b of the row's own groups, x'β of the population, or with
the effects of the factors that are named.  A group that the fit has not seen has a mean of its own, too, of which only the
distribution is known: its random effects enter with their whole variance (the population's mean is had by random=False).
A prediction interval is for a new response: it adds the residual's variance σ²/w, and the whole variance of the random effects
of the factors that ``random`` leaves out, since the row belongs to some level of those.

Standard errors are joint in (β̂ − β, b̂ − b), whose correlated errors nearly cancel for well-observed groups.  θ and σ count as
known, so intervals are too short where few groups estimate a variance.

References
----------
Henderson (1975). Best linear unbiased estimation and prediction under a selection model. Biometrics 31:423.
Robinson (1991). That BLUP is a good thing. Statistical Science 6:15.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import norm

from lmmlite.checks import check_count, check_share
from lmmlite.effects import JointErrors
from lmmlite.table import Column, Levels, Table, as_column, own_values, read_columns, row_labels

if TYPE_CHECKING:
    from lmmlite.fitted import Estimates
    from lmmlite.model import MixedModel

NewLevels = Literal["error", "population"]
Interval = Literal["confidence", "prediction"] | None


def _sum_columns(columns: list[np.ndarray], effects: np.ndarray, n: int) -> np.ndarray:
    """Σ columnⱼ · effectⱼ, effects (k,) or one row for each row (n, k)."""
    out = np.zeros(n)
    for j, column in enumerate(columns):
        out += column * effects[..., j]
    return out


def fitted(fit: Estimates, random: bool = True) -> np.ndarray:
    """Xβ̂ + offset, and Zb̃ with ``random``, for the rows of the fit."""
    design = fit.design
    out = _sum_columns(design.x_columns, fit.fixef.to_numpy(), design.n)
    out += 0 if design.offset is None else design.offset
    return out + (random_part(fit, fit._b) if random else 0)


def random_part(fit: Estimates, b: list[np.ndarray]) -> np.ndarray:
    """Zb for the rows of the fit; b holds (levels, k) for each grouping factor."""
    design, out = fit.design, np.zeros(fit.design.n)
    for term, place in zip(design.terms, fit._places, strict=True):
        out += _sum_columns(term.columns, b[term.group][design.groups[term.group].codes, place], design.n)
    return out


def predict(
    fit: MixedModel,
    new: Any,
    random: bool | Sequence[str],
    new_levels: NewLevels,
    offset: Any = None,
    interval: Interval = None,
    level: float = 0.95,
    weights: Any = None,
) -> Any:
    """Predictions on the response's scale, with standard errors and intervals if asked for; see `MixedModel.predict`.

    Parameters
    ----------
    interval : {None, "confidence", "prediction"}
        None gives a Series; otherwise a DataFrame ``fit se lower upper``: for the mean or for a new response, as explained at
        the top of this module, fit ± z · se with z the normal quantile of (1 + level)/2.
    weights : str or array-like, optional
        Prior weights w of the new rows; 1 if not given, those of the fit for its own rows.
    """
    if interval not in (None, "confidence", "prediction"):
        raise ValueError(f"interval is None, 'confidence' or 'prediction', not {interval!r}.")
    check_share(level, "level")
    if new_levels not in ("error", "population"):
        raise ValueError(f"new_levels is 'error' or 'population', not {new_levels!r}.")
    rows = _rows(fit, new, _chosen_groups(fit, random), new_levels, offset, weights, interval == "prediction")
    mean = rows.offset + _sum_columns(rows.x, fit.fixef.to_numpy(), len(rows.index))
    for code, z, b in zip(rows.codes, rows.z, fit._b, strict=True):
        mean += _sum_columns(z, np.where(code[:, None] < 0, 0.0, b[code]), len(mean))
    if interval is None:
        return pd.Series(mean, rows.index, name="fit")
    errors = JointErrors(fit)
    x, zT = rows.scaled(errors.T)
    variance = errors.variances(x, rows.codes, zT)
    for code, v in zip(rows.codes, zT, strict=True):
        variance += np.where(code < 0, (v**2).sum(axis=1), 0.0)
    se = fit.sigma * np.sqrt(variance + (1 / rows.weights if interval == "prediction" else 0))
    half = norm.ppf((1 + level) / 2) * se
    return pd.DataFrame({"fit": mean, "se": se, "lower": mean - half, "upper": mean + half}, rows.index)


@dataclass(frozen=True)
class Rows:
    """Rows of [X Z] in the user's units, before any estimate is applied to them.

    Attributes
    ----------
    index : pandas.Index
    x : list of (n,) arrays
    codes : list of (n,) int arrays
        Levels on each grouping factor, −1 for unseen ones and where the factor is left out.
    z : list of lists of (n,) arrays
        Columns of Z of each grouping factor; empty for factors that are not needed.
    offset, weights : (n,) arrays
    """

    index: pd.Index
    x: list[np.ndarray]
    codes: list[np.ndarray]
    z: list[list[np.ndarray]]
    offset: np.ndarray
    weights: np.ndarray

    def scaled(self, factors: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """X, (n, p), and v' = z'T of each grouping factor, (n, k), zero for factors that are not needed."""
        n = len(self.index)
        zT = [np.column_stack(z) @ T if z else np.zeros((n, len(T))) for z, T in zip(self.z, factors, strict=True)]
        return np.column_stack([np.empty((n, 0)), *self.x]), zT


def own_rows(fit: MixedModel, codes: list[np.ndarray] | None = None) -> Rows:
    """The rows of the fit, with their own level codes or others."""
    design = fit.design
    z = [[c for t in design.terms if t.group == g for c in t.columns] for g in range(len(design.groups))]
    offset = np.zeros(design.n) if design.offset is None else design.offset
    weights = np.ones(design.n) if design.weights is None else design.weights
    return Rows(design.index, design.x_columns, codes or [g.codes for g in design.groups], z, offset, weights)


def _rows(
    fit: MixedModel, new: Any, chosen: set[str], new_levels: NewLevels, offset: Any, weights: Any, whole: bool
) -> Rows:
    """Rows of the fit or of new data: levels of the chosen grouping factors, Z of those or, with ``whole``, of all."""
    design = fit.design
    if new is None:
        rows = own_rows(fit, [g.codes if g.name in chosen else np.full(design.n, -1) for g in design.groups])
        z = [z if whole or g.name in chosen else [] for z, g in zip(rows.z, design.groups, strict=True)]
        return replace(rows, z=z)
    if design.offset is not None and offset is None:
        offset = fit.columns[1]
        if offset is None:
            raise ValueError("The model's offset was given as an array: give the offset of the new rows, too.")
    terms = [t for t in design.terms if whole or t.bar.group in chosen]
    factors = {t.group: t.bar.factors for t in terms if t.bar.group in chosen}
    numbers = dict.fromkeys(v for side in (design.fixed, *(t.side for t in terms)) for v in side.variables)
    numbers |= {given: None for given in (offset, weights) if isinstance(given, str)}
    labels = dict.fromkeys(f for names in factors.values() for f in names)
    series = read_columns(new, [*numbers, *labels]) if numbers or labels else {}
    index = next(iter(series.values())).index if series else _index(new)
    n = len(index)
    factors_known = {v for side in (design.fixed, *(t.side for t in terms)) for v in side.levels}
    table: Table = {v: _column(series[v], v, v in factors_known) for v in numbers}

    def known(given: Any, role: str) -> np.ndarray:
        values = table[given] if isinstance(given, str) else own_values(given, role, row_labels(new))
        if isinstance(values, pd.Categorical) or np.shape(values) not in ((), (n,)):
            raise ValueError(f"The {role} must be a column of numbers, or {n} numbers, one for each new row.")
        return np.broadcast_to(np.asarray(values, np.float64), (n,))

    columns = zip(design.fixed.columns(table, n), design.fixed.names, strict=True)
    x = [column for column, name in columns if name not in design.dropped]
    codes, z = [], []
    for g, levels in enumerate(design.groups):
        z.append([c for t in terms if t.group == g for c in t.side.columns(table, n)])
        own = [series[f] for f in factors.get(g, ())]
        codes.append(_codes(levels, own, new_levels) if own else np.full(n, -1))
    w = known(1 if weights is None else weights, "weights")
    if (w <= 0).any():
        raise ValueError(f"Weights must be positive; row {int(np.flatnonzero(w <= 0)[0])} has {w[w <= 0][0]:g}.")
    return Rows(index, x, codes, z, known(0 if design.offset is None else offset, "offset"), w)


def _index(new: Any) -> pd.Index:
    """Labels of new rows of which no column is needed."""
    if isinstance(new, Mapping):
        return next(iter(read_columns(new, map(str, new)).values())).index
    return new.index if isinstance(new, pd.DataFrame) else pd.RangeIndex(len(new))


def _column(series: pd.Series, name: str, is_factor: bool) -> Column:
    """A column of new rows, in which every value may be missing."""
    if not series.isna().all():
        return as_column(series, name)[0]
    return pd.Categorical(np.full(len(series), None)) if is_factor else np.full(len(series), np.nan)


def _codes(levels: Levels, columns: list[pd.Series], new_levels: NewLevels) -> np.ndarray:
    """Level codes of new rows, −1 for unseen ones where those are allowed."""
    codes = levels.codes_of(columns)
    if (codes < 0).all():
        levels.check_kinds(columns)
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
    if not isinstance(random, Iterable):
        raise TypeError(
            f"random must be True, False, or names of grouping factors ({', '.join(names)}), not {random!r}."
        )
    random = [random] if isinstance(random, str) else list(random)
    unknown = [g for g in random if g not in names]
    if unknown:
        raise ValueError(f"The model has no random effects for '{unknown[0]}'; it has {', '.join(names)}.")
    return set(random)


def draw(rng: np.random.Generator, fit: MixedModel, mean: np.ndarray, T: list[np.ndarray], sigma: float) -> np.ndarray:
    """A response with this mean for the rows of a fit, normal random effects with factors σT and normal residuals."""
    design = fit.design
    b = [sigma * rng.standard_normal((g.size, len(t))) @ t.T for g, t in zip(design.groups, T, strict=True)]
    spread = sigma if design.weights is None else sigma / np.sqrt(design.weights)
    return mean + random_part(fit, b) + spread * rng.standard_normal(design.n)


def simulate(fit: MixedModel, n: int, seed: Any) -> pd.DataFrame:
    """New responses from the fitted model; see `MixedModel.simulate`."""
    check_count(n)
    rng, mean = np.random.default_rng(seed), fitted(fit, random=False)
    columns = [draw(rng, fit, mean, fit._T, fit.sigma) for _ in range(n)]
    return pd.DataFrame(np.column_stack(columns), fit.design.index, [f"sim_{i + 1}" for i in range(n)])
