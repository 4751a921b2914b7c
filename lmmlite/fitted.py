"""The numbers of a fit, labelled: extractors without mathematics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from lmmlite import estimates, prediction, tidy
from lmmlite.criterion import Criterion, Evaluation
from lmmlite.crossproducts import CrossProducts
from lmmlite.design import Design
from lmmlite.optimize import Optimum

ResidualKind = Literal["response", "pearson", "scaled", "marginal"]


@dataclass(frozen=True, eq=False, repr=False)
class Estimates:
    """What was fitted, and every estimate with its label.

    Attributes
    ----------
    design : Design
        The model as arrays (``X``, ``Z``, ``y``, level labels).
    criterion_function : Criterion
        θ → profiled deviance or REML criterion.
    optimum : Optimum
        Where the search ended, with its trace.
    data
        A copy of the data as given (pandas 3 copies only what is written to).
    columns : (weights, offset)
        Names of those columns, None for an array.
    """

    design: Design
    criterion_function: Criterion
    optimum: Optimum
    data: Any
    columns: tuple[str | None, ...]

    @property
    def formula(self) -> str:
        return str(self.design.formula)

    @property
    def reml(self) -> bool:
        return self.criterion_function.reml

    @property
    def nobs(self) -> int:
        """Rows used."""
        return self.design.n

    @property
    def n_missing(self) -> int:
        """Rows left out because of missing values."""
        return self.design.n_missing

    @property
    def ngroups(self) -> pd.Series:
        """Number of levels of each grouping factor."""
        return pd.Series({levels.name: levels.size for levels in self.design.groups}, name="levels")

    @property
    def npar(self) -> int:
        """Parameters: fixed effects, entries of θ, and σ."""
        return len(self.design.names) + len(self.theta) + 1

    @property
    def df_resid(self) -> int:
        """nobs − npar."""
        return self.nobs - self.npar

    @property
    def theta(self) -> np.ndarray:
        """Entries of the relative covariance factors, term after term in the order of the formula."""
        return self.optimum.theta.copy()

    @cached_property
    def sigma(self) -> float:
        """Residual standard deviation."""
        return estimates.sigma(self.criterion_function, self._at.solution)

    @property
    def is_singular(self) -> bool:
        """Whether a random term has a direction of (nearly) zero variance."""
        return self.optimum.singular

    @property
    def converged(self) -> bool:
        return self.optimum.converged

    @cached_property
    def varcorr(self) -> pd.DataFrame:
        """Variances, covariances (``variance``), SDs and correlations (``sd_or_corr``) of the random terms, `Residual` last."""
        return tidy.varcorr(self.covariances, self.sigma)

    @cached_property
    def covariances(self) -> list[tuple[str, tuple[str, ...], np.ndarray]]:
        """(name, terms, covariance matrix) of each block of random effects; later blocks of a group are g.1, g.2, …"""
        out: list[tuple[str, tuple[str, ...], np.ndarray]] = []
        used: Counter[str] = Counter()
        for term, place in zip(self.design.terms, self._places, strict=True):
            T = self._T[term.group][place, place]
            stops = np.cumsum(term.sizes)
            for start, stop in zip(stops - term.sizes, stops, strict=True):
                number = used[term.bar.group]
                used[term.bar.group] += 1
                block = T[start:stop, start:stop]
                label = f"{term.bar.group}.{number}" if number else term.bar.group
                out.append((label, term.side.names[start:stop], self.sigma**2 * block @ block.T))
        return out

    @cached_property
    def fixef(self) -> pd.Series:
        """Estimates of the fixed effects, by term."""
        return pd.Series(self._fixed[0], list(self.design.names), name="estimate")

    @cached_property
    def vcov(self) -> pd.DataFrame:
        """Covariance matrix of the fixed effects, σ²(X'V⁻¹X)⁻¹ with V for σ = 1."""
        names = list(self.design.names)
        return pd.DataFrame(self.sigma**2 * self._fixed[1], names, names)

    @cached_property
    def se(self) -> pd.Series:
        """Standard errors of the fixed effects."""
        return pd.Series(self.sigma * np.sqrt(np.diag(self._fixed[1])), list(self.design.names), name="std_error")

    def ranef(self) -> dict[str, pd.DataFrame]:
        """Conditional modes b̃ (BLUPs) of each grouping factor: levels × terms."""
        return self._by_group(self._b)

    def ranef_cov(self, group: str) -> np.ndarray:
        """Conditional covariances of the random effects of one grouping factor given y and β, (levels, k, k)."""
        names = [levels.name for levels in self.design.groups]
        if group not in names:
            raise ValueError(f"The model has no random effects for '{group}'; it has {', '.join(names)}.")
        return self._conditional[names.index(group)]

    def ranef_sd(self) -> dict[str, pd.DataFrame]:
        """Conditional standard deviations of the random effects, in the shape of `ranef`."""
        return self._by_group([np.sqrt(np.diagonal(C, axis1=1, axis2=2)) for C in self._conditional])

    def coef(self) -> dict[str, pd.DataFrame]:
        """Fixed plus random effects of each level: the coefficients that apply in that group."""
        out = {}
        for group, b in self.ranef().items():
            table = pd.DataFrame(np.tile(self.fixef, (len(b), 1)), b.index, self.fixef.index)
            for j, term in enumerate(b.columns):
                table[term] = table.get(term, 0.0) + b.iloc[:, j]
            out[group] = table
        return out

    @property
    def criterion(self) -> float:
        """The REML criterion or ML deviance that was minimised."""
        return self.optimum.evaluation.value

    @property
    def loglik(self) -> float:
        """Log-likelihood, restricted for a REML fit (as lme4)."""
        return -self.criterion / 2

    @cached_property
    def deviance(self) -> float:
        """−2 log-likelihood (unrestricted) at the estimated θ."""
        return self.criterion if not self.reml else self._ml_criterion.evaluate(self.theta).value

    @property
    def aic(self) -> float:
        """−2 loglik + 2 npar."""
        return self.criterion + 2 * self.npar

    @property
    def bic(self) -> float:
        """−2 loglik + log(nobs) npar."""
        return self.criterion + float(np.log(self.nobs)) * self.npar

    @cached_property
    def fitted(self) -> pd.Series:
        """Xβ̂ + Zb̃ + offset, for the rows used."""
        return pd.Series(prediction.fitted(self), self.design.index, name="fitted")

    def residuals(self, kind: ResidualKind = "response") -> pd.Series:
        """Residuals of the rows used.

        Parameters
        ----------
        kind : {"response", "pearson", "scaled", "marginal"}
            y − fitted; that times √w; that over σ; or y − Xβ̂ − offset, which keeps the random effects.
        """
        y = self.design.y
        if kind == "marginal":
            values = y - prediction.fitted(self, random=False)
        elif kind in ("response", "pearson", "scaled"):
            values = y - self.fitted.to_numpy()
            if kind != "response" and self.design.weights is not None:
                values = values * np.sqrt(self.design.weights)
            values = values / self.sigma if kind == "scaled" else values
        else:
            raise ValueError(f"kind is 'response', 'pearson', 'scaled' or 'marginal', not {kind!r}.")
        return pd.Series(values, self.design.index, name="residual")

    @property
    def _at(self) -> Evaluation:
        return self.optimum.evaluation

    @cached_property
    def _ml_criterion(self) -> Criterion:
        return Criterion(self._cp, reml=False)

    @property
    def _cp(self) -> CrossProducts:
        return self.criterion_function.cp

    @cached_property
    def _T(self) -> list[np.ndarray]:
        return estimates.factors(self.criterion_function, self._at.theta)

    @cached_property
    def _fixed(self) -> tuple[np.ndarray, np.ndarray]:
        return estimates.fixed_effects(self._at.solution)

    @cached_property
    def _b(self) -> list[np.ndarray]:
        return estimates.random_effects(self.criterion_function, self._at)

    @cached_property
    def _conditional(self) -> list[np.ndarray]:
        return estimates.conditional_covariances(self.criterion_function, self._at)

    @cached_property
    def _places(self) -> list[slice]:
        """Where the coefficients of each term stand among those of its grouping factor."""
        used = [0] * len(self.design.groups)
        places = []
        for term in self.design.terms:
            start = used[term.group]
            used[term.group] += len(term.columns)
            places.append(slice(start, used[term.group]))
        return places

    def _by_group(self, values: list[np.ndarray]) -> dict[str, pd.DataFrame]:
        out = {}
        for g, levels in enumerate(self.design.groups):
            names = [name for t in self.design.terms if t.group == g for name in t.side.names]
            out[levels.name] = pd.DataFrame(values[g], levels.labels, names)
        return out
