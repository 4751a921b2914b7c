"""Expressions as data: their tokens, and the walk that lets only columns, numbers and known transforms through.

Formulaic, which evaluates the expressions later, runs any Python it finds in them.  So each is read here first, and whatever
is not a column, a number, arithmetic, a comparison or a call of one of `TRANSFORMS` is refused by name.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

NUMPY_FUNCTIONS = [
    "log",
    "log2",
    "log10",
    "log1p",
    "exp",
    "expm1",
    "sqrt",
    "cbrt",
    "abs",
    "sign",
    "sin",
    "cos",
    "tan",
    "floor",
    "ceil",
]
#: What a formula may call: NumPy's functions (also without ``np.``) and formulaic's stateful transforms.
TRANSFORMS = frozenset(
    [
        *NUMPY_FUNCTIONS,
        *(f"np.{f}" for f in NUMPY_FUNCTIONS),
        "I",
        "C",
        "poly",
        "bs",
        "cr",
        "cc",
        "scale",
        "center",
        "standardize",
    ]
)
CONTRASTS = frozenset(f"contr.{c}" for c in ["treatment", "SAS", "sum", "helmert", "diff", "poly"])
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


def tokens_of(text: str) -> Iterator[Token]:
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if not match:
            start = position + len(text[position:]) - len(text[position:].lstrip())
            what = {
                "{": "Braces run code and are",
                "[": "A bracket is",
                "`": "This backtick is not closed; it is",
            }
            raise FormulaError(
                f"{what.get(text[start], f'The character {text[start]!r} is')} not part of a formula.",
                text,
                start,
            )
        kind = str(match.lastgroup)
        yield Token(kind, match[kind], match.start(kind), match.end())
        position = match.end()


def check_brackets(tokens: list[Token], text: str) -> None:
    opened: list[Token] = []
    for t in tokens:
        if t.text == "(":
            opened.append(t)
        elif t.text == ")" and not (opened and opened.pop()):
            raise FormulaError("This parenthesis closes nothing.", text, t.start)
    if opened:
        raise FormulaError("This parenthesis is never closed.", text, opened[-1].start)


def source(tokens: list[Token], text: str) -> str:
    """The text of tokens, with the blanks that stood between neighbours folded to one."""
    out = ""
    for before, t in itertools.pairwise([None, *tokens]):
        gap = before is not None and t is not None and t.start > before.end
        out += (" " if gap else "") + (t.text if t else "")
    return out


def check_expression(text: str) -> list[str]:
    """The columns an expression names, after making sure that it holds nothing but allowed parts.

    Raises
    ------
    FormulaError
        Naming the first part that is not a column, a number, an operator or one of `TRANSFORMS`.
    """
    tokens = list(tokens_of(text))
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
            hint = (
                "'.' stands for the old terms, in update() only" if t.text == "." else f"{t.text!r} cannot stand here"
            )
            raise FormulaError(f"{hint}.", text, t.start)
        elif not operand and t.text not in ("(", "+", "-"):
            raise FormulaError(f"Something is missing before {t.text!r}.", text, t.start)
        operand = (starts_operand and t.text != "(") or t.text == ")"
        i += 1
    if not operand:
        raise FormulaError("The expression ends where a term should follow.", text, len(text))
    return names


def _closing(tokens: list[Token], start: int) -> int:
    depths = itertools.accumulate((t.text == "(") - (t.text == ")") for t in tokens[start:])
    return start + next(i for i, d in enumerate(depths) if d == 0)


def _check_call(tokens: list[Token], text: str) -> list[str]:
    """Columns named inside a call, whose Python syntax tree is checked node by node."""
    start = tokens[0].start
    caret = next((t for t in tokens if t.text == "^"), None)
    if caret:
        raise FormulaError("'^' inside a call is Python's exclusive or: write '**' for a power.", text, caret.start)
    quoted = {f"_column{i}_": t.text.strip("`") for i, t in enumerate(tokens) if t.kind == "quoted"}
    words = [f"_column{i}_" if t.kind == "quoted" else t.text for i, t in enumerate(tokens)]
    try:
        tree = ast.parse(" ".join(words), mode="eval").body
        names = _columns(tree)
    except FormulaError as error:
        raise FormulaError(error.message, text, start) from None
    except (SyntaxError, RecursionError, MemoryError, ValueError):
        raise FormulaError("This call cannot be read.", text, start) from None
    return [quoted.get(name, name) for name in names]


def _columns(node: ast.AST) -> list[str]:
    """Columns named below a node of a call; FormulaError for any kind of node that is not expected in a formula."""
    match node:
        case ast.Name():
            return [node.id]
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return []
        case ast.Attribute() if ast.unparse(node) in CONTRASTS:
            return []
        case ast.Attribute():
            raise FormulaError(f"'{ast.unparse(node)}' is neither a column nor a known transform.")
        case ast.Call():
            return _columns_of_call(node)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            return _columns(node.operand)
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow() | ast.Mod()):
            if any(isinstance(s, ast.Constant) and isinstance(s.value, str) for s in (node.left, node.right)):
                raise FormulaError("Text cannot be part of arithmetic.")
            left, right = _columns(node.left), _columns(node.right)
            if not left + right or (isinstance(node.op, ast.Pow) and not left):
                raise FormulaError("Arithmetic in a formula needs a column; write a plain number otherwise.")
            return left + right
        case ast.Compare(ops=ops) if not any(isinstance(op, ast.In | ast.NotIn) for op in ops):
            return [name for part in (node.left, *node.comparators) for name in _columns(part)]
    raise FormulaError(f"A formula cannot hold a {type(node).__name__.lower()}.")


def _columns_of_call(node: ast.Call) -> list[str]:
    function = ast.unparse(node.func)
    if function not in TRANSFORMS and function not in CONTRASTS:
        allowed = ", ".join(sorted(f for f in TRANSFORMS if "." not in f))
        raise FormulaError(f"'{function}' is not a transform that formulas know ({allowed}).")
    if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
        raise FormulaError("Arguments cannot be unpacked in a formula.")
    for size in [k.value for k in node.keywords if k.arg in ("df", "degree")] + node.args[1:]:
        if isinstance(size, ast.Constant) and isinstance(size.value, int) and abs(size.value) > _MAX_COLUMNS:
            raise FormulaError(f"{size.value} is too large for {function}().")
    return [name for part in (*node.args, *(k.value for k in node.keywords)) for name in _columns(part)]


def plain_terms(text: str) -> tuple[bool, list[tuple[str, ...]]] | None:
    """Intercept and terms of an expression made only of ``+``, ``:``, ``*`` and columns; None for anything richer.

    The common case, which need not pay for formulaic.  Terms come by degree, then in order of appearance.
    """
    tokens = list(tokens_of(text))
    if any(t.kind not in ("name", "quoted") and t.text not in ("+", ":", "*", "0", "1") for t in tokens):
        return None
    intercept = True
    terms: dict[tuple[str, ...], None] = {(): None}
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
                if not any(set(term) == set(old) for old in terms):
                    terms[term] = None
    return intercept, sorted((t for t in terms if t), key=len)
