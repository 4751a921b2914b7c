"""Build ``schools``: 1200 rows whose fit gives back the printed figures of a published example.

The example prints a fit of ``extro ~ open + agree + social + (1 | school)`` to 6 schools of 4 classes of 50
but not its rows. In a balanced design the fit depends on the rows only through the school means and the
pooled cross-products within schools, and the printed figures pin these down:

* fixed effects and conditional modes fix the school means of extro, given those of the covariates;
* the profile intervals of the slopes fix the within-school information on each slope;
* the residual SD (known to eight digits through the printed effect sizes) fixes the residual sum of squares.

What is left is drawn: covariates are normal, and the residual of a pupil is a class effect (larger in the
schools I and VI, which the source describes as more spread out) plus noise. The six printed rows are kept.
"""

import numpy as np
import pandas as pd
from common import round_keeping_sum, two_moves, write

SCHOOLS, CLASSES, PER_CLASS = ["I", "II", "III", "IV", "V", "VI"], ["a", "b", "c", "d"], 50
COVARIATES = ["open", "agree", "social"]
N, M = 1200, 200

SIGMA = 59.116514 / 22.1336705  # intercept / its printed effect size
# The slopes have more digits as effect size times SIGMA than as printed.
BETA = np.r_[59.116514, np.array([0.0036508, 0.0104042, -0.0008055]) * SIGMA]
MODES = np.array([-14.091, -6.183, -1.971, 1.966, 6.331, 13.948])
# Half widths of the 99 % profile intervals, chosen inside what the printed limits allow; a profile of these
# data is 2.5762 standard errors wide, hardly more than the normal 2.5758.
SLOPE_SE = np.array([0.034400, 0.039425, 0.012780]) / 2.5762
# The interval of the intercept depends on the covariate means: with these it comes out as printed.
MEANS = np.array([40.0, 35.0, 100.0])

# The printed first rows (extro, the covariates), and class and school of the first ten pupils.
FIRST = np.array(
    [
        [63.69, 43.43, 38.03, 75.06],
        [69.48, 46.87, 31.49, 98.13],
        [79.74, 32.27, 40.21, 116.34],
        [62.97, 44.41, 30.51, 90.47],
        [64.25, 36.86, 37.44, 98.52],
        [50.97, 46.26, 38.83, 75.22],
    ]
)
FIRST_PLACES = ["dIV", "aVI", "dVI", "cIV", "dIV", "dI", "dIII", "dIV", "aIII", "bI"]
FIXED = np.arange(N) < len(FIRST)


def within(values: np.ndarray, school: np.ndarray) -> np.ndarray:
    """Deviations from the school means."""
    means = np.stack([values[school == j].mean(axis=0) for j in range(6)])
    return values - means[school]


def draw_places(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Codes of class and school: 50 pupils for each pair in random order, the first ten as printed."""
    first = [(CLASSES.index(place[0]), SCHOOLS.index(place[1:])) for place in FIRST_PLACES]
    rest = [(c, j) for c in range(4) for j in range(6) for _ in range(PER_CLASS - first.count((c, j)))]
    return tuple(np.array(first + [rest[i] for i in rng.permutation(len(rest))]).T)


def draw_covariates(rng: np.random.Generator, school: np.ndarray) -> np.ndarray:
    """Normal covariates with the wanted means, scaled until each slope has its standard error.

    Their school means are made uncorrelated with the modes: an exact likelihood ratio statistic as large
    as the printed one says that least squares gains nothing from differences between schools.
    """
    z = rng.standard_normal((N, 3))
    z_means = np.stack([z[school == j].mean(axis=0) for j in range(6)])
    z -= np.outer(MODES, MODES @ z_means / (MODES @ MODES))[school]
    centre, scale = MEANS.copy(), SIGMA / SLOPE_SE / np.sqrt(N)
    for _ in range(20):
        x = np.vstack([FIRST[:, 1:], (centre + scale * z)[6:]]).round(2)
        deviations = within(x, school)
        scale *= SIGMA * np.sqrt(np.diag(np.linalg.inv(deviations.T @ deviations))) / SLOPE_SE
        centre += MEANS - x.mean(axis=0)
    return x


def shrinkage(r: np.ndarray) -> float:
    """REML shrinkage of a school, M tau^2 / (sigma^2 + M tau^2), from the school means r of y - X beta.

    The REML estimate of sigma^2 + M tau^2 is M sum(r^2) / 5 (the slopes add nothing visible at this size).
    """
    return 1 - 5 * SIGMA**2 / (M * r @ r)


def unshrunk_modes() -> np.ndarray:
    """School means r of y - X beta that give the printed modes, shrinkage(r) * r."""
    r = MODES
    for _ in range(20):
        r = MODES / shrinkage(r)
    return r


def draw_residuals(
    rng: np.random.Generator, x: np.ndarray, school: np.ndarray, classroom: np.ndarray, mean: np.ndarray
) -> np.ndarray:
    """Residuals within schools that leave means, slopes and residual SD where they are wanted.

    With w = 1 - shrink, the generalised least squares equations ask for
    (within x)' e = -w M sum_j xbar_j r_j, and the residual variance for e'e = (n - 4) sigma^2 - w M r'r.
    """
    r = unshrunk_modes()
    shrink = shrinkage(r)
    spread = np.where(np.isin(school, [0, 5]), 5.0, 1.6)
    raw = spread * np.array([-1.0, -0.35, 0.35, 1.0])[classroom] + rng.standard_normal(N)
    raw[FIXED] = FIRST[:, 0] - mean[FIXED]

    x_means = np.stack([x[school == j].mean(axis=0) for j in range(6)])
    constraints = np.column_stack([np.eye(6)[school], within(x, school)])
    wanted = np.r_[np.zeros(6), -(1 - shrink) * M * r @ (x_means - x_means.mean(axis=0))]
    free = ~FIXED
    wanted -= constraints[FIXED].T @ raw[FIXED]
    forced = np.linalg.lstsq(constraints[free].T, wanted, rcond=None)[0]
    loose = raw[free] - constraints[free] @ np.linalg.lstsq(constraints[free], raw[free], rcond=None)[0]
    rest = (N - 4) * SIGMA**2 - (1 - shrink) * M * r @ r - np.sum(raw[FIXED] ** 2) - forced @ forced
    e = raw.copy()
    e[free] = forced + loose * np.sqrt(rest / (loose @ loose))
    return e


def fit(x: np.ndarray, y: np.ndarray, school: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """REML fixed effects and sigma (5,), and their derivatives by y (5, n)."""
    design = np.column_stack([np.ones(N), x])
    shrink = shrinkage(np.array([np.mean((y - design @ BETA)[school == j]) for j in range(6)]))

    def v_inverse(a):
        return a - shrink * (a - within(a, school))

    d_beta = np.linalg.solve(design.T @ v_inverse(design), v_inverse(design).T)
    beta = d_beta @ y
    residual = y - design @ beta
    weighted = v_inverse(residual)
    sigma = np.sqrt(residual @ weighted / (N - 4))
    return np.r_[beta, sigma], np.vstack([d_beta, weighted / (sigma * (N - 4))])


def mend(x: np.ndarray, y: np.ndarray, school: np.ndarray) -> np.ndarray:
    """Move hundredths between two pupils of a school until all effect sizes come back."""
    target = np.r_[BETA, SIGMA]
    tolerance = np.r_[3e-8, 1e-7, 1e-7, 1e-7, 1.5e-9]
    pupils = [np.flatnonzero((school == j) & ~FIXED) for j in range(6)]
    up, down = np.concatenate([np.array(np.meshgrid(p, p)).reshape(2, -1) for p in pupils], axis=1)
    up, down = up[up != down], down[up != down]

    for _ in range(20):
        figures, derivative = fit(x, y, school)
        if np.all(np.abs(figures - target) < tolerance):
            break
        effects = 0.01 * (derivative[:, up] - derivative[:, down])
        effects[-1] += 0.01**2 / (SIGMA * (N - 4))  # a move also adds its own square to the residual sum
        candidates = []
        for pair in two_moves(effects.T, target - figures, tolerance):
            moved = y.copy()
            np.add.at(moved, up[pair], 0.01)
            np.add.at(moved, down[pair], -0.01)
            candidates.append(moved.round(2))
        y = min(candidates, key=lambda c: np.abs((fit(x, c, school)[0] - target) / tolerance).max())
    return y


def build() -> pd.DataFrame:
    rng = np.random.default_rng(20)
    classroom, school = draw_places(rng)
    x = draw_covariates(rng, school)
    mean = BETA[0] + x @ BETA[1:] + unshrunk_modes()[school]
    y = mean + draw_residuals(rng, x, school, classroom, mean)
    for j in range(6):
        free = (school == j) & ~FIXED
        y[free] = round_keeping_sum(y[free], 2)
    y = mend(x, y.round(2), school)
    return pd.DataFrame({"id": np.arange(1, N + 1), "extro": y}).assign(
        **dict(zip(COVARIATES, x.T, strict=True)),
        **{"class": np.array(CLASSES)[classroom], "school": np.array(SCHOOLS)[school]},
    )


if __name__ == "__main__":
    write("schools", build())
