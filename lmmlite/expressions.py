"""Expressions as data: their tokens, and the walk that lets only columns, numbers and known transforms through.

Formulaic, which evaluates the expressions later, runs any Python it finds in them.  So each is read here first, and whatever
is not a column, a number, arithmetic, a comparison or a call of one of `TRANSFORMS` is refused by name.  What formulaic then
gets is not the text but a new one, written from the checked syntax tree, in which columns have neutral names (`neutral`): no
name or quotation mark that somebody else chose reaches it.
"""

from __future__ import annotations

import ast
import functools
import itertools
import keyword
import math
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
_MAX_TERMS = 10_000  # that one product or power stands for
_MAX_POWER = 10
_MAX_DEPTH = 50  # of parentheses
_PRODUCTS = ("*", "/", ":", "**", "^")

_TOKEN = re.compile(
    r"\s*(?:(?P<quoted>`[^`\n]+`)|(?P<string>'[^'\"\\`(){}\[\]\n]*'|\"[^'\"\\`(){}\[\]\n]*\")"
    r"|(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[^\W\d][\w.]*)|(?P<op>\|\||\*\*|[<>=!]=|[-+*/:^~|(),<>=%.]))"
)


class FormulaError(ValueError):
    """A formula that cannot be read; the message shows the place with a caret."""

    def __init__(self, message: str, text: str = "", position: int = 0):
        self.message, self.text, self.position = message, text, position
        start = max(0, position - 80) if len(text) > 160 else 0  # of a very long formula only the surroundings
        shown = text[start : start + 160]
        caret = f"\n    {shown}\n    {' ' * (position - start)}^" if text and "\n" not in shown else ""
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
            unclear = "Text without an end, or with quotation marks, backslashes or brackets in it, is"
            what |= dict.fromkeys("'\"", unclear)
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


@dataclass(frozen=True, slots=True)
class Neutral:
    """A checked expression in which the columns have neutral names.

    Attributes
    ----------
    text : str
        For formulaic.
    columns : dict of str to str
        Column of the data for each neutral name; one that stands inside and outside of calls has two.
    written : dict of str to str
        How labels show each neutral name.
    """

    text: str
    columns: dict[str, str]
    written: dict[str, str]

    @property
    def identity(self) -> tuple:
        """What two expressions share that make the same columns of the same data."""
        return self.text, *self.columns.items()

    def restore(self, label: str) -> str:
        """A label that formulaic made, with the columns' own names."""
        return re.sub(r"_column\d+_", lambda found: self.written.get(found[0], found[0]), label)


def check_expression(text: str) -> list[str]:
    """The columns an expression names, after making sure that it holds nothing but allowed parts.

    Raises
    ------
    FormulaError
        Naming the first part that is not a column, a number, an operator or one of `TRANSFORMS`.
    """
    return list(dict.fromkeys(neutral(text).columns.values()))


@functools.lru_cache(maxsize=256)
def neutral(text: str) -> Neutral:
    """An expression for formulaic; raises what `check_expression` does."""
    tokens = list(tokens_of(text))
    _check_size(tokens, text)
    columns: dict[str, str] = {}
    written: dict[str, str] = {}

    names: dict[tuple[str, str], str] = {}

    def rename(t: Token, call: bool) -> str:
        column = t.text.strip("`")
        shown = quote(column) if call else column
        new = names.setdefault((column, shown), f"_column{len(names)}_")
        columns[new], written[new] = column, shown
        return new

    out: list[str] = []
    i, operand = 0, False
    while i < len(tokens):
        t = tokens[i]
        following = tokens[i + 1].text if i + 1 < len(tokens) else ""
        starts_operand = t.kind in ("name", "quoted", "number") or t.text == "("
        if operand and starts_operand:
            raise FormulaError("An operator such as '+' is missing here.", text, t.start)
        if t.kind == "name" and following == "(":
            end = _closing(tokens, i + 1)
            call = tokens[i : end + 1]
            words = [rename(u, True) if _names_a_column(call, j) else u.text for j, u in enumerate(call)]
            out.append(_checked_call(call, words, written, text))
            i = end
        elif t.kind in ("name", "quoted"):
            out.append(rename(t, False))
        elif t.kind == "number":
            _check_number(tokens, i, text)
            out.append(t.text)
        elif t.kind == "string" or t.text not in ("+", "-", "*", "/", ":", "**", "^", "(", ")"):
            hint = (
                "'.' stands for the old terms, in update() only" if t.text == "." else f"{t.text!r} cannot stand here"
            )
            raise FormulaError(f"{hint}.", text, t.start)
        elif not operand and (
            t.text not in ("(", "+", "-") or (t.text != "(" and i > 0 and tokens[i - 1].text in _PRODUCTS)
        ):
            raise FormulaError(f"Something is missing before {t.text!r}.", text, t.start)
        else:
            out.append(t.text)
        operand = (starts_operand and t.text != "(") or t.text == ")"
        i += 1
    if not operand:
        raise FormulaError("The expression ends where a term should follow.", text, len(text))
    return Neutral(" ".join(out), columns, written)


def quote(name: str) -> str:
    """A column's name as a formula writes it."""
    return name if re.fullmatch(r"[^\W\d]\w*", name) and not keyword.iskeyword(name) else f"`{name}`"


def _check_number(tokens: list[Token], i: int, text: str) -> None:
    """A number is an intercept, alone between signs, or a power."""
    t, around = tokens[i], ("+", "-", "(", ")", "")
    before, after = (tokens[j].text if 0 <= j < len(tokens) else "" for j in (i - 1, i + 1))
    if before in ("**", "^"):
        if t.text not in map(str, range(1, _MAX_POWER + 1)):
            raise FormulaError(f"A power of terms is a whole number from 1 to {_MAX_POWER}.", text, t.start)
    elif t.text not in ("0", "1") or before not in around or after not in around:
        raise FormulaError("Outside I(…) a number can only be 0 or 1 (the intercept).", text, t.start)


def _check_size(tokens: list[Token], text: str) -> None:
    """Refuse what would take for ever: parentheses too deep, and products and powers of too many terms."""
    depth = 0
    for t in tokens:
        depth += (t.text == "(") - (t.text == ")")
        if depth > _MAX_DEPTH:
            raise FormulaError("The parentheses are nested too deeply.", text, t.start)
    _terms(tokens, text)


def _terms(tokens: list[Token], text: str) -> int:
    """An upper bound of the number of terms of a sum."""
    total = 0
    for product in _split(tokens, ("+", "-")):
        size = 1
        for interaction in _split(product, ("*", "/")):
            size *= 1 + math.prod(_power(power, text) for power in _split(interaction, (":",)))
            if size > _MAX_TERMS:
                raise FormulaError(f"This product stands for more than {_MAX_TERMS} terms.", text, product[0].start)
        total += size - 1
    return total


def _power(tokens: list[Token], text: str) -> int:
    base, *powers = _split(tokens, ("**", "^"))
    size = _terms(base[1:-1], text) if base and base[0].text == "(" else 1
    return size ** math.prod(
        int(p[0].text) for p in powers if len(p) == 1 and p[0].text in map(str, range(1, _MAX_POWER + 1))
    )


def _split(tokens: list[Token], operators: tuple[str, ...]) -> list[list[Token]]:
    """Cut at operators outside parentheses."""
    pieces: list[list[Token]] = [[]]
    depth = 0
    for t in tokens:
        depth += (t.text == "(") - (t.text == ")")
        if depth == 0 and t.text in operators:
            pieces.append([])
        else:
            pieces[-1].append(t)
    return pieces


def _closing(tokens: list[Token], start: int) -> int:
    depths = itertools.accumulate((t.text == "(") - (t.text == ")") for t in itertools.islice(tokens, start, None))
    return start + next(i for i, d in enumerate(depths) if d == 0)


def _names_a_column(call: list[Token], i: int) -> bool:
    """Whether a token inside a call can only be a column, and neither a function nor an argument's name."""
    t, after = call[i], call[i + 1].text if i + 1 < len(call) else ""
    bare = t.kind == "name" and after not in ("(", "=") and "." not in t.text and not keyword.iskeyword(t.text)
    return t.kind == "quoted" or bare


def _checked_call(tokens: list[Token], words: list[str], written: dict[str, str], text: str) -> str:
    """A call written anew from its Python syntax tree, which is checked node by node."""
    start = tokens[0].start
    caret = next((t for t in tokens if t.text == "^"), None)
    if caret:
        raise FormulaError("'^' inside a call is Python's exclusive or: write '**' for a power.", text, caret.start)
    try:
        tree = ast.parse(" ".join(words), mode="eval").body
        if not _columns(tree):
            raise FormulaError("This call names no column.")
        return ast.unparse(tree)
    except FormulaError as error:
        message = Neutral("", {}, written).restore(error.message)
        raise FormulaError(message, text, start) from None
    except (SyntaxError, RecursionError, MemoryError, ValueError):
        raise FormulaError("This call cannot be read.", text, start) from None


def _columns(node: ast.AST) -> list[str]:
    """Columns named below a node of a call; FormulaError for any kind of node that is not expected in a formula."""
    match node:
        case ast.Name():
            return [node.id]
        case ast.Constant(value=str() as string) if not string.isprintable():
            raise FormulaError("Text in a formula must be printable.")
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return []
        case ast.Attribute() if ast.unparse(node) in CONTRASTS:
            return []
        case ast.Attribute():
            raise FormulaError(f"'{ast.unparse(node)}' is neither a column nor a known transform.")
        case ast.Call():
            return _columns_of_call(node)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            _check_truth(node.operand)
            return _columns(node.operand)
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow() | ast.Mod()):
            if any(isinstance(s, ast.Constant) and isinstance(s.value, str) for s in (node.left, node.right)):
                raise FormulaError("Text cannot be part of arithmetic.")
            if not isinstance(node.op, ast.Mult):
                _check_truth(node.left, node.right)
            left, right = _columns(node.left), _columns(node.right)
            if not left + right or (isinstance(node.op, ast.Pow) and not left):
                raise FormulaError("Arithmetic in a formula needs a column; write a plain number otherwise.")
            return left + right
        case ast.Compare(ops=ops) if not any(isinstance(op, ast.In | ast.NotIn) for op in ops):
            return [name for part in (node.left, *node.comparators) for name in _columns(part)]
    raise FormulaError(f"A formula cannot hold a {type(node).__name__.lower()}.")


def _check_truth(*operands: ast.AST) -> None:
    """FormulaError where all operands are true or false: NumPy's sum of two is their 'or', not what a formula means."""
    if all(isinstance(node, ast.Compare) for node in operands):
        first = ast.unparse(operands[0])
        raise FormulaError(f"Arithmetic with comparisons alone: write 1*({first}) to make 0 and 1 of the first.")


def _columns_of_call(node: ast.Call) -> list[str]:
    function = ast.unparse(node.func)
    if function not in TRANSFORMS and function not in CONTRASTS:
        allowed = ", ".join(sorted(f for f in TRANSFORMS if "." not in f))
        raise FormulaError(f"'{function}' is not a transform that formulas know ({allowed}).")
    if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
        raise FormulaError("Arguments cannot be unpacked in a formula.")
    if function.removeprefix("np.") in NUMPY_FUNCTIONS and (len(node.args) != 1 or node.keywords):
        raise FormulaError(f"{function}() takes one argument.")
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
    terms: dict[frozenset[str], tuple[str, ...]] = {}
    for piece in _split(tokens, ("+",)):
        if len(piece) == 1 and piece[0].kind == "number":
            intercept = piece[0].text == "1"
            continue
        products = [[t.text.strip("`") for t in part if t.text != ":"] for part in _split(piece, ("*",))]
        for size in range(1, len(products) + 1):
            for chosen in itertools.combinations(products, size):
                term = tuple(dict.fromkeys(itertools.chain(*chosen)))
                terms.setdefault(frozenset(term), term)
    return intercept, sorted((t for t in terms.values() if t), key=len)
