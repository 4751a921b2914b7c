"""The models that are timed: name, data frame, formula.  Seeded; the real tables come with the library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmmlite import load_dataset


@dataclass(frozen=True)
class Case:
    """One model to time, at most ``repeats`` times."""

    name: str
    data: Callable[[], pd.DataFrame]
    formula: str
    repeats: int


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


def movielens(n: int = 10**6, users: int = 6040, movies: int = 3706) -> pd.DataFrame:
    """Ratings in the shape of MovieLens-1M: users crossed with movies, a few of both in very many rows, each in one at least."""
    rng = np.random.default_rng(1)
    activity, popularity = rng.lognormal(0, 1.1, users), rng.lognormal(0, 1.6, movies)
    user = np.concatenate([np.arange(users), rng.choice(users, n - users, p=activity / activity.sum())])
    movie = np.concatenate([np.arange(movies), rng.choice(movies, n - movies, p=popularity / popularity.sum())])
    rng.shuffle(movie)
    y = 3.5 + rng.normal(0, 0.4, users)[user] + rng.normal(0, 0.5, movies)[movie] + rng.normal(0, 0.9, n)
    return pd.DataFrame({"y": y, "user": user, "movie": movie})


def nested(n: int, **levels: int) -> pd.DataFrame:
    """A chain of factors, the coarsest first; labels are of the whole table, so ``(1 | a) + (1 | b)`` means ``(1 | a/b)``."""
    rng = np.random.default_rng(5)
    x, finest = rng.normal(size=n), max(levels.values())
    unit = rng.integers(0, finest, n)
    groups = {name: unit * size // finest for name, size in levels.items()}
    y = x + rng.normal(size=n) + sum(0.5 * rng.normal(size=size)[groups[name]] for name, size in levels.items())
    return pd.DataFrame({"y": y, "x": x, **groups})


def schools(count: int = 250, students: int = 400, teachers: int = 20, lessons: int = 5) -> pd.DataFrame:
    """Students crossed with the teachers of their school."""
    rng = np.random.default_rng(8)
    student = np.repeat(np.arange(count * students), lessons)
    school = student // students
    teacher = school * teachers + rng.integers(0, teachers, len(student))
    effects = rng.normal(size=count * students)[student] + 0.5 * rng.normal(size=count * teachers)[teacher]
    y = effects + 0.4 * rng.normal(size=count)[school] + rng.normal(size=len(student))
    return pd.DataFrame({"y": y, "student": student, "teacher": teacher, "school": school})


def coefficients(k: int, n: int = 200_000, groups: int = 2000) -> pd.DataFrame:
    """``k`` coefficients that vary over groups: an intercept and the slopes of x1, x2, ..."""
    rng = np.random.default_rng(6)
    g, X = rng.integers(0, groups, n), np.column_stack([np.ones(n), rng.normal(size=(n, k - 1))])
    b = rng.normal(size=(groups, k)) * np.linspace(1, 0.3, k)
    y = 1 + (X * b[g]).sum(axis=1) + rng.normal(size=n)
    return pd.DataFrame({"y": y, "g": g, **{f"x{j}": X[:, j] for j in range(1, k)}})


def fixed(p: int, n: int = 100_000, groups: int = 2000) -> pd.DataFrame:
    """``p`` fixed effects: an intercept and the slopes of x1, x2, ...; random intercepts."""
    rng = np.random.default_rng(7)
    g, X = rng.integers(0, groups, n), rng.normal(size=(n, p - 1))
    y = X @ rng.normal(size=p - 1) + rng.normal(size=groups)[g] + rng.normal(size=n)
    return pd.DataFrame({"y": y, "g": g, **{f"x{j}": X[:, j - 1] for j in range(1, p)}})


def sum_of_x(count: int) -> str:
    return " + ".join(["1", *(f"x{j}" for j in range(1, count))])


CASES = [
    Case(
        "sleepstudy",
        lambda: load_dataset("sleepstudy"),
        "Reaction ~ Days + (Days | Subject)",
        30,
    ),
    Case(
        "penicillin, crossed",
        lambda: load_dataset("penicillin"),
        "diameter ~ 1 + (1 | plate) + (1 | sample)",
        30,
    ),
    Case("growth, 4,000 rows", growth, "y ~ t + (t | id)", 20),
    Case(
        "maximal crossed, 1,792 rows",
        maximal,
        "y ~ A + B + C + (A + B + C | subject) + (A + B + C | item)",
        5,
    ),
    Case("insteval, 73,421 rows", lambda: load_dataset("insteval"), "y ~ 1 + (1 | s) + (1 | d) + (1 | dept)", 5),
    Case(
        "insteval with service slopes",
        lambda: load_dataset("insteval").astype({"service": float}),  # 0 or 1: a number, as some programs want slopes
        "y ~ 1 + (1 | s) + (1 + service | d)",
        5,
    ),
    Case("random slopes, 1e6 rows", slopes, "y ~ x + (x | g)", 5),
    Case("issue 9097, 1e6 rows", two_factors, "value ~ one + two + x + (1 | unit)", 5),
    Case("crossed, MovieLens shape, 1e6 rows, 6040 x 3706", movielens, "y ~ 1 + (1 | user) + (1 | movie)", 3),
    Case("nested, 1e6 rows, 200k/2k", lambda: nested(10**6, a=2000, b=200_000), "y ~ x + (1 | a) + (1 | b)", 3),
    Case(
        "nested, 1e6 rows, 200k/20k/2k",
        lambda: nested(10**6, a=2000, b=20_000, c=200_000),
        "y ~ x + (1 | a) + (1 | b) + (1 | c)",
        3,
    ),
    Case(
        "100,000 students x 5,000 teachers in 250 schools",
        schools,
        "y ~ 1 + (1 | student) + (1 | teacher) + (1 | school)",
        3,
    ),
]


def _law(name: str, sizes: tuple[int, ...], data: Callable[[int], pd.DataFrame], formula: Callable[[int], str]):
    return {n: Case(f"law: {name} {n}", lambda n=n: data(n), formula(n), 5) for n in sizes}


def _slopes_formula(_: int) -> str:
    return "y ~ x + (x | g)"


# What grows -> size -> case; all else stays as it is.
LAWS: dict[str, dict[int, Case]] = {
    "rows (2,000 groups, random slopes)": _law(
        "rows", (10**4, 10**5, 10**6, 10**7), lambda n: slopes(n, 2000), _slopes_formula
    ),
    "levels, one factor (1e6 rows, random slopes)": _law(
        "levels", (100, 1000, 10_000, 100_000, 300_000), lambda q: slopes(10**6, q), _slopes_formula
    ),
    "levels, two crossed factors (2e5 rows, 4,000 levels of the other)": _law(
        "crossed",
        (125, 250, 500, 1000, 2000),
        lambda q: movielens(200_000, 4000, q),
        lambda _: "y ~ 1 + (1 | user) + (1 | movie)",
    ),
    "levels, three nested factors (1e6 rows; a tenth and a hundredth as many above)": _law(
        "nested",
        (2000, 20_000, 200_000),
        lambda q: nested(10**6, a=q // 100, b=q // 10, c=q),
        lambda _: "y ~ x + (1 | a) + (1 | b) + (1 | c)",
    ),
    "coefficients per group, k (2e5 rows, 2,000 groups)": _law(
        "coefficients", (1, 2, 4, 8, 16), coefficients, lambda k: f"y ~ {sum_of_x(k)} + ({sum_of_x(k)} | g)"
    ),
    "fixed effects, p (1e5 rows, 2,000 groups)": _law(
        "fixed", (4, 16, 64, 256), fixed, lambda p: f"y ~ {sum_of_x(p)} + (1 | g)"
    ),
}
