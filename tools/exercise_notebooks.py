"""Exercise notebooks: one source with stub, solution, checks and typical mistakes -> a notebook for students.

The source of a notebook is ``book/exercises/text/NAME.md`` (MyST text notebook). Its code cells are

* plain: given to the student as they are; a check is a plain cell that starts with ``check_``;
* tagged ``checks`` (one): functions ``check_1`` … that call ``judge`` of ``book/exercises/checking.py``;
* tagged ``answer``: the solution. ``name = value  # SOLUTION`` becomes ``name = ...``, and the lines between
  ``# BEGIN SOLUTION`` and ``# END SOLUTION`` become ``...  # your lines here``;
* tagged ``mistake``: wrong answers in place of the ``answer`` before it, which start with ``# says: `` and words of the reply.

    python tools/exercise_notebooks.py                      write exercises/*.ipynb
    python tools/exercise_notebooks.py --check              fail when one is missing or stale
    python tools/exercise_notebooks.py --solutions FOLDER   write notebooks with the solutions instead, for instructors
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import nbformat
from notebooks import read_text

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "book" / "exercises" / "text"
CHECKING = ROOT / "book" / "exercises" / "checking.py"
BLOCK = re.compile(r"^([ \t]*)# BEGIN SOLUTION\n.*?# END SOLUTION[^\n]*", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"^(\s*[\w, \[\]\"']+?\s*=).*# SOLUTION *$", re.MULTILINE)
MARKS = re.compile(r"^[ \t]*# (?:BEGIN|END) SOLUTION *\n?|[ \t]*# SOLUTION *$", re.MULTILINE)


def sources() -> list[Path]:
    return sorted(SOURCES.glob("*.md"))


def kind(cell: nbformat.NotebookNode) -> str:
    """What a cell of the source is: markdown, checks, answer, mistake, check (calls one) or plain."""
    if cell.cell_type != "code":
        return "markdown"
    tags = cell.metadata.get("tags", [])
    named = [name for name in ("checks", "answer", "mistake") if name in tags]
    return named[0] if named else "check" if cell.source.startswith("check_") else "plain"


def stub(answer: str) -> str:
    """An answer with its solution taken out."""
    return LINE.sub(r"\1 ...", BLOCK.sub(r"\1...  # your lines here", answer))


def solution(answer: str) -> str:
    return MARKS.sub("", answer).strip("\n")


def checks(cell: nbformat.NotebookNode) -> str:
    return CHECKING.read_text(encoding="utf8") + "\n\n" + cell.source


def student_notebook(text: Path, solved: bool = False) -> nbformat.NotebookNode:
    """The notebook to hand out, or the one with solutions."""
    notebook = read_text(text)
    cells = []
    for cell in notebook.cells:
        role = kind(cell)
        if role == "mistake":
            continue
        if role == "answer":
            cell.source = solution(cell.source) if solved else stub(cell.source)
        if role == "checks":
            cell.source = checks(cell)
            cell.metadata["jupyter"] = {"source_hidden": True}
        cell.metadata.pop("tags", None)
        cells.append(cell)
    notebook.cells = cells
    return notebook


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only")
    parser.add_argument("--solutions", type=Path, metavar="FOLDER", help="write notebooks with solutions there")
    args = parser.parse_args()
    folder = args.solutions or ROOT / "exercises"
    stale = []
    for text in sources():
        path, content = folder / f"{text.stem}.ipynb", nbformat.writes(student_notebook(text, bool(args.solutions)))
        if args.check and (not path.exists() or path.read_text(encoding="utf8").rstrip() != content.rstrip()):
            stale.append(f"{path.name} differs from {text.relative_to(ROOT)}")
        elif not args.check:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(content.rstrip() + "\n", encoding="utf8")
    print("\n".join([*stale, "run: make exercises"]) if stale else f"{len(sources())} exercise notebooks")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
