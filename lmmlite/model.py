"""`lmer` and the fitted model: labelled extractors over the stages formula → design → cross-products → criterion → optimum."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from lmmlite import estimates, prediction, tidy
from lmmlite.criterion import Criterion, Evaluation
from lmmlite.crossproducts import CrossProducts, crossproducts
from lmmlite.design import Design, build_design
from lmmlite.formula import parse_formula, update_formula
from lmmlite.inference import anova as anova_
from lmmlite.inference import ddf as ddf_
from lmmlite.optimize import Optimum, minimize
from lmmlite.summary import Summary, describe

ResidualKind = Literal["response", "pearson", "scaled", "marginal"]


def lmer(
    formula: str, data: Any, *, reml: bool = True, weights: Any = None, offset: Any = None, start: Any = None
) -> MixedModel:
    """Fit a linear mixed model.

    Parameters
    ----------
    formula : str
        Such as ``"Reaction ~ Days + (Days | Subject)"``; see `parse_formula`.
    data : DataFrame or mapping of columns
        Rows with a missing value in a column that the model uses are left out and counted.
    reml : bool
        Restricted maximum likelihood (the default) or maximum likelihood.
    weights : str or (n,) array-like, optional
        Prior weights w: the residual variance of row i is σ²/wᵢ.
    offset : str or (n,) array-like, optional
        A known part of the mean.
    start : (m,) array-like, optional
        θ to start from; by default method-of-moments values.

    Returns
    -------
    MixedModel

    Raises
    ------
    ValueError
        With the column, row, level or term that is wrong and what to do about it.

    References
    ----------
    Bates, Mächler, Bolker & Walker (2015). Fitting linear mixed-effects models using lme4. JSS 67(1).
    """
    design = build_design(parse_formula(formula), data, weights=weights, offset=offset)
    names = tuple(given if isinstance(given, str) else None for given in (weights, offset))
    return _fit(design, data, reml, names, start)


def _fit(design: Design, data: Any, reml: bool, columns: tuple[str | None, ...], start: Any = None) -> MixedModel:
    cp = crossproducts(design)
    if len(cp.basis.kept) < len(design.x_columns):
        design = design.keep_columns(cp.basis.kept)
        warnings.warn(
            f"The fixed effects are rank deficient: {', '.join(design.dropped)} can be written as combinations of the terms "
            "before them and are left out; the other coefficients must be read accordingly.",
            stacklevel=3,
        )
    if cp.n - cp.p < 1:
        raise ValueError(f"{cp.n} rows cannot estimate {cp.p} fixed effects and a residual variance.")
    criterion = Criterion(cp, reml)
    optimum = minimize(criterion, start)
    if not optimum.converged:
        warnings.warn(
            f"The search for the variances did not converge ({optimum.message}): the estimates are not the optimum. "
            "See fit.optimum.trace, and simplify the random terms or pass another start.",
            stacklevel=3,
        )
    return MixedModel(design, criterion, optimum, data, columns)


@dataclass(frozen=True, eq=False, repr=False)
class MixedModel:
    """A fitted linear mixed model y = Xβ + Zb + ε, b ~ N(0, σ²ΛΛ'), ε ~ N(0, σ²W⁻¹).

    Numbers are properties, tables are pandas, and nothing changes the fit.

    Attributes
    ----------
    design : Design
        The model as arrays (``X``, ``Z``, ``y``, level labels).
    criterion_function : Criterion
        θ → profiled deviance or REML criterion.
    optimum : Optimum
        Where the search ended, with its trace.
    data
        The data as given.
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
        return pd.Series(np.sqrt(np.diag(self.vcov)), self.vcov.index, name="std_error")

    def confint(self, level: float = 0.95) -> pd.DataFrame:
        """Wald intervals of the fixed effects: estimate ± z · SE, columns ``lower`` and ``upper``."""
        return tidy.wald_interval(self.fixef, self.se, level)

    @cached_property
    def satterthwaite(self) -> ddf_.Satterthwaite:
        """What Satterthwaite's degrees of freedom need; see `lmmlite.inference.ddf`."""
        return ddf_.satterthwaite(self.criterion_function, self._at)

    @cached_property
    def kenward_roger(self) -> ddf_.KenwardRoger:
        """What Kenward and Roger's need, with the adjusted covariance of the fixed effects; REML fits only."""
        return ddf_.kenward_roger(self.criterion_function, self._at)

    @property
    def vcov_kr(self) -> pd.DataFrame:
        """Kenward and Roger's adjusted covariance matrix of the fixed effects."""
        names = list(self.design.names)
        return pd.DataFrame(self.kenward_roger.Phi_A, names, names)

    def contrast(self, L: Any, ddf: ddf_.Method = "satterthwaite", level: float = 0.95) -> pd.DataFrame:
        """Test the hypothesis Lβ = 0.

        Parameters
        ----------
        L : dict of coefficients by term, (p,) or (ℓ, p) array-like
            One contrast gives a t test with an interval; the rows of a matrix give one joint F test.
        ddf : {"satterthwaite", "kenward-roger", "normal"}
            How the denominator degrees of freedom are found; "normal" takes them as infinite (Wald).
        """
        return ddf_.contrast(self, L, ddf, level)

    def anova(self, ddf: ddf_.Method = "satterthwaite", type: Literal[1, 2, 3] = 3) -> pd.DataFrame:
        """F test of each term of the fixed part.

        Parameters
        ----------
        ddf : {"satterthwaite", "kenward-roger", "normal"}
        type : {3, 2, 1}
            What a term is tested against: all others, with effects that sum to zero (3); all that do not contain it (2);
            those before it in the formula (1).

        Returns
        -------
        DataFrame
            By term: ``sum_sq mean_sq num_df den_df F p_value``.
        """
        return anova_.anova(self, ddf, type)

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

    def predict(
        self,
        new: Any = None,
        random: bool | Sequence[str] = True,
        new_levels: prediction.NewLevels = "error",
        offset: Any = None,
    ) -> pd.Series:
        """Predicted responses.

        Parameters
        ----------
        new : DataFrame, optional
            Rows to predict (the response is not needed; a missing value gives nan); by default those of the fit.
        random : bool or sequence of str
            True: with the random effects of all grouping factors; False: for the population; or the factors to use.
        new_levels : {"error", "population"}
            What to do with levels of a grouping factor that the fit has not seen: raise, or take a random effect of zero.
        offset : str or array-like, optional
            Offset of the new rows, where the fit had one; by default the column that the fit used.
        """
        return prediction.predict(self, new, random, new_levels, offset)

    def simulate(self, n: int = 1, seed: Any = None) -> pd.DataFrame:
        """Draw n new responses with new random effects and residuals: nobs × n."""
        return prediction.simulate(self, n, seed)

    def refit(self, y: Any) -> MixedModel:
        """Fit the same model to another response: one value for each row used."""
        values = np.asarray(y, np.float64)
        if values.shape != (self.nobs,):
            raise ValueError(
                f"The new response must have {self.nobs} values, one for each row used; it has shape {values.shape}."
            )
        if not np.isfinite(values).all():
            raise ValueError(f"The new response is not finite in row {int(np.flatnonzero(~np.isfinite(values))[0])}.")
        return _fit(replace(self.design, y=values), self.data, self.reml, self.columns)

    def refit_ml(self) -> MixedModel:
        """The same model by maximum likelihood."""
        optimum = minimize(self._ml_criterion, self.theta)
        return replace(self, criterion_function=self._ml_criterion, optimum=optimum)

    def update(self, formula: str) -> MixedModel:
        """Fit a changed formula to the same data: ``.`` stands for the old response or terms, as in ``". ~ . - x"``."""
        given = [
            name or array for name, array in zip(self.columns, (self.design.weights, self.design.offset), strict=True)
        ]
        if self.n_missing and any(isinstance(g, np.ndarray) for g in given):
            raise ValueError(
                "Rows were left out, so weights or offset given as an array no longer match: call lmer again."
            )
        text = update_formula(self.design.formula, formula)
        return lmer(text, self.data, reml=self.reml, weights=given[0], offset=given[1])

    def summary(self, ddf: ddf_.Method = "satterthwaite") -> Summary:
        """The table of the fit, as text and HTML."""
        return Summary(self, ddf)

    def tidy(self, level: float = 0.95, ddf: ddf_.Method = "satterthwaite") -> pd.DataFrame:
        """One row for each parameter; see `lmmlite.tidy`."""
        return tidy.tidy(self, level, ddf)

    def glance(self) -> pd.DataFrame:
        """One row of measures of the fit."""
        return tidy.glance(self)

    def augment(self) -> pd.DataFrame:
        """The data used, with ``fitted``, ``fixed`` and ``resid``."""
        return tidy.augment(self)

    def __repr__(self) -> str:
        return describe(self)

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
