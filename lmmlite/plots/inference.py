"""Pictures of inference: likelihood profiles (ζ, densities, pairs) and bootstrap distributions."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.interpolate import CubicSpline
from scipy.stats import chi2, norm

from lmmlite.inference.bootstrap import Bootstrap
from lmmlite.inference.profile import Profile
from lmmlite.plots.canvas import choose, panels, percent, styled
from lmmlite.plots.style import COLORS


class Curve:
    """The profile of one parameter: ζ at its points, a cubic spline between them, and both on a fine grid of values."""

    def __init__(self, table: pd.DataFrame, name: str):
        self.points = table[table["parameter"] == name]
        value, zeta = self.points["value"].to_numpy(), self.points["zeta"].to_numpy()
        self.spline, self.estimate = CubicSpline(value, zeta), float(value[np.abs(zeta).argmin()])
        self.value = np.linspace(value[0], value[-1], 300)
        self.zeta = self.spline(self.value)

    def at(self, zeta: Any) -> np.ndarray:
        """Values with these ζ; the ends of the profile where it does not go so far."""
        return np.interp(zeta, np.maximum.accumulate(self.zeta), self.value)


def _curves(profile: Profile, parameters: str | Sequence[str] | None, most: int | None = None) -> dict[str, Curve]:
    table = profile.zeta
    names = list(table["parameter"].unique())
    return {name: Curve(table, name) for name in choose(names, parameters or names[:most], "profile of")}


@styled
def plot_profile(
    profile: Profile, parameters: str | Sequence[str] | None = None, levels: Sequence[float] = (0.5, 0.8, 0.95, 0.99)
) -> Figure:
    """Panels of ζ against each parameter, with the profile intervals of some levels.

    Where ζ is straight (dashed: the line with its slope at the estimate) Wald's intervals would do; where it bends the intervals
    are not symmetric.

    Parameters
    ----------
    profile : Profile
    parameters : str or sequence of str, optional
        By default all that were profiled.
    levels : sequence of float

    Returns
    -------
    Figure
    """
    curves = _curves(profile, parameters)
    z = norm.ppf([(1 + side * level) / 2 for level in levels for side in (-1, 1)])
    figure, parts = panels(len(curves), 2, 1.7, f"Profile ζ, with {percent(*levels)} intervals", sharey=True)
    for ax, (name, c) in zip(parts, curves.items(), strict=True):
        ax.axhline(0, color=COLORS["data"], linewidth=1)
        ax.vlines(c.at(z), 0, c.spline(c.at(z)), color=COLORS["interval"], linewidth=1.8)
        if c.value[0] < c.estimate < c.value[-1]:
            slope = float(c.spline(c.estimate, 1))
            ax.axline((c.estimate, 0), slope=slope, color=COLORS["data"], linewidth=1, linestyle="--")
        ax.plot(c.value, c.zeta, color=COLORS["partial"])
        ax.plot(c.estimate, 0, "o", color=COLORS["partial"])
        ax.set(xlabel=name, ylim=(-3.6, 3.6), yticks=(-2, 0, 2))
    figure.supylabel("ζ", fontsize=11)
    return figure


@styled
def plot_profile_density(
    profile: Profile, parameters: str | Sequence[str] | None = None, level: float = 0.95
) -> Figure:
    """Panels of the density φ(ζ(ψ)) dζ/dψ that a profile implies for each parameter, with its interval shaded.

    Parameters
    ----------
    profile : Profile
    parameters : str or sequence of str, optional
        By default all that were profiled.
    level : float
        Of the interval.

    Returns
    -------
    Figure
    """
    curves = _curves(profile, parameters)
    figure, parts = panels(len(curves), 2, 1.7, f"Profile densities, with {percent(level)} intervals")
    for ax, (name, c) in zip(parts, curves.items(), strict=True):
        density = norm.pdf(c.zeta) * np.maximum(c.spline(c.value, 1), 0)
        low, high = c.at(norm.ppf(np.array([1 - level, 1 + level]) / 2))
        within = (c.value >= low) & (c.value <= high)
        ax.fill_between(c.value[within], density[within], color=COLORS["interval"], linewidth=0)
        ax.plot(c.value, density, color=COLORS["partial"])
        ax.axvline(c.estimate, color=COLORS["partial"], linewidth=1, linestyle="--")
        ax.set(xlabel=name, yticks=[], ylim=(0, None))
    figure.supylabel("density", fontsize=11)
    return figure


@styled
def plot_profile_pairs(
    profile: Profile, parameters: Sequence[str] | None = None, levels: Sequence[float] = (0.5, 0.8, 0.95)
) -> Figure:
    """Panels of pairs of parameters: joint confidence regions interpolated from the profiles, and the profile traces.

    A trace is where the other parameter goes when one is held fixed (the one across: solid line; the one upwards: dashed).  It meets a
    contour where the contour's tangent is upright, or level; from these four points each contour is interpolated, as in lme4.

    Parameters
    ----------
    profile : Profile
    parameters : sequence of str, optional
        By default the first four: more are hard to read.
    levels : sequence of float
        Coverage of the regions (χ² with two degrees of freedom).

    Returns
    -------
    Figure

    References
    ----------
    Bates & Watts (1988). Nonlinear Regression Analysis and Its Applications. Wiley, chapter 6 and appendix 6.
    """
    curves = _curves(profile, parameters, 4)
    names, k = list(curves), len(curves) - 1
    if k < 1:
        raise ValueError("Pairs need the profiles of at least two parameters.")
    title = f"Joint {percent(*levels)} regions from profiles"
    figure, parts = panels(k * k, k, 4.8 / k, title, sharex="col", sharey="row")
    for ax in parts:
        ax.set_visible(False)
    for j, i in combinations(range(k + 1), 2):
        ax, a, b = parts[(i - 1) * k + j], curves[names[j]], curves[names[i]]
        ax.set_visible(True)
        for level in levels:
            x, y = contour(a, b, names[j], names[i], float(np.sqrt(chi2.ppf(level, 2))))
            ax.plot(a.at(x), b.at(y), color=COLORS["partial"], linewidth=1.4)
        for points, style in ((a.points, "-"), (b.points, "--")):
            ax.plot(points[names[j]], points[names[i]], style, color=COLORS["data"], linewidth=1)
        ax.plot(a.estimate, b.estimate, "o", color=COLORS["partial"])
        ax.tick_params(labelsize=8.5)
        ax.set_xlabel(names[j].replace("|", "\n|") if i == k else "", fontsize=9)
        ax.set_ylabel(names[i].replace("|", "\n|") if j == 0 else "", fontsize=9)
    return figure


def contour(a: Curve, b: Curve, name_a: str, name_b: str, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """ζ of two parameters along a contour of their joint deviance, at radius² above its minimum.

    On it ζ_a = r cos(s + d/2) and ζ_b = r cos(s − d/2).  The trace of a meets it where ζ_a = ±r, which with ζ_b there gives a pair (s, d);
    so does that of b.  Between these four points d is a periodic cubic spline of s.
    """

    def angle(held: Curve, other: Curve, name: str, zeta: float) -> float:
        trace = held.points[["zeta", name]].dropna()
        value = np.clip(np.interp(zeta, trace["zeta"], trace[name]), other.value[0], other.value[-1])
        return float(np.arccos(np.clip(other.spline(value) / radius, -1, 1)))

    of_a, of_b = ([angle(*way, side * radius) for side in (1, -1)] for way in ((a, b, name_b), (b, a, name_a)))
    angles = [(0, of_a[0]), (of_b[0], 0), (np.pi, of_a[1]), (of_b[1], np.pi)]  # of ζ_a and of ζ_b
    knots = sorted((np.copysign((p + q) / 2, p - q), abs(p - q)) for p, q in angles)
    s, d = np.array([*knots, (knots[0][0] + 2 * np.pi, knots[0][1])]).T
    t = np.linspace(s[0], s[-1], 200)
    half = CubicSpline(s, d, bc_type="periodic")(t) / 2
    return radius * np.cos(t + half), radius * np.cos(t - half)


@styled
def plot_bootstrap(
    bootstrap: Bootstrap,
    parameters: str | Sequence[str] | None = None,
    level: float = 0.95,
    kind: Literal["percentile", "basic", "normal"] = "percentile",
) -> Figure:
    """Panels of the distribution of each bootstrapped parameter, with its interval and the estimate.

    Parameters
    ----------
    bootstrap : Bootstrap
    parameters : str or sequence of str, optional
        By default all.
    level, kind
        Of the interval; see `Bootstrap.confint`.

    Returns
    -------
    Figure
    """
    names, interval = choose(bootstrap.replicates, parameters, "replicates of"), bootstrap.confint(level, kind)
    count = len(bootstrap.replicates) - len(bootstrap.failures)
    figure, parts = panels(len(names), 2, 1.7, f"{count} replicates, with {percent(level)} {kind} intervals")
    for ax, name in zip(parts, names, strict=True):
        ax.axvspan(interval["lower"][name], interval["upper"][name], color=COLORS["interval"], alpha=0.45, linewidth=0)
        ax.hist(bootstrap.replicates[name].dropna(), bins="auto", density=True, color=COLORS["data"], alpha=0.7)
        ax.axvline(bootstrap.estimate[name], color=COLORS["partial"])
        ax.set(xlabel=name, yticks=[])
    figure.supylabel("density", fontsize=11)
    return figure
