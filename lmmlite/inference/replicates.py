"""Many refits: a response drawn or resampled, the same design fitted to it, in parallel and reproducibly.

Of the cross-products only the sums with y change from one replicate to the next.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lmmlite import blocks, prediction
from lmmlite.basis import FixedRows, scaled
from lmmlite.chain import Products, by_parent
from lmmlite.checks import check_count
from lmmlite.criterion import Criterion
from lmmlite.crossproducts import CrossProducts
from lmmlite.optimize import minimize
from lmmlite.tidy import own_frame

if TYPE_CHECKING:
    from lmmlite.model import MixedModel

Draw = Callable[[np.random.Generator], np.ndarray]


class Responses:
    """Cross-products of one design with new responses: only the sums with y are made again.

    Parameters
    ----------
    fit : MixedModel
        Its design and cross-products stay as they are.
    """

    def __init__(self, fit: MixedModel):
        self.fit, design = fit, fit.design
        fixed = FixedRows(design.x_columns, design.y, design.offset, design.weights)
        rows = np.hstack([fixed.rows(start) for start in fixed.starts()])
        self.X, self.y = rows[:-1], rows[-1]
        self.root = np.ones(design.n) if design.weights is None else np.sqrt(design.weights)
        columns = [[c for t in design.terms if t.group == g for c in t.columns] for g in range(len(design.groups))]
        self.z = [[c.rows(0, design.n) * self.root for c in scaled(own, {})[0]] for own in columns]

    def crossproducts(self, y: np.ndarray) -> CrossProducts:
        """Those of the design with y as its response, in the basis and units of the fit."""
        cp, design = self.fit.criterion_function.cp, self.fit.design
        q, e = cp.rest.q, self.y + self.root * (y - design.y) / cp.basis.scale
        Zy = [
            np.stack([np.bincount(levels.codes, z * e, levels.size) for z in columns])
            for levels, columns in zip(design.groups, self.z, strict=True)
        ]
        if cp.clusters.parts:
            Zy.append(cp.clusters.gather({g: Zy[g][:, None] for g in cp.clusters.parts})[:, 0])
        own = blocks.forward(cp.R.swapaxes(0, 1), Zy[cp.first])
        Rd, tail = cp.Rd.copy(), cp.W.tail.copy()
        Rd[:, -1] = own
        right = np.concatenate([*(Zy[g].ravel() for g, _ in cp.others), self.X @ e, [e @ e]])
        for v, D, d in zip(cp.rest.values, Rd, own, strict=True):
            right[:q] -= cp.rest.cross(v, d[None])[:, 0]
            right[q:] -= D @ d
        tail[-1] = tail[:, -1] = right
        rows = tuple(E.copy() for E in cp.W.rows)
        for E, (g, place, parent) in zip(rows, cp.above, strict=True):
            E[:, -1] = Zy[g] - by_parent(parent, cp.nested[:, place], own[:, None], cp.levels(g))[:, 0]
        return replace(cp, Rd=Rd, W=Products(cp.W.own, rows, tail))

    def refit(self, y: np.ndarray) -> MixedModel:
        """The fit to another response; RuntimeError where the search does not converge."""
        fit = self.fit
        criterion = Criterion(self.crossproducts(y), fit.reml)
        optimum = minimize(criterion, fit.theta)
        if not optimum.converged:
            raise RuntimeError(f"the search did not converge: {optimum.message}")
        return replace(fit, design=replace(fit.design, y=y), criterion_function=criterion, optimum=optimum)


def with_response(fit: MixedModel) -> MixedModel:
    """The fit with its response in its data, so that ``update`` fits other formulas to that response.

    Where the response is no plain column, the fit has no data, and ``update`` says so.
    """
    name, design = fit.design.formula.response.strip("`"), fit.design
    if name not in design.formula.variables:
        # without the data their columns must be the fit's own: the frame they came from may be written to
        terms = tuple(replace(t, columns=[c.copy() for c in t.columns]) for t in design.terms)
        return replace(
            fit, design=replace(design, x_columns=[c.copy() for c in design.x_columns], terms=terms), data=None
        )
    data = own_frame(fit).copy(deep=False)
    data[next((column for column in data.columns if str(column) == name), name)] = design.y
    return replace(fit, design=replace(design, kept=None), data=data)


def resampled(
    rng: np.random.Generator, fit: MixedModel, mean: np.ndarray, u: list[np.ndarray], e: np.ndarray
) -> np.ndarray:
    """A response from effects σTu and residuals e drawn with replacement, all coefficients of a level together."""
    b = [fit.sigma * v[rng.integers(len(v), size=len(v))] @ T.T for v, T in zip(u, fit._T, strict=True)]
    spread = 1.0 if fit.design.weights is None else 1 / np.sqrt(fit.design.weights)
    return mean + prediction.random_part(fit, b) + spread * rng.choice(e, len(e))


def reflated(fit: MixedModel) -> tuple[list[np.ndarray], np.ndarray]:
    """Predicted effects as u = (σT)⁺b̃ and residuals (times √w), centred and scaled to the estimated variances I and σ².

    The b̃ are shrunk; resampled as they are they would understate every variance (Carpenter et al. 2003).
    """
    u = []
    for b, T in zip(fit._b, fit._T, strict=True):
        v = (b - b.mean(axis=0)) @ np.linalg.pinv(T).T
        values, vectors = np.linalg.eigh(v.T @ v / len(v))
        varies = values > 1e-10 * values.max(initial=1e-300)
        whiten = np.where(varies, 1 / np.sqrt(np.where(varies, values, 1.0)), 0.0)
        u.append(v @ (vectors * whiten) @ vectors.T)
    e = fit.residuals("pearson").to_numpy()
    e = e - e.mean()
    return u, e * fit.sigma / np.sqrt(np.mean(e**2))


def parallel(task: Callable, items: Sequence, n_jobs: int | None = 1, progress: bool = False) -> list:
    """``[task(item) for item in items]``, by joblib where ``n_jobs`` is not 1 (None: as its current backend says)."""
    bar = _optional("tqdm.auto", "progress=True").tqdm if progress else lambda work, total: work
    if n_jobs == 1:
        return [task(item) for item in bar(items, total=len(items))]
    joblib = _optional("joblib", f"n_jobs={n_jobs}")
    size = -(-len(items) // 64)  # few enough that sending the model along costs little
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    workers = joblib.Parallel(n_jobs=n_jobs, return_as="generator" if progress else "list")
    work = workers(joblib.delayed(_each)(task, chunk) for chunk in chunks)
    return [result for chunk in bar(work, total=len(chunks)) for result in chunk]


def _each(task: Callable, items: Sequence) -> list:
    return [task(item) for item in items]


def _optional(module: str, option: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(f"{option} needs {package}: pip install {package}, or leave the option out.") from error


def _attempt(seed: np.random.SeedSequence, draw: Draw, task: Callable[[np.ndarray], Any]) -> tuple[Any, str | None]:
    """One replicate and None, or None and why there is none."""
    try:
        return task(draw(np.random.default_rng(seed))), None
    except Exception as error:  # whatever it is, it is counted and shown
        return None, f"{type(error).__name__}: {error}"


def replicates(
    draw: Draw, task: Callable[[np.ndarray], Any], n: int, seed: Any, n_jobs: int | None, progress: bool = False
) -> tuple[list, pd.Series]:
    """n results of a task on drawn responses, None where it failed, and the reasons by number of the replicate."""
    check_count(n)
    seeds = np.random.SeedSequence(seed).spawn(n)
    results = parallel(partial(_attempt, draw=draw, task=task), seeds, n_jobs, progress)
    failures = pd.Series({i: reason for i, (_, reason) in enumerate(results) if reason}, dtype=object, name="reason")
    if len(failures) == n:
        raise RuntimeError(f"Every replicate failed; the first with {failures.iloc[0]}")
    if len(failures):
        warnings.warn(f"{len(failures)} of {n} replicates failed; see .failures for the reasons.", stacklevel=3)
    return [result for result, _ in results], failures
