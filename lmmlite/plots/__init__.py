"""Pictures on matplotlib axes, in one visual language."""

from lmmlite.plots.style import COLORS, use_style

__all__ = ["COLORS", "use_style"]
