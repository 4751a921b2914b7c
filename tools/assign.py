"""The course assignment: build it, prove that it grades rightly, grade a folder of submissions.

The source is ``book/exercises/assignment/assignment.md``. otter-grader makes two versions of it, ``_build/assign/student`` (to hand out) and
``_build/assign/autograder`` (with solutions and hidden tests). Run with the environment of ``make assign``.

    python tools/assign.py                  build, then grade an unanswered, a typical and a perfect submission
    python tools/assign.py grade FOLDER     grade every notebook of FOLDER, write FOLDER/grades.csv
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jupytext
import nbformat
from nbclient import NotebookClient
from otter.api import grade_submission
from otter.assign import main as otter_assign
from otter.test_files import GradingResults

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "book" / "exercises" / "assignment"
OUT = ROOT / "_build" / "assign"
STUDENT, SOLUTION = OUT / "student" / "assignment.ipynb", OUT / "autograder" / "assignment.ipynb"

QUESTIONS = [f"q{i}" for i in range(1, 10)]  # graded by tests; question 10 is read by a person
POINTS, TYPICAL = 24, 15


class Mistake(NamedTuple):
    """A typical mistake: what stands in place of the solution, and what the visible check says about it. It costs one point."""

    question: str
    right: str
    wrong: str
    says: str


MISTAKES = [
    Mistake("q1", 'by_school["single"].first().sum()', 'exam["single"].sum()', "counts pupils"),
    Mistake(
        "q2",
        "np.sqrt(residual_variance * XtX_inv[2, 2])",
        "residual_variance * XtX_inv[2, 2]",
        "looks like the variance of the estimate, not its standard error",
    ),
    Mistake("q3", 'fit.varcorr["variance"].iloc[0]', 'fit.varcorr["sd_or_corr"].iloc[0]', "SD between schools"),
    Mistake("q4", "(sizes**2).sum() / len(exam)", "sizes.mean()", "average the sizes over pupils"),
    Mistake("q5", "u_hand = weight * r_bar", "u_hand = r_bar", "without any shrinkage"),
    Mistake("q6", "z * sd_slope", 'z * fit_slope.se["intake"]', "limits are for the average slope"),
    Mistake("q7", "p_boundary = upper_tail(lr)", "p_boundary = stats.chi2.sf(lr, 2)", "variance cannot be negative"),
    Mistake("q8", 'df_single = effect["df"]', "df_single = len(exam) - 3", "counts pupils, less three"),
    Mistake("q9", "mean_variance + school_variance + fit_slope.sigma**2", "mean_variance", "mean line"),
]


def build() -> None:
    """Make both versions, and give the students' folder what its notebook needs."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    master = jupytext.reads((SOURCE / "assignment.md").read_text(encoding="utf8"), fmt="md:myst")
    master.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(master, Path(folder) / "assignment.ipynb")
        shutil.copy(SOURCE / "checks.py", folder)
        otter_assign(str(Path(folder) / "assignment.ipynb"), str(OUT))  # runs all tests against the solution
    library = build_wheel(STUDENT.parent)
    needed = f"./{library.name}\notter-grader=={version('otter-grader')}\nnotebook\n"
    (STUDENT.parent / "requirements.txt").write_text(needed)


def build_wheel(target: Path) -> Path:
    """This library as one file; built from a copy, because setuptools leaves a build folder behind."""
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(ROOT / "lmmlite", Path(copy) / "lmmlite", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ["pyproject.toml", "README.md", "LICENSE"]:
            shutil.copy(ROOT / name, copy)
        subprocess.run([*pip_wheel, "--wheel-dir", str(target), copy], check=True)
    (wheel,) = target.glob("lmmlite-*.whl")
    return wheel


def grade(notebook: Path) -> GradingResults:
    """The results of otter-grader, without Docker, in this environment."""
    (autograder,) = SOLUTION.parent.glob("*.zip")
    results = grade_submission(str(notebook), str(autograder), quiet=True)
    if results.catastrophic_error:
        raise RuntimeError(f"{notebook.name} cannot be graded") from results.catastrophic_error
    return results


def typical(folder: Path) -> Path:
    """The solution with every mistake of the list made in it."""
    notebook = nbformat.read(SOLUTION, as_version=4)
    for mistake in MISTAKES:
        cells = [cell for cell in notebook.cells if cell.cell_type == "code" and mistake.right in cell.source]
        if len(cells) != 1:
            raise ValueError(f"{mistake.right} stands in {len(cells)} cells of the solution, not in one")
        cells[0].source = cells[0].source.replace(mistake.right, mistake.wrong)
    path = folder / "typical.ipynb"
    nbformat.write(notebook, path)
    return path


def expect(condition: bool, complaint: str) -> None:
    if not condition:
        raise AssertionError(complaint)


def run(path: Path) -> None:
    """Execute a notebook in a copy of its folder; an error in a cell is raised."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(path.parent, folder, dirs_exist_ok=True)
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=120, resources={"metadata": {"path": folder}}).execute()


def check_versions() -> None:
    """The student version holds no solution and no hidden test; the cells of both versions run from top to bottom."""
    notebook = nbformat.read(STUDENT, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells) + str(notebook.metadata)  # the tests are in the metadata
    expect("hidden=False" in text, "the student version has no visible checks")
    for secret in ["SOLUTION", "hidden=True", *(mistake.right for mistake in MISTAKES)]:
        expect(secret not in text, f"the student version holds {secret}")
    run(STUDENT)  # before anything is answered
    run(SOLUTION)  # its assertions compare answers by hand with the library's


def prove() -> None:
    """Unanswered, typical and perfect submissions get the points they should, and each mistake its message."""
    check_versions()
    with tempfile.TemporaryDirectory() as folder:
        submissions = {"unanswered": STUDENT, "typical": typical(Path(folder)), "perfect": SOLUTION}
        graded = {name: grade(path) for name, path in submissions.items()}
    for (name, results), points in zip(graded.items(), [0, TYPICAL, POINTS], strict=True):
        print(f"{name:11} {results.total:g} of {results.possible:g} points")
        expect(results.possible == POINTS, f"{results.possible} points are possible, not {POINTS}")
        expect(results.total == points, f"the {name} submission should get {points} points")
    for question in QUESTIONS:
        passes = {name: results.get_result(question).passed_all_public for name, results in graded.items()}
        expect(passes["perfect"], f"the visible check of {question} fails the solution")
        expect(not passes["unanswered"], f"the visible check of {question} passes without an answer")
    for mistake in MISTAKES:
        result = graded["typical"].get_result(mistake.question)
        expect(result.score == result.possible - 1, f"the mistake of {mistake.question} should cost one point")
        message = result.test_case_results[0].message  # the first test is the visible one
        expect(mistake.says in message, f"{mistake.question} should say “{mistake.says}” but says:\n{message}")
        print(f"  {mistake.question}: {message.split('AssertionError: ')[-1]}")


def report(notebook: Path) -> str:
    """The text of question 10: the text cells between otter's two marks, without the question itself."""
    cells = [c.source.strip() for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "markdown"]
    marks = [i for i, text in enumerate(cells) if text.startswith(("<!-- BEGIN QUESTION -->", "<!-- END QUESTION -->"))]
    return "\n\n".join(cells[marks[0] + 1 : marks[1]]) if len(marks) == 2 else "(marks removed: see the notebook)"


def grade_folder(folder: Path) -> None:
    """Points by question and the reports of all notebooks in a folder; the column q10 is for the person who reads them."""
    with (folder / "grades.csv").open("w", newline="", encoding="utf8") as file:
        table = csv.writer(file)
        table.writerow(["notebook", *QUESTIONS, "sum", "q10", "report"])
        for notebook in sorted(folder.glob("*.ipynb")):
            try:
                results = grade(notebook)
            except Exception as error:  # one broken notebook must not stop the others
                table.writerow([notebook.name, *[""] * len(QUESTIONS), "", "", f"cannot be graded: {error!r}"])
                print(f"{notebook.name}: cannot be graded")
                continue
            table.writerow([notebook.name, *map(results.get_score, QUESTIONS), results.total, "", report(notebook)])
            print(f"{notebook.name}: {results.total:g} of {results.possible:g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", nargs="?", choices=["build", "grade"], default="build")
    parser.add_argument("folder", nargs="?", type=Path, help="of the submissions")
    args = parser.parse_args()
    if args.command == "grade":
        if args.folder is None:
            parser.error("which folder?")
        grade_folder(args.folder)
    else:
        build()
        prove()


if __name__ == "__main__":
    main()
