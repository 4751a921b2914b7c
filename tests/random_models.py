"""Random designs, and the criterion computed from its definition with n × n matrices: independent of the engine."""

import numpy as np
import pandas as pd

from lmmlite import blocks

FORMULAS = [
    "y ~ x + (1 | g)",
    "y ~ x + (x | g)",
    "y ~ x + z + (x + z || g)",
    "y ~ x * f + (1 | g) + (1 | h)",
    "y ~ 1 + (z | g) + (1 | h) + (0 + x | h)",
    "y ~ f + (1 | a / b)",
    "y ~ x + (f | g) + (1 | h)",
    "y ~ x + (0 + f || h) + (1 | g)",
    "y ~ 0 + f + x + (0 + x | g) + (1 | g:h)",
    "y ~ x + (x | g) + (z | h) + (1 | a)",
]


def couple_sparsely(monkeypatch, popular=0.0):
    """Let cross-products couple factors as large ones do, with a share of the levels written out."""
    monkeypatch.setattr(blocks, "_SMALL", 0)
    monkeypatch.setattr(blocks, "_cheapest", lambda rank, level, q, L: int(popular * q))


def random_data(seed, n=60):
    """An unbalanced table with crossed factors g and h, b nested in a, a fixed factor f, covariates far from zero."""
    rng = np.random.default_rng(seed)
    data = pd.DataFrame(
        {
            "x": rng.normal(20, 2, n),
            "z": rng.exponential(1.0, n),
            "f": rng.choice(["p", "q", "r"], n),
            "g": rng.integers(0, 9, n),
            "h": rng.choice(list("stuv"), n),
            "a": rng.integers(0, 4, n),
            "b": rng.integers(0, 3, n),
            "w": rng.uniform(0.2, 3.0, n),
            "o": rng.normal(0, 5, n),
        }
    )
    b = rng.normal(size=(9, 2))[data["g"]]
    data["y"] = 3 + 0.5 * data["x"] + b[:, 0] + b[:, 1] * data["z"] + rng.normal(size=4)[data["a"]] + rng.normal(size=n)
    return data


def random_theta(criterion, rng):
    """A θ of moderate size in the units of the columns."""
    theta = rng.normal(size=criterion.size)
    for t, B in zip(criterion.cp.templates, criterion.maps, strict=True):
        theta[t.index] /= np.diag(B)[t.rows]
    return theta


def dense_Lambda(design, theta):
    """Λ for `Design.Z`: each term's template repeated over its levels, entries of θ term after term, column by column."""
    blocks, used = [], 0
    for term in design.terms:
        k = len(term.columns)
        T = np.zeros((k, k), theta.dtype)
        start = 0
        for size in term.sizes:
            for c in range(start, start + size):
                for r in range(c, start + size):
                    T[r, c] = theta[used]
                    used += 1
            start += size
        blocks.append(np.kron(np.eye(design.groups[term.group].size), T))
    q = sum(len(b) for b in blocks)
    Lambda, start = np.zeros((q, q), theta.dtype), 0
    for b in blocks:
        Lambda[start : start + len(b), start : start + len(b)] = b
        start += len(b)
    return Lambda


def dense_criterion(design, theta, reml):
    """The profiled deviance or REML criterion from V itself, in extended precision; complex θ gives complex-step derivatives.

    Gaussian elimination of V in [[V, A], [A', 0]] with A = [X y] leaves −A'V⁻¹A, and eliminating X there leaves y'Py.
    """
    number = np.clongdouble if np.iscomplexobj(theta) else np.longdouble
    y = design.y - (0 if design.offset is None else design.offset)
    A = np.column_stack([design.X, y]).astype(number)
    ZL = design.Z.toarray().astype(number) @ dense_Lambda(design, theta.astype(number))
    weights = np.ones(len(y)) if design.weights is None else design.weights
    n, p = design.X.shape
    M = np.block([[np.diag(1 / weights) + ZL @ ZL.T, A], [A.T, np.zeros((p + 1, p + 1))]]).astype(number)
    pivots = []
    for j in range(n + p):
        pivots.append(M[j, j])
        M[j + 1 :, j + 1 :] -= np.outer(M[j + 1 :, j] / M[j, j], M[j, j + 1 :])
    log_V, log_XVX, r2 = np.log(pivots[:n]).sum(), np.log(-np.array(pivots[n:])).sum(), -M[-1, -1]
    nu = n - p if reml else n
    value = log_V + reml * log_XVX + nu * (1 + np.log(2 * np.pi * r2 / nu))
    return complex(value) if np.iscomplexobj(theta) else float(value)


def complex_step_gradient(design, theta, reml):
    h = 1e-30
    steps = np.eye(len(theta)) * 1j * h
    return np.array([dense_criterion(design, theta + step, reml).imag / h for step in steps])
