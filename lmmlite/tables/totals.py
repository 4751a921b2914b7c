"""From the answers of a GROUP BY to cross-products: which sums are asked for, and what is done with them.

Columns are summed about centres, so that a large offset costs no digits.  What is left of the conditioning is done on the sums:
X to an orthonormal basis, y to its least-squares residual, Z centred and scaled.  Where too many digits would cancel in that, the
rows are summed once more, and the combinations of columns formed row by row.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain, pairwise, product
from typing import Any, Protocol

import numpy as np
import pandas as pd

from lmmlite.basis import Basis
from lmmlite.covariance import Template
from lmmlite.sides import Side
from lmmlite.sums import Pairs
from lmmlite.table import LARGEST, Levels, Table, levels_of

NONE_LEFT = "There are no rows (an iterator is used up by one fit), or each has a missing value in a column that the model uses."
_CANCELS = 1e-4  # squared sine of a column of X to those before it below which the rows are read again
_NOISE = 1e-12  # and below which the sums do not even know its direction
_CANCELS_Y = 1e-6  # the same for the residual in y
_FAR = 30.0  # standard deviations
_EXPLAINED = 1e-28  # part of y'y that counts as nothing left, as in `basis`
_READINGS = 4
_DEPENDENT = 1e-9  # sine below which a column of X counts as a combination of those before it, as in `basis`


@dataclass(frozen=True)
class Needed:
    """Columns used in the response, in any expression (numbers or factors), and those that label groups."""

    response: tuple[str, ...]
    values: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def all(self) -> list[str]:
        return list(dict.fromkeys([*self.values, *self.labels]))


@dataclass(frozen=True)
class Request:
    """One GROUP BY: the keys, and the pairs of columns whose products are wanted; each product is summed once."""

    keys: tuple[str, ...]
    pairs: list[tuple[int, int]]

    @property
    def products(self) -> list[tuple[int, int]]:
        return list(dict.fromkeys((min(pair), max(pair)) for pair in self.pairs))

    def sums(self, table: pd.DataFrame) -> np.ndarray:
        """The sums, (pairs, levels), from a table with columns 0, 1, … in the order of ``products``."""
        place = {pair: i for i, pair in enumerate(self.products)}
        return np.array([table[place[min(pair), max(pair)]] for pair in self.pairs], np.float64)


@dataclass(frozen=True)
class Facts:
    """Counts of rows used and left out, Σ log w, and of each column smallest and largest value, mean and standard deviation."""

    n: int
    missing: int
    log_weight: float
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    sd: np.ndarray


@dataclass(frozen=True)
class Plan:
    """The columns to sum: X, then y − offset, then Z of one grouping factor after the other, and last the weights.

    ``centres`` holds what is subtracted from each; zero where there is no intercept that could take it up.
    """

    fixed: Side
    response: Side
    z: tuple[tuple[Side, ...], ...]
    factors: tuple[tuple[str, ...], ...]
    weights: str | None
    offset: str | None
    centres: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def sides(self) -> list[Side]:
        return [self.fixed, self.response, *chain(*self.z)]

    @property
    def names(self) -> list[str]:
        return [*chain(*(side.names for side in self.sides)), *([self.weights] if self.weights else [])]

    @property
    def d(self) -> int:
        """Number of columns of X, the place of y."""
        return len(self.fixed.names)

    @property
    def z_places(self) -> list[slice]:
        """Where the columns of Z of each grouping factor are."""
        stops = np.cumsum([self.d + 1, *(sum(len(side.names) for side in sides) for sides in self.z)])
        return [slice(int(start), int(stop)) for start, stop in pairwise(stops)]

    def alike(self, combinations: int | None) -> list[int]:
        """For each column of [X y Z] the first that is the same, where so many combinations stand in place of [X y] if any do."""
        keys: list[Any] = []
        for side in self.sides:
            plain = isinstance(side.recipe, tuple)  # other columns are alike only where one expression makes them
            keys += side.recipe if plain else [(side.recipe.expression.identity, name) for name in side.names]
        keys = list(zip(keys, self.centres, strict=False))
        D = range(self.d + 1 if combinations is None else combinations)  # numbers are like no other column
        keys = [*(D if combinations else [*keys[: self.d], *D[-1:]]), *keys[self.d + 1 :]]
        return [keys.index(key) for key in keys]

    def columns(self, table: Table) -> np.ndarray:
        """All columns, (columns, rows)."""
        n = len(next(iter(table.values())))
        with np.errstate(all="ignore"):  # `check` finds what is not finite
            columns = [column for side in self.sides for column in side.columns(table, n)]
        out = np.array([*columns, *([table[self.weights]] if self.weights else [])])
        out[self.d] -= table[self.offset] if self.offset else 0
        return out

    def combined(self, columns: np.ndarray, M: np.ndarray | None) -> np.ndarray:
        """The columns about their centres, with [X y] M in place of [X y] if M is given."""
        columns = columns - self.centres[:, None]
        return columns if M is None else np.vstack([M.T @ columns[: self.d + 1], columns[self.d + 1 :]])

    def about(self, means: np.ndarray) -> Plan:
        """The plan with centres near these means."""
        free = np.zeros(len(means), bool)
        free[: self.d + 1] = has_intercept(self.fixed)
        free[: bool(self.d)] = False
        for place, sides in zip(self.z_places, self.z, strict=True):
            ones = z_intercept(sides)
            free[place] = [ones is not None and j != ones for j in range(place.stop - place.start)]
        return replace(self, centres=np.where(free, means, 0.0))

    def is_far(self, facts: Facts) -> bool:
        """Whether the centre of a column of Z is so far from its mean that sums about it cancel digits."""
        z = slice(self.d + 1, len(self.centres) - bool(self.weights))
        far = np.abs(facts.mean - self.centres) > _FAR * facts.sd
        return bool((far & (self.about(facts.mean).centres != self.centres))[z].any())

    def check(self, low: np.ndarray, high: np.ndarray) -> None:
        """Raise ValueError where the extremes of the columns show that one cannot be summed."""
        names = [
            f"{name}' less '{self.offset}" if j == self.d and self.offset else name for j, name in enumerate(self.names)
        ]
        bad = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)))
        if bad.size:
            raise ValueError(
                f"'{names[bad[0]]}' is not finite in some row (infinite, or a function out of its range?)."
            )
        largest = np.maximum(-low, high)
        bad = np.flatnonzero((largest > LARGEST) | ((largest > 0) & (largest < 1 / LARGEST)))
        if bad.size:
            j = bad[0]
            raise ValueError(
                f"'{names[j]}' goes from {low[j]:g} to {high[j]:g}, whose squares no computer holds; change its unit."
            )
        if self.weights and low[-1] <= 0:
            raise ValueError(
                f"Weights must be positive; one is {low[-1]:g}. Leave rows of weight zero out of the data."
            )


@dataclass
class Totals:
    """Sums about the centres, weighted; D stands for [X y], or the combinations of it that were asked for.

    Attributes
    ----------
    facts : Facts
    levels : list of Levels
    ZZ, ZD : lists of (k, k, L) and (k, d, L) arrays
        For each grouping factor.
    DD : (d, d) array
    pairs : dict of (g, h) to (codes in g, codes in h, (k_g, k_h, m) array)
    """

    facts: Facts
    levels: list[Levels]
    ZZ: list[np.ndarray]
    ZD: list[np.ndarray]
    DD: np.ndarray
    pairs: Pairs

    def same_groups(self, g: int, h: int) -> bool:
        """Whether two grouping factors are one, maybe by two names."""
        sizes = {self.levels[g].size, self.levels[h].size}
        return g == h or sizes == {len(self.pairs[max(g, h), min(g, h)][0])}


class Source(Protocol):
    """Where the rows are."""

    data: Any  # to fit another formula to

    def sample(self, needed: Needed) -> Table:
        """Some complete rows of the columns used in expressions, factors with all their levels."""

    def centred(self, plan: Plan) -> Plan:
        """The plan with a centre for each column."""

    def group_by(self, plan: Plan, M: np.ndarray | None, requests: list[Request]) -> tuple[list[pd.DataFrame], Facts]:
        """For each request a table ``key0 … 0 1 …`` of sums, over the columns that `Plan.combined` describes."""


def products_of(side: Side) -> list[list[tuple[str, bool]]]:
    """What formulaic multiplies to columns: expressions over neutral names, and whether a factor's first level is left out; none for 1."""
    terms = [term for structure in side.recipe.spec.structure for term in structure.scoped_terms]
    return [[(f.factor.expr, f.reduced) for f in term.factors] for term in terms]


def has_intercept(side: Side) -> bool:
    """Whether the first column is 1 by construction; a column of the data that is constant does not count."""
    return side.recipe[:1] == ((),) if isinstance(side.recipe, tuple) else products_of(side)[:1] == [[]]


def z_intercept(sides: tuple[Side, ...]) -> int | None:
    """Place of the column of ones among the columns of Z of one grouping factor."""
    starts = np.cumsum([0, *(len(side.names) for side in sides)])
    return next((int(s) for s, side in zip(starts, sides, strict=False) if has_intercept(side)), None)


def _totals(source: Source, plan: Plan, M: np.ndarray | None) -> Totals:
    """One GROUP BY for each grouping factor and for each pair of them."""
    d = plan.d + 1 if M is None else M.shape[1]
    same = plan.alike(None if M is None else d)
    Z = [[same[j + d - plan.d - 1] for j in range(place.start, place.stop)] for place in plan.z_places]
    pairs = [(g, h) for g in range(len(Z)) for h in range(g)]
    requests = [
        Request(factors, [*product(z, z), *product(z, range(d))]) for factors, z in zip(plan.factors, Z, strict=True)
    ]
    requests[0].pairs.extend(product(range(d), range(d)))
    for g, h in pairs:
        keys = tuple(dict.fromkeys(plan.factors[g] + plan.factors[h]))
        requests.append(Request(keys, list(product(Z[g], Z[h]))))
    tables, facts = source.group_by(plan, M, requests)

    levels, ZZ, ZD, DD = [], [], [], np.zeros((d, d))
    for g, z in enumerate(Z):
        level, order = _in_order(requests[g].keys, tables[g], facts.missing)
        k, sums = len(z), requests[g].sums(tables[g])
        sums[:, order] = sums.copy()
        ZZ.append(sums[: k * k].reshape(k, k, -1))
        ZD.append(sums[k * k : k * (k + d)].reshape(k, d, -1))
        DD = sums[k * (k + d) :].sum(axis=1).reshape(d, d) if g == 0 else DD
        levels.append(level)
    met: Pairs = {}
    for (g, h), request, table in zip(pairs, requests[len(Z) :], tables[len(Z) :], strict=True):
        labels = {f: table[f"key{i}"] for i, f in enumerate(request.keys)}
        codes = [levels[i].codes_of([labels[f] for f in plan.factors[i]]) for i in (g, h)]
        for i, code in zip((g, h), codes, strict=True):
            if (code < 0).any():
                raise ValueError(
                    f"Labels of the groups '{levels[i].name}' are not the same when asked again; make them text."
                )
        met[g, h] = codes[0], codes[1], request.sums(table).reshape(len(Z[g]), len(Z[h]), -1)
    return Totals(facts, levels, ZZ, ZD, DD, met)


def _in_order(factors: tuple[str, ...], table: pd.DataFrame, missing: int) -> tuple[Levels, np.ndarray]:
    """Levels sorted as in memory, and the place among them of each row of the table."""
    labels = {f: table[f"key{i}"] for i, f in enumerate(factors)}
    for f, s in labels.items():
        if missing and s.dtype.kind == "f" and (s == s.round()).all() and (s.abs() < 2**53).all():
            labels[f] = s.astype(np.int64)  # integers that only missing values had turned into floats
    levels = levels_of(labels, factors, None)
    if levels.size < len(table):
        raise ValueError(
            f"Labels of the groups '{levels.name}' are told apart by the table, but not here; make them text or whole numbers."
        )
    return levels, levels.codes


def orthonormal(source: Source, plan: Plan) -> tuple[Plan, Totals, Basis, np.ndarray]:
    """Totals with X in an orthonormal basis and y its scaled residual; that basis; and X'X of all columns (unit weights).

    Gram–Schmidt on the products, left to right, and again on rows read anew where it cancels too many digits.  The plan comes
    back too, since its centres may have been too far from the data.
    """
    totals = _totals(source, plan, None)
    if plan.is_far(totals.facts):
        plan = plan.about(totals.facts.mean)
        totals = _totals(source, plan, None)
    p, n, facts = len(plan.fixed.names), totals.facts.n, totals.facts
    if facts.low[p] == facts.high[p] and not plan.offset:
        raise ValueError(f"The response is constant ({facts.low[p]:g}): there is nothing to explain.")
    _check_same(plan, totals)
    B = np.eye(p)
    if has_intercept(plan.fixed):
        B[0] += plan.centres[: plan.d]
    V, c, kept, unclear = np.eye(p), np.zeros(p), np.arange(p), np.zeros(p, bool)
    XX, size = B.T @ totals.DD[:-1, :-1] @ B, np.sqrt(np.diag(totals.DD)[:-1])
    weight = facts.mean[-1] if plan.weights else 1.0
    whole = float(totals.DD[-1, -1]) + n * weight * facts.mean[p] ** 2
    for reading in range(_READINGS):
        if reading:
            M = np.block([[V, -c[:, None]], [np.zeros(len(kept)), np.ones(1)]])
            totals = _totals(source, plan, M)
        if totals.facts.n != n:
            raise ValueError("The data gave other rows when they were read again.")
        G, norm = totals.DD[:-1, :-1], np.sqrt(np.diag(totals.DD)[:-1])
        good = (norm > _DEPENDENT * size) | ((norm > 0) & ~unclear)
        T, unclear, smallest = _gram_schmidt(G, norm, good)
        along = np.where(unclear, 0, T.T @ totals.DD[:-1, -1])
        squares = float(totals.DD[-1, -1] - along @ along)
        V, c, kept, size = V @ T, c + V @ (T @ along), kept[good], size[good]
        settled = smallest > _CANCELS and squares > _CANCELS_Y * totals.DD[-1, -1]
        if (reading or settled) and squares <= _EXPLAINED * whole:
            raise ValueError("The fixed effects reproduce the response exactly: no variance is left to divide.")
        if settled:
            break
    else:
        raise ValueError(
            "The columns of X are too nearly collinear for sums of their products, however scaled. Centre or rescale the "
            f"columns, or leave one out ({', '.join(plan.fixed.names)}); or fit a sample in memory."
        )
    unit = np.sqrt(squares / totals.facts.n)
    D = np.block([[T, -(T @ along)[:, None] / unit], [np.zeros(T.shape[1]), np.full(1, 1 / unit)]])
    totals.ZD = [np.einsum("kdl,de->kel", ZD, D) for ZD in totals.ZD]
    totals.DD = D.T @ totals.DD @ D
    own = np.linalg.inv(B[np.ix_(kept, kept)])
    beta = own @ c[kept]
    if has_intercept(plan.fixed):
        beta[0] += plan.centres[plan.d]
    return plan, totals, Basis(tuple(map(int, kept)), beta, own @ V[kept], float(unit)), XX


def _check_same(plan: Plan, totals: Totals) -> None:
    """ValueError where the columns add up to other means than a first query found, as columns of random numbers do."""
    facts, D = totals.facts, slice(plan.d + 1)
    if has_intercept(plan.fixed) and not plan.weights:
        away = totals.DD[0] / facts.n - (facts.mean - plan.centres)[D]
        away[0] = 0  # of the ones
        bad = np.flatnonzero(np.abs(away) > 1e-6 * (facts.sd[D] + np.abs(away)) + 1e-9 * np.abs(facts.mean[D]))
        if bad.size:
            raise ValueError(
                f"'{plan.names[bad[0]]}' had another mean when the table was asked again; make it a fixed one (table.cache())."
            )


def _gram_schmidt(G: np.ndarray, norm: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """T with V_good T orthonormal for V'V = G; columns whose direction is noise stay unscaled and are marked.

    Returns T (all, good), the marks (good,), and the smallest squared sine.
    """
    places = np.flatnonzero(good)
    T, noise, smallest = np.zeros((len(G), len(places))), np.zeros(len(places), bool), 1.0
    for i, j in enumerate(places):
        T[j, i] = 1 / norm[j]
        along = np.where(noise[:i], 0, T[:, :i].T @ G @ T[:, i])
        sine2 = 1 - along @ along
        T[:, i] -= T[:, :i] @ along
        noise[i] = sine2 < _NOISE
        T[:, i] *= norm[j] if noise[i] else 1 / np.sqrt(sine2)
        smallest = min(smallest, float(sine2))
    return T, noise, smallest


def scale_z(totals: Totals, plan: Plan, g: int, template: Template) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale the columns of Z of one grouping factor in the totals; the maps of `CrossProducts`."""
    ones, ZZ, place = z_intercept(plan.z[g]), totals.ZZ[g], plan.z_places[g]
    mean, sd = totals.facts.mean[place], totals.facts.sd[place]
    size = np.hypot(mean, sd)
    scale = np.where(ones is None, size, sd)
    if ones is not None:
        scale[ones] = 1
    scale[scale == 0] = 1
    K, B, own = np.diag(1 / scale), np.diag(scale), np.zeros((len(size), len(size)))
    if ones is not None:
        away = np.arange(len(size)) != ones
        K[ones] -= away * (mean - plan.centres[place]) / scale
        B[ones] += away * mean
    for start, stop in template.blocks:
        inside = ones is not None and start <= ones < stop
        block = slice(start, stop)
        own[block, block] = B[block, block] if inside else np.diag(size[block])
    totals.ZZ[g] = np.einsum("ab,acl,cd->bdl", K, ZZ, K)
    totals.ZD[g] = np.einsum("ab,adl->bdl", K, totals.ZD[g])
    for (one, other), (codes, others, total) in totals.pairs.items():
        if one == g:
            totals.pairs[one, other] = codes, others, np.einsum("ab,acl->bcl", K, total)
        if other == g:
            totals.pairs[one, other] = codes, others, np.einsum("acl,cd->adl", total, K)
    return B, own
