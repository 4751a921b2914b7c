"""Each program on one case, in a process of its own: seconds, REML criterion and peak memory of whole fits.

    python -m benchmarks.programs glmm sleepstudy     prints them as JSON

Whole means: from a data frame to estimates with standard errors.  A program with several documented settings has its quickest
one reported.  `run` starts the processes, with one thread, and ends those that need too long or too much memory.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.cases import CASES, LAWS, Case
from lmmlite import lmer, parse_formula

HERE = Path(__file__).parent
SECONDS = 120  # for one program on one case: making or reading the data, warming up, all repeats
SECONDS_LAW = 60  # the same for a case of a growth law
BYTES = 12 * 2**30  # of address space
PATIENCE = 20  # seconds: a fit is repeated, and another setting tried, only as far as this lasts
THREADS = os.environ.get("OMP_NUM_THREADS", "1")
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS"), THREADS),
    "RUST_BACKTRACE": "0",
}

Fit = Callable[[], dict[str, Any]]  # one whole fit; its criterion, and what else there is to tell


class CannotFit(Exception):
    """The program does not offer such models."""


def lmmlite(case: Case, data: pd.DataFrame) -> dict[str, Fit]:
    def fit() -> dict[str, Any]:
        result = lmer(case.formula, data)
        assert len(result.fixef) == len(result.se)
        assert len(result.varcorr)
        return {"criterion": result.criterion, "evaluations": len(result.optimum.steps)}

    return {"default": fit}


def glmm(case: Case, data: pd.DataFrame) -> dict[str, Fit]:
    import glmm

    data = data.astype(dict.fromkeys(groups(case), str))  # it takes numbers for slopes, not labels

    def fit(**settings: Any) -> dict[str, Any]:
        return {"criterion": -2 * glmm.fit(data, case.formula, reml=True, **settings).loglik}

    return {"no df": lambda: fit(wald_se="rx", satterthwaite=False), "default": fit}


def mixedlm_rs(case: Case, data: pd.DataFrame) -> dict[str, Fit]:
    import mixedlm_rs

    formula = parse_formula(case.formula)
    if len(formula.bars) > 1:
        raise CannotFit("one grouping factor only")
    (bar,) = formula.bars

    def fit() -> dict[str, Any]:
        model = mixedlm_rs.mixedlm(
            f"{formula.response} ~ {formula.fixed}", data, groups=bar.group, re_formula=f"~ {bar.terms}"
        )
        result = model.fit(reml=True)
        assert len(result.bse_fe) == len(result.fe_params)
        return {"criterion": -2 * result.llf}

    return {"default": fit}


def lme_python(case: Case, data: pd.DataFrame) -> dict[str, Fit]:
    import lme_python
    import polars

    labels = data.astype({c: str for c in data if c in groups(case) or data[c].dtype == "category"})
    frame = polars.DataFrame({c: labels[c].to_numpy() for c in labels})  # its own kind of table; the conversion is free
    control = lme_python.FitControl(max_iterations=10_000)  # the default, 1,000, ends some fits early

    def fit() -> dict[str, Any]:
        result = lme_python.lmer(case.formula, frame, reml=True, control=control)
        assert len(result.std_errors) == len(result.coefficients)
        return {"criterion": -2 * result.log_likelihood}

    return {"default": fit}


def statsmodels(case: Case, data: pd.DataFrame) -> dict[str, Fit]:
    import statsmodels.formula.api as smf

    formula = parse_formula(case.formula)
    random: dict[str, Any]
    fixed = f"{formula.response} ~ {formula.fixed}"
    if len(formula.bars) == 1:
        (bar,) = formula.bars
        random = {"groups": bar.group, "re_formula": f"~ {bar.terms}"}
    elif any(bar.terms != "1" for bar in formula.bars):
        raise CannotFit("several factors only with independent variance components")
    else:  # as its documentation has it: variance components within the outermost factor, or within one group of all rows
        outer, *inner = sorted(groups(case), key=lambda g: data[g].nunique())
        random = {"groups": outer, "re_formula": "1"}
        if any(data.groupby(g, observed=True)[outer].nunique().max() > 1 for g in inner):
            inner, random = [outer, *inner], {"groups": [0] * len(data)}
        random["vc_formula"] = {g: f"0 + C({g})" for g in inner}

    def fit() -> dict[str, Any]:
        result = smf.mixedlm(fixed, data, **random).fit(reml=True)
        assert len(result.bse_fe) == len(result.fe_params)
        return {"criterion": -2 * result.llf}

    return {"default": fit}


PYTHON = {
    "lmmlite": lmmlite,
    "glmm": glmm,
    "mixedlm-rs": mixedlm_rs,
    "lme-python": lme_python,
    "statsmodels": statsmodels,
}
PROGRAMS = ["lmmlite", "lme4", "glmm", "mixedlm-rs", "lme-python", "statsmodels"]


def groups(case: Case) -> list[str]:
    return [factor for bar in parse_formula(case.formula).bars for factor in bar.factors]


def timed(call: Callable[[], Any], repeats: int, first: float = 0.0) -> float:
    """Median seconds of so many calls, of fewer when they take long; ``first`` is what an unmeasured one before took."""
    seconds: list[float] = []
    while len(seconds) < repeats and (not seconds or first + sum(seconds) < PATIENCE):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def memory_of_process(field: str) -> int:
    """VmRSS, what is resident now, or VmHWM, the most since the last reset (getrusage may report the parent's)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith(field)))


def measure(fits: dict[str, Fit], repeats: int) -> dict[str, Any]:
    best: dict[str, Any] = {}
    for setting, fit in fits.items():
        if best and best["seconds"] > PATIENCE:
            break
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before, start = memory_of_process("VmRSS"), time.perf_counter()
        told = fit()
        first, beyond = time.perf_counter() - start, memory_of_process("VmHWM") - before
        seconds = first if first > PATIENCE else timed(fit, repeats, first)
        if not best or seconds < best["seconds"]:
            best = {"seconds": seconds, **told, "setting": setting, "beyond_bytes": beyond}
    return best


def allocated(fit: Fit) -> int:
    """Most bytes that Python and numpy hold at a time for a fit; exact for small fits too, unlike resident memory."""
    tracemalloc.start()
    fit()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def run_here(program: str, case: Case) -> dict[str, Any]:
    data = case.data()
    try:
        fits = PYTHON[program](case, data)
    except CannotFit as reason:
        return {"failed": str(reason)}
    result = measure(fits, case.repeats)
    if program == "lmmlite":
        size = int(data.memory_usage(index=False, deep=True).sum())
        result |= {"rows": len(data), "data_bytes": size}
        if any(case in law.values() for law in LAWS.values()):
            result["allocated_bytes"] = allocated(fits["default"])
    return result


def run(program: str, case: Case) -> dict[str, Any]:
    """One program on one case; ``{"failed": reason}`` where it has no result."""
    limit = SECONDS_LAW if case.name.startswith("law") else SECONDS
    with tempfile.TemporaryDirectory() as folder:
        if program == "lme4":
            command = ["Rscript", str(HERE / "lme4_times.R"), write_for_r(case, Path(folder))]
        else:
            command = [sys.executable, "-m", "benchmarks.programs", program, case.name]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=limit,
                env=os.environ | ENVIRONMENT,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES)),
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"over {limit} s"}
    if done.returncode:
        if any(words in done.stderr for words in ("MemoryError", "memory allocation", "cannot allocate")):
            return {"failed": f"over {BYTES >> 30} GB"}
        lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("note:")]
        return {"failed": lines[-1][:100] if lines else f"ended with code {done.returncode}"}
    return json.loads(done.stdout)


def write_for_r(case: Case, folder: Path) -> str:
    """The case as files that R can read; path of the description."""
    case.data().to_csv(folder / "data.csv", index=False)
    description = {"csv": str(folder / "data.csv"), "formula": case.formula, "factors": groups(case)}
    path = folder / "case.json"
    path.write_text(json.dumps(description | {"repeats": case.repeats, "patience": PATIENCE}))
    return str(path)


if __name__ == "__main__":
    every = {case.name: case for case in [*CASES, *(c for law in LAWS.values() for c in law.values())]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        print(json.dumps(run_here(sys.argv[1], every[sys.argv[2]])))
