"""Checks of arguments that many functions take."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def check_share(value: float, name: str) -> None:
    """ValueError for a level or a size of a test that is not between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, not {value}.")


def check_count(n: Any, name: str = "n") -> None:
    """Raise an error for a number of something that is no whole number from 1 on."""
    if isinstance(n, bool) or not isinstance(n, Integral):
        raise TypeError(f"{name} must be a whole number, not {n!r}.")
    if n < 1:
        raise ValueError(f"{name} must be at least 1, not {n}.")
