"""What one would publish: every number in it is one of the fit."""

import pytest
from random_models import random_data

from lmmlite import lmer, load_dataset
from lmmlite.report import report


def test_text():
    fit = lmer("frequency ~ attitude + gender + (1 | subject) + (1 | scenario)", load_dataset("politeness"))
    text = report(fit)
    for part in (
        "frequency ~ attitude + gender + (1 | subject) + (1 | scenario)",
        "REML to 83 rows (1 rows with missing values left out)".replace("1 rows with", "1 row with"),
        "6 levels of subject and 7 levels of scenario",
        "24.8 for Intercept by subject, 14.8 for Intercept by scenario",
        "residual standard deviation was 25.4",
        "attitude[T.pol]",
        "-19.72",
    ):
        assert part in text


def test_markdown_and_latex():
    fit = lmer("y ~ x + f + (1 | g)", random_data(1))
    table = report(fit, "markdown", "kenward-roger").split("\n\n")[1].split("\n")
    assert len(table) == 2 + 4
    assert len({line.count("|") for line in table}) == 1
    latex = report(fit, "latex", "normal")
    assert latex.count(r"\\") == 5
    assert r"95 \% CI" in latex
    assert "normal approximation" in latex
    assert " & df & " not in latex


def test_singular_fits_say_so():
    assert "singular" in report(lmer("Yield ~ 1 + (1 | Batch)", load_dataset("dyestuff2")))


def test_unknown_style():
    with pytest.raises(ValueError, match="'text', 'markdown' or 'latex'"):
        report(lmer("y ~ x + (1 | g)", random_data(1)), "html")
