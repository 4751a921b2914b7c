"""Power by simulation: a fitted model, larger or with other effects, simulated and tested many times.

Green & MacLeod (2016). SIMR: an R package for power analysis of generalized linear mixed models by simulation. Methods in Ecology
and Evolution 7(4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from lmmlite import prediction
from lmmlite.checks import check_count, check_share
from lmmlite.criterion import Criterion
from lmmlite.crossproducts import crossproducts
from lmmlite.inference.replicates import Responses, replicates, with_response
from lmmlite.table import Levels, compress
from lmmlite.tidy import own_frame

if TYPE_CHECKING:
    from lmmlite.model import MixedModel


@dataclass(frozen=True)
class Power:
    """Power of a test at one design and one set of effects.

    Attributes
    ----------
    estimate, lower, upper : float
        Share of the replicates that reject, and its exact 95 % interval (Clopper & Pearson 1934).
    p_values : Series
        One for each replicate, missing where it failed; such a replicate does not reject.
    failures : Series
        Why, by number of the replicate.
    nobs : int
        Rows of the simulated design.
    """

    estimate: float
    lower: float
    upper: float
    p_values: pd.Series
    failures: pd.Series
    nobs: int


def power(
    fit: MixedModel,
    test: str | Callable[[MixedModel], float],
    n: int = 1000,
    seed: Any = None,
    n_jobs: int | None = 1,
    effects: Mapping[str, float] | None = None,
    along: str | None = None,
    levels: int | None = None,
    alpha: float = 0.05,
    progress: bool = False,
) -> Power:
    """Probability that a test rejects, for data simulated from a fit.

    Parameters
    ----------
    fit : MixedModel
    test : str or callable
        A fixed effect for its Wald test, or model → p-value; ``model.update`` there fits other formulas to the same response.
    n, seed, n_jobs, progress
        As in `lmmlite.inference.bootstrap.bootstrap`.
    effects : mapping, optional
        Fixed effects to change, by name: the effect sizes to be detected.
    along, levels : str and int, optional
        Give this grouping factor so many levels by repeating (or leaving out) the rows of whole levels; the copies get new
        labels, and so do the levels of factors nested in them. Other factors are crossed and keep theirs.
    alpha : float
        Size of the test.
    """
    check_share(alpha, "alpha")
    beta = fit.fixef.copy()
    for name, value in (effects or {}).items():
        if name not in beta.index:
            raise ValueError(f"The model has no fixed effect '{name}' to change; it has {', '.join(beta.index)}.")
        beta[name] = value
    if isinstance(test, str) and test not in beta.index:
        raise ValueError(f"The model has no fixed effect '{test}' to test; it has {', '.join(beta.index)}.")
    if (along is None) != (levels is None):
        raise ValueError(
            "Extending the design needs both: along= a grouping factor and levels= how many it shall have."
        )
    larger = fit if along is None or levels is None else extend(fit, along, levels)
    mean = larger.design.X @ beta.to_numpy() + (0.0 if larger.design.offset is None else larger.design.offset)
    draw = partial(prediction.draw, fit=larger, mean=mean, T=fit._T, sigma=fit.sigma)
    task = partial(_p_value, responses=Responses(larger), test=test)
    results, failures = replicates(draw, task, n, seed, n_jobs, progress)
    p = pd.Series([np.nan if r is None else r for r in results], dtype=np.float64, name="p_value")
    interval = stats.binomtest(int((p < alpha).sum()), n).proportion_ci(method="exact")
    return Power(float((p < alpha).sum() / n), interval.low, interval.high, p, failures, larger.nobs)


def _p_value(y: np.ndarray, responses: Responses, test: str | Callable[[MixedModel], float]) -> float:
    fit = responses.refit(y)
    if isinstance(test, str):
        return 2 * float(stats.norm.sf(abs(fit.fixef[test] / fit.se[test])))
    p = float(test(with_response(fit)))
    if not 0 <= p <= 1:
        raise ValueError(f"the test gave {p}, which is no p-value")
    return p


def extend(fit: MixedModel, along: str, size: int) -> MixedModel:
    """The fit with a design in which one grouping factor has ``size`` levels; its estimates are those of the old design."""
    design, names = fit.design, [levels.name for levels in fit.design.groups]
    if along not in names:
        raise ValueError(f"'{along}' is no grouping factor of the model; it has {', '.join(names)}.")
    check_count(size, "levels")
    if size < 2:
        raise ValueError(f"A grouping factor needs at least 2 levels, not {size}.")
    base = design.groups[names.index(along)]
    members = [np.flatnonzero(base.codes == number % base.size) for number in range(size)]
    rows = np.concatenate(members)
    copy = np.repeat(np.arange(size) // base.size, [len(m) for m in members])
    data = own_frame(fit).iloc[rows].reset_index(drop=True)
    groups, products = [], []
    for levels in design.groups:
        pairs = levels.codes.astype(np.int64) * base.size + base.codes
        nested = len(np.unique(pairs)) == levels.size
        codes, old = compress(levels.codes[rows] + nested * copy * levels.size, levels.size * (1 + int(copy.max())))
        labels = [
            str(levels.labels[o % levels.size]) + (f".{o // levels.size + 1}" if o >= levels.size else "") for o in old
        ]
        groups.append(Levels(levels.name, codes.astype(np.int32), len(old), ((np.arange(len(old)), pd.Index(labels)),)))
        if nested and levels.name in data:
            data[levels.name] = np.array(labels, object)[codes]
        elif nested:
            products.append(groups[-1])
    for levels in products:
        columns = next(t.bar.factors for t in design.terms if t.bar.group == levels.name)
        if len(data[list(columns)].drop_duplicates()) < levels.size:
            column = _own_column(fit, columns)
            data[column] = data[column].astype(str) + np.array([f".{c + 1}" if c else "" for c in copy], object)
    new = replace(
        design,
        y=design.y[rows],
        x_columns=[c[rows] for c in design.x_columns],
        terms=tuple(replace(t, columns=[c[rows] for c in t.columns]) for t in design.terms),
        groups=tuple(groups),
        weights=None if design.weights is None else design.weights[rows],
        offset=None if design.offset is None else design.offset[rows],
        kept=None,
        index=data.index,
    )
    cp = crossproducts(new)
    if cp.p < len(design.names):
        raise ValueError(
            f"With {size} levels of '{along}' the fixed effects can no longer be told apart: take more levels."
        )
    return replace(fit, design=new, criterion_function=Criterion(cp, fit.reml), data=data)


def _own_column(fit: MixedModel, columns: tuple[str, ...]) -> str:
    """Of the columns of a product such as a:b one that does nothing else, so that copies can be told apart by its labels."""
    terms = fit.design.terms
    used = {v for side in (fit.design.fixed, *(t.side for t in terms)) for v in side.variables}
    used |= {t.bar.factors[0] for t in terms if len(t.bar.factors) == 1}
    free = [column for column in columns if column not in used]
    if not free:
        name = ":".join(columns)
        raise ValueError(
            f"Copies of levels of '{name}' need labels of their own, but {' and '.join(columns)} are used elsewhere in the "
            f"model: put the labels of '{name}' into a column, and fit again."
        )
    return free[-1]
