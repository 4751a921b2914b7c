"""Bootstrap of a fitted model: new responses from the fit, refitted on its cross-products, and what their estimates say.

Replicate i draws from the i-th child of one seed, so that the numbers do not depend on how the work is divided.

References
----------
Efron & Tibshirani (1993). An Introduction to the Bootstrap. Chapman & Hall.
Davison & Hinkley (1997). Bootstrap Methods and their Application. Cambridge University Press, chapters 2, 4 and 5.
Carpenter, Goldstein & Rasbash (2003). A novel bootstrap procedure for assessing the relationship between class size and
achievement. Applied Statistics 52(4): the residual bootstrap with reflated effects.
Halekoh & Højsgaard (2014). A Kenward–Roger approximation and parametric bootstrap methods for tests in linear mixed models:
the R package pbkrtest. JSS 59(9).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from lmmlite import prediction
from lmmlite.checks import check_share
from lmmlite.inference.compare import check_same_data
from lmmlite.inference.replicates import Responses, reflated, replicates, resampled, with_response
from lmmlite.tidy import parameters

if TYPE_CHECKING:
    from lmmlite.model import MixedModel


@dataclass(frozen=True)
class Bootstrap:
    """Replicates of a statistic.

    Attributes
    ----------
    estimate : Series
        The statistic of the fit itself.
    replicates : DataFrame
        One row for each replicate, missing where it failed.
    failures : Series
        Why, by number of the replicate.
    kind : str
        How responses were drawn.
    """

    estimate: pd.Series
    replicates: pd.DataFrame
    failures: pd.Series
    kind: str

    def confint(
        self, level: float = 0.95, kind: Literal["percentile", "basic", "normal"] = "percentile"
    ) -> pd.DataFrame:
        """Intervals with columns ``lower`` and ``upper``; replicates that failed or in which the statistic is undefined are left out.

        Parameters
        ----------
        level : float
        kind : {"percentile", "basic", "normal"}
            Quantiles q of the replicates (numbers (n + 1)α/2 and (n + 1)(1 − α/2) in order); 2 · estimate − q; or
            estimate − bias ± z · SD of the replicates (Davison & Hinkley 1997, section 5.2).
        """
        check_share(level, "level")
        if kind not in ("percentile", "basic", "normal"):
            raise ValueError(f"kind is 'percentile', 'basic' or 'normal', not {kind!r}.")
        undefined = self.replicates.drop(index=self.failures.index).isna().sum()
        if undefined.any():
            counts = ", ".join(f"{name} {count}" for name, count in undefined[undefined > 0].items())
            warnings.warn(
                f"Undefined in some replicates, which are left out (a correlation with a zero SD?): {counts}."
            )
        tails = np.array([1 - level, 1 + level]) / 2
        columns = [column.dropna() for _, column in self.replicates.items()]
        ends = np.array([np.quantile(c, tails, method="weibull") if len(c) else [np.nan] * 2 for c in columns]).T
        if kind == "basic":
            ends = 2 * self.estimate.to_numpy() - ends[::-1]
        if kind == "normal":
            centre = 2 * self.estimate - self.replicates.mean()
            ends = centre.to_numpy() + np.outer(stats.norm.ppf(tails), self.replicates.std())
        return pd.DataFrame(ends.T, self.estimate.index, ["lower", "upper"])


def _statistic(y: np.ndarray, responses: Responses, statistic: Callable | None) -> pd.Series:
    fit = responses.refit(y)
    return parameters(fit) if statistic is None else _as_series(statistic(with_response(fit)))


def _as_series(value: Any) -> pd.Series:
    if isinstance(value, pd.Series | dict):
        return pd.Series(value, dtype=np.float64)
    array = np.atleast_1d(np.asarray(value, np.float64)).ravel()
    return pd.Series(array, ["statistic"] if len(array) == 1 else [f"statistic_{i + 1}" for i in range(len(array))])


def bootstrap(
    fit: MixedModel,
    n: int = 1000,
    statistic: Callable[[MixedModel], Any] | None = None,
    seed: Any = None,
    kind: Literal["parametric", "residual"] = "parametric",
    n_jobs: int | None = 1,
    progress: bool = False,
) -> Bootstrap:
    """Bootstrap a statistic of the fit.

    Parameters
    ----------
    fit : MixedModel
    n : int
        Number of replicates.
    statistic : callable, optional
        Fit → number, array, dict or Series; by default every parameter: SDs, correlations, ``sigma``, fixed effects.
    seed : int or sequence of int, optional
        The same seed gives the same replicates whatever ``n_jobs`` is.
    kind : {"parametric", "residual"}
        New effects and residuals from the fitted normal distributions, or resampled from the predicted ones after centring and
        reflating them to the estimated variances.
    n_jobs : int or None
        Processes or threads of joblib's current backend (None: as many as that says); 1 does without joblib.
    progress : bool
        Show a bar, with tqdm.
    """
    mean = prediction.fitted(fit, random=False)
    if kind == "parametric":
        draw = partial(prediction.draw, fit=fit, mean=mean, T=fit._T, sigma=fit.sigma)
    elif kind == "residual":
        u, e = reflated(fit)
        draw = partial(resampled, fit=fit, mean=mean, u=u, e=e)
    else:
        raise ValueError(f"kind is 'parametric' or 'residual', not {kind!r}.")
    task = partial(_statistic, responses=Responses(fit), statistic=statistic)
    results, failures = replicates(draw, task, n, seed, n_jobs, progress)
    estimate = parameters(fit) if statistic is None else _as_series(statistic(fit))
    table = pd.DataFrame(np.nan, pd.RangeIndex(n, name="replicate"), estimate.index)
    for i, result in enumerate(results):
        if result is None:
            continue
        if not result.index.equals(estimate.index):
            raise ValueError(
                f"The statistic gives {len(result)} numbers ({', '.join(map(str, result.index))}) in replicate {i} and "
                f"{len(estimate)} ({', '.join(map(str, estimate.index))}) for the fit; they must be the same ones each time."
            )
        table.iloc[i] = result
    return Bootstrap(estimate, table, failures, kind)


@dataclass(frozen=True)
class BootstrapTest:
    """A likelihood-ratio test with its null distribution simulated.

    Attributes
    ----------
    statistic : float
        Twice the difference of the maximised log-likelihoods (ML).
    df : int
        Difference in the numbers of parameters.
    replicates : Series
        The statistic in responses drawn from the smaller model, missing where a refit failed.
    failures : Series
        Why, by number of the replicate.
    """

    statistic: float
    df: int
    replicates: pd.Series
    failures: pd.Series

    @property
    def p_value(self) -> float:
        """(1 + replicates at least as large) / (replicates + 1); pbkrtest leaves replicates of zero out, which tests of a variance need."""
        return float((1 + (self.replicates >= self.statistic).sum()) / (1 + self.replicates.count()))

    @cached_property
    def table(self) -> pd.DataFrame:
        """The bootstrap p-value beside χ² and, from the mean and variance of the replicates, Bartlett's correction, gamma and F.

        Halekoh & Højsgaard (2014), section 5; the approximations describe statistics without mass at zero, so not tests
        of a variance.
        """
        t, df, mean, variance = self.statistic, self.df, self.replicates.mean(), self.replicates.var()
        ddf = 2 * mean / (mean - df) if mean > df else np.inf
        rows = {
            "LRT": (t, np.nan, stats.chi2.sf(t, df)),
            "bootstrap": (t, np.nan, self.p_value),
            "Bartlett": (t * df / mean, np.nan, stats.chi2.sf(t * df / mean, df)),
            "gamma": (t, np.nan, stats.gamma.sf(t, mean**2 / variance, scale=variance / mean)),
            "F": (t / df, ddf, stats.f.sf(t / df, df, ddf)),
        }
        return pd.DataFrame.from_dict(rows, "index", columns=["statistic", "den_df", "p_value"]).assign(df=df)


def _both(y: np.ndarray, small: Responses, large: Responses) -> float:
    return max(small.refit(y).criterion - large.refit(y).criterion, 0.0)


def pb_compare(
    m0: MixedModel, m1: MixedModel, n: int = 1000, seed: Any = None, n_jobs: int | None = 1, progress: bool = False
) -> BootstrapTest:
    """Test m0 within m1 by the likelihood ratio (ML) and its distribution in n responses simulated from m0.

    Right where χ² is not: few groups, variances on their boundary (Halekoh & Højsgaard 2014, section 5).  REML fits are
    refitted by ML, since the test needs it.

    Raises
    ------
    ValueError
        Where the models do not describe the same rows and response, or m1 has no more parameters than m0.
    """
    check_same_data([m0, m1])
    m0, m1 = (m.refit_ml() if m.reml else m for m in (m0, m1))
    small, large = Responses(m0), Responses(m1)
    if m0.npar >= m1.npar:
        raise ValueError(
            f"The first model must be the smaller one; it has {m0.npar} parameters and the second {m1.npar}."
        )
    if m1.criterion > m0.criterion + 1e-6:
        raise ValueError("The second model fits worse than the first, so the first is not nested in it: no such test.")
    draw = partial(prediction.draw, fit=m0, mean=prediction.fitted(m0, random=False), T=m0._T, sigma=m0.sigma)
    task = partial(_both, small=small, large=large)
    results, failures = replicates(draw, task, n, seed, n_jobs, progress)
    values = pd.Series([np.nan if r is None else r for r in results], name="statistic", dtype=np.float64)
    return BootstrapTest(max(m0.criterion - m1.criterion, 0.0), m1.npar - m0.npar, values, failures)
