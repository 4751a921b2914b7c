"""Build ``labs``: 1000 rows in 21 groups that give back the printed figures of three mixed models.

A published example prints three fits to one data set, but not the data: lmm1 ``y ~ x + (1 | Group)`` by ML,
lmm2 ``y ~ x + (1 | Group) + (0 + x | Group)`` by ML and lmm3 ``y ~ x + (1 + x | Group)`` by REML, which is
singular. All of it depends on the rows only through each lab's size, mean and sum of squares of x, intercept
and slope of its own least-squares line, and the residual sum of squares around these lines. Three steps:

1. Sizes. The offsets u of lmm1 and its two variances (ratio rho) say, with shrink = n rho / (1 + n rho), that
   sum shrink = sum u^2 / tau^2 = 17.8672, sum log(1 + n rho) = 51.730 (from the deviance) and
   sum n u^2 / shrink = 18.299 (from the two R^2 together). SIZE, found by a random search, obeys all three.
2. Statistics. Given the sizes, lmm1's offsets and residual SD fix the lines' heights and the residual sum of
   squares. STATISTICS solves for the rest: every printed estimate must be the optimum of its criterion, with
   the printed standard errors, degrees of freedom, deviances and R^2. There are fewer figures than unknowns,
   so where `solve_statistics` ends depends on where it starts and on the last bits of its arithmetic; what it
   found is kept here (``--solve`` continues from there and prints the result).
3. Rows. Drawn x are shifted and scaled to their statistics, drawn residuals projected; the R^2 "model" of
   lmm2 and lmm3 also depends on where large residuals lie: two more conditions on the projected residuals.
"""

import sys
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from common import write

N = 1000
OFFSETS = np.array(
    [-0.060852065, -0.128570334, 0.004326436, 0.003710606, 0.23398094, 0.368000908, -0.030078499, 0.185630208,
     -0.232259178, -0.072573552, -0.216983379, 0.215636079, 0.06191129, -0.33460677, 0.037591867, -0.008805021,
     -0.169493747, -0.06162958, -0.023323198, 0.01077819, 0.217608799]
)  # fmt: skip
SIZE = np.array([237, 108, 4, 2, 7, 7, 13, 21, 8, 166, 94, 87, 3, 13, 95, 14, 17, 7, 28, 60, 9])
STATISTICS = np.array(  # of each lab: mean and SD of x, thousandfold slope
    [[56.216645, 27.788272, 47.728765], [73.895537, 15.101034, 47.420079], [50.490411, 18.151837, 45.702771],
     [80.418609, 16.717897, 30.497534], [29.190575, 14.443599, 46.421729], [52.854504, 15.968126, 46.633424],
     [63.194020, 13.740695, 43.464286], [26.957294, 16.902818, 33.260700], [83.589806, 13.597500, 54.124396],
     [65.556977, 12.584327, 47.836080], [49.630858, 14.842279, 52.559926], [57.850843, 22.061413, 43.580397],
     [58.866125, 15.172198, 54.554788], [48.465314, 16.813184, 53.555917], [64.822578, 15.647488, 46.847367],
     [51.540630, 13.954193, 37.576536], [49.937306, 15.247536, 50.738899], [58.112903, 15.143998, 46.609216],
     [71.846583, 13.376599, 46.206978], [68.852644, 11.100676, 47.811043], [25.453774, 13.957440, 50.994362]]
).T  # fmt: skip


@dataclass(frozen=True)
class Printed:
    """The printed figures of one model; ``sds`` of the random intercept and slope."""

    beta: np.ndarray
    se: np.ndarray
    df: np.ndarray
    sds: np.ndarray
    sigma: float
    r2_model: float
    r2_fixed: float
    correlation: float = 0.0
    reml: bool = False

    @property
    def theta(self) -> np.ndarray:
        return self.sds / self.sigma


LMM1 = Printed(
    beta=np.array([0.425990318, 0.047049294]),
    se=np.array([0.049594947, 0.000430711]),
    df=np.array([32.91957856, 999.9529208]),
    sds=np.array([0.182703789]),
    sigma=0.262164699,
    r2_model=0.9431799,
    r2_fixed=0.9201095,
)
LMM2 = Printed(
    beta=np.array([0.441912771, 0.046776353]),
    se=np.array([0.056084539, 0.000627214]),
    df=np.array([20.52537169, 6.799725224]),
    sds=np.array([0.198195525, 0.001170298]),
    sigma=0.260799199,
    r2_model=0.9454617,
    r2_fixed=0.9202339,
)
LMM3 = Printed(
    beta=np.array([0.436631488, 0.046688799]),
    se=np.array([0.082690437, 0.00078598]),
    df=np.array([16.73261814, 14.9205669]),
    sds=np.array([0.334591939, 0.002807165]),
    sigma=0.259399193,
    r2_model=0.9472098,
    r2_fixed=0.9208767,
    correlation=-1.0,
    reml=True,
)
CHI2 = 1.101, 22.4906  # lmm1 to lmm2 to lmm3, all by ML; the printed p = 2.112e-06 narrows the second

RHO = LMM1.theta[0] ** 2
HEIGHTS = OFFSETS * (1 + SIZE * RHO) / (SIZE * RHO)  # lab means of y - X beta in lmm1


def relative_covariance(model: Printed, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entries 11, 12 and 22 of the covariance of (intercept, slope) over sigma^2, for rows of theta."""
    first = theta[..., 0]
    second = theta[..., 1] if theta.shape[-1] == 2 else np.zeros_like(first)
    return first**2, model.correlation * first * second, second**2


@dataclass(frozen=True)
class Labs:
    """Sufficient statistics: mean and sum of squares of x, each lab's own line, residual sum of squares."""

    mean: np.ndarray
    ss: np.ndarray
    intercept: np.ndarray
    slope: np.ndarray
    rss: float

    @classmethod
    def through_lmm1(cls, statistics: np.ndarray) -> "Labs":
        """The lines that have the printed offsets, and the residual sum that has the printed sigma."""
        mean, ss, slope = statistics[0], SIZE * statistics[1] ** 2, statistics[2] / 1000
        intercept = LMM1.beta[0] + HEIGHTS + (LMM1.beta[1] - slope) * mean
        rss = N * LMM1.sigma**2 - ss @ (slope - LMM1.beta[1]) ** 2 - np.sum(HEIGHTS**2 * SIZE / (1 + SIZE * RHO))
        return cls(mean, ss, intercept, slope, rss)

    def marginal(self, beta: np.ndarray) -> float:
        """Sum of squares of y - X beta."""
        at_mean = self.intercept - beta[0] + (self.slope - beta[1]) * self.mean
        return self.rss + SIZE @ at_mean**2 + self.ss @ (self.slope - beta[1]) ** 2

    @property
    def total(self) -> float:
        """Sum of squares of y about its mean."""
        at_mean = self.intercept + self.slope * self.mean
        return self.marginal(np.zeros(2)) - (SIZE @ at_mean) ** 2 / N

    def solve(self, model: Printed, theta: np.ndarray) -> tuple[np.ndarray, ...]:
        """For rows of theta: estimates, residual form, log|V|, log|X'V^-1 X| and the diagonal of its inverse.

        X and Z have the same columns, so a lab adds K = ((Z'Z)^-1 + relative covariance)^-1 to X'V^-1 X
        and K (its own line) to X'V^-1 y.
        """
        s11, s12, s22 = (entry[:, None] for entry in relative_covariance(model, np.atleast_2d(theta)))
        d11, d12, d22 = 1 / SIZE + self.mean**2 / self.ss + s11, s12 - self.mean / self.ss, 1 / self.ss + s22
        det = d11 * d22 - d12**2
        k11, k12, k22 = d22 / det, -d12 / det, d11 / det
        a11, a12, a22 = k11.sum(1), k12.sum(1), k22.sum(1)
        right0 = k11 @ self.intercept + k12 @ self.slope
        right1 = k12 @ self.intercept + k22 @ self.slope
        a_det = a11 * a22 - a12**2
        beta = np.stack([a22 * right0 - a12 * right1, a11 * right1 - a12 * right0], 1) / a_det[:, None]
        e0, e1 = self.intercept - beta[:, :1], self.slope - beta[:, 1:]
        form = self.rss + (k11 * e0**2 + 2 * k12 * e0 * e1 + k22 * e1**2).sum(1)
        log_v = np.log(det * SIZE * self.ss).sum(1)
        return beta, form, log_v, np.log(a_det), np.stack([a22, a11], 1) / a_det[:, None]

    def profiled(self, model: Printed, theta: np.ndarray, reml: bool = False) -> np.ndarray:
        """Deviance or REML criterion with beta and sigma profiled out."""
        _, form, log_v, log_a, _ = self.solve(model, theta)
        nu = N - 2 * reml
        return log_v + reml * log_a + nu * (1 + np.log(2 * np.pi * form / nu))

    def score(self, model: Printed, theta: np.ndarray, reml: bool) -> np.ndarray:
        """Derivative of the profiled criterion by log theta, by five-point differences."""
        step = np.diag(1e-4 * theta)
        points = np.vstack([theta + step, theta - step, theta + 2 * step, theta - 2 * step])
        up, down, up2, down2 = self.profiled(model, points, reml).reshape(4, -1)
        return (8 * (up - down) - (up2 - down2)) / 12e-4

    def satterthwaite(self, model: Printed) -> np.ndarray:
        """Degrees of freedom of both fixed effects, by differences in (theta, sigma)."""
        phi = np.r_[model.theta, model.sigma]
        k, h = phi.size, 1e-3 * phi
        step = np.diag(h)
        pairs = list(combinations(range(k), 2))
        points = [phi, *(phi + step), *(phi - step)]
        for i, j in pairs:
            points += [phi + step[i] + step[j], phi + step[i] - step[j]]
            points += [phi - step[i] + step[j], phi - step[i] - step[j]]
        points = np.array(points)
        _, form, log_v, log_a, inverse = self.solve(model, points[:, :-1])
        variance = points[:, -1] ** 2
        value = log_v + (N - 2 * model.reml) * np.log(variance) + form / variance + model.reml * log_a
        hessian = np.diag((value[1 : k + 1] + value[k + 1 : 2 * k + 1] - 2 * value[0]) / h**2)
        for (i, j), corner in zip(pairs, value[2 * k + 1 :].reshape(-1, 4), strict=True):
            hessian[i, j] = hessian[j, i] = (corner[0] - corner[1] - corner[2] + corner[3]) / (4 * h[i] * h[j])
        squared_se = inverse * variance[:, None]
        gradient = (squared_se[1 : k + 1] - squared_se[k + 1 : 2 * k + 1]) / (2 * h[:, None])
        return squared_se[0] ** 2 / np.einsum("ik,ij,jk->k", gradient, np.linalg.inv(hessian), gradient)


def misses(labs: Labs, theta3_ml: np.ndarray) -> np.ndarray:
    """Zero where all figures are met; each divided by what is a large miss."""
    deviance1 = labs.profiled(LMM1, LMM1.theta)[0]
    deviance2, deviance3 = deviance1 - CHI2[0], deviance1 - CHI2[0] - CHI2[1]
    out = [
        (labs.profiled(LMM2, LMM2.theta) - deviance2) / 3,
        (labs.profiled(LMM3, theta3_ml) - deviance3) / 3,
    ]
    out += [labs.score(LMM3, theta3_ml, reml=False)]  # anova refits lmm3 by ML
    for model in (LMM1, LMM2, LMM3):
        beta, form, _, _, inverse = labs.solve(model, model.theta)
        out += [(beta[0] - model.beta) / model.se, (model.sigma * np.sqrt(inverse[0]) / model.se - 1) / 0.1]
        out += [np.log(labs.satterthwaite(model) / model.df) / 0.3]
        out += [[(1 - labs.marginal(model.beta) / labs.total - model.r2_fixed) / 0.002]]
        if model is not LMM1:  # in lmm1 these two hold by construction
            out += [(np.sqrt(form / (N - 2 * model.reml)) / model.sigma - 1) / 0.005]
            out += [labs.score(model, model.theta, model.reml)]
    return np.concatenate(out)


def solve_statistics(steps: int = 80) -> np.ndarray:
    """Levenberg's iteration from STATISTICS towards the nearest ones that meet all figures."""
    mean, sd, slope = STATISTICS

    def unpack(change):
        a, b, c, d = np.split(change, [21, 42, 63])
        return np.stack([mean + 12 * a, sd * np.exp(0.17 * b), slope + c * 14 / np.sqrt(SIZE)]), theta3 * np.exp(
            0.1 * d
        )

    def evaluate(change):
        statistics, theta = unpack(change)
        return misses(Labs.through_lmm1(statistics), theta)

    theta3, change, damping = 0.97 * LMM3.theta, np.zeros(65), 1e-4
    now, probes = evaluate(change), 1e-5 * np.eye(65)
    for _ in range(steps):
        jacobian = np.stack([evaluate(change + p) - evaluate(change - p) for p in probes], axis=1) / 2e-5
        while damping < 1:
            move = -jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + damping * np.eye(now.size), now)
            after = evaluate(change + move)
            if after @ after < now @ now:
                change, now, damping = change + move, after, max(damping / 5, 1e-15)
                break
            damping *= 5
    return unpack(change)[0]


def residuals(rng: np.random.Generator, labs: Labs, lab: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Residuals around the labs' own lines: no line within a lab, the wanted sum of squares and R^2 "model".

    That R^2 is 1 - sum(t sigma^2 / (1 + t) + m^2 / (1 + t)^2) / total with m = y - X beta and t the diagonal
    of Z (relative covariance) Z', so it asks for a weighted sum of m^2.
    """
    indicator = np.eye(21)[lab]
    lines = np.hstack([indicator, indicator * (x - labs.mean[lab])[:, None]])
    q = np.linalg.qr(lines)[0]
    weights, lefts, wanted = [np.ones(N)], [np.zeros(N)], [labs.rss]
    for model in (LMM2, LMM3):
        s11, s12, s22 = relative_covariance(model, model.theta)
        t = s11 + 2 * s12 * x + s22 * x**2
        weights += [1 / (1 + t) ** 2]
        lefts += [labs.intercept[lab] - model.beta[0] + (labs.slope[lab] - model.beta[1]) * x]
        wanted += [(1 - model.r2_model) * labs.total - model.sigma**2 * np.sum(t / (1 + t))]
    weights, lefts, wanted = np.array(weights), np.array(lefts), np.array(wanted)

    e = rng.standard_normal(N)
    e -= q @ (q.T @ e)
    e *= np.sqrt(labs.rss / (e @ e))
    for _ in range(20):
        gap = wanted - np.sum(weights * (lefts + e) ** 2, axis=1)
        slopes = 2 * weights * (lefts + e)
        slopes -= (slopes @ q) @ q.T
        e += np.linalg.lstsq(slopes, gap, rcond=None)[0]
    return e


def restore_lmm1(y: np.ndarray, x: np.ndarray, lab: np.ndarray) -> np.ndarray:
    """Undo what rounding x did to the offsets (lab means of y - X beta) and to the equation of the slope."""
    rest = y - LMM1.beta[0] - LMM1.beta[1] * x
    means = np.bincount(lab, x) / SIZE
    rest += (HEIGHTS - np.bincount(lab, rest) / SIZE)[lab]
    inside = x - means[lab]
    rest -= inside * (inside @ rest + means @ OFFSETS / RHO) / (inside @ inside)
    return LMM1.beta[0] + LMM1.beta[1] * x + rest


def build() -> pd.DataFrame:
    rng = np.random.default_rng(4)  # a seed with positive x
    labs = Labs.through_lmm1(STATISTICS)
    lab = np.repeat(np.arange(21), SIZE)
    x = rng.beta(1, 2, N)  # skew to the right, so that x stays positive where its mean is small
    for j in range(21):
        z = x[lab == j] - x[lab == j].mean()
        x[lab == j] = labs.mean[j] + z * np.sqrt(labs.ss[j] / (z @ z))
    x = x.round(6)
    y = labs.intercept[lab] + labs.slope[lab] * x + residuals(rng, labs, lab, x)
    return pd.DataFrame({"y": restore_lmm1(y, x, lab).round(9), "x": x, "Group": lab + 1})


if __name__ == "__main__":
    if "--solve" in sys.argv:
        print(solve_statistics().T.round(6).tolist())
    else:
        write("labs", build())
