"""Formulas: what they mean, how they fail, and that they never run anything."""

import contextlib
import pickle

import formulaic
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_data

from lmmlite import FormulaError, build_design, lmer, parse_formula
from lmmlite.formula import update_formula
from lmmlite.sides import build_side
from lmmlite.table import as_column


def bars(text):
    return [str(bar) for bar in parse_formula(text).bars]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y ~ x + (1 | g)", ["(1 | g)"]),
        ("y ~ (x | g) + (0 + z | h)", ["(x | g)", "(0 + z | h)"]),
        ("y ~ (1 + x || g)", ["(1 + x || g)"]),
        ("y ~ (1 | a/b)", ["(1 | a)", "(1 | a:b)"]),
        ("y ~ (x | a/b/c)", ["(x | a)", "(x | a:b)", "(x | a:b:c)"]),
        ("y ~ (1 | a:b/c)", ["(1 | a:b)", "(1 | a:b:c)"]),
        ("y ~ (1 | `my school`)", ["(1 | `my school`)"]),
    ],
)
def test_bars(text, expected):
    assert bars(text) == expected
    assert bars(str(parse_formula(text))) == expected


def test_parts():
    formula = parse_formula("np.log(y) ~ x*f + poly(z, 2) + (1 + x | g) + (1 | h)")
    assert formula.response == "np.log(y)"
    assert formula.fixed == "x*f + poly(z, 2)"
    assert formula.variables == ("y", "x", "f", "z", "g", "h")
    assert parse_formula("y ~ (1 | g)").fixed == "1"
    assert parse_formula("y ~ (1 | g) - 1 + x").fixed == "- 1 + x"
    assert pickle.loads(pickle.dumps(formula)) == formula


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("y ~ x", "ordinary linear model", 5),
        ("y x + (1 | g)", "no '~'", 13),
        ("y ~ x ~ (1 | g)", "second '~'", 6),
        (" ~ x + (1 | g)", "response is missing", 0),
        ("y ~", "no terms after", 3),
        ("y ~ x + 1 | g", "parentheses of its own", 10),
        ("y ~ (x + (1 | g))", "parentheses of its own", 12),
        ("y ~ x + (1 | g", "never closed", 8),
        ("y ~ x + 1 | g)", "closes nothing", 13),
        ("y ~ x - (1 | g)", "cannot be subtracted", 6),
        ("y ~ (1 | g | h)", "one bar", 11),
        ("y ~ ( | g)", "What varies is missing", 6),
        ("y ~ (1 | )", "grouping factor is missing", 9),
        ("y ~ (1 | g + h)", "a random term for each factor", 11),
        ("y ~ (1 | np.log(g))", "Grouping factor not understood", 15),
        ("y | g ~ (1 | g)", "right of '~'", 0),
        ("y ~ x $ z + (1 | g)", "'\\$'", 6),
        ("y ~ x[1] + (1 | g)", "bracket", 5),
        ("y ~ {x} + (1 | g)", "Braces", 4),
        ("y ~ `x + (1 | g)", "backtick", 4),
    ],
)
def test_errors_point_at_the_place(text, message, place):
    with pytest.raises(FormulaError, match=message) as info:
        parse_formula(text)
    assert str(info.value).split("\n")[-1].index("^") == place + 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("y ~ x z + (1 | g)", "operator"),
        ("y ~ x * + (1 | g)", "ends where a term"),
        ("y ~ * x + (1 | g)", "missing before"),
        ("y ~ 2 + (1 | g)", "only be 0 or 1"),
        ("y ~ . + (1 | g)", "update"),
        ("y ~ I(x^2) + (1 | g)", r"\*\*"),
        ("y ~ lag(x) + (1 | g)", "'lag' is not a transform"),
        ("1 ~ x + (1 | g)", "names no column"),
        ("y ~ bs(x, df=100000) + (1 | g)", "too large"),
        ("y ~ 'x' + (1 | g)", "cannot stand here"),
    ],
)
def test_expressions_that_mean_nothing(text, message):
    with pytest.raises(FormulaError, match=message):
        parse_formula(text)


ATTACKS = [
    "__import__('os').system('touch {f}')",
    "open('{f}', 'w')",
    "I(open('{f}', 'w'))",
    "I(x.__class__)",
    "np.load('{f}')",
    "np.log(x).tofile('{f}')",
    "I((lambda: open('{f}', 'w'))())",
    "I([open('{f}', 'w') for _ in 'a'])",
    "I(x if open('{f}', 'w') else x)",
    "I((y := open('{f}', 'w')))",
    "I(*open('{f}', 'w'))",
    "I(**x)",
    "I(f'{open}')",
    "C(x, eval('1'))",
    "C(x, contr.__class__)",
    "poly(x, 9**9**9)",
    "I(x + 9**9**9)",
    "I('a' * 10**9)",
    "I(x @ x)",
    "I(x << 9999999999)",
    "exec('1')",
    "bs(x, df=open('{f}', 'w'))",
    "{open('{f}', 'w')}",
    "Q('x')",
    "hashed(x)",
]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", ["y ~ {} + (1 | g)", "{} ~ x + (1 | g)", "y ~ x + ({} | g)", "y ~ x + (1 | {})"])
def test_nothing_is_ever_run(attack, place, tmp_path):
    """Formulas that import, open files or reach attributes are refused before anything is evaluated."""
    victim = tmp_path / "touched"
    text = place.replace("{}", attack.replace("{f}", str(victim)))
    with pytest.raises(FormulaError):
        lmer(text, random_data(0))
    assert not victim.exists()


def test_names_are_columns_only():
    secret = np.ones(60)  # noqa: F841  a caller's variable that a formula must not see
    with pytest.raises(ValueError, match="no column 'secret'"):
        lmer("y ~ secret + (1 | g)", random_data(0))


words = st.sampled_from(
    list("xyzgf")
    + [
        "(",
        ")",
        "|",
        "||",
        "+",
        "-",
        "*",
        ":",
        "/",
        "~",
        "1",
        "0",
        "np.log(",
        "I(",
        "C(",
        "`",
        "'",
        ",",
        "**",
        " ",
        "poly(x, 2)",
    ]
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(words, max_size=15).map("".join) | st.text(max_size=30))
def test_any_text_parses_or_is_explained(text):
    with contextlib.suppress(FormulaError):
        parse_formula(text)


@pytest.mark.parametrize(
    "expression",
    [
        "f",
        "x",
        "x + f",
        "f * h",
        "x * f + z",
        "f * h * x",
        "0 + x + z",
        "0 + x:z",
        "x + x:f",
        "f:h + f + h",
        "x:z",
        "f + f:x + x",
    ],
)
def test_plain_expressions_are_coded_as_formulaic_codes_them(expression):
    """The fast path for sums and products of plain columns gives formulaic's names and numbers."""
    data = random_data(1)
    table = {name: as_column(data[name], name)[0] for name in ("x", "z", "f", "h")}
    side, columns = build_side(expression, table, len(data))
    assert isinstance(side.recipe, tuple)
    expected = formulaic.model_matrix(expression, pd.DataFrame(table))
    assert list(side.names) == list(expected.columns)
    np.testing.assert_array_equal(np.column_stack(columns), expected.to_numpy(float))


@pytest.mark.parametrize(
    "expression",
    [
        "poly(x, 2)",
        "bs(x, df=4)",
        "C(f, contr.sum)",
        "I(z ** 2)",
        "np.log(x)",
        "log(x)",
        "scale(x)",
        "0 + f",
        "(x + f) ** 2",
    ],
)
def test_transforms_keep_their_state_on_new_data(expression):
    """New rows are coded with the knots, means and levels of the fit: predicting a part repeats the whole."""
    data = random_data(2)
    fit = lmer(f"y ~ {expression} + (1 | g)", data)
    part = data.iloc[5:12]
    np.testing.assert_allclose(fit.predict(part), fit.fitted.iloc[5:12], rtol=1e-10)


def test_columns_with_odd_names():
    data = random_data(3).rename(columns={"x": "the x", "g": "class", "f": "größe"})
    one = lmer("y ~ `the x` + größe + (`the x` | `class`)", data)
    other = lmer("y ~ x + f + (x | g)", random_data(3))
    assert one.criterion == pytest.approx(other.criterion, abs=1e-9)
    assert list(one.fixef.index) == ["Intercept", "the x", "größe[T.q]", "größe[T.r]"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (". ~ . - x", "y ~ f + (x | g)"),
        (". ~ . + z", "y ~ x + f + z + (x | g)"),
        (". ~ . + (1 | h)", "y ~ x + f + (x | g) + (1 | h)"),
        (". ~ . - (x | g) + (1 | g)", "y ~ x + f + (1 | g)"),
        ("np.log(y) ~ . - 1", "np.log(y) ~ 0 + x + f + (x | g)"),
        (". ~ x:f + (1 | g)", "y ~ x:f + (1 | g)"),
    ],
)
def test_update_formula(change, expected):
    assert update_formula(parse_formula("y ~ x + f + (x | g)"), change) == expected


def test_update_of_products_and_missing_terms():
    old = parse_formula("y ~ x * f + (1 | g)")
    assert update_formula(old, ". ~ . - x:f") == "y ~ x + f + (1 | g)"
    with pytest.raises(FormulaError, match=r"no random term \(1 \| h\)"):
        update_formula(old, ". ~ . - (1 | h)")
    with pytest.raises(FormulaError, match="no '~'"):
        update_formula(old, "- x")


@pytest.mark.parametrize(
    ("formula", "names"),
    [
        ("y ~ 1 + (f | g)", ["Intercept", "f[T.q]", "f[T.r]"]),
        ("y ~ 1 + (0 + f | g)", ["f[p]", "f[q]", "f[r]"]),
        ("y ~ 1 + (f || g)", ["Intercept", "f[T.q]", "f[T.r]"]),
        ("y ~ 1 + (1 | g) + (0 + x | g)", ["Intercept", "x"]),
    ],
)
def test_random_coefficients(formula, names):
    fit = lmer(formula, random_data(4))
    assert list(fit.ranef()["g"].columns) == names
    independent = "||" in formula or "0 + x" in formula
    assert len(fit.theta) == (len(names) if independent else len(names) * (len(names) + 1) // 2)
    if independent:
        assert list(fit.varcorr["group"]) == ["g", *[f"g.{i}" for i in range(1, len(names))], "Residual"]


def test_nested_levels_are_named():
    data = random_data(5)
    design = build_design(parse_formula("y ~ 1 + (1 | a/b)"), data)
    assert [levels.name for levels in design.groups] == ["a", "a:b"]
    labels = set(data["a"].astype(str) + ":" + data["b"].astype(str))
    assert set(design.groups[1].labels) == labels
    rows = design.groups[1].labels[design.groups[1].codes]
    assert list(rows) == list(data["a"].astype(str) + ":" + data["b"].astype(str))
