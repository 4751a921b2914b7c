"""Coverage of 95 % intervals on three small unbalanced designs, by simulation; `make coverage` writes book/data/coverage.csv.

Intervals of fixed effects by the normal approximation, Satterthwaite, Kenward–Roger, the profile likelihood and the parametric
bootstrap (percentiles).  2,000 data sets each; for the bootstrap 500 data sets of 399 replicates.  The true effects are zero.

    python tools/coverage_study.py [replicates] [bootstrap data sets]
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from tqdm import tqdm

from lmmlite import lmer
from lmmlite.inference.bootstrap import bootstrap
from lmmlite.inference.profile import profile
from lmmlite.model import MixedModel

TARGET = Path(__file__).resolve().parents[1] / "book" / "data" / "coverage.csv"


def few_groups() -> tuple[str, pd.DataFrame, list[str], dict]:
    """Eight groups of 2 to 12 rows in two arms: a covariate of groups and one within groups."""
    sizes = [2, 3, 4, 5, 6, 8, 10, 12]
    group = np.repeat(np.arange(8), sizes)
    within = np.concatenate([np.linspace(-1, 1, n) for n in sizes])
    data = pd.DataFrame({"g": group, "arm": (group % 2).astype(float), "x": within})
    return "y ~ arm + x + (1 | g)", data, ["arm", "x"], {"g": 1.0}


def few_slopes() -> tuple[str, pd.DataFrame, list[str], dict]:
    """Ten subjects seen three to eight times, with random intercepts and slopes."""
    visits = [3, 3, 4, 4, 5, 5, 6, 7, 8, 8]
    subject = np.repeat(np.arange(10), visits)
    time = np.concatenate([np.arange(float(n)) for n in visits])
    return "y ~ t + (t | g)", pd.DataFrame({"g": subject, "t": time}), ["t"], {"g": 1.0, "slope": 0.5}


def few_crossed() -> tuple[str, pd.DataFrame, list[str], dict]:
    """Six subjects crossed with seven items, a quarter of the cells empty: a factor of subjects and a treatment within."""
    rng = np.random.default_rng(11)
    cells = pd.MultiIndex.from_product([range(6), range(7), [0.0, 1.0]], names=["g", "h", "treatment"]).to_frame(
        index=False
    )
    data = cells[rng.random(len(cells)) > 0.25].reset_index(drop=True).assign(sex=lambda d: (d["g"] % 2).astype(float))
    return "y ~ treatment + sex + (1 | g) + (1 | h)", data, ["treatment", "sex"], {"g": 1.0, "h": 0.5}


DESIGNS = {"8 groups of 2–12": few_groups, "10 subjects, slopes": few_slopes, "6 × 7 crossed": few_crossed}


def response(data: pd.DataFrame, sds: dict, rng: np.random.Generator) -> np.ndarray:
    y = rng.normal(size=len(data))
    for name in ("g", "h"):
        if name in sds:
            y += sds[name] * rng.normal(size=data[name].nunique())[data[name]]
    if "slope" in sds:
        y += sds["slope"] * rng.normal(size=data["g"].nunique())[data["g"]] * data["t"]
    return np.asarray(y)


def intervals(fit: MixedModel, names: list[str], boot: int | None) -> dict[str, pd.DataFrame]:
    """One data frame ``lower upper`` for each method."""
    if boot is not None:
        return {"bootstrap": bootstrap(fit, 399, seed=boot).confint().loc[names]}
    out = {"normal": fit.confint().loc[names]}
    for ddf in ("satterthwaite", "kenward-roger"):
        table = fit.tidy(ddf=ddf).set_index("term").loc[names]
        out[ddf] = table[["conf_low", "conf_high"]].set_axis(["lower", "upper"], axis=1)
    out["profile"] = profile(fit, names, alphamax=0.05).confint()
    return out


def replicate(design: str, seed: int, boot: bool) -> list[dict]:
    formula, data, names, sds = DESIGNS[design]()
    rng = np.random.default_rng([seed, len(design)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # singular fits are part of the question
        fit = lmer(formula, data.assign(y=response(data, sds, rng)))
        return [
            {
                "design": design,
                "coefficient": name,
                "method": method,
                "covered": row["lower"] <= 0 <= row["upper"],
                "width": row["upper"] - row["lower"],
                "singular": fit.is_singular,
            }
            for method, table in intervals(fit, names, seed if boot else None).items()
            for name, row in table.iterrows()
        ]


def main(n: int = 2000, n_boot: int = 500) -> None:
    rows: list[dict] = []
    for design in DESIGNS:
        for boot, count in ((False, n), (True, n_boot)):
            jobs = (delayed(replicate)(design, seed, boot) for seed in range(count))
            done = Parallel(n_jobs=2, return_as="generator")(jobs)
            rows += [row for part in tqdm(done, f"{design}{', bootstrap' * boot}", count) for row in part]
    table = pd.DataFrame(rows)
    grouped = table.groupby(["design", "coefficient", "method"], sort=False)
    summary = grouped.agg(
        replicates=("covered", "size"),
        coverage=("covered", "mean"),
        median_width=("width", "median"),
        singular=("singular", "mean"),
        undefined=("width", lambda w: int(w.isna().sum())),
    )
    summary.insert(2, "mc_error", np.sqrt(summary["coverage"] * (1 - summary["coverage"]) / summary["replicates"]))
    TARGET.parent.mkdir(exist_ok=True)
    summary.round(4).to_csv(TARGET)
    print(summary.round(3).to_string())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
