"""Pictures that check a fit: residuals against what was fitted, their size, and normal Q–Q plots of both levels."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.special import betainc
from scipy.stats import beta, norm

from lmmlite.checks import check_share
from lmmlite.diagnostics import group_residuals, leverage
from lmmlite.fitted import ResidualKind
from lmmlite.model import MixedModel
from lmmlite.plots.canvas import axes, choose, choose_effect, cloud, legend, percent, styled
from lmmlite.plots.style import COLORS

_RANKS = 200  # order statistics at which the simultaneous band holds
_ROOT = 0.822179  # E√|e| of a standard normal e, 2^¼ Γ(¾)/√π


def smooth(x: np.ndarray, y: np.ndarray, span: float = 0.6, points: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Local lines: at some x₀ each the weighted least-squares line through the nearest ``span`` of the points.

    Weights are (1 − (abs(x − x₀)/h)³)³ with h the distance of the furthest of these points.

    References
    ----------
    Cleveland (1979). Robust locally weighted regression and smoothing scatterplots. JASA 74:829 (without its robust steps).
    """
    at = np.unique(np.quantile(x, np.linspace(0, 1, points)))
    values, tiny = np.empty(len(at)), 1e-9 * np.ptp(x) + 1e-100
    for i, x0 in enumerate(at):
        distance = np.abs(x - x0)
        w = np.clip(1 - (distance / (np.quantile(distance, span) + tiny)) ** 3, 0, None) ** 3
        mx, my = np.average(x, weights=w), np.average(y, weights=w)
        values[i] = my + (x0 - mx) * (w @ ((x - mx) * y)) / (w @ (x - mx) ** 2 + tiny**2)
    return at, values


def _standardised(fit: MixedModel) -> pd.Series:
    """Residuals over σ√(1 − leverage), their standard deviation at fixed θ."""
    return fit.residuals("scaled") / np.sqrt(np.maximum(1 - leverage(fit)["leverage"], 1e-12))


def _with_smooth(ax: Axes, x: np.ndarray, y: np.ndarray, expected: float) -> Axes:
    cloud(ax, x, y)
    ax.axhline(expected, color=COLORS["data"], linewidth=1.2, label="expected")
    ax.plot(*smooth(x, y), color=COLORS["highlight"], label="smooth")
    legend(ax)
    return ax


@styled
def plot_residuals(
    fit: MixedModel, kind: ResidualKind = "scaled", against: str = "fitted", ax: Axes | None = None
) -> Axes:
    """Residuals against the fitted values or a numeric column, with a smooth of local lines.

    Parameters
    ----------
    fit : MixedModel
    kind : {"scaled", "response", "pearson", "marginal"}
        As in `MixedModel.residuals`.
    against : str
        ``"fitted"``, ``"fixed"`` (the population prediction) or a numeric column of the data.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes
    """
    table = fit.augment().select_dtypes("number")
    x, e = table[choose(table, against, "numeric column")[0]].to_numpy(float), fit.residuals(kind).to_numpy()
    label = {"fitted": "fitted values", "fixed": "fixed part of the fitted values"}.get(against, against)
    ax = axes(ax, f"{kind.capitalize()} residuals against {label}", label, f"{kind} residual")
    return _with_smooth(ax, x, e, 0)


@styled
def plot_scale_location(fit: MixedModel, ax: Axes | None = None) -> Axes:
    """√|e| of standardised residuals e against the fitted values: a level smooth means that the residual variance is constant.

    The line is at 0.822, the mean for a standard normal e.

    Parameters
    ----------
    fit : MixedModel
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes
    """
    ax = axes(ax, "Size of residuals against fitted values", "fitted values", "√|standardised residual|")
    return _with_smooth(ax, fit.fitted.to_numpy(), np.sqrt(_standardised(fit).abs()).to_numpy(), _ROOT)


@styled
def plot_qq(
    fit: MixedModel, what: str = "residuals", term: str | None = None, level: float = 0.95, ax: Axes | None = None
) -> Axes:
    """Normal Q–Q plot of the residuals or of the random effects, each over its own standard deviation, with two bands.

    Residuals are divided by σ√(1 − leverage), random effects by their diagnostic SD (`lmmlite.diagnostics.group_residuals`), so that
    both are standard normal if the model holds, and the line is y = x.  The dark band holds for each point by itself; the light
    one, equally hard to leave for each point, for all together.  Both are for independent values, which these nearly are if
    there are many.

    Parameters
    ----------
    fit : MixedModel
    what : str
        ``"residuals"`` or a grouping factor.
    term : str, optional
        Coefficient of that factor; by default the first.
    level : float
        Of both bands.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes

    References
    ----------
    Aldor-Noiman, Brown, Buja, Rolke & Stine (2013). The power to see: a new graphical test of normality. American Statistician 67:249.
    """
    name = "residuals"
    if what != name:
        what, term = choose_effect(fit, what, term)
        name = f"{term} by {what}"
    values: pd.Series = _standardised(fit) if what == name else group_residuals(fit)[what][term]
    v = np.sort(values.dropna().to_numpy())
    if not len(v):
        raise ValueError(f"The variance of {name} is estimated as zero: there is no distribution to show.")
    x = _normal_scores(np.arange(1, len(v) + 1), len(v))
    at, pointwise, band = normal_bands(len(v), level)
    outside = (v < np.interp(x, at, band[0])) | (v > np.interp(x, at, band[1]))
    ax = axes(ax, f"Normal Q–Q plot: {name}", "standard normal quantile", f"standardised {name}")
    for (low, high), of, alpha in ((band, "all points", 0.35), (pointwise, "each point", 0.8)):
        label = f"{percent(level)} of {of}"
        ax.fill_between(at, low, high, color=COLORS["interval"], alpha=alpha, linewidth=0, label=label)
    ax.axline((0, 0), slope=1, color=COLORS["data"], linewidth=1)
    cloud(ax, x[~outside], v[~outside], "data" if what == name else "partial")
    ax.plot(x[outside], v[outside], "o", color=COLORS["highlight"], markersize=3)
    legend(ax)
    return ax


def _normal_scores(rank: np.ndarray, n: int) -> np.ndarray:
    return np.asarray(norm.ppf((rank - 0.375) / (n + 0.25)))


def normal_bands(n: int, level: float = 0.95, draws: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the order statistics of n standard normal values lie: (m,) normal scores and two bands, (2, m).

    The i-th of n uniform values is Beta(i, n + 1 − i).  A pointwise band has its α/2 and 1 − α/2 quantiles as ends; for the
    simultaneous one α is chosen, by simulation with a fixed seed, so that all of up to 200 order statistics lie inside with
    probability ``level``.
    """
    check_share(level, "level")
    low = np.geomspace(1, (n + 1) / 2, _RANKS // 2) if n > _RANKS else np.arange(1, n + 1)
    low = low.round().astype(int)
    rank = np.unique(np.concatenate([low, n + 1 - low]))
    gaps = np.random.default_rng(0).standard_gamma(np.diff([0, *rank, n + 1]), (draws, len(rank) + 1))
    total = gaps.cumsum(axis=1)
    below = betainc(rank, n + 1 - rank, total[:, :-1] / total[:, -1:])
    together = np.quantile(2 * np.minimum(below, 1 - below).min(axis=1), 1 - level)
    ends = [norm.ppf(beta.ppf([[a / 2], [1 - a / 2]], rank, n + 1 - rank)) for a in (1 - level, together)]
    return _normal_scores(rank, n), np.asarray(ends[0]), np.asarray(ends[1])
