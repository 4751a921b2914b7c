"""`lmer` and the fitted model: labelled extractors over the stages formula → design → cross-products → criterion → optimum."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from lmmlite import diagnostics, effects, prediction, saved, tables, tidy
from lmmlite.checks import check_share
from lmmlite.covariance import are_identified
from lmmlite.criterion import Criterion
from lmmlite.crossproducts import CrossProducts, crossproducts
from lmmlite.design import Design, build_design
from lmmlite.fitted import Estimates
from lmmlite.formula import parse_formula, update_formula
from lmmlite.inference import anova as anova_
from lmmlite.inference import bootstrap as bootstrap_
from lmmlite.inference import compare as compare_
from lmmlite.inference import ddf as ddf_
from lmmlite.inference import profile as profile_
from lmmlite.inference.replicates import with_response
from lmmlite.optimize import minimize, resume
from lmmlite.summary import Summary, describe
from lmmlite.table import own_copy, own_data, own_values, row_labels


def lmer(
    formula: str, data: Any, *, reml: bool = True, weights: Any = None, offset: Any = None, start: Any = None
) -> MixedModel:
    """Fit a linear mixed model.

    Parameters
    ----------
    formula : str
        Such as ``"Reaction ~ Days + (Days | Subject)"``; see `parse_formula`.
    data : DataFrame or mapping of columns
        Rows with a missing value in a column that the model uses are left out and counted.  Rows that never stand in memory
        together: a list of frames or a function that returns an iterator over them, a Parquet data set (its path, or a
        `pyarrow.dataset`), or an Ibis table, whose engine then makes the sums (and whose text has its levels in the order
        of the alphabet); see `lmmlite.tables`.
    reml : bool
        Restricted maximum likelihood (the default) or maximum likelihood.
    weights : str or (n,) array-like, optional
        Prior weights w: the residual variance of row i is σ²/wᵢ.  A pandas Series must have the index of the data.
    offset : str or (n,) array-like, optional
        A known part of the mean.
    start : (m,) array-like, optional
        θ to start from; by default variances had without a search (`lmmlite.start`).

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
    parsed = parse_formula(formula)
    if not isinstance(reml, bool | np.bool_):
        raise TypeError(f"reml must be True (REML) or False (maximum likelihood), not {reml!r}.")
    names = tuple(given if isinstance(given, str) else None for given in (weights, offset))
    data = own_copy(data)
    if tables.is_table(data):
        design, cp, data = tables.summed(parsed, data, weights, offset)
    else:
        index = row_labels(data)
        weights, offset = own_values(weights, "weights", index), own_values(offset, "offset", index)
        design = build_design(parsed, data, weights=weights, offset=offset)
        cp = crossproducts(design)
    return _fit(design, cp, data, bool(reml), names, _numbers(start))


def load(path: str | Path) -> MixedModel:
    """Open a fit that `MixedModel.save` wrote.

    Nothing in the file is executed, and nothing is fitted again: the criterion is computed from the stored columns at the
    stored θ and compared with the stored one.

    Raises
    ------
    ValueError
        When the file is no such file, is of a later version, or gives another criterion.
    """
    header, data, given = saved.read(path)
    design = build_design(parse_formula(header["formula"]), data, **given)
    design, criterion = _criterion(design, crossproducts(design), header["reml"])
    optimum = resume(criterion, header["theta"], header["message"], header["converged"])
    columns = tuple(name if isinstance(name, str) else None for name in given.values())
    fit = MixedModel(design, criterion, optimum, data, columns)
    saved.check(header, fit)
    return fit


def _numbers(start: Any) -> np.ndarray | None:
    try:
        return None if start is None else np.array(start, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"start must be the numbers of θ (see fit.theta), not {start!r}.") from None


def _criterion(design: Design, cp: CrossProducts, reml: bool) -> tuple[Design, Criterion]:
    """The design without the columns that the others make superfluous, and its criterion."""
    if len(cp.basis.kept) < len(design.x_columns):
        design = design.keep_columns(cp.basis.kept)
    for levels, t, ZZ, B in zip(design.groups, cp.templates, cp.ZZ, cp.Z_maps, strict=True):
        if not are_identified(t, ZZ.sum(axis=2), B):
            raise ValueError(
                f"The columns of the random coefficients of '{levels.name}' are linearly dependent: leave one out."
            )
    if cp.n - cp.p < 1:
        raise ValueError(f"{cp.n} rows cannot estimate {cp.p} fixed effects and a residual variance.")
    return design, Criterion(cp, reml)


def _fit(
    design: Design, cp: CrossProducts, data: Any, reml: bool, columns: tuple[str | None, ...], start: Any = None
) -> MixedModel:
    given = design.dropped
    design, criterion = _criterion(design, cp, reml)
    if design.dropped != given:
        warnings.warn(
            f"The fixed effects are rank deficient: {', '.join(design.dropped)} can be written as combinations of the terms "
            "before them and are left out; the other coefficients must be read accordingly.",
            stacklevel=3,
        )
    optimum = minimize(criterion, start)
    if not optimum.converged:
        warnings.warn(
            f"The search for the variances did not converge ({optimum.message}): the estimates are not the optimum. "
            "See fit.optimum.trace, and simplify the random terms or pass another start.",
            stacklevel=3,
        )
    return MixedModel(design, criterion, optimum, data, columns)


def _plot(name: str) -> Any:
    """A method that draws with `lmmlite.plots` (matplotlib is imported when something is drawn)."""

    def method(self: MixedModel, *args: Any, **options: Any) -> Any:
        from lmmlite import plots

        return getattr(plots, name)(self, *args, **options)

    method.__name__, method.__doc__ = name, f"See `lmmlite.plots.{name}`."
    return method


class MixedModel(Estimates):
    """A fitted linear mixed model y = Xβ + Zb + ε, b ~ N(0, σ²ΛΛ'), ε ~ N(0, σ²W⁻¹).

    Numbers are properties (see `Estimates`), tables are pandas, and nothing changes the fit.
    """

    def confint(
        self, method: Literal["wald", "profile", "boot"] = "wald", level: float = 0.95, **options: Any
    ) -> pd.DataFrame:
        """Intervals, columns ``lower`` and ``upper``.

        Parameters
        ----------
        method : {"wald", "profile", "boot"}
            Fixed effects ± z · SE; or every parameter by its profile likelihood, or by parametric bootstrap.
        level : float
        **options
            Of `profile` or `bootstrap`, such as ``n``, ``seed`` and ``n_jobs``.
        """
        check_share(level, "level")
        if method == "profile":
            return self.profile(alphamax=1 - level, **options).confint(level)
        if method == "boot":
            return self.bootstrap(**options).confint(level)
        if method != "wald":
            raise ValueError(f"method is 'wald', 'profile' or 'boot', not {method!r}.")
        if options:
            raise TypeError(f"'wald' has no option '{next(iter(options))}'.")
        return tidy.wald_interval(self.fixef, self.se, level)

    def profile(self, which: str | Sequence[str] | None = None, **options: Any) -> profile_.Profile:
        """Profile likelihood of some or all parameters; see `lmmlite.inference.profile.profile`."""
        return profile_.profile(self, which, **options)

    def bootstrap(self, n: int = 1000, statistic: Any = None, seed: Any = None, **options: Any) -> bootstrap_.Bootstrap:
        """Bootstrap a statistic, by default all parameters; see `lmmlite.inference.bootstrap.bootstrap`."""
        if statistic is None:
            tidy.parameters(self)  # refuses two of one name before anything is drawn
        return bootstrap_.bootstrap(self, n, statistic, seed, **options)

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
            By term: ``sum_sq mean_sq num_df den_df F p_value``; mean_sq/σ² is F before Kenward and Roger's scaling.

        Notes
        -----
        Numbers are covariates, True and False (1 and 0) among them: what multiplies one is tested, by type 3, where it is
        zero.  Centre it, or make it text or a category, which has levels to average over.
        """
        return anova_.anova(self, ddf, type)

    def predict(
        self,
        new: Any = None,
        random: bool | Sequence[str] = True,
        new_levels: prediction.NewLevels = "error",
        offset: Any = None,
        interval: prediction.Interval | None = None,
        level: float = 0.95,
        weights: Any = None,
    ) -> Any:
        """Predicted responses: a Series, or with ``interval`` a DataFrame ``fit se lower upper``.

        Parameters
        ----------
        new : DataFrame, optional
            Rows to predict (the response is not needed; a missing value gives nan, and a missing label of a group is a level
            that the fit has not seen); by default those of the fit.
        random : bool or sequence of str
            True: with the random effects of all grouping factors; False: for the population; or the factors to use.
        new_levels : {"error", "population"}
            What to do with levels of a grouping factor that the fit has not seen: raise, or take a random effect of zero.
        offset : str or array-like, optional
            Offset of the new rows, where the fit had one; by default the column that the fit used.
        interval : {"confidence", "prediction"}, optional
            For the mean, or for a new observation; standard errors are joint in fixed and random effects, variances known.
        level : float
        weights : str or array-like, optional
            Prior weights of the rows for a prediction interval; by default 1 for new rows.
        """
        return prediction.predict(self, new, random, new_levels, offset, interval, level, weights)

    def simulate(self, n: int = 1, seed: Any = None) -> pd.DataFrame:
        """Draw n new responses with new random effects and residuals: nobs × n."""
        return prediction.simulate(self, n, seed)

    def refit(self, y: Any) -> MixedModel:
        """Fit the same model to another response, one value for each row used; the search starts from this fit's θ."""
        has_labels = self.data is None or row_labels(self.data) is not None
        y = own_values(y, "new response", self.design.index if has_labels else None)
        values = np.asarray(y, np.float64)
        if values.shape != (self.nobs,):
            raise ValueError(
                f"The new response must have {self.nobs} values, one for each row used; it has shape {values.shape}."
            )
        if not np.isfinite(values).all():
            raise ValueError(f"The new response is not finite in row {int(np.flatnonzero(~np.isfinite(values))[0])}.")
        design = replace(self.design, y=values)
        cp = crossproducts(design)
        return with_response(_fit(design, cp, self.data, self.reml, self.columns, self.theta))

    def refit_ml(self) -> MixedModel:
        """The same model by maximum likelihood."""
        optimum = minimize(self._ml_criterion, self.theta)
        return replace(self, criterion_function=self._ml_criterion, optimum=optimum)

    def update(self, formula: str) -> MixedModel:
        """Fit a changed formula to the same data: ``.`` stands for the old response or terms, as in ``". ~ . - x"``."""
        own_data(self.data)
        given = [
            name or array for name, array in zip(self.columns, (self.design.weights, self.design.offset), strict=True)
        ]
        if self.n_missing and any(isinstance(g, np.ndarray) for g in given):
            raise ValueError(
                "Rows were left out, so weights or offset given as an array no longer match: call lmer again."
            )
        text = update_formula(self.design.formula, formula)
        return lmer(text, self.data, reml=self.reml, weights=given[0], offset=given[1])

    def save(self, path: str | Path) -> None:
        """Write the fit and the columns it uses to a file for `load`; see `lmmlite.saved` for its format."""
        saved.save(self, path)

    def summary(self, ddf: ddf_.Method = "satterthwaite") -> Summary:
        """The table of the fit, as text and HTML."""
        return Summary(self, ddf)

    def tidy(self, level: float = 0.95, ddf: ddf_.Method = "satterthwaite") -> pd.DataFrame:
        """One row for each parameter; see `lmmlite.tidy`."""
        return tidy.tidy(self, level, ddf)

    def simulate_effects(self, n: int = 1000, seed: Any = None) -> pd.DataFrame:
        """Mean, median and SD of fixed and random effects drawn jointly given y; see `lmmlite.effects`."""
        return effects.simulate_effects(self, n, seed)

    def expected_rank(self, group: str, term: str = "Intercept") -> pd.DataFrame:
        """Expected ranks of the levels of a grouping factor; see `lmmlite.effects`."""
        return effects.expected_rank(self, group, term)

    def drop1(self, ddf: ddf_.Method | None = None) -> pd.DataFrame:
        """Test of each fixed term that can be left out: by likelihood ratio (ML), or by F with ``ddf``."""
        return compare_.drop1(self, ddf)

    def ranova(self) -> pd.DataFrame:
        """Likelihood-ratio test of each random term."""
        return compare_.ranova(self)

    def conditional_aic(self) -> pd.Series:
        """Conditional log-likelihood, effective degrees of freedom and AIC; see `lmmlite.diagnostics`."""
        return diagnostics.conditional_aic(self)

    def r2(self) -> pd.Series:
        """R²: ``model fixed random`` (rsq) and ``marginal conditional`` (Nakagawa & Schielzeth, Johnson)."""
        return diagnostics.r2(self)

    def icc(self, level: float = 0.95) -> pd.DataFrame:
        """Intraclass correlation of each grouping factor, with an interval."""
        return diagnostics.icc(self, level)

    def rePCA(self, scaled: bool = True) -> dict[str, pd.DataFrame]:
        """Principal components of each random term: SDs and directions."""
        return diagnostics.rePCA(self, scaled)

    def singularity_report(self) -> str:
        """In plain words: which random directions have no variance, and what to try."""
        return diagnostics.singularity_report(self)

    def leverage(self) -> pd.DataFrame:
        """Diagonal of the hat matrix, with its fixed and random parts."""
        return diagnostics.leverage(self)

    def influence(self, group: str | None = None, refit: bool = True) -> pd.DataFrame:
        """Estimates without each level of a grouping factor (at fixed θ unless ``refit``), or without each row (at fixed θ)."""
        return diagnostics.influence(self, group, refit)

    def dfbetas(self, group: str | None = None, refit: bool = True) -> pd.DataFrame:
        """Changes of the fixed effects by deletion, in standard errors; see `influence`."""
        return diagnostics.dfbetas(self, group, refit)

    def cooks_distance(self, group: str | None = None, refit: bool = True) -> pd.Series:
        """Cook's distance of each level of a grouping factor, or of each row; see `influence`."""
        return diagnostics.cooks_distance(self, group, refit)

    def glance(self) -> pd.DataFrame:
        """One row of measures of the fit."""
        return tidy.glance(self)

    def augment(self) -> pd.DataFrame:
        """The data used, with ``fitted``, ``fixed`` and ``resid``."""
        return tidy.augment(self)

    plot_ranef = _plot("plot_ranef")
    plot_fixef = _plot("plot_fixef")
    plot_sizes = _plot("plot_sizes")
    plot_residuals = _plot("plot_residuals")
    plot_scale_location = _plot("plot_scale_location")
    plot_qq = _plot("plot_qq")
    plot_groups = _plot("plot_groups")
    plot_shrinkage = _plot("plot_shrinkage")

    def plot_profile(self, parameters: Sequence[str] | None = None, **options: Any) -> Any:
        """ζ of some or all parameters, profiled for it; see `lmmlite.plots.plot_profile`."""
        from lmmlite import plots

        return plots.plot_profile(self.profile(parameters), **options)

    def __repr__(self) -> str:
        return describe(self)
