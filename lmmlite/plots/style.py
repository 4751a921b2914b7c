"""The visual language of every picture: colours with fixed meanings (safe for colour-blind readers) and one matplotlib style."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

__all__ = ["COLORS", "use_style"]

COLORS = {
    "data": "#5F6B76",  # observations
    "complete": "#C77C00",  # complete pooling: one estimate for all groups
    "no": "#0072B2",  # no pooling: each group on its own
    "partial": "#009E73",  # partial pooling: the mixed model
    "truth": "#000000",  # a parameter that is known because we simulated
    "interval": "#B7C4D0",  # bands, confidence limits
    "highlight": "#D55E00",  # what the reader should look at
    "second": "#A0528F",  # a second thing to tell apart
}
"""What is shown → its colour."""


def use_style() -> None:
    """Make the project's style the default of the session (white figures, readable on light and dark pages and on a phone)."""
    plt.style.use(Path(__file__).with_name("lmmlite.mplstyle"))
