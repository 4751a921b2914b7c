"""Pictures on matplotlib axes, in one visual language.

Each function draws one picture of a fit and leaves the fit, and matplotlib's settings, as they were.  Pictures of one panel take
``ax=`` and return those Axes; pictures of several panels make and return a Figure.
"""

try:
    import matplotlib as _  # noqa: F401
except ImportError as error:
    raise ImportError(
        "Pictures need matplotlib: pip install matplotlib, or lmmlite with its extra: lmmlite[plots]."
    ) from error

from lmmlite.plots.effects import plot_fixef, plot_ranef, plot_sizes
from lmmlite.plots.groups import plot_groups, plot_shrinkage
from lmmlite.plots.inference import plot_bootstrap, plot_profile, plot_profile_density, plot_profile_pairs
from lmmlite.plots.residuals import plot_qq, plot_residuals, plot_scale_location
from lmmlite.plots.style import COLORS, use_style

__all__ = [
    "COLORS",
    "plot_bootstrap",
    "plot_fixef",
    "plot_groups",
    "plot_profile",
    "plot_profile_density",
    "plot_profile_pairs",
    "plot_qq",
    "plot_ranef",
    "plot_residuals",
    "plot_scale_location",
    "plot_shrinkage",
    "plot_sizes",
    "use_style",
]
