"""The fit as tidy tables, with the columns of R's broom.mixed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from lmmlite.checks import check_share
from lmmlite.inference.ddf import Method, coefficients
from lmmlite.table import own_data, read_columns

if TYPE_CHECKING:
    from lmmlite.fitted import Estimates
    from lmmlite.model import MixedModel


def wald_interval(estimate: pd.Series, se: pd.Series, level: float) -> pd.DataFrame:
    """estimate ± z · SE with z the normal quantile of (1 + level)/2."""
    check_share(level, "level")
    half = norm.ppf((1 + level) / 2) * se
    return pd.DataFrame({"lower": estimate - half, "upper": estimate + half})


def varcorr(covariances: list[tuple[str, tuple[str, ...], np.ndarray]], sigma: float) -> pd.DataFrame:
    """Variances and SDs of each random term, then its covariances and correlations; `Residual` last."""
    rows: list[tuple] = []
    for name, terms, cov in covariances:
        sd = np.sqrt(np.diag(cov))
        rows += [(name, term, "", cov[i, i], sd[i]) for i, term in enumerate(terms)]
        for i, j in itertools.combinations(range(len(terms)), 2):
            product = sd[i] * sd[j]
            rows.append((name, terms[i], terms[j], cov[i, j], cov[i, j] / product if product else np.nan))
    rows.append(("Residual", "", "", sigma**2, sigma))
    return pd.DataFrame(rows, columns=["group", "term1", "term2", "variance", "sd_or_corr"])


def random_parameters(fit: Estimates) -> Iterator[tuple[str, int, int, int]]:
    """(name, grouping factor, i, j) of each SD (i = j) and correlation of the coefficients i > j of that factor, in lme4's order."""
    places = [
        (term.group, place.start + stop - size, size)
        for term, place in zip(fit.design.terms, fit._places, strict=True)
        for size, stop in zip(term.sizes, np.cumsum(term.sizes), strict=True)
    ]
    for (label, terms, _), (g, start, size) in zip(fit.covariances, places, strict=True):
        for j in range(size):
            yield f"sd_{terms[j]}|{label}", g, start + j, start + j
            for i in range(j + 1, size):
                yield f"cor_{terms[i]}.{terms[j]}|{label}", g, start + i, start + j


def named(fit: Estimates, T: list[np.ndarray], sigma: float, fixef: Any) -> dict[str, float]:
    """Parameters by name from relative factors, σ and β; nan for a correlation with something that does not vary.

    Raises
    ------
    ValueError
        Where two parameters would have one name, as ``sigma`` with a covariate of that name.
    """
    out: dict[str, float] = {}
    names = [*(name for name, *_ in random_parameters(fit)), "sigma", *fit.design.names]
    if len(set(names)) < len(names):
        twice = max(names, key=names.count)
        raise ValueError(f"Two parameters would be called '{twice}': rename the column of the data that is called so.")
    for name, g, i, j in random_parameters(fit):
        a, b = np.linalg.norm(T[g][i]), np.linalg.norm(T[g][j])
        correlation = T[g][i] @ T[g][j] / (a * b) if a * b else np.nan
        out[name] = float(sigma * a if i == j else np.clip(correlation, -1, 1))
    return out | {"sigma": float(sigma)} | dict(zip(fit.design.names, map(float, fixef), strict=True))


def parameters(fit: Estimates) -> pd.Series:
    """Every parameter by name: SDs and correlations of the random terms, ``sigma``, fixed effects."""
    return pd.Series(named(fit, fit._T, fit.sigma, fit.fixef), name="estimate")


def tidy(fit: MixedModel, level: float, ddf: Method) -> pd.DataFrame:
    """One row for each parameter: fixed effects with t statistics, then SDs and correlations of the random terms.

    Columns ``effect group term estimate std_error df statistic p_value conf_low conf_high``.  Random parameters are called
    ``sd__x``, ``cor__Intercept.x`` and ``sd__Observation``.
    """
    table = coefficients(fit, ddf, level)
    fixed = table.rename_axis("term").reset_index()
    fixed.insert(0, "effect", "fixed")
    fixed.insert(1, "group", None)
    v = fit.varcorr
    names = [
        "sd__Observation" if group == "Residual" else f"cor__{a}.{b}" if b else f"sd__{a}"
        for group, a, b in zip(v["group"], v["term1"], v["term2"], strict=True)
    ]
    random = pd.DataFrame({"effect": "ran_pars", "group": v["group"], "term": names, "estimate": v["sd_or_corr"]})
    return pd.concat([fixed, random.reindex(columns=fixed.columns)], ignore_index=True)


def glance(fit: MixedModel) -> pd.DataFrame:
    """One row: ``nobs npar sigma loglik aic bic criterion df_resid``."""
    names = ["nobs", "npar", "sigma", "loglik", "aic", "bic", "criterion", "df_resid"]
    return pd.DataFrame({name: [getattr(fit, name)] for name in names})


def augment(fit: MixedModel) -> pd.DataFrame:
    """The rows used, with ``fitted``, ``fixed`` (population prediction) and ``resid``."""
    data = own_frame(fit)
    taken = [name for name in ("fitted", "fixed", "resid") if name in data.columns]
    if taken:
        raise ValueError(f"The data have a column '{taken[0]}', which would be overwritten: rename it, and fit again.")
    return data.assign(fitted=fit.fitted, fixed=fit.predict(random=False), resid=fit.residuals())


def own_frame(fit: Estimates) -> pd.DataFrame:
    """The data of a fit as a pandas frame, in the rows used."""
    data = own_data(fit.data)
    if not isinstance(data, pd.DataFrame):
        names = list(map(str, getattr(data, "column_names", getattr(data, "columns", data))))
        data = pd.DataFrame(dict(read_columns(data, names)))
    return data if fit.design.kept is None else data[fit.design.kept]
