"""The R behind the callouts "In R": runs ``book/in_r/NN.R`` and keeps its output in ``book/in_r/NN.txt``.

Output begins with a line of versions. Messages stand where R writes them. `tests/test_in_r.py` compares the callouts with it.

    python tools/in_r.py            all chapters
    python tools/in_r.py 03 07      these chapters
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "book" / "in_r"
PACKAGE = re.compile(r"library\((\w+)\)|(\w+)::")


def run_r(*arguments: str | Path) -> str:
    """Output and messages of Rscript, run at the top of the repository; R's own words in English."""
    done = subprocess.run(
        ["Rscript", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "LANGUAGE": "en", "LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments[-1]} fails:\n{done.stdout}")
    return done.stdout


def versions(script: Path) -> str:
    """R, lme4 (which stands behind all of them) and the packages that a script names, with their versions."""
    named = ["lme4", *(a or b for a, b in PACKAGE.findall(script.read_text("utf8")))]
    packages = ", ".join(f'"{name}"' for name in dict.fromkeys(named))
    code = f"for (p in c({packages})) cat(',', p, packageDescription(p)$Version)"
    return run_r("-e", "cat('R', format(getRversion()))", "-e", code)


def main() -> None:
    scripts = sorted(SCRIPTS.glob("*.R"))
    for script in [s for s in scripts if s.stem in sys.argv[1:]] or scripts:
        output = [line.rstrip() for line in run_r(script).splitlines()]
        script.with_suffix(".txt").write_text("\n".join([versions(script), *output]) + "\n", "utf8")
        print(f"wrote {script.with_suffix('.txt').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
