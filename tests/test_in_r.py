"""The callouts "In R" of the chapters against the scripts that made them and the output that R gave (`tools/in_r.py`).

Within a callout's code a line that begins with ``##`` is output, any other is code. Every line of code stands in ``book/in_r/NN.R``,
every line of output in ``book/in_r/NN.txt``, both in the order of the callouts. White space and remarks do not count, a callout may
leave lines out, and the script may break a line elsewhere or wrap it in `print`. No R is needed here.
"""

import re
from pathlib import Path

import pandas as pd
import pytest

from lmmlite import load_dataset

BOOK = Path(__file__).parents[1] / "book"
CALLOUT = re.compile(r"^(:{3,})\{admonition\} In R\n(.*?)^\1$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def squeeze(text):
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def callout_code(chapter):
    """Lines of code and lines of output in the callouts of a chapter."""
    text = chapter.read_text("utf8")
    lines = [line for _, inside in CALLOUT.findall(text) for block in CODE.findall(inside) for line in squeeze(block)]
    output = [line.removeprefix("##").strip() for line in lines if line.startswith("##")]
    code = [line.partition(" # ")[0] for line in lines if not line.startswith("##")]
    return code, [o for o in output if o not in ("", "…", "...")]


def first_missing(wanted, lines):
    """The first of the wanted lines that does not occur after those before it, or None."""
    rest = iter(lines)
    return next((line for line in wanted if line not in rest), None)


CHAPTERS = [path for path in sorted((BOOK / "text").glob("[0-9][0-9]_*.md")) if callout_code(path)[0]]
chapters = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


def script(chapter):
    return BOOK / "in_r" / f"{chapter.stem[:2]}.R"


@chapters
def test_code_of_the_callouts_is_in_the_script(chapter):
    rest = "".join(script(chapter).read_text("utf8").split())
    for line in callout_code(chapter)[0]:
        _, found, rest = rest.partition("".join(line.split()))
        assert found, line


@chapters
def test_output_of_the_callouts_is_what_r_printed(chapter):
    output = callout_code(chapter)[1]
    assert output
    assert first_missing(output, squeeze(script(chapter).with_suffix(".txt").read_text("utf8"))) is None


@pytest.mark.parametrize("path", sorted((BOOK / "in_r").glob("*.R")), ids=lambda path: path.stem)
def test_kept_output_is_of_this_script(path):
    """First the versions, then the blocks of the script, so that an edited script is run again."""
    output = path.with_suffix(".txt").read_text("utf8").splitlines()
    assert re.match(r"R \d+\.\d+\.\d+, lme4 \d", output[0])
    names = re.findall(r'cat\("(== .* ==)\\n"\)', path.read_text("utf8"))
    assert names
    assert [line for line in output if line.startswith("== ")] == names


@chapters
def test_versions_in_a_callout_are_those_of_the_output(chapter):
    named = [
        " ".join(version)
        for _, inside in CALLOUT.findall(chapter.read_text("utf8"))
        for version in re.findall(r"\b(R|lme4|lmerTest|merTools)`? \(?(\d+\.[\d.]*[\d-]*\d)", inside)
    ]
    used = script(chapter).with_suffix(".txt").read_text("utf8").splitlines()[0].split(", ")
    assert set(named) <= set(used)


def test_a_changed_digit_is_noticed():
    for chapter in CHAPTERS:
        printed = squeeze(script(chapter).with_suffix(".txt").read_text("utf8"))
        for i, line in enumerate(output := callout_code(chapter)[1]):
            for digit in re.finditer(r"\d", line):
                other = line[: digit.start()] + str((int(digit[0]) + 1) % 10) + line[digit.end() :]
                assert first_missing([*output[:i], other, *output[i + 1 :]], printed), f"{chapter.stem}: {other}"


def test_pilot_of_chapter_6():
    drawn = load_dataset("exam").sample(frac=0.1, random_state=7)[["school", "normexam"]]
    kept = pd.read_csv(BOOK / "in_r" / "pilot.csv", dtype={"school": str})
    pd.testing.assert_frame_equal(kept, drawn.astype({"school": str}).reset_index(drop=True))
