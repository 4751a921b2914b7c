"""Rows that never stand in memory: random slopes over 200,000 groups, from Parquet files; writes benchmarks/tables.md.

    python -m benchmarks.tables                       1e7 and 1e8 rows (2 GB of disk)
    python -m benchmarks.tables 1000000000            that many
    python -m benchmarks.tables --folder /big 100000000

Twice: the sums made by DuckDB (an Ibis table), and in pieces by pandas (the path of the folder).  Beside them a plain GROUP BY of
the same sums by DuckDB alone: what reading and adding cost at least.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.programs import memory_of_process
from lmmlite import lmer

HERE = Path(__file__).parent
GROUPS, CHUNK, THREADS = 200_000, 5_000_000, 2
FORMULA = "y ~ x + (x | g)"
SUMS = "count(*), sum(x), sum(x * x), sum(y), sum(x * y), sum(y * y)"


def write(rows: int, folder: Path) -> None:
    """Files of up to 5 million rows each."""
    folder.mkdir(parents=True, exist_ok=True)
    b = np.random.default_rng(0).standard_normal((2, GROUPS)) * [[1.0], [0.5]]
    for i, start in enumerate(range(0, rows, CHUNK)):
        n = min(CHUNK, rows - start)
        rng = np.random.default_rng([1, i])
        g, x = rng.integers(0, GROUPS, n, dtype=np.int32), rng.standard_normal(n, dtype=np.float32) + 5
        y = (1 + b[0, g] + (0.5 + b[1, g]) * x + rng.standard_normal(n)).astype(np.float32)
        table = pa.table({"g": g, "x": x, "y": y})
        pq.write_table(table, folder / f"{i:03}.parquet", use_dictionary=["g"], row_group_size=1_000_000)


def measure(what: str, folder: Path) -> dict[str, object]:
    """Seconds and peak memory beyond what this process held before."""
    import duckdb
    import ibis

    Path("/proc/self/clear_refs").write_text("5")
    before, start = memory_of_process("VmRSS"), time.perf_counter()
    if what in ("engine", "pieces"):
        data = ibis.duckdb.connect(threads=THREADS).read_parquet(f"{folder}/*.parquet") if what == "engine" else folder
        fit = lmer(FORMULA, data)
        told = {"sd": fit.varcorr["sd_or_corr"].round(4).tolist(), "slope": fit.fixef["x"], "se": fit.se["x"]}
    else:
        with duckdb.connect(config={"threads": THREADS}) as engine:
            engine.sql(f"SELECT g, {SUMS} FROM '{folder}/*.parquet' GROUP BY g").arrow()
        told = {}
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "gigabytes": (memory_of_process("VmHWM") - before) / 2**30, **told}


def in_a_process(what: str, folder: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "benchmarks.tables", "--only", what, "--folder", str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(sizes: list[int], folder: Path) -> None:
    path = HERE / "tables.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for rows in sizes:
        data = folder / f"{rows}"
        if not data.exists():
            write(rows, data)
        runs = {
            what: [in_a_process(what, data) for _ in range(3 if rows <= 10**8 else 1)]
            for what in ("engine", "pieces", "sums")
        }
        size = sum(file.stat().st_size for file in data.iterdir()) / 2**30
        best = {what: min(found, key=lambda run: run["seconds"]) for what, found in runs.items()}
        results[str(rows)] = {"gigabytes": size, **best}
        path.write_text(json.dumps(results, indent=1) + "\n")
    lines = [
        f"| {int(rows):.0e} | {r['gigabytes']:.1f} |"
        + "".join(f" {r[what]['seconds']:.1f} | {r[what]['gigabytes']:.2f} |" for what in ("engine", "pieces", "sums"))
        for rows, r in sorted(results.items(), key=lambda item: int(item[0]))
    ]
    text = f"""# Rows that never stand in memory

`lmer("{FORMULA}", table)` over Parquet files, {GROUPS:,} groups, {os.cpu_count()} cores (`python -m benchmarks.tables`); the best of three
runs up to 1e8 rows, one beyond.  Once the table is an Ibis table, whose engine, DuckDB, makes the sums; once it is the folder of the files,
which are read and summed in pieces, in one thread.  Beside them one plain GROUP BY of the six sums that such a model needs, by DuckDB
alone.  The fits read the files more than once (for centres first) and compute estimates with standard errors; memory is what they take
beyond the imports.

| rows | files (GB) | by DuckDB (s) | memory (GB) | in pieces (s) | memory (GB) | GROUP BY (s) | memory (GB) |
|---|---|---|---|---|---|---|---|
{chr(10).join(lines)}
"""
    (HERE / "tables.md").write_text(text, encoding="utf8")
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", type=int, default=[10**7, 10**8])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "lmmlite-tables")
    parser.add_argument("--only", choices=["engine", "pieces", "sums"])
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measure(given.only, given.folder)))
    else:
        main(given.rows, given.folder)
