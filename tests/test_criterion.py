"""The criterion, its gradient and its Hessian at fixed θ against n × n matrices and complex steps."""

import sys

import numpy as np
import pytest
from random_models import (
    FORMULAS,
    complex_step_gradient,
    couple_sparsely,
    dense_criterion,
    random_data,
    random_theta,
)

from lmmlite import Criterion, build_design, crossproducts, minimize, parse_formula

basis = sys.modules["lmmlite.basis"]


def make(formula, seed, reml, weighted):
    arguments = {"weights": "w", "offset": "o"} if weighted else {}
    design = build_design(parse_formula(formula), random_data(seed), **arguments)
    criterion = Criterion(crossproducts(design), reml)
    return design, criterion, random_theta(criterion, np.random.default_rng(seed))


cases = pytest.mark.parametrize(
    ("formula", "seed", "reml", "weighted"),
    [(f, s, reml, weighted) for s, f in enumerate(FORMULAS) for reml in (True, False) for weighted in (False, True)],
)


@cases
@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 10.0])
def test_value(formula, seed, reml, weighted, scale):
    design, criterion, theta = make(formula, seed, reml, weighted)
    expected = dense_criterion(design, scale * theta, reml)
    assert criterion.evaluate(scale * theta).value == pytest.approx(expected, rel=1e-12)


@cases
def test_gradient(formula, seed, reml, weighted):
    design, criterion, theta = make(formula, seed, reml, weighted)
    expected = complex_step_gradient(design, theta, reml)
    error = criterion.evaluate(theta, 1).gradient - expected
    assert np.abs(error).max() <= 1e-10 * np.abs(expected).max()


@cases
def test_hessian(formula, seed, reml, weighted):
    """The exact Hessian against fourth-order differences of the complex-step gradient."""
    design, criterion, theta = make(formula, seed, reml, weighted)
    columns = []
    for j, size in enumerate(np.abs(theta)):
        h = 2e-3 * max(size, 1e-2)
        step = h * np.eye(len(theta))[j]
        g = {i: complex_step_gradient(design, theta + i * step, reml) for i in (-2, -1, 1, 2)}
        columns.append((8 * (g[1] - g[-1]) - (g[2] - g[-2])) / (12 * h))
    expected = np.array(columns)
    assert np.abs(criterion.evaluate(theta, 2).hessian - expected).max() <= 1e-7 * np.abs(expected).max()


@pytest.mark.parametrize("formula", [FORMULAS[i] for i in (3, 4, 6, 9)])
@pytest.mark.parametrize(("reml", "popular"), [(True, 0.0), (False, 0.0), (True, 0.5)])
def test_sparse_coupling_equals_dense(formula, reml, popular, monkeypatch):
    design, criterion, theta = make(formula, 7, reml, True)
    couple_sparsely(monkeypatch, popular)
    sparse = Criterion(crossproducts(design), reml)
    assert type(sparse.cp.rest).__name__ == "SparseRows"
    assert type(criterion.cp.rest).__name__ == "DenseRows"
    for order in (1, 2):
        one, other = criterion.evaluate(theta, order), sparse.evaluate(theta, order)
        assert one.value == pytest.approx(other.value, rel=1e-13)
        np.testing.assert_allclose(one.gradient, other.gradient, rtol=1e-10, atol=1e-10 * np.abs(one.gradient).max())
        np.testing.assert_allclose(one.hessian, other.hessian, rtol=1e-9, atol=1e-10 * np.abs(one.hessian).max())


@pytest.mark.parametrize("formula", FORMULAS)
def test_rows_in_pieces(formula, monkeypatch):
    """Summing the rows chunk by chunk changes nothing."""
    design, criterion, theta = make(formula, 3, True, True)
    whole = criterion.evaluate(theta, 2)
    monkeypatch.setattr(basis, "CHUNK", 7)
    pieces = Criterion(crossproducts(design), True).evaluate(theta, 2)
    assert pieces.value == pytest.approx(whole.value, rel=1e-13)
    np.testing.assert_allclose(pieces.gradient, whole.gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("column", [0, 1])
def test_derivatives_at_a_singular_theta(column):
    """With a zero column in T of an uneliminated factor the derivatives take another route; they must agree."""
    design, criterion, _ = make("y ~ x + (1 | g) + (z | h)", 5, True, False)
    theta = np.array([0.7, 0.5, -0.2, 0.3])
    theta[[1, 2] if column == 0 else [3]] = 0.0
    expected = complex_step_gradient(design, theta, True)
    np.testing.assert_allclose(criterion.evaluate(theta, 1).gradient, expected, atol=1e-10 * np.abs(expected).max())


def test_ill_conditioned_columns_of_x_are_orthogonalised_by_rows():
    """Nearly collinear columns: cross-products alone would lose half of the digits."""
    data = random_data(2)
    data["x2"] = data["x"] + 1e-6 * data["z"]
    near = crossproducts(build_design(parse_formula("y ~ x + x2 + (1 | g)"), data))
    same = crossproducts(build_design(parse_formula("y ~ x + z + (1 | g)"), data))
    one, other = minimize(Criterion(near)), minimize(Criterion(same))
    assert one.theta == pytest.approx(other.theta, rel=1e-8)
    assert one.evaluation.value == pytest.approx(other.evaluation.value + 2 * np.log(1e-6), abs=1e-8)


@pytest.mark.parametrize("bad", [[1.0, 2.0], [np.nan], "a"])
def test_bad_theta(bad):
    _, criterion, _ = make(FORMULAS[0], 0, True, False)
    with pytest.raises(ValueError, match="theta|convert"):
        criterion.evaluate(bad)
