"""Time whole fits, from a data frame to estimates with standard errors, beside the peers; measure memory, growth, iterations.

    python -m benchmarks            everything (about three quarters of an hour), to benchmarks/results.md and results.json
    python -m benchmarks sleepstudy maximal      only cases whose names contain one of the words; nothing is written
    python -m benchmarks "law: rows"             the same for the cases of a growth law

Each program runs at its best documented setting, with one thread, in a process of its own; one that cannot fit a case, or needs too
long or too much memory, gets a dash and the reason.  lme4 is left out where Rscript is missing.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from benchmarks import growth
from benchmarks.cases import CASES, Case
from benchmarks.programs import BYTES, PROGRAMS, SECONDS, SECONDS_LAW, THREADS, run

HERE = Path(__file__).parent
LARGE = 50_000  # rows, from which on memory is reported
WORSE = 1e-3  # a criterion so far above the best one is not that of the same fit


def machine() -> dict:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    packages = ("numpy", "scipy", "pandas", "formulaic", *(p for p in PROGRAMS if p not in ("lmmlite", "lme4")))
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": THREADS,
        "python": platform.python_version(),
        **{p: version(p) for p in packages},
    }


def measured(case: Case, programs: list[str]) -> dict:
    """The result of every program that has one, and why the others have none."""
    results = {program: run(program, case) for program in programs}
    done = {p: r for p, r in results.items() if "failed" not in r}
    return done | {"failed": {p: r["failed"] for p, r in results.items() if "failed" in r}}


def report(results: dict) -> str:
    cases = results["cases"]
    best = {name: min(case[p]["criterion"] for p in PROGRAMS if p in case) for name, case in cases.items()}

    def seconds(name: str, program: str) -> str:
        if program not in cases[name]:
            return "–"
        fit = cases[name][program]
        return f"{fit['seconds']:.3g}{'*' if fit['criterion'] > best[name] + WORSE else ''}"

    def megabytes(name: str, program: str) -> str:
        return f"{cases[name][program]['beyond_bytes'] / 1e6:.0f}" if program in cases[name] else "–"

    heading = f"| case | {' | '.join(PROGRAMS)} |"
    rule = "|---" * (1 + len(PROGRAMS)) + "|"
    lines = [
        "# Benchmarks",
        "",
        "Seconds for a whole fit by REML, from a data frame to estimates with standard errors (medians; one thread each).",
        "A dash: no result, for the reason below the table.  A star: the program stopped at a REML criterion more than "
        f"{WORSE} above the best one.",
        "",
        heading[:-1] + "| evaluations, lmmlite |",
        rule + "---|",
    ]
    for name, case in cases.items():
        evaluations = case.get("lmmlite", {}).get("evaluations", "–")
        lines.append(f"| {name} | {' | '.join(seconds(name, p) for p in PROGRAMS)} | {evaluations} |")
    above = max(case["lmmlite"]["criterion"] - best[name] for name, case in cases.items() if "lmmlite" in case)
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, case in cases.items():
        for program, reason in case["failed"].items():
            reasons.setdefault((program, reason), []).append(name)
    lines += [
        "",
        f"The REML criterion of lmmlite is nowhere more than {above:.1e} above that of any other program.",
        "",
        f"Each program had {SECONDS} s for a case ({SECONDS_LAW} s for one of a growth law), all repeats and the making or reading of the data included, and "
        f"{BYTES >> 30} GB.  Dashes:",
        "",
        *(f"- {program}, {reason}: {'; '.join(names)}." for (program, reason), names in reasons.items()),
        "",
        f"**Memory.** MB that a fit needs at its peak beyond the data and the program itself ({LARGE:,} rows and more):",
        "",
        heading,
        rule,
    ]
    for name, case in cases.items():
        if case.get("lmmlite", {}).get("rows", 0) >= LARGE:
            lines.append(f"| {name} | {' | '.join(megabytes(name, p) for p in PROGRAMS)} |")
    rows = next(iter(results["growth"].values()))
    largest = rows[max(rows, key=int)]["lmmlite"]
    lines += [
        "",
        f"{largest['rows']:.0e} rows (random slopes): the table takes {largest['data_bytes'] / 1e6:.0f} MB, "
        f"the fit at its peak {largest['beyond_bytes'] / 1e6:.0f} MB beyond it "
        f"({largest['beyond_bytes'] / largest['data_bytes']:.2f} times the table), in {largest['seconds']:.2f} s.",
        "",
        "**Growth.** Exponents: seconds and memory grow as the size to this power.  Fitted, on logarithms, to the "
        f"{growth.LARGEST} largest sizes; memory is what Python and numpy hold at a time.  A program that exceeds the limits "
        "is not tried at larger sizes.",
        "",
        *growth.tables(results["growth"]),
        "",
        "![Seconds and memory against sizes](growth.png)",
        "",
        "**Iterations.** One evaluation of criterion and gradient does not depend on the number of rows:",
        "",
        "| rows | pass over the rows (s) | one iteration (s) |",
        "|---|---|---|",
        *(
            f"| {r.rows:.0e} | {r[2]:.4f} | {r.iteration:.5f} |"
            for r in pd.DataFrame(results["iterations"]).itertuples()
        ),
        "",
        "![Seconds against rows](iterations.png)",
        "",
        "Machine and versions: " + ", ".join(f"{k} {v}" for k, v in results["machine"].items()) + ".",
        "",
    ]
    return "\n".join(lines)


def main(words: list[str]) -> None:
    programs = [p for p in PROGRAMS if p != "lme4" or shutil.which("Rscript")]
    results: dict = {"machine": machine(), "cases": {}, "growth": {}}
    for case in CASES:
        if not words or any(w in case.name for w in words):
            entry = results["cases"][case.name] = measured(case, programs)
            results["machine"] |= entry.get("lme4", {}).pop("made_by", {})
            print(case.name, entry, flush=True)
    for law, cases in growth.chosen(words).items():
        results["growth"][law] = growth.measure(cases)
    if words:
        return
    results["iterations"] = growth.iterations().to_dict("list")
    write(results)


def write(results: dict) -> None:
    growth.plot(results["growth"])
    growth.plot_iterations(pd.DataFrame(results["iterations"]))
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "results.md").write_text(report(results))
    print(report(results))


if __name__ == "__main__":
    main(sys.argv[1:])
