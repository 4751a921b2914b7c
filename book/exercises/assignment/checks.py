"""What the checks of the assignment share: is it answered, and is it a mistake that we know?"""

import numpy as np

from lmmlite import MixedModel


def number(name, value):
    """`value` as a float, or an AssertionError that says what it is instead."""
    answered = value is not None and value is not ...
    assert answered, f"{name} is not answered yet."
    try:
        value = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise AssertionError(f"{name} should be one number; it is a {type(value).__name__}.") from None
    assert value.size == 1, f"{name} should be one number; it holds {value.size}."
    assert np.isfinite(value).all(), f"{name} is not finite."
    return value.item()


def model(name, value):
    """`value`, if it is a fit by `lmer`."""
    assert isinstance(value, MixedModel), f"{name} should be what lmer(...) returns; it is not yet."
    return value


def close(value, target, rtol=1e-3):
    """Three digits are enough: nobody loses a point by rounding."""
    return abs(value - target) <= rtol * abs(target)


def look(name, value, mistakes, rtol=1e-3):
    """A visible check: fail with the message of the mistake that `value` looks like (`mistakes`: message -> wrong value)."""
    value = number(name, value)
    for message, wrong in mistakes.items():
        assert not close(value, wrong, rtol), message


def mark(name, value, right):
    """A hidden test: `value` is right."""
    assert close(number(name, value), right), f"{name} is not right."
