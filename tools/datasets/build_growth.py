"""Build ``growth``: simulated arm circumferences of children measured up to five times.

Lecture notes print a fit of ``arm ~ age + (1 | id)`` without its data: intercept 12.8 cm, SD of the
intercepts 0.88 cm, and a 95 % interval for the slope of 0.027 to 0.037 cm a month. (Their slope, 0.022, lies
outside its own interval; 0.032 is the middle.) Visits, children's intercepts and residuals are drawn; the line
and the scales of both random parts are then adjusted until a REML fit gives the printed figures.
"""

import numpy as np
import pandas as pd
from common import write
from scipy.optimize import least_squares

INTERCEPT, SLOPE, SLOPE_SE, TAU = 12.8, 0.032, 0.005 / 1.96, 0.88
CHILDREN, VISITS, MISSED = 200, 5, 0.12


def draw_visits(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Child and age in months: first seen at 0 to 43 months, then every four months; some visits missed."""
    first = rng.integers(0, 44, CHILDREN)
    child, visit = np.divmod(np.arange(CHILDREN * VISITS), VISITS)
    seen = (rng.random(child.size) > MISSED) | (visit == 0)
    return child[seen], (first[child] + 4 * visit)[seen]


def reml(child: np.ndarray, age: np.ndarray, arm: np.ndarray) -> np.ndarray:
    """Intercept, slope, its standard error and tau of a random-intercept model."""
    design = np.column_stack([np.ones(age.size), age])
    columns = np.column_stack([design, arm])
    size = np.bincount(child)
    sums = np.stack([np.bincount(child, c) for c in columns.T])
    total = columns.T @ columns

    def parts(ratio):  # V^-1 = I - ratio 1 1' / (1 + ratio n) for each child
        cross = total - (sums * (ratio / (1 + ratio * size))) @ sums.T
        beta = np.linalg.solve(cross[:2, :2], cross[:2, 2])
        return cross, beta, cross[2, 2] - cross[2, :2] @ beta

    def score(log_ratio):  # derivative of the REML criterion by the variance ratio
        ratio = np.exp(log_ratio)
        cross, beta, rss = parts(ratio)
        shrunk = sums / (1 + ratio * size)
        residual = shrunk[2] - beta @ shrunk[:2]
        inverse = np.linalg.inv(cross[:2, :2])
        return (
            np.sum(size / (1 + ratio * size))
            - np.sum((inverse @ shrunk[:2]) * shrunk[:2])
            - (age.size - 2) * residual @ residual / rss
        )

    low, high = -6.0, 6.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) < 0 else (low, middle)
    cross, beta, rss = parts(np.exp(middle))
    sigma = np.sqrt(rss / (age.size - 2))
    se = sigma * np.sqrt(np.linalg.inv(cross[:2, :2])[1, 1])
    return np.r_[beta, se, sigma * np.exp(middle / 2)]


def build() -> pd.DataFrame:
    rng = np.random.default_rng(2023)
    child, age = draw_visits(rng)
    intercepts, noise = rng.standard_normal(CHILDREN)[child], rng.standard_normal(age.size)

    def arm(parameters):
        level, slope, tau, sigma = parameters
        return level + slope * age + tau * intercepts + sigma * noise

    target = np.array([INTERCEPT, SLOPE, SLOPE_SE, TAU])
    solved = least_squares(
        lambda parameters: reml(child, age, arm(parameters)) / target - 1,
        [INTERCEPT, SLOPE, TAU, 0.6],
        xtol=1e-14,
    )
    return pd.DataFrame({"id": child + 1, "age": age, "arm": arm(solved.x).round(1)})


if __name__ == "__main__":
    write("growth", build())
