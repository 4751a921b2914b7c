"""Formulas made by chance and by malice: each is fitted or refused with a reason of our own, and none ever runs code."""

import builtins
import traceback
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_models import random_data

import lmmlite
from lmmlite import FormulaError, build_design, lmer, parse_formula
from lmmlite.design import read_table
from lmmlite.formula import update_formula

DATA = random_data(0).rename(columns={"w": "the w", "o": "class", "b": "größe"})
LIBRARY = Path(lmmlite.__file__).parent


def explained(call, *arguments):
    """The result of a call, or the ValueError or TypeError that a raise statement of the library itself gave as the reason."""
    result = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return call(*arguments)
    except (ValueError, TypeError) as error:
        result = error
    last = traceback.extract_tb(result.__traceback__)[-1]
    where = f"{last.filename}:{last.lineno}: {result!r}"
    assert LIBRARY in Path(last.filename).parents, where
    assert (last.line or "").startswith("raise"), where
    assert len(str(result)) > 10
    assert "\x1b[" not in str(result)  # the colours of formulaic's own messages
    assert "_column" not in str(result)
    return result


@pytest.fixture
def fired(monkeypatch):
    """The calls of a builtin ``canary``, which any code in a formula could reach."""
    calls = []
    monkeypatch.setattr(builtins, "canary", lambda *arguments: calls.append(arguments) or 1.0, raising=False)
    return calls


CODE = [
    "canary()",
    "x.canary()",
    "np.canary()",
    "__import__('builtins').canary()",
    "__builtins__",
    "x.__class__.__mro__",
    "np.log.__self__",
    "np.linalg.norm(x)",
    "np.random.seed(1)",
    "I(canary())",
    "I(x + canary())",
    "I(x if canary() else z)",
    "I(canary() or x)",
    "I(x and canary())",
    "I(not canary())",
    "I(x < canary())",
    "I((lambda: canary())())",
    "I(lambda: x)",
    "I([canary() for _ in x])",
    "I(sum(canary() for _ in x))",
    "I({canary()})",
    "I({x: canary()})",
    "I((canary(), x))",
    "I(x[canary()])",
    "I((w := canary()))",
    "I(f'{canary()}' == x)",
    "I(x, canary())",
    "I(*canary())",
    "I(**canary())",
    "I(x, **{'a': canary()})",
    "I(await canary())",
    "I((yield canary()))",
    "I(eval('canary()'))",
    "I(exec('canary()'))",
    "I(getattr(x, 'sum')())",
    "I(x.sum())",
    "I(x.values.tofile('f'))",
    "I(np.load('f'))",
    "C(x, canary())",
    "C(f, contr.treatment(canary()))",
    "C(f, contr.custom(canary()))",
    "C(f, contr.treatment.__init__)",
    "poly(x, degree=canary())",
    "poly(x, 2, _state=canary())",
    "bs(x, df=canary())",
    "scale(canary)(x)",
    "log(x)(canary())",
    "log(log)(x)",
    "np.log(x, out=z)",
    "np.log(x, where=z)",
    "hashed(x)",
    "lag(x)",
    "Q('x')",
    "{canary()}",
    "x + {canary()}",
    "`x` + {canary()}",
    "x[canary()]",
    "x @ canary()",
    "x; canary()",
    "x\ncanary()",
    "x # canary()",
    "x \\\n canary()",
    "x %canary()% z",
    # quotation marks that the tokens and Python understand differently
    "I('''a'==x==''' + str(canary()) + '''==z=='c''')",
    'I("""a"==x==""" + str(canary()) + """==z=="c""")',
    "C(x, '\\', canary(), '\\')",
    "C(x, '\\' + str(canary()) + '\\'')",
    "C(x, '\"] or canary() #')",
    "C(x, '\" + str(canary()) + \"')",
    "C(x, ')') + {canary()} + I('(' == x)",
    "C(x, ') + {canary()} + (')",
    "C(x, '`') + {canary()} + C(x, '`')",
    "C(x, '{canary()}')",
    "C(f, 'a' 'b')",
    "C(f, u'a')",
    "C(f, b'a')",
    # NFKC turns these into ASCII
    "I(ｃａｎａｒｙ())",
    "ｃａｎａｒｙ()",
    "I(ｅｖａｌ('canary()'))",
    "I(x．sum())",
    "𝐜𝐚𝐧𝐚𝐫𝐲()",
    "I(x.__ｃｌａｓｓ__)",
]


@pytest.mark.parametrize("code", CODE)
def test_code_is_refused(code, fired):
    for place in (
        "y ~ {} + (1 | g)",
        "{} ~ x + (1 | g)",
        "y ~ x + ({} | g)",
        "y ~ x + (1 | {})",
        "y ~ I({}) + (1 | g)",
    ):
        result = explained(lmer, place.replace("{}", code, 1), DATA)
        assert isinstance(result, ValueError), f"fitted: {code}"
    explained(update_formula, parse_formula("y ~ x + (1 | g)"), f". ~ . + {code}")
    assert not fired


NAMES = [
    *["np", "log", "I", "C", "poly", "scale", "contr", "canary", "__import__", "__builtins__", "eval", "x.__class__"],
    *["class", "lambda", "True", "None", "in", "1", "0", "1.5", "-1", "Intercept ", "_", "_column0_", "_column1_"],
    *["__FORMULAIC_STATE__", "__FORMULAIC_CONTEXT__", "µ", "ﬁ", "ｘ", "x²", "名前", "größe", "e\u0301", "Ω", "\u202ex"],
    *[
        "a b",
        "it's",
        'a"b',
        "a'b\"c",
        "{canary()}",
        "canary()",
        "a\\",
        "\\",
        "\\n",
        "%",
        "%in%",
        "~",
        ":",
        "*",
        "+",
        "|",
    ],
    *["(1 | g)", "a)", "(", "]", "#", ";", "a' + str(canary()) + 'b", '"] or canary() #', "x\t", "\x00", "a.b", "."],
]
#: Uses of a column, with the fixed effects that the same column gives under an ordinary name.
USES = ["{}", "log({})", "np.log({}) + {}", "z * {}", "poly({}, 2) + f", "I({} ** 2) + {}", "scale({}) + {}:f"]


@pytest.mark.parametrize("use", USES)
def test_a_name_is_only_a_name(use, fired):
    """A column called as a function, a keyword or a piece of code is that column, in and out of transforms."""
    data = DATA[["x", "z", "f", "g", "y"]]
    plain = build_design(parse_formula(f"y ~ {use.replace('{}', 'x')} + ({use.replace('{}', 'x')} || g)"), data)
    for name in NAMES:
        quoted, renamed = use.replace("{}", f"`{name}`"), data.rename(columns={"x": name})
        design = build_design(parse_formula(f"y ~ {quoted} + ({quoted} || g)"), renamed)
        np.testing.assert_array_equal(design.X, plain.X, name)
        np.testing.assert_array_equal(design.Z.data, plain.Z.data, name)
        again = np.column_stack(design.fixed.columns(read_table(design, renamed), design.n))
        np.testing.assert_allclose(again, plain.X, rtol=1e-12, err_msg=name)
    assert not fired


@pytest.mark.parametrize("name", ["canary", "np", "class", "µ", "it's", "a\\", "a b", "1", "x.__class__"])
def test_names_survive_an_update(name, fired):
    data = DATA[["x", "z", "f", "g", "y"]].rename(columns={"x": name})
    fit = lmer(f"y ~ log(`{name}`) + `{name}`:z + f + (1 | g)", data)
    again = fit.update(". ~ . - f").update(". ~ . + f")
    assert again.criterion == pytest.approx(fit.criterion, abs=1e-9)
    assert not fired


def test_several_names_that_shift_the_quotation(fired):
    """Backslashes and quotation marks in names must not let the next name be read as code."""
    names = ["a\\", "{canary()}", "b'", "canary()", 'c"', "' + str(canary()) + '", "d\\\\"]
    data = DATA.assign(**{name: np.sin(np.arange(60.0) * (i + 1)) for i, name in enumerate(names)})
    sums = " + ".join(f"`{name}`" for name in names)
    for extra in ("", " + I(x ** 2)", " + C(f, contr.sum)", " + ".join(["", *(f"I(`{n}` ** 2)" for n in names)])):
        fit = lmer(f"y ~ {sums}{extra} + (1 | g)", data)
        assert set(names) <= set(fit.fixef.index)
    assert not fired


def test_look_alikes_are_different_columns():
    """Python would read µ (micro) as μ (mu), and the ligature ﬁ as fi; columns are what they are called."""
    data = DATA.copy()
    data["µ"], data["μ"] = DATA["x"], DATA["z"]
    assert unicodedata.normalize("NFKC", "µ") == "μ"
    fit = lmer("y ~ I(µ + 1) + log(μ) + (1 | g)", data)
    assert list(fit.fixef.index) == ["Intercept", "I(µ + 1)", "log(μ)"]
    assert fit.criterion == pytest.approx(lmer("y ~ I(x + 1) + log(z) + (1 | g)", DATA).criterion, abs=1e-10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("y ~ x ** " + "9" * 5000 + " + (1 | g)", "whole number from 1 to 10"),
        ("y ~ x ** 0 + (1 | g)", "whole number from 1 to 10"),
        ("y ~ I(x ** " + "9" * 5000 + ") + (1 | g)", "cannot be read"),
        ("y ~ x ** ٣ + (1 | g)", "not part of a formula"),
        ("y ~ " + "(" * 3000 + "x" + ")" * 3000 + " + (1 | g)", "nested too deeply"),
        ("y ~ I(" + "(" * 3000 + "x" + ")" * 3000 + ") + (1 | g)", "nested too deeply"),
        ("y ~ I(" + "-" * 5000 + "x) + (1 | g)", "cannot be read"),
        ("y ~ " + "*".join(["x"] * 40) + " + (1 | g)", "more than 10000 terms"),
        ("y ~ (x + z + f + h + g) ** 10 + (1 | g)", "more than 10000 terms"),
        ("y ~ (((x + z) ** 10) ** 10) ** 10 + (1 | g)", "more than 10000 terms"),
        ("y ~ x:0 + (1 | g)", "only be 0 or 1"),
        ("y ~ x * 1 + (1 | g)", "only be 0 or 1"),
        ("y ~ x * -z + (1 | g)", "missing before '-'"),
        ("y - 1 ~ x + (1 | g)", r"Arithmetic.*I\(y - 1\)"),
        ("y:x ~ z + (1 | g)", "Arithmetic"),
        ("log(y) - 1 ~ x + (1 | g)", "Arithmetic"),
        ("I(y - 1) / x ~ z + (1 | g)", "Arithmetic"),
        ("y ~ I(None) + (1 | g)", "names no column"),
        ("y ~ log(True) + (1 | g)", "names no column"),
        ("y ~ x + (0 | g)", r"Nothing varies in \(0 \| g\)"),
        ("y ~ np.log(x, out=z) + (1 | g)", "takes one argument"),
        ("y ~ I('a' == f) + C(f, 'it\"s') + (1 | g)", "quotation marks"),
    ],
)
def test_what_means_nothing_or_would_take_for_ever(text, message):
    with pytest.raises(ValueError, match=message) as info:
        lmer(text, DATA)
    assert len(str(info.value)) < 1000


def test_long_formulas():
    """What is long but means something is fitted."""
    assert lmer("y ~ " + " + ".join(["x", "z"] * 3000) + " + (1 | g)", DATA).fixef.size == 3
    assert lmer("y ~ I(" + " + ".join(["x"] * 200) + ") + (1 | g)", DATA).fixef.size == 2
    assert lmer("y ~ " + "(" * 40 + "x" + ")" * 40 + " + (1 | g)", DATA).fixef.size == 2


covariates = st.sampled_from(["x", "z", "`the w`", "`class`", "größe"])
transforms = st.sampled_from(
    ["log({} + 30)", "np.exp(-{} / 9)", "I({} ** 2 - 1)", "I({} > 1)", "poly({}, 2)", "bs({}, df=4)", "cr({}, df=3)"]
    + ["scale({})", "center({})", "I(2 * {} / (3 + {}))", "sqrt(np.abs({}))", "{}", "{}", "{}"]
)
factors = st.sampled_from(["f", "h", "C(f)", "C(f, contr.sum)", "C(h, contr.treatment('t'))", "C(f, contr.helmert)"])
terms = st.builds(lambda text, x: text.replace("{}", x), transforms, covariates) | factors
sums = st.recursive(
    terms | st.sampled_from(["1", "0"]).map("{} + x".format),
    lambda inner: (
        st.builds("{}{}{}".format, inner, st.sampled_from([" + ", " + ", " - "]), inner)
        | st.builds("{}{}{}".format, terms, st.sampled_from(["*", ":", "/"]), terms)
        | st.builds("({}) ** {}".format, inner, st.sampled_from("123"))
        | st.builds("({})".format, inner)
    ),
    max_leaves=4,
)
groups = st.sampled_from(["g", "h", "a", "a/größe", "a:größe", "g:h", "g/h"])
varying = st.sampled_from(["1", "1", "x", "0 + x", "f", "x + z", "log(z)", "0 + f"]) | terms
bars = st.builds("({} {} {})".format, varying, st.sampled_from(["|", "||"]), groups)
responses = st.sampled_from(["y", "log(y)", "I(y - x)", "`y`", "scale(y)"])
meant = st.builds("{} ~ {} + {}".format, responses, sums, bars)

columns = covariates | st.sampled_from(["f", "g", "nowhere", "class", "y", "`x`"])
numbers = st.sampled_from(["0", "1", "2", "10", "-1", "1.5", ".5", "1e3", "1e400", "0x10", "1_0", "1j", "٣", "00"])
functions = st.sampled_from(["log", "np.log", "I", "C", "poly", "bs", "cr", "cc", "scale", "standardize", "sqrt"])
arguments = st.sampled_from(
    ["", ", 2", ", df=4", ", 0", ", -1", ", contr.sum", ", degree=2", ", raw=True", ", 'a'", ", z"]
)


def compound(inner):
    operators = st.sampled_from([" + ", " - ", "*", ":", "/", " ** ", "^", " == ", " < ", " % ", ", ", " in ", " "])
    return st.one_of(
        st.builds("{}{}{}".format, inner, operators, inner),
        st.builds("({})".format, inner),
        st.builds("-{}".format, inner),
        st.builds("({}) ** {}".format, inner, numbers),
        st.builds("{}({}{})".format, functions, inner, arguments),
        st.builds("I({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/", "**", ">", "%"]), inner | numbers),
    )


wild = st.recursive(columns | columns | numbers, compound, max_leaves=6)
wild_bars = st.builds("({} {} {})".format, wild, st.sampled_from(["|", "||"]), groups | wild)
formulas = meant | st.builds("{} ~ {} + {}".format, st.just("y") | wild, wild, bars | wild_bars)
pieces = st.sampled_from([*"()|~+-*/:^`'\"\\{}[].,=<>%# \n\t\x00\u2028", "||", "**", "1", "x", "é", "\ud800"])


@st.composite
def nearly_formulas(draw):
    """A formula from which a few characters are taken and into which a few are put."""
    text = draw(formulas)
    for _ in range(draw(st.integers(1, 3))):
        i = draw(st.integers(0, len(text)))
        text = text[:i] + draw(pieces | st.just("")) + text[i + draw(st.integers(0, 2)) :]
    return text


def many(n):
    return settings(max_examples=n, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@many(50)
@given(meant)
def test_what_formulas_mean_is_fitted(text):
    """A fit has a finite criterion, its design no repeated name, and its own text gives the same design."""
    fit = explained(lmer, text, DATA)
    if isinstance(fit, Exception):
        return
    assert np.isfinite([fit.criterion, fit.sigma, *fit.fixef, *fit.theta]).all()
    assert len(set(fit.design.fixed.names)) == len(fit.design.fixed.names)
    again = build_design(parse_formula(fit.formula), DATA)
    assert again.fixed.names == fit.design.fixed.names
    assert [str(term.bar) for term in again.terms] == [str(term.bar) for term in fit.design.terms]


@many(50)
@given(formulas)
def test_formulas_fit_or_are_explained(text):
    explained(lmer, text, DATA)


@many(300)
@given(nearly_formulas() | st.text(max_size=40) | st.binary(max_size=40).map(lambda b: b.decode("latin-1")))
def test_any_text_parses_or_shows_the_place(text):
    result = explained(parse_formula, text)
    if isinstance(result, FormulaError):
        assert not text.strip() or "\n" in result.text or "^" in str(result)
    else:
        assert str(parse_formula(str(result))) == str(result)


@many(60)
@given(nearly_formulas(), nearly_formulas())
def test_updates_are_read_or_explained(old, change):
    old = explained(parse_formula, old)
    if not isinstance(old, Exception):
        explained(update_formula, old, change.replace("y ~", ". ~ . +"))


@pytest.mark.parametrize("text", [b"y ~ x + (1 | g)", bytearray(b"y ~ x"), 1.5, None, ["y"], ("y ~ x",), object()])
def test_only_text_is_a_formula(text):
    with pytest.raises(TypeError, match="must be a string"):
        lmer(text, DATA)
