"""The exercise notebooks: every solution passes its check, every stub fails it, typical mistakes are named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import exercise_notebooks as exercises
import matplotlib as mpl
import nbformat
import pytest
from test_book import table_of_contents

per_source = pytest.mark.parametrize("text", exercises.sources(), ids=lambda path: path.stem)


def code_cells(text: Path) -> list[tuple[str, str]]:
    return [(exercises.kind(c), c.source) for c in exercises.read_text(text).cells if c.cell_type == "code"]


def run(code: str, names: dict[str, Any]) -> dict[str, Any]:
    exec(compile(code, "<cell>", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    mpl.use("agg")
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: mpl.pyplot.close("all"))


@per_source
def test_notebook_is_made_from_its_source(text: Path) -> None:
    stored = (exercises.ROOT / "exercises" / f"{text.stem}.ipynb").read_text(encoding="utf8")
    assert stored.rstrip() == nbformat.writes(exercises.student_notebook(text)).rstrip(), "run: make exercises"


def test_every_chapter_has_exercises() -> None:
    chapters = {Path(name).name for name in table_of_contents() if re.match(r"book/\d\d_", name)}
    assert {text.stem for text in exercises.sources()} == chapters
    book = exercises.ROOT / "book"
    overview = (book / "exercise_notebooks.md").read_text(encoding="utf8")
    for name in chapters:
        link = f"<../exercises/{name}.ipynb>`"
        assert link in overview
        assert link in (book / "text" / f"{name}.md").read_text(encoding="utf8")


@per_source
def test_solutions_pass_stubs_fail_and_mistakes_are_named(text: Path) -> None:
    names: dict[str, Any] = {"__name__": "exercises"}
    answers = 0
    cells = code_cells(text)
    for i, (role, code) in enumerate(cells):
        if role == "checks":
            run(exercises.CHECKING.read_text(encoding="utf8") + "\n" + code, names)
        elif role == "plain":
            run(code, names)
        elif role == "answer":
            answers += 1
            j = next(j for j in range(i + 1, len(cells)) if cells[j][0] != "mistake")
            assert cells[j][0] == "check", f"a check must follow\n{code}"

            def verdict(answer: str, check: str = cells[j][1]) -> Any:
                return eval(check, run(answer, dict(names)))

            stub = exercises.stub(code)
            assert stub != code
            assert not verdict(stub).right, f"the stub passes\n{stub}"
            mistakes = [source for _, source in cells[i + 1 : j]]
            assert len(mistakes) >= 2, f"two typical mistakes of\n{code}"
            replies = []
            for mistake in mistakes:
                says = re.match(r"# says: (.+)\n", mistake)
                assert says, f"a mistake starts with '# says: ' and words of the reply\n{mistake}"
                reply = verdict(mistake)
                assert not reply.right, mistake
                assert says[1] in reply.message, f"{reply.message}\nto\n{mistake}"
                replies.append(reply.message)
            assert len(set(replies)) == len(replies), replies
            assert verdict(exercises.solution(code)).right, f"{verdict(exercises.solution(code))}\n{code}"
            run(exercises.solution(code), names)
    assert answers >= 3


@per_source
def test_handed_out_notebook_runs_and_approves_nothing(text: Path) -> None:
    names: dict[str, Any] = {"__name__": "exercises"}
    for cell in exercises.student_notebook(text).cells:
        if cell.cell_type != "code":
            continue
        assert "SOLUTION" not in cell.source
        if cell.source.startswith("check_"):
            assert not eval(cell.source, names).right
        else:
            run(cell.source, names)


CHECKING = run(exercises.CHECKING.read_text(encoding="utf8"), {})


@pytest.mark.parametrize(
    ("answer", "right", "says"),
    [
        (..., 1.0, "three dots"),
        (None, 1.0, "returns nothing"),
        (-1.0, 1.0, "sign"),
        (float("nan"), 1.0, "not a number"),
        ([1.0, 2.0], 1.0, "shape"),
        ("one", 1.0, "A number"),
        (1.0, "one", "A word"),
        (2.0, 1.0, "not it"),
        (1.0, lambda: 1.0, "A function"),
        (lambda: 1 / 0, lambda: 1.0, "ZeroDivisionError"),
    ],
)
def test_judge_says_what_is_wrong(answer: Any, right: Any, says: str) -> None:
    verdict = CHECKING["judge"](answer, right)
    assert not verdict.right
    assert says in verdict.message


def test_judge_knows_mistakes_and_right_answers() -> None:
    judge = CHECKING["judge"]
    assert judge(2.0001, 2.0).right
    assert judge(4.0, 2.0, [(4.0, "the variance")]).message == "the variance"
    assert judge(lambda n: n + 1, lambda n: 1 + n, inputs=[(1,), (2,)]).right
    assert not judge(2.01, 2.0).right
    assert "✓" in repr(judge("b", "b"))
