"""The models that are timed: name, data frame, formula.  Seeded; the real tables come with the library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmmlite import load_dataset


@dataclass(frozen=True)
class Case:
    """One model to time.

    ``peers`` are the programs that are timed on it besides lmmlite: those that can fit it at all and end within minutes.
    """

    name: str
    data: Callable[[], pd.DataFrame]
    formula: str
    repeats: int
    peers: tuple[str, ...] = ("lme4", "glmm")


def growth(n_children: int = 500, visits: int = 8) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    child, t = np.repeat(np.arange(n_children), visits), np.tile(np.arange(float(visits)), n_children)
    b = rng.normal(size=(n_children, 2)) * [1.0, 0.3]
    return pd.DataFrame({"id": child, "t": t, "y": 10 + t + b[child, 0] + b[child, 1] * t + rng.normal(size=len(t))})


def maximal(subjects: int = 56, items: int = 32) -> pd.DataFrame:
    """Subjects crossed with items, three within factors, intercept and three slopes for both."""
    rng = np.random.default_rng(2)
    s, i = np.repeat(np.arange(subjects), items), np.tile(np.arange(items), subjects)
    X = np.column_stack([np.ones(len(s)), rng.choice([-0.5, 0.5], (len(s), 3))])
    effects = rng.normal(size=(subjects, 4))[s] + 0.7 * rng.normal(size=(items, 4))[i]
    y = (X * (effects + [5, 1, 0.5, 0])).sum(axis=1) + 2 * rng.normal(size=len(s))
    return pd.DataFrame({"y": y, "A": X[:, 1], "B": X[:, 2], "C": X[:, 3], "subject": s, "item": i})


def slopes(n: int = 10**6, groups: int = 50_000) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    g, x = rng.integers(0, groups, n), rng.normal(size=n)
    b = rng.normal(size=(groups, 2)) * [1.0, 0.5]
    return pd.DataFrame({"y": 1 + 2 * x + b[g, 0] + b[g, 1] * x + rng.normal(size=n), "x": x, "g": g})


def two_factors(n: int = 10**6, groups: int = 125_066) -> pd.DataFrame:
    """The shape of statsmodels' issue 9097: two factors and a number, 125,066 groups."""
    rng = np.random.default_rng(4)
    unit, x = rng.integers(0, groups, n), rng.normal(size=n)
    one, two = rng.integers(0, 4, n), rng.integers(0, 3, n)
    value = x + 0.3 * one - 0.2 * two + rng.normal(size=groups)[unit] + rng.normal(size=n)
    one_of = pd.Categorical.from_codes(one, list("abcd"))
    return pd.DataFrame(
        {
            "value": value,
            "x": x,
            "one": one_of,
            "two": pd.Categorical.from_codes(two, list("uvw")),
            "unit": unit,
        }
    )


CASES = [
    Case(
        "sleepstudy",
        lambda: load_dataset("sleepstudy"),
        "Reaction ~ Days + (Days | Subject)",
        30,
        ("lme4", "glmm", "statsmodels"),
    ),
    Case(
        "penicillin, crossed",
        lambda: load_dataset("penicillin"),
        "diameter ~ 1 + (1 | plate) + (1 | sample)",
        30,
    ),
    Case("growth, 4,000 rows", growth, "y ~ t + (t | id)", 20, ("lme4", "glmm", "statsmodels")),
    Case(
        "maximal crossed, 1,792 rows",
        maximal,
        "y ~ A + B + C + (A + B + C | subject) + (A + B + C | item)",
        5,
    ),
    Case("insteval, 73,421 rows", lambda: load_dataset("insteval"), "y ~ 1 + (1 | s) + (1 | d) + (1 | dept)", 5),
    Case("random slopes, 1e6 rows", slopes, "y ~ x + (x | g)", 5),
    Case("issue 9097, 1e6 rows", two_factors, "value ~ one + two + x + (1 | unit)", 5),
]
