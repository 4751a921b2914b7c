"""Chapters: text -> executed notebook.

The source of a chapter is ``book/text/NAME.md`` (MyST text notebook). This script executes it and writes ``book/NAME.ipynb``, which the
table of contents, the downloads and nbval use. Cell ids come from the cells' contents, pictures are left out (the book build makes
them), and nothing depends on the time, so that a difference in a notebook is a difference in what a reader sees.

    python tools/notebooks.py                  all chapters
    python tools/notebooks.py book/text/03*    these chapters
    python tools/notebooks.py --check          fail when a notebook is missing, stale or not executed
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

os.environ.setdefault("OMP_NUM_THREADS", "1")  # many small fits; threads would wait for each other
BOOK = Path(__file__).resolve().parents[1] / "book"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}
PICTURES = ("image/png", "image/jpeg", "image/svg+xml", "application/pdf")


def chapters() -> list[Path]:
    """The text sources; names in capitals (TEMPLATE) are not chapters."""
    return sorted(path for path in (BOOK / "text").glob("*.md") if not path.stem.isupper())


def notebook_path(text: Path) -> Path:
    return BOOK / f"{text.stem}.ipynb"


def read_text(text: Path) -> nbformat.NotebookNode:
    """The notebook as written, without outputs."""
    notebook = jupytext.reads(text.read_text(encoding="utf8"), fmt="md:myst")
    notebook.metadata = nbformat.from_dict(METADATA)
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Run the cells in ``book/`` and keep what is reproducible of their outputs."""
    NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(BOOK)}},
    ).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream" and output.name == "stderr":
                raise RuntimeError(f"a cell writes to stderr; mend its cause:\n{output.text}\nin\n{cell.source}")
            for kind in PICTURES:
                output.get("data", {}).pop(kind, None)
                output.get("metadata", {}).pop(kind, None)
            if "text/html" in output.get("data", {}):
                output.data["text/plain"] = re.sub(r"0x[0-9a-f]+", "0x000000", output.data["text/plain"])
    return notebook


def figures(cell: nbformat.NotebookNode) -> int:
    """How many pictures an executed cell shows (the pictures themselves are not kept, their descriptions are)."""
    return sum(
        output.get("data", {}).get("text/plain", "").startswith("<Figure ") for output in cell.get("outputs", ())
    )


def complaint(text: Path) -> str | None:
    """What is wrong with the notebook of this text, or None."""
    path = notebook_path(text)
    if not path.exists():
        return f"{path.name} is missing"
    stored = nbformat.read(path, as_version=4)
    for cell in stored.cells:
        if cell.cell_type == "code":
            if cell.source.strip() and cell.execution_count is None:
                return f"{path.name} has a cell that was not executed"
            cell.outputs, cell.execution_count = [], None
    if stored != read_text(text):
        return f"{path.name} differs from text/{text.name}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("texts", nargs="*", type=Path, help="files in book/text (default: all chapters)")
    parser.add_argument("--check", action="store_true", help="compare only; execute and write nothing")
    args = parser.parse_args()
    texts = args.texts or chapters()
    if args.check:
        complaints = [c for c in map(complaint, texts) if c]
        print("\n".join([*complaints, "run: make notebooks"]) if complaints else "notebooks agree with their text")
        return bool(complaints)
    for text in texts:
        nbformat.write(execute(read_text(text)), notebook_path(text))
        print(f"wrote {notebook_path(text).relative_to(BOOK.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
