"""Formulas as data: ``y ~ x + (1 + x | g)`` becomes a response, a fixed part and bars; nothing here evaluates anything.

Formulaic, which codes the two sides later, runs any Python it finds in a formula.  So every expression is walked first and
only columns, numbers, arithmetic, comparisons and the transforms listed in `TRANSFORMS` are let through.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import formulaic

_NUMPY = "log log2 log10 log1p exp expm1 sqrt cbrt abs sign sin cos tan floor ceil".split()
#: What a formula may call: NumPy's functions (also without ``np.``) and formulaic's stateful transforms.
TRANSFORMS = frozenset(
    [*_NUMPY, *(f"np.{f}" for f in _NUMPY), "I", "C", "poly", "bs", "cr", "cc", "scale", "center", "standardize"]
)
CONTRASTS = frozenset(f"contr.{c}" for c in "treatment SAS sum helmert diff poly".split())
_MAX_COLUMNS = 100  # of one spline or polynomial; larger numbers are typing errors or attacks

_TOKEN = re.compile(
    r"\s*(?:(?P<quoted>`[^`\n]+`)|(?P<string>'[^'\n]*'|\"[^\"\n]*\")|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[^\W\d][\w.]*)|(?P<op>\|\||\*\*|[<>=!]=|[-+*/:^~|(),<>=%.]))"
)


class FormulaError(ValueError):
    """A formula that cannot be read; the message shows the place with a caret."""

    def __init__(self, message: str, text: str = "", position: int = 0):
        self.message, self.text, self.position = message, text, position
        caret = f"\n    {text}\n    {' ' * position}^" if text and "\n" not in text else ""
        super().__init__(message + caret)

    def __reduce__(self) -> tuple:
        return type(self), (self.message, self.text, self.position)


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    start: int
    end: int


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
    tokens = list(_tokens(text))
    _check_brackets(tokens, text)
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
    fixed_text = _source(fixed, text) or "1"
    variables = dict.fromkeys(
        itertools.chain(check_expression(_source(left, text)), check_expression(fixed_text), *map(_bar_names, bars))
    )
    if not check_expression(_source(left, text)):
        raise FormulaError("The response names no column.", text, 0)
    return Formula(_source(left, text), fixed_text, tuple(bars), tuple(variables))


def update_formula(old: Formula, change: str) -> str:
    """The formula that ``change`` describes, in which ``.`` stands for the old response, or for the old terms and bars.

    ``". ~ . - x"`` takes a fixed term out, ``". ~ . + (1 | h)"`` adds a random term, ``". ~ . - (1 | g)"`` takes one out.
    """
    tokens = list(_tokens(change))
    _check_brackets(tokens, change)
    tilde = next((i for i, t in enumerate(tokens) if t.text == "~"), None)
    if tilde is None:
        raise FormulaError("The change has no '~': write it as '. ~ . - x'.", change, len(change))
    response = _source(tokens[:tilde], change)
    fixed, bars = "", []
    for sign, term in _split_terms(tokens[tilde + 1 :]):
        minus = sign is not None and sign.text == "-"
        if [t.text for t in term] == ["."]:
            bars += old.bars
            fixed += f" + ({old.fixed})"
        elif _is_bar(term) and minus:
            for bar in _bars(term, change):
                if bar not in bars:
                    raise FormulaError(f"The model has no random term {bar} to take out.", change, term[0].start)
                bars.remove(bar)
        elif _is_bar(term):
            bars += [bar for bar in _bars(term, change) if bar not in bars]
        else:
            check_expression(_source(term, change))
            fixed += f" {'-' if minus else '+'} {_source(term, change)}"
    terms = [str(t) for t in formulaic.Formula(fixed.lstrip(" +") or "1")]
    fixed = " + ".join(["0"] * ("1" not in terms) + [t for t in terms if t != "1"]) or "1"
    return f"{old.response if response == '.' else response} ~ {' + '.join([fixed, *map(str, bars)])}"


def _bar_names(bar: Bar) -> list[str]:
    return [*check_expression(bar.terms), *bar.factors]


def _tokens(text: str) -> Iterator[Token]:
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if not match:
            start = position + len(text[position:]) - len(text[position:].lstrip())
            what = {"{": "Braces run code and are", "[": "A bracket is", "`": "This backtick is not closed; it is"}
            raise FormulaError(
                f"{what.get(text[start], f'The character {text[start]!r} is')} not part of a formula.", text, start
            )
        kind = str(match.lastgroup)
        yield Token(kind, match[kind], match.start(kind), match.end())
        position = match.end()


def _check_brackets(tokens: list[Token], text: str) -> None:
    opened: list[Token] = []
    for t in tokens:
        if t.text == "(":
            opened.append(t)
        elif t.text == ")" and not (opened and opened.pop()):
            raise FormulaError("This parenthesis closes nothing.", text, t.start)
    if opened:
        raise FormulaError("This parenthesis is never closed.", text, opened[-1].start)


def _source(tokens: list[Token], text: str) -> str:
    """The text of tokens, with the blanks that stood between neighbours folded to one."""
    out = ""
    for before, t in itertools.pairwise([None, *tokens]):
        gap = before is not None and t is not None and t.start > before.end
        out += (" " if gap else "") + (t.text if t else "")
    return out


def _split_terms(tokens: list[Token]) -> Iterator[tuple[Token | None, list[Token]]]:
    """Cut at + and - outside parentheses; each piece comes with the sign before it."""
    sign, piece, depth = None, [], 0
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
            hint = {"+": "write a random term for each factor", "*": "write (… | a/b), or a term for each factor"}
            hint_text = hint.get(t.text, "only columns joined by ':' or '/' can stand there")
            raise FormulaError(f"Grouping factor not understood: {hint_text}.", text, t.start)
    if len(right) % 2 == 0:
        raise FormulaError("The grouping factor is missing after the bar.", text, term[-1].start)
    return [Bar(_source(left, text), tuple(factors), bar.text == "|") for factors in chain]


def quote(name: str) -> str:
    """A column's name as a formula writes it."""
    return name if re.fullmatch(r"[^\W\d]\w*", name) else f"`{name}`"


def check_expression(text: str) -> list[str]:
    """The columns an expression names, after making sure that it holds nothing but allowed parts.

    Raises
    ------
    FormulaError
        Naming the first part that is not a column, a number, an operator or one of `TRANSFORMS`.
    """
    tokens = list(_tokens(text))
    names: list[str] = []
    i, operand = 0, False
    while i < len(tokens):
        t = tokens[i]
        following = tokens[i + 1].text if i + 1 < len(tokens) else ""
        starts_operand = t.kind in ("name", "quoted", "number") or t.text == "("
        if operand and starts_operand:
            raise FormulaError("An operator such as '+' is missing here.", text, t.start)
        if t.kind == "name" and following == "(":
            end = _closing(tokens, i + 1)
            names += _check_call(tokens[i : end + 1], text)
            i = end
        elif t.kind in ("name", "quoted"):
            names.append(t.text.strip("`"))
        elif t.kind == "number":
            power = i > 0 and tokens[i - 1].text in ("**", "^")
            if not (t.text in ("0", "1") or (power and t.text.isdigit() and int(t.text) <= 10)):
                raise FormulaError("Outside I(…) a number can only be 0 or 1 (the intercept).", text, t.start)
        elif t.kind == "string" or t.text not in ("+", "-", "*", "/", ":", "**", "^", "(", ")"):
            hint = "'.' stands for the old terms, in update() only" if t.text == "." else f"{t.text!r} cannot stand here"
            raise FormulaError(f"{hint}.", text, t.start)
        elif not operand and t.text not in ("(", "+", "-"):
            raise FormulaError(f"Something is missing before {t.text!r}.", text, t.start)
        operand = starts_operand and t.text != "(" or t.text == ")"
        i += 1
    if not operand:
        raise FormulaError("The expression ends where a term should follow.", text, len(text))
    return names


def _closing(tokens: list[Token], start: int) -> int:
    depths = itertools.accumulate((t.text == "(") - (t.text == ")") for t in tokens[start:])
    return start + next(i for i, d in enumerate(depths) if d == 0)


def _check_call(tokens: list[Token], text: str) -> list[str]:
    """Columns named inside a call, whose Python syntax tree is checked node by node."""
    call = "".join(f" _column{i}_ " if t.kind == "quoted" else f" {t.text} " for i, t in enumerate(tokens))
    quoted = {f"_column{i}_": t.text.strip("`") for i, t in enumerate(tokens) if t.kind == "quoted"}
    start = tokens[0].start
    caret = next((t for t in tokens if t.text == "^"), None)
    if caret:
        raise FormulaError("'^' inside a call is Python's exclusive or: write '**' for a power.", text, caret.start)
    try:
        tree = ast.parse(call.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError, ValueError):
        raise FormulaError("This call cannot be read.", text, start) from None
    names: list[str] = []

    def walk(node: ast.AST) -> bool:
        """Check a node; whether a column occurs in it."""
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            if function not in TRANSFORMS and function not in CONTRASTS:
                allowed = ", ".join(sorted(f for f in TRANSFORMS if "." not in f))
                raise FormulaError(f"'{function}' is not a transform that formulas know ({allowed}).", text, start)
            sizes = [k.value for k in node.keywords if k.arg in ("df", "degree")] + node.args[1:]
            for size in sizes:
                if isinstance(size, ast.Constant) and isinstance(size.value, int) and abs(size.value) > _MAX_COLUMNS:
                    raise FormulaError(f"{size.value} is too large for {function}().", text, start)
            if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
                raise FormulaError("Arguments cannot be unpacked in a formula.", text, start)
            return any([walk(a) for a in [*node.args, *(k.value for k in node.keywords)]])
        if isinstance(node, ast.Name):
            names.append(quoted.get(node.id, node.id))
            return True
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if dotted not in CONTRASTS:
                raise FormulaError(f"'{dotted}' is neither a column nor a known transform.", text, start)
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | bool | None):
            return False
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            return walk(node.operand)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.Pow | ast.Mod):
            sides = walk(node.left), walk(node.right)
            if not any(sides) or (isinstance(node.op, ast.Pow) and not sides[0]):
                raise FormulaError("Arithmetic in a formula needs a column; write a plain number otherwise.", text, start)
            if any(isinstance(s, ast.Constant) and isinstance(s.value, str) for s in (node.left, node.right)):
                raise FormulaError("Text cannot be part of arithmetic.", text, start)
            return True
        if isinstance(node, ast.Compare) and not any(isinstance(op, ast.In | ast.NotIn) for op in node.ops):
            return any([walk(n) for n in [node.left, *node.comparators]])
        raise FormulaError(f"A formula cannot hold a {type(node).__name__.lower()}.", text, start)

    walk(tree)
    return names


def plain_terms(text: str) -> tuple[bool, list[tuple[str, ...]]] | None:
    """Intercept and terms of an expression made only of ``+``, ``:``, ``*`` and columns; None for anything richer.

    The common case, which need not pay for formulaic.  Terms come by degree, then in order of appearance.
    """
    tokens = list(_tokens(text))
    if any(t.kind not in ("name", "quoted") and t.text not in ("+", ":", "*", "0", "1") for t in tokens):
        return None
    intercept, terms = True, dict.fromkeys([()])
    for plus, piece in itertools.groupby(tokens, lambda t: t.text == "+"):
        words = [t.text.strip("`") for t in piece]
        if plus:
            continue
        if words in (["0"], ["1"]):
            intercept = words == ["1"]
            continue
        if "0" in words or "1" in words:
            return None
        products = [[w for w in part if w != ":"] for star, part in itertools.groupby(words, "*".__eq__) if not star]
        for size in range(1, len(products) + 1):
            for chosen in itertools.combinations(products, size):
                term = tuple(dict.fromkeys(itertools.chain(*chosen)))
                if size == len(products) or len(products) > 1:
                    if not any(set(term) == set(old) for old in terms):
                        terms[term] = None
    return intercept, sorted((t for t in terms if t), key=len)
