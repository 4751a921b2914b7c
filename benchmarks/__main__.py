"""Time whole fits, from a data frame to estimates with standard errors, beside the peers; measure memory and iterations.

    python -m benchmarks            everything (about ten minutes), results to benchmarks/results.md and results.json
    python -m benchmarks sleepstudy maximal      only cases whose names contain one of the words; nothing is written

Each program runs at its best documented setting; `make bench` gives every one of them one thread (OMP_NUM_THREADS=1).  lme4 is left out where Rscript is missing.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.cases import CASES, Case, slopes
from lmmlite import Criterion, build_design, crossproducts, lmer, parse_formula

HERE = Path(__file__).parent


def timed(call, repeats: int) -> float:
    """Median seconds after one unmeasured call."""
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def ours(case: Case, data: pd.DataFrame) -> dict:
    def fit():
        result = lmer(case.formula, data)
        return result.fixef, result.se, result.varcorr, result.criterion, result

    *_, criterion, result = fit()
    return {
        "seconds": timed(fit, case.repeats),
        "criterion": criterion,
        "evaluations": len(result.optimum.steps),
    }


def glmm(case: Case, data: pd.DataFrame) -> dict:
    import glmm

    groups = [bar.group for bar in parse_formula(case.formula).bars]
    data = data.astype(
        {g: str for g in groups if data[g].dtype.kind in "iu"}
    )  # it takes numbers for slopes, not labels
    best = {}
    for settings in ({}, {"wald_se": "rx", "satterthwaite": False}):

        def fit(settings=settings):
            return glmm.fit(data, case.formula, reml=True, **settings)

        seconds = timed(fit, min(case.repeats, 10))
        if not best or seconds < best["seconds"]:
            best = {"seconds": seconds, "criterion": -2 * fit().loglik}
    return best


def statsmodels(case: Case, data: pd.DataFrame) -> dict:
    import statsmodels.formula.api as smf

    formula = parse_formula(case.formula)
    (bar,) = formula.bars
    model = smf.mixedlm(
        f"{formula.response} ~ {formula.fixed}", data, groups=data[bar.group], re_formula=f"~ {bar.terms}"
    )
    return {
        "seconds": timed(lambda: model.fit(reml=True), min(case.repeats, 5)),
        "criterion": -2 * model.fit(reml=True).llf,
    }


def lme4(cases: list[tuple[Case, pd.DataFrame]]) -> dict[str, dict]:
    """All cases in one R process; R reads the tables from CSV, which is not timed."""
    with tempfile.TemporaryDirectory() as folder:
        specification = []
        for i, (case, data) in enumerate(cases):
            path = Path(folder) / f"{i}.csv"
            data.to_csv(path, index=False)
            factors = [b for bar in parse_formula(case.formula).bars for b in bar.factors]
            specification.append(
                {
                    "name": case.name,
                    "csv": str(path),
                    "formula": case.formula,
                    "reml": True,
                    "factors": factors,
                }
                | {"repeats": 1 if len(data) > 50_000 else min(case.repeats, 5)}
            )
        (Path(folder) / "cases.json").write_text(json.dumps(specification))
        command = ["Rscript", str(HERE / "lme4_times.R"), str(Path(folder) / "cases.json")]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    result = json.loads(output)
    return {c["name"]: c for c in result["cases"]} | {"made_by": result["made_by"]}


def memory(n: int = 10**7) -> dict:
    """Peak memory of a fit beyond its data, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npz"
        data = slopes(n, n // 20)
        np.savez(path, **{c: data[c].to_numpy() for c in data})
        size = int(data.memory_usage(index=False).sum())
        del data
        command = [sys.executable, "-m", "benchmarks", "--memory", str(path)]
        out = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {"rows": n, "data_bytes": size, **out}


def peak_bytes() -> int:
    """Peak resident memory of this process; getrusage would report the parent's, where that was larger."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def measure_memory(path: str) -> None:
    columns = np.load(path)
    data = pd.DataFrame({c: columns[c] for c in columns})
    lmer("y ~ x + (x | g)", data.head(1000).assign(g=lambda d: d["g"] % 20))
    before = peak_bytes()
    start = time.perf_counter()
    fit = lmer("y ~ x + (x | g)", data)
    se = fit.se.sum()
    seconds = time.perf_counter() - start
    beyond = peak_bytes() - before
    print(json.dumps({"beyond_bytes": beyond, "seconds": seconds, "finite": bool(np.isfinite(se))}))


def iterations() -> pd.DataFrame:
    """Seconds of the pass over the rows and of one evaluation with gradient, for n rows in 2,000 groups."""
    rows = []
    for n in (10**4, 10**5, 10**6, 10**7):
        data = slopes(n, 2000)
        design = build_design(parse_formula("y ~ x + (x | g)"), data)
        pass_over_rows = timed(lambda design=design: crossproducts(design), 3)
        criterion = Criterion(crossproducts(design))
        step = timed(lambda criterion=criterion: criterion.evaluate([1.0, 0.0, 0.5], 1), 50)
        rows.append({"rows": n, "pass": pass_over_rows, "iteration": step})
        del data, design
    return pd.DataFrame(rows)


def plot(table: pd.DataFrame) -> None:
    import matplotlib.pyplot as plt

    from lmmlite.plots import COLORS, use_style

    use_style()
    fig, ax = plt.subplots()
    ax.loglog(table["rows"], table["pass"], "o-", color=COLORS["no"])
    ax.loglog(table["rows"], table["iteration"], "o-", color=COLORS["partial"])
    for name, label in (("pass", "one pass over the rows"), ("iteration", "one iteration")):
        ax.annotate(
            label,
            (table["rows"].iloc[-2], table[name].iloc[-2]),
            textcoords="offset points",
            xytext=(-10, 10),
            ha="right",
        )
    ax.set(
        title="After one pass the rows are never seen again",
        xlabel="rows (2,000 groups, random slopes)",
        ylabel="seconds",
    )
    fig.savefig(HERE / "iterations.png", dpi=150, bbox_inches="tight")


def machine() -> dict:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    packages = {p: version(p) for p in ("numpy", "scipy", "pandas", "formulaic", "glmm", "statsmodels")}
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "unset"),
        "python": platform.python_version(),
        **packages,
    }


def report(results: dict) -> str:
    def seconds(case: dict, peer: str) -> str:
        return f"{case[peer]['seconds']:.3g}" if peer in case else "–"

    lines = [
        "# Benchmarks",
        "",
        "Seconds for a whole fit by REML, from a data frame to estimates with standard errors (medians; one thread).",
        "A dash: not timed, because the program cannot fit the model or would need very long.",
        "",
        "| case | lmmlite | lme4 | glmm | statsmodels | evaluations |",
        "|---|---|---|---|---|---|",
    ]
    for name, case in results["cases"].items():
        cells = [seconds(case, peer) for peer in ("lmmlite", "lme4", "glmm", "statsmodels")]
        lines.append(f"| {name} | {' | '.join(cells)} | {case['lmmlite']['evaluations']} |")
    worst = max(
        c["lmmlite"]["criterion"] - c[p]["criterion"]
        for c in results["cases"].values()
        for p in c
        if p in ("lme4", "glmm")
    )
    memory, table = results["memory"], pd.DataFrame(results["iterations"])
    lines += [
        "",
        f"The REML criterion of lmmlite is nowhere more than {max(worst, 0):.1e} above that of lme4 or glmm.",
        "",
        f"**Memory.** {memory['rows']:.0e} rows (random slopes): the table takes {memory['data_bytes'] / 1e6:.0f} MB, "
        f"the fit at its peak {memory['beyond_bytes'] / 1e6:.0f} MB beyond it ({memory['beyond_bytes'] / memory['data_bytes']:.2f} "
        f"times the table), in {memory['seconds']:.2f} s.",
        "",
        "**Iterations.** One evaluation of criterion and gradient does not depend on the number of rows:",
        "",
        "| rows | pass over the rows (s) | one iteration (s) |",
        "|---|---|---|",
        *(f"| {r.rows:.0e} | {r[2]:.4f} | {r.iteration:.5f} |" for r in table.itertuples()),
        "",
        "![Seconds against rows](iterations.png)",
        "",
        "Machine and versions: " + ", ".join(f"{k} {v}" for k, v in results["machine"].items()) + ".",
        "",
    ]
    return "\n".join(lines)


def main(words: list[str]) -> None:
    chosen = [c for c in CASES if not words or any(w in c.name for w in words)]
    tables = {c.name: c.data() for c in chosen}
    results: dict = {"machine": machine(), "cases": {}}
    for case in chosen:
        entry = results["cases"][case.name] = {"lmmlite": ours(case, tables[case.name])}
        for peer in (glmm, statsmodels):
            if peer.__name__ in case.peers:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    entry[peer.__name__] = peer(case, tables[case.name])
        print(case.name, entry, flush=True)
    if shutil.which("Rscript"):
        timings = lme4([(c, tables[c.name]) for c in chosen if "lme4" in c.peers])
        results["machine"] |= timings.pop("made_by")
        for name, timing in timings.items():
            results["cases"][name]["lme4"] = timing
            print(name, timing["seconds"], flush=True)
    if words:
        return
    tables.clear()
    results["memory"], table = memory(), iterations()
    results["iterations"] = table.to_dict("list")
    plot(table)
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "results.md").write_text(report(results))
    print(report(results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        measure_memory(sys.argv[2])
    else:
        main(sys.argv[1:])
