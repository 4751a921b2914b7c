"""Pictures of estimates: random effects in order (caterpillar), fixed effects (forest), coefficients against group size."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from lmmlite.model import MixedModel
from lmmlite.plots.canvas import axes, choose, choose_effect, legend, percent, styled
from lmmlite.plots.style import COLORS
from lmmlite.tidy import wald_interval


def _rows(ax: Axes, estimate: pd.Series, lower: pd.Series, upper: pd.Series, zero: str) -> Axes:
    rows, few = np.arange(len(estimate)), min(1.0, 30 / len(estimate))
    ax.axvline(0, color=COLORS[zero], linewidth=1.2)
    ax.hlines(rows, lower, upper, color=COLORS["interval"], linewidth=0.8 + 2.2 * few)
    ax.plot(estimate, rows, "o", color=COLORS["partial"], markersize=2 + 3.5 * few)
    return ax


@styled
def plot_ranef(
    fit: MixedModel, group: str | None = None, term: str | None = None, level: float = 0.95, ax: Axes | None = None
) -> Axes:
    """Caterpillar: the random effects of one coefficient, in order, with intervals from their conditional SDs.

    An interval is b̃ ± z · SD(b | y, β): it compares a level with the average of all, given the fixed effects.  Two levels may
    differ clearly although their intervals overlap.

    Parameters
    ----------
    fit : MixedModel
    group, term : str, optional
        Grouping factor and coefficient; by default the first ones.
    level : float
        Of the intervals.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes
    """
    group, term = choose_effect(fit, group, term)
    b = fit.ranef()[group][term].sort_values(kind="stable")
    interval = wald_interval(b, fit.ranef_sd()[group][term].loc[b.index], level)
    title = f"{term} by {group}, with {percent(level)} intervals"
    ax = axes(ax, title, f"{term}: deviation from the fixed effect", group, list(b.index))
    return _rows(ax, b, interval["lower"], interval["upper"], "complete")


@styled
def plot_fixef(
    fit: MixedModel, terms: str | Sequence[str] | None = None, level: float = 0.95, ax: Axes | None = None
) -> Axes:
    """Forest: fixed effects with Satterthwaite intervals.

    Parameters
    ----------
    fit : MixedModel
    terms : str or sequence of str, optional
        By default all but the intercept, whose distance from zero seldom is a question.
    level : float
        Of the intervals.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes
    """
    names = list(fit.fixef.index)
    chosen = choose(names, terms or [name for name in names if name != "Intercept"] or names, "fixed effect")[::-1]
    table = fit.tidy(level).set_index("term").loc[chosen]
    title = f"Fixed effects, with {percent(level)} intervals"
    ax = axes(ax, title, f"effect on {fit.design.formula.response}", "fixed effect", chosen)
    return _rows(ax, table["estimate"], table["conf_low"], table["conf_high"], "data")


@styled
def plot_sizes(fit: MixedModel, group: str | None = None, term: str | None = None, ax: Axes | None = None) -> Axes:
    """Coefficients of the groups ± 2 standard errors against group size (log scale), with the fixed effect as a line.

    The coefficient of a group is fixed plus random effect, its standard error the conditional SD of the random effect.

    Parameters
    ----------
    fit : MixedModel
    group, term : str, optional
        Grouping factor and coefficient; by default the first ones.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes
    """
    group, term = choose_effect(fit, group, term)
    sizes = next(np.bincount(g.codes, minlength=g.size) for g in fit.design.groups if g.name == group)
    estimate, error = fit.coef()[group][term], 2 * fit.ranef_sd()[group][term]
    ax = axes(ax, f"{term} by {group} ± 2 SE, by group size", f"rows per {group} (log scale)", term)
    ax.axhline(fit.fixef.get(term, 0.0), color=COLORS["complete"], label="fixed effect")
    ax.vlines(sizes, estimate - error, estimate + error, color=COLORS["interval"])
    ax.plot(sizes, estimate, "o", color=COLORS["partial"], label="fixed + random effect")
    ax.set(xscale="log", xlim=(sizes.min() / 1.4, sizes.max() * 1.4))
    ax.xaxis.set(
        major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=ScalarFormatter(), minor_formatter=NullFormatter()
    )
    legend(ax)
    return ax
