"""What README.md shows is what the code prints and the benchmarks measured."""

import readme


def test_readme_is_up_to_date():
    text = readme.README.read_text(encoding="utf8")
    assert readme.filled(text) == text
    assert (readme.ROOT / "docs" / "sleepstudy.png").exists()
