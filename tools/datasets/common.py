"""Shared by the builders: where tables go, and how to round them without losing a printed figure.

A builder first solves for real numbers that give the wanted fit. Rounding them to the precision of a
recording moves the fit by more than the printed digits allow, so afterwards a few entries are moved by one
unit of their last decimal: among all pairs of such moves some bring every figure back.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

FOLDER = Path(__file__).resolve().parents[2] / "lmmlite" / "datasets"


def write(name: str, data: pd.DataFrame) -> None:
    """Write the table of a data set next to its card."""
    path = FOLDER / f"{name}.csv"
    data.to_csv(path, index=False, lineterminator="\n")
    print(f"{path.name}: {len(data)} rows")


def round_keeping_sum(values: np.ndarray, decimals: int) -> np.ndarray:
    """Round so that every partial sum, hence the total, is off by at most half a unit."""
    sums = np.round(np.cumsum(values), decimals)
    return np.round(np.diff(sums, prepend=0.0), decimals)


def two_moves(effects: np.ndarray, wanted: np.ndarray, tolerance: np.ndarray, keep: int = 200) -> np.ndarray:
    """Pairs of moves whose added effects come nearest to the wanted change.

    Parameters
    ----------
    effects : (moves, figures) array
        What each move does to each figure.
    wanted, tolerance : (figures,) arrays
        The change to be made, and half a unit of each figure's last printed digit.
    keep : int
        How many pairs to return, best first: effects add up only to first order, so the caller tries them.
    """
    scaled = effects / tolerance
    error, partner = cKDTree(scaled).query(wanted / tolerance - scaled, p=np.inf)
    best = np.argsort(error, kind="stable")[:keep]
    return np.column_stack([best, partner[best]])
