# The checks of this notebook. Run this cell; there is no need to read it.
import numpy as np


class Verdict:
    """What a check says; ``right`` is true for a right answer only."""

    def __init__(self, right, message):
        self.right, self.message = right, message

    def __repr__(self):
        return ("✓ Right. " if self.right else "✗ Not yet. ") + self.message


class Unfinished(Exception):
    pass


def results(answer, inputs):
    """The numbers (or words) of an answer as arrays: the answer itself, or what it returns if it is a function."""
    values = [answer(*given) for given in inputs] if callable(answer) else [answer]
    if any(value is None for value in values):
        raise Unfinished("The function returns nothing: end it with `return`.")
    if any(part is ... for value in values for part in np.ravel(np.asarray(value, object))):
        raise Unfinished("It is still to be answered: replace the three dots.")
    return [np.asarray(value) for value in values]


def agree(one, other, tolerance):
    """Whether two lists of arrays are the same, numbers up to a relative tolerance of the largest."""
    for a, b in zip(one, other, strict=True):
        if a.shape != b.shape or (a.dtype.kind in "OUS") != (b.dtype.kind in "OUS"):
            return False
        if a.dtype.kind in "OUS":
            if not (a == b).all():
                return False
        elif not np.abs(a.astype(float) - b.astype(float)).max(initial=0) <= tolerance * np.abs(b).max(initial=1e-300):
            return False
    return True


def judge(answer, right, mistakes=(), praise="", inputs=((),), tolerance=1e-3):
    """Compare an answer with the right one and with what typical mistakes give: pairs (value or function, message)."""
    try:
        given, expected = results(answer, inputs), results(right, inputs)
    except Unfinished as error:
        return Verdict(False, str(error))
    except Exception as error:
        return Verdict(False, f"It stops with {type(error).__name__}: {error}")
    if callable(right) and not callable(answer):
        return Verdict(False, "A function is asked for, so that it works for other numbers, too.")
    if agree(given, expected, tolerance):
        return Verdict(True, praise)
    for value, message in mistakes:
        if agree(given, results(value, inputs), tolerance):
            return Verdict(False, message)
    for a, b in zip(given, expected, strict=True):
        words = b.dtype.kind in "OUS"
        if (a.dtype.kind in "OUS") != words:
            return Verdict(False, f"{'A word' if words else 'A number'} is asked for; this is {a.tolist()!r}.")
        if a.shape != b.shape:
            return Verdict(False, f"{b.size} value(s) of shape {b.shape} are asked for; these have shape {a.shape}.")
        if not words and not np.isfinite(a.astype(float)).all():
            return Verdict(False, "There is a value that is not a number (nan) or infinite.")
    if agree([-a if a.dtype.kind in "if" else a for a in given], expected, tolerance):
        return Verdict(False, "The sign is reversed.")
    return Verdict(False, "That is not it. Read the question again; a hint is in the chapter's section named above.")
