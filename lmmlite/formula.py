"""Formulas as data: ``y ~ x + (1 + x | g)`` becomes a response, a fixed part and bars; nothing here evaluates anything."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import formulaic

from lmmlite.expressions import FormulaError, Token, check_brackets, check_expression, neutral, quote, source, tokens_of

_ARITHMETIC = ("-", "*", "/", ":", "**", "^")


@dataclass(frozen=True, slots=True)
class Bar:
    """One random term ``(terms | factor)``: the coefficients that vary, and the columns whose combinations they vary over."""

    terms: str
    factors: tuple[str, ...]
    correlated: bool = True

    @property
    def group(self) -> str:
        return ":".join(self.factors)

    def __str__(self) -> str:
        return f"({self.terms} {'|' if self.correlated else '||'} {':'.join(map(quote, self.factors))})"


@dataclass(frozen=True, slots=True)
class Formula:
    """A mixed-model formula, taken apart.

    Attributes
    ----------
    response, fixed : str
        Expressions for formulaic; ``fixed`` is ``"1"`` where only the intercept is left.
    bars : tuple of Bar
        Random terms, nested ones already expanded: ``(1 | a/b)`` gives the groups ``a`` and ``a:b``.
    variables : tuple of str
        Every column that the formula names, in order of appearance.
    """

    response: str
    fixed: str
    bars: tuple[Bar, ...]
    variables: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.response} ~ {' + '.join([self.fixed, *map(str, self.bars)])}"


def parse_formula(text: str) -> Formula:
    """Take a formula such as ``"y ~ x + (1 + x | g)"`` apart.

    Parameters
    ----------
    text : str
        Response, ``~``, fixed terms, and random terms in parentheses: ``(1 | g)``, ``(x | g)``, ``(0 + x | g)``, ``(x || g)``,
        ``(1 | a/b)``, ``(1 | a:b)``.  A column whose name is no Python name goes in backticks.

    Raises
    ------
    FormulaError
        Where the text is not such a formula, has no bar, or holds anything but columns, numbers and listed transforms.
    """
    if not isinstance(text, str):
        raise TypeError(f"The formula must be a string such as 'y ~ x + (1 | g)', not {type(text).__name__}.")
    tokens = list(tokens_of(text))
    check_brackets(tokens, text)
    tildes = [i for i, t in enumerate(tokens) if t.text == "~"]
    if not tildes:
        raise FormulaError("The formula has no '~' between the response and the terms.", text, len(text))
    if len(tildes) > 1:
        raise FormulaError("The formula has a second '~'.", text, tokens[tildes[1]].start)
    left, right = tokens[: tildes[0]], tokens[tildes[0] + 1 :]
    if not left:
        raise FormulaError("The response is missing: write it before '~'.", text, 0)
    if not right:
        raise FormulaError("There are no terms after '~'.", text, len(text))
    if any(t.text in ("|", "||") for t in left):
        raise FormulaError("A bar belongs to the right of '~'.", text, left[0].start)

    fixed: list[Token] = []
    bars: list[Bar] = []
    for sign, term in _split_terms(right):
        if _is_bar(term):
            if sign is not None and sign.text == "-":
                raise FormulaError("A random term cannot be subtracted; leave it out.", text, sign.start)
            bars += _bars(term, text)
        else:
            stray = next((t for t in term if t.text in ("|", "||")), None)
            if stray:
                raise FormulaError("A random term must stand in parentheses of its own: (1 | g).", text, stray.start)
            fixed += ([sign] if sign is not None and (fixed or sign.text == "-") else []) + term
    if not bars:
        raise FormulaError(
            "The formula has no random term such as (1 | g), so this is an ordinary linear model: "
            "fit it with statsmodels' ols, or add the grouping factor.",
            text,
            len(text),
        )
    _check_groups(bars, text)
    fixed_text = source(fixed, text) or "1"
    variables = dict.fromkeys(
        itertools.chain(check_expression(source(left, text)), check_expression(fixed_text), *map(_bar_names, bars))
    )
    if not check_expression(source(left, text)):
        raise FormulaError("The response names no column.", text, 0)
    arithmetic = next((t for t in _outside_calls(left) if t.text in _ARITHMETIC or t.kind == "number"), None)
    if arithmetic:
        raise FormulaError("Arithmetic in the response must stand in I(…), as in I(y - 1).", text, arithmetic.start)
    return Formula(source(left, text), fixed_text, tuple(bars), tuple(variables))


def update_formula(old: Formula, change: str) -> str:
    """The formula that ``change`` describes, in which ``.`` stands for the old response, or for the old terms and bars.

    ``". ~ . - x"`` takes a fixed term out, ``". ~ . + (1 | h)"`` adds a random term, ``". ~ . - (1 | g)"`` takes one out.
    """
    if not isinstance(change, str):
        raise TypeError(f"The change must be a string such as '. ~ . - x', not {type(change).__name__}.")
    tokens = list(tokens_of(change))
    check_brackets(tokens, change)
    tilde = next((i for i, t in enumerate(tokens) if t.text == "~"), None)
    if tilde is None:
        raise FormulaError("The change has no '~': write it as '. ~ . - x'.", change, len(change))
    response = source(tokens[:tilde], change)
    fixed = ""
    bars: list[Bar] = []
    for sign, term in _split_terms(tokens[tilde + 1 :]):
        minus = sign is not None and sign.text == "-"
        if [t.text for t in term] == ["."]:
            if minus:
                raise FormulaError("The old terms cannot all be taken out: leave out the '.'.", change, term[0].start)
            bars += old.bars
            fixed += f" + {old.fixed}"
        elif _is_bar(term) and minus:
            for bar in _bars(term, change):
                if bar not in bars:
                    raise FormulaError(f"The model has no random term {bar} to take out.", change, term[0].start)
                bars.remove(bar)
        elif _is_bar(term):
            bars += [bar for bar in _bars(term, change) if bar not in bars]
        else:
            check_expression(source(term, change))
            if minus:
                _check_present(source(term, change), fixed, change, term[0].start)
            fixed += f" {'-' if minus else '+'} {source(term, change)}"
    terms = [label for label, _ in terms_of(fixed.lstrip(" +") or "1")]
    fixed = " + ".join(["0"] * ("1" not in terms) + [t for t in terms if t != "1"]) or "1"
    return f"{old.response if response == '.' else response} ~ {' + '.join([fixed, *map(str, bars)])}"


def _check_groups(bars: list[Bar], text: str) -> None:
    """FormulaError where two grouping factors, or one and the residual, would have the same name."""
    for bar in bars:
        if bar.group == "Residual":
            raise FormulaError(
                "The grouping factor 'Residual' has the name of the residual in all tables: rename the column.", text, 0
            )
        if any(bar.group == other.group and bar.factors != other.factors for other in bars):
            raise FormulaError(f"Two grouping factors would be called '{bar.group}': rename a column.", text, 0)


def _check_present(taken: str, fixed: str, change: str, place: int) -> None:
    """FormulaError for a fixed term that is to be taken out and is not there; an intercept may be."""
    there = [factors for _, factors in terms_of(fixed.lstrip(" +") or "1")]
    for label, factors in terms_of(f"0 + {taken}"):
        if label != "1" and factors not in there:
            raise FormulaError(
                f"The model has no fixed term '{label}' to take out; it has {fixed.lstrip(' +') or '1'}.", change, place
            )


def terms_of(text: str) -> list[tuple[str, frozenset[str]]]:
    """The terms of an expression as a formula writes them, each with its factors; ``1`` is the intercept."""
    checked = neutral(text)
    quoted = replace(checked, written={new: quote(column) for new, column in checked.columns.items()})
    factors = [[quoted.restore(f.expr) for f in term.factors] for term in formulaic.Formula(checked.text)]
    return [(":".join(f), frozenset(f)) for f in factors]


def _outside_calls(tokens: list[Token]) -> Iterator[Token]:
    depth = 0  # of parentheses, from that of a call on
    for before, t in itertools.pairwise([None, *tokens]):
        assert t is not None
        if depth or (t.text == "(" and before is not None and before.kind == "name"):
            depth += (t.text == "(") - (t.text == ")")
        else:
            yield t


def _bar_names(bar: Bar) -> list[str]:
    return [*check_expression(bar.terms), *bar.factors]


def _split_terms(tokens: list[Token]) -> Iterator[tuple[Token | None, list[Token]]]:
    """Cut at + and - outside parentheses; each piece comes with the sign before it."""
    sign: Token | None = None
    piece: list[Token] = []
    depth = 0
    for t in tokens:
        depth += (t.text == "(") - (t.text == ")")
        if depth == 0 and t.text in "+-" and (piece or sign is None):
            if piece or sign is not None:
                yield sign, piece
            sign, piece = t, []
        else:
            piece.append(t)
    yield sign, piece


def _is_bar(term: list[Token]) -> bool:
    """Whether a piece is one pair of parentheses with a bar directly inside."""
    if not term or term[0].text != "(" or term[-1].text != ")":
        return False
    depths = list(itertools.accumulate((t.text == "(") - (t.text == ")") for t in term))
    return min(depths[:-1]) == 1 and any(d == 1 and t.text in ("|", "||") for d, t in zip(depths, term, strict=True))


def _bars(term: list[Token], text: str) -> list[Bar]:
    """``(terms | a/b)`` -> one Bar for a, one for a:b."""
    inside = term[1:-1]
    where = [i for i, t in enumerate(inside) if t.text in ("|", "||")]
    if len(where) > 1:
        raise FormulaError("A random term has one bar.", text, inside[where[1]].start)
    left, bar, right = inside[: where[0]], inside[where[0]], inside[where[0] + 1 :]
    if not left:
        raise FormulaError("What varies is missing before the bar: (1 | g) for an intercept.", text, bar.start)
    chain: list[list[str]] = [[]]
    for i, t in enumerate(right):
        if i % 2 == 0 and t.kind in ("name", "quoted"):
            chain[-1].append(t.text.strip("`"))
        elif i % 2 == 1 and t.text in (":", "/"):
            chain += [list(chain[-1])] if t.text == "/" else []
        else:
            hint = {
                "+": "write a random term for each factor",
                "*": "write (… | a/b), or a term for each factor",
            }
            hint_text = hint.get(t.text, "only columns joined by ':' or '/' can stand there")
            raise FormulaError(f"Grouping factor not understood: {hint_text}.", text, t.start)
    if len(right) % 2 == 0:
        raise FormulaError("The grouping factor is missing after the bar.", text, term[-1].start)
    return [Bar(source(left, text), tuple(factors), bar.text == "|") for factors in chain]
