"""Type III tests are contrasts of averaged cells, whatever the coding, the order of the terms and the labels."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import null_space

from lmmlite import lmer
from lmmlite.inference.anova import type_3
from lmmlite.means import grid_means

F_COLUMNS = ["num_df", "den_df", "F"]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    n = 240
    numbers = {v: rng.normal(size=n) for v in "xz"}
    factors = {"f": rng.choice(list("abc"), n), "k": rng.choice(list("uv"), n), "g": rng.integers(0, 12, n)}
    d = pd.DataFrame(factors | numbers)
    b = rng.normal(size=12)
    return d.assign(y=d["x"] + (d["f"] == "b") * (1.0 + 2 * (d["k"] == "v")) + b[d["g"]] + rng.normal(size=n))


def same(one, other):
    np.testing.assert_allclose(one.to_numpy(float), other.to_numpy(float), rtol=1e-6, atol=1e-9)


def hypothesis(fit, terms, term):
    """Contrasts of the averaged cells of a term that are orthogonal to all that its margins in the model can give.

    Cells are averages, over all other factors, of rows of X (for covariates of the term their mixed differences, all others 0).
    """
    levels, side = {"f": list("abc"), "k": list("uv")}, fit.design.fixed
    numbers = [v for v in side.variables if v not in levels]
    grid = pd.DataFrame(itertools.product(*levels.values()), columns=list(levels))
    X = 0.0
    for at in itertools.product((0, 1), repeat=len(term - set(levels))):
        values = dict.fromkeys(numbers, 0.0) | dict(zip(term - set(levels), map(float, at), strict=True))
        table = {v: pd.Categorical(grid[v], levels[v]) for v in levels} | {
            v: np.full(len(grid), values[v]) for v in numbers
        }
        sign = (-1) ** (len(at) - sum(at))
        X = X + sign * np.column_stack(side.columns({v: table[v] for v in side.variables}, len(grid)))
    own = sorted(term & set(levels))
    cells = grid.groupby(own, sort=False).ngroup().to_numpy() if own else np.zeros(len(grid), int)
    means_of_cells = np.stack([X[cells == i].mean(axis=0) for i in range(cells.max() + 1)])
    first = [np.flatnonzero(cells == i)[0] for i in range(cells.max() + 1)]
    known = [*terms, frozenset()] if term != terms[0] else terms  # the first factor without an intercept gives it
    margins = [t for t in known if t < term and t - set(levels) == term - set(levels)]
    spanned = [
        pd.get_dummies(grid.loc[first].groupby(sorted(t & set(levels))).ngroup())
        if t & set(levels)
        else np.ones((len(first), 1))
        for t in margins
    ]
    A = np.column_stack([np.asarray(s, float) for s in spanned]) if spanned else np.zeros((len(first), 1))
    return null_space(A.T).T @ means_of_cells


@pytest.mark.parametrize("coding", ["{}", "C({}, contr.sum)"])
@pytest.mark.parametrize(
    ("formula", "terms"),
    [
        ("f * k * x", "1 f k x fk fx kx fkx"),
        ("f * k + x * z", "1 f k fk x z xz"),
        ("f / k + x", "1 f fk x"),
        ("0 + f * k", "f k fk"),
        ("0 + f + k + k:x", "f k kx"),
        ("f:k", "1 fk"),
        ("k * f * x - f", "1 k x kf kx fx kfx"),
        ("f * x - x", "1 f fx"),
        ("x + f:x", "1 x fx"),
        ("f * k - 1 - f", "k fk"),
    ],
)
def test_type_3_is_its_definition(data, formula, terms, coding):
    text = formula.replace("f", coding.format("f"))
    fit = lmer(f"y ~ {text} + (1 | g)", data)
    sets = [frozenset(t) - {"1"} for t in terms.split()]
    found = type_3(fit)
    assert len(found) == len(sets) - (frozenset() in sets)
    for name, L in found.items():
        expected = (
            hypothesis(fit, sets, frozenset(re.findall(r"\b[fkxz]\b", name))) @ fit.criterion_function.cp.basis.to_user
        )
        assert np.linalg.matrix_rank(L, 1e-8) == len(L) == len(expected), name
        np.testing.assert_allclose(expected @ np.linalg.pinv(L) @ L, expected, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize(
    "formula",
    ["f/k", "f + f:k + x", "f * k - k", "0 + f * k", "0 + f + k + x", "f:k", "k * f * x - f", "C(f, contr.sum)/k"],
)
def test_type_3_does_not_depend_on_labels_where_factors_are_fully_coded(data, formula):
    one, other = (
        lmer(f"y ~ {formula} + (1 | g)", d).anova("kenward-roger")[F_COLUMNS]
        for d in (data, data.assign(k=data["k"].replace("u", "z"), f=data["f"].replace("a", "z")))
    )
    same(one, other)


def test_type_3_of_nested_notation_is_that_of_the_crossed_one(data):
    crossed, nested, no_intercept = (
        lmer(f"y ~ {text} + (1 | g)", data) for text in ("f * k + x", "f/k + x", "0 + f * k + x")
    )
    same(crossed.anova().loc["f", F_COLUMNS], nested.anova().loc["f", F_COLUMNS])
    _, L = grid_means(crossed, ["f"], {"x": 0})
    found, expected = no_intercept.anova().loc["f"], crossed.contrast(L).iloc[0]
    same(found[F_COLUMNS], expected[F_COLUMNS])
    simple = nested.contrast({f"f[{level}]:k[T.v]": 1 for level in "a"})
    assert nested.anova().loc["f:k", "num_df"] == 3
    assert simple["estimate"][0] == pytest.approx(crossed.fixef["k[T.v]"], rel=1e-6)


@pytest.mark.filterwarnings("ignore:The fit is singular", "ignore:The fixed effects are rank deficient")
def test_a_dropped_covariate_is_no_empty_cell(data):
    with_copy = lmer("y ~ x + again + f * k + (1 | g)", data.assign(again=2 * data["x"] + 1))
    same(with_copy.anova(), lmer("y ~ x + f * k + (1 | g)", data).anova())
    with pytest.raises(ValueError, match=r"every cell of the design; f\[T.c\]:k\[T.v\] had"):
        lmer("y ~ x + f * k + (1 | g)", data[(data["f"] != "c") | (data["k"] != "v")]).anova()
