"""The book's sources: texts and notebooks agree, figures are described, names exist; the helpers of the chapters do what they say."""

from __future__ import annotations

import ast
import hashlib
import re
import symtable
import tomllib
from collections import Counter
from pathlib import Path

import nbformat
import notebooks
import pytest
import yaml

import bookkit

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
CHAPTERS = notebooks.chapters()
PAGES = [*CHAPTERS, *sorted(BOOK.glob("*.md"))]
per_chapter = pytest.mark.parametrize("text", CHAPTERS, ids=lambda path: path.stem)


def read(path: Path) -> str:
    return path.read_text(encoding="utf8")


def table_of_contents() -> list[str]:
    toc = yaml.safe_load(read(ROOT / "_toc.yml"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


@per_chapter
def test_notebook_is_its_text_executed(text: Path) -> None:
    assert notebooks.complaint(text) is None


@per_chapter
def test_every_figure_has_alternative_text(text: Path) -> None:
    for cell in nbformat.read(notebooks.notebook_path(text), as_version=4).cells:
        if notebooks.figures(cell):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt) >= 40, f"describe the figure (mystnb: image: alt) of\n{cell.source}"


def names(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """The names that a statement takes from outside, and those that it leaves behind; the compiler's tables know the scopes."""
    cell = symtable.symtable(ast.unparse(statement), "cell", "exec")
    made = {name.get_name() for name in cell.get_symbols() if name.is_assigned() or name.is_imported()}
    read = {name.get_name() for name in cell.get_symbols() if name.is_referenced()}
    inner = cell.get_children()
    while inner:
        scope = inner.pop()
        read |= {name.get_name() for name in scope.get_symbols() if name.is_global()}
        inner += scope.get_children()
    if hasattr(statement, "body"):  # a loop reads its own variable, a function itself
        read -= made
    if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
        read.add(statement.target.id)  # x += 1 needs an x
    return read, made


def test_names_of_a_statement() -> None:
    expected = {
        "x = [i * k for i in rows]": ({"k", "rows"}, {"x"}),
        "def f(a, b=c):\n    d = a + e\n    return lambda u: u * d * f(g)": ({"c", "e", "g"}, {"f"}),
        "for i, x in rows:\n    y = i * x": ({"rows"}, {"i", "x", "y"}),
        "y[k] = a.b": ({"y", "k", "a"}, set()),
        "x += 1": ({"x"}, {"x"}),
        "import a.b as c": (set(), {"c"}),
    }
    assert {source: names(ast.parse(source).body[0]) for source in expected} == expected


@per_chapter
def test_shown_code_needs_no_hidden_code(text: Path) -> None:
    """Who types what the page shows, folded cells included, can run it: no name has its value from a cell that the page hides."""
    hidden: set[str] = set()
    for cell in notebooks.read_text(text).cells:
        if cell.cell_type == "code":
            on_page = {"remove-cell", "remove-input"}.isdisjoint(cell.metadata.get("tags", []))
            for statement in ast.parse(cell.source).body:
                read, made = names(statement)
                if on_page:
                    assert not read & hidden, f"only hidden cells define {sorted(read & hidden)} of\n{cell.source}"
                    hidden -= made
                else:
                    hidden |= made


def test_table_of_contents_and_files_agree() -> None:
    listed = table_of_contents()
    for name in listed:
        assert (ROOT / f"{name}.md").exists() or (ROOT / f"{name}.ipynb").exists(), name
    present = {f"book/{path.stem}" for path in [*BOOK.glob("*.md"), *BOOK.glob("*.ipynb")]}
    assert present == set(listed)
    assert {f"book/{text.stem}" for text in CHAPTERS} <= set(listed)


def test_configuration_names_no_outside_address() -> None:
    assert "://" not in read(ROOT / "_config.yml")


def test_cited_references_exist() -> None:
    keys = set(re.findall(r"^@\w+\{([^,\s]+),", read(BOOK / "references.bib"), flags=re.MULTILINE))
    for page in PAGES:
        for group in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", read(page)):
            assert {key.strip() for key in group.split(",")} <= keys, f"{page.name}: {group}"


def test_glued_names_are_unique() -> None:
    texts = [read(text) for text in CHAPTERS]
    made = Counter(name for text in texts for name in re.findall(r"\bnum\(\s*\"([^\"]+)\"", text))
    assert not [name for name, count in made.items() if count > 1]


def test_bundled_javascript_is_the_pinned_one() -> None:
    folder = BOOK / "static" / "vega"
    digest, name = read(folder / "SHA256SUMS").split()
    assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_versions_agree() -> None:
    version = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["version"]
    assert str(yaml.safe_load(read(ROOT / "CITATION.cff"))["version"]) == version
    assert f"## {version}" in read(ROOT / "CHANGELOG.md")


class Shown(list):
    """Collects what a helper displays."""

    def __call__(self, data: dict[str, str], **_: object) -> None:
        self.append(data["text/html"])


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    collected = Shown()
    monkeypatch.setattr(bookkit, "display", collected)
    return collected


def test_num_has_a_true_minus_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    glued = {}
    monkeypatch.setattr(bookkit, "glue", lambda name, value, display: glued.update({name: value}))
    bookkit.num("a", -1.234, ".2f")
    assert glued == {"a": "−1.23"}


def test_quiz_is_reproducible_escaped_and_has_a_right_choice(shown: Shown) -> None:
    for _ in range(2):
        bookkit.quiz("Is $a < b$?", ("`yes`", True, "so"), ("no & *no*", False, "because"))
    assert shown[0] == shown[1]
    assert r"\(a &lt; b\)" in shown[0]
    assert "<code>yes</code>" in shown[0]
    assert "no &amp; <em>no</em>" in shown[0]
    with pytest.raises(ValueError, match="no choice is right"):
        bookkit.quiz("?", ("a", False, ""))


def test_fill_in_keeps_mistakes_apart_from_the_answer(shown: Shown) -> None:
    bookkit.fill_in("?", 0.6, 0.01, {0.4: "the other share"}, solution="so")
    assert "the other share" in shown[0]
    with pytest.raises(ValueError, match="too near"):
        bookkit.fill_in("?", 0.6, 0.01, {0.61: "?"}, solution="so")


def test_slider_figure_is_rounded_and_closes_no_script(shown: Shown) -> None:
    bookkit.slider_figure({"title": "t", "data": {"values": [{"a": 1 / 3, "b": "</script>"}]}}, id="i", alt="d")
    assert "0.333333" in shown[0]
    assert "0.3333333" not in shown[0]
    assert shown[0].count("</script>") == 1
