"""Degrees of freedom and tests of contrasts against n × n matrices, literally as in the papers."""

import numpy as np
import pandas as pd
import pytest
from random_models import FORMULAS, dense_Lambda, random_data

from lmmlite import lmer, load_dataset
from lmmlite.means import adjusted, means, pairwise

every_formula = pytest.mark.parametrize("formula", FORMULAS)


def directions(fit, entries):
    """∂V/∂(entry) for σ = 1 as n × n matrices; ``entries`` turns (T, row, col) into a k × k direction."""
    design, out = fit.design, []
    Z, theta, used, start = design.Z.toarray(), fit.theta, 0, 0
    for term in design.terms:
        k, L, offset = len(term.columns), design.groups[term.group].size, 0
        own = Z[:, start : start + k * L]
        start += k * L
        for size in term.sizes:
            block = range(offset, offset + size)
            T = np.zeros((k, k))
            for c in block:
                for r in range(c, offset + size):
                    T[r, c] = theta[used]
                    used += 1
            for c in block:
                for r in range(c, offset + size):
                    out.append(own @ np.kron(np.eye(L), entries(T, r, c)) @ own.T)
            offset += size
    return out


def along_theta(T, r, c):
    E = np.zeros_like(T)
    E[r, c] = 1
    return E @ T.T + T @ E.T


def along_covariance(T, r, c):
    E = np.zeros_like(T)
    E[r, c] = E[c, r] = 1
    return E


def dense_V(fit):
    ZL = fit.design.Z.toarray() @ dense_Lambda(fit.design, fit.theta)
    weights = np.ones(fit.nobs) if fit.design.weights is None else fit.design.weights
    return np.diag(1 / weights) + ZL @ ZL.T


def dense_satterthwaite(fit):
    """Var(β̂) as a function of (θ, σ), differentiated numerically; A from the Hessian of −2 log-likelihood in (θ, σ)."""
    X, y = fit.design.X, fit.design.y
    p = X.shape[1]
    V = dense_V(fit)
    inverse = np.linalg.inv(V)
    C = np.linalg.inv(X.T @ inverse @ X)
    P = inverse - inverse @ X @ C @ X.T @ inverse
    D = directions(fit, along_theta)
    s2, m = fit.sigma**2, len(D)
    H = np.empty((m + 1, m + 1))
    Q = P if fit.reml else inverse
    second = {}
    for i in range(m):  # Vᵢⱼ by exact differences of the (quadratic) V
        for j in range(m):
            e = np.eye(m)
            W = [dense_of(fit, fit.theta + a * e[i] + b * e[j]) for a, b in ((1, 1), (1, 0), (0, 1), (0, 0))]
            second[i, j] = W[0] - W[1] - W[2] + W[3]
    Py = P @ y
    for i in range(m):
        for j in range(m):
            H[i, j] = -np.trace(Q @ D[i] @ Q @ D[j]) + np.trace(Q @ second[i, j])
            H[i, j] += (2 * Py @ D[i] @ P @ D[j] @ Py - Py @ second[i, j] @ Py) / s2
        H[i, m] = H[m, i] = 2 * (Py @ D[i] @ Py) / s2**1.5
    H[m, m] = 4 * (fit.nobs - p * fit.reml) / s2
    gradient = [s2 * C @ X.T @ inverse @ d @ inverse @ X @ C for d in D] + [2 * np.sqrt(s2) * C]
    return 2 * np.linalg.inv(H), np.array(gradient), s2 * C


def dense_of(fit, theta):
    ZL = fit.design.Z.toarray() @ dense_Lambda(fit.design, theta)
    return ZL @ ZL.T


def interior(formula, reml=True, weights=None):
    """A fit of random data whose variances are all positive."""
    for seed in range(60):
        fit = lmer(formula, random_data(seed), reml=reml, weights=weights)
        if np.all(np.abs(fit.theta) > 1e-6) and not fit.is_singular:
            return fit
    raise AssertionError("no interior fit found")


@pytest.mark.parametrize(
    "formula", ["y ~ x + (1 | g)", "y ~ x + (z | g)", "y ~ x * f + (1 | g) + (1 | h)", "y ~ f + (1 | a / b)"]
)
@pytest.mark.parametrize(("reml", "weights"), [(True, None), (False, "w")])
def test_satterthwaite(formula, reml, weights):
    fit = interior(formula, reml, weights)
    A, gradient, V = dense_satterthwaite(fit)
    for L in np.eye(len(fit.fixef)):
        g = np.einsum("p,ipq,q->i", L, gradient, L)
        expected = 2 * (L @ V @ L) ** 2 / (g @ A @ g)
        assert fit.contrast(L)["df"].iloc[0] == pytest.approx(expected, rel=1e-7)


@every_formula
def test_kenward_roger(formula):
    """Φ_A, F and m from the definitions of Kenward & Roger (1997), with every n × n matrix written out."""
    fit = lmer(formula, random_data(11), weights="w")
    X, n = fit.design.X, fit.nobs
    s2 = fit.sigma**2
    G = [*directions(fit, along_covariance), np.diag(1 / fit.design.weights)]
    inverse = np.linalg.inv(s2 * dense_V(fit))
    Phi = np.linalg.inv(X.T @ inverse @ X)
    P = [-X.T @ inverse @ g @ inverse @ X for g in G]
    Q = [[X.T @ inverse @ g @ inverse @ h @ inverse @ X for h in G] for g in G]
    information = np.array(
        [
            [
                np.trace(inverse @ G[i] @ inverse @ G[j]) / 2
                - np.trace(Phi @ Q[i][j])
                + np.trace(Phi @ P[i] @ Phi @ P[j]) / 2
                for j in range(len(G))
            ]
            for i in range(len(G))
        ]
    )
    W = np.linalg.inv(information)
    bias = sum(W[i, j] * (Q[i][j] - P[i] @ Phi @ P[j]) for i in range(len(G)) for j in range(len(G)))
    Phi_A = Phi + 2 * Phi @ bias @ Phi
    assert n == len(X)
    np.testing.assert_allclose(fit.vcov_kr, Phi_A, rtol=1e-6, atol=1e-9 * np.abs(Phi_A).max())

    L = np.eye(len(fit.fixef))[-2:] if len(fit.fixef) > 1 else np.eye(1)
    ell = len(L)
    Theta = L.T @ np.linalg.inv(L @ Phi @ L.T) @ L
    A1 = A2 = 0.0
    for i in range(len(G)):
        for j in range(len(G)):
            one, other = Theta @ Phi @ P[i] @ Phi, Theta @ Phi @ P[j] @ Phi
            A1 += W[i, j] * np.trace(one) * np.trace(other)
            A2 += W[i, j] * np.trace(one @ other)
    B = (A1 + 6 * A2) / (2 * ell)
    g = ((ell + 1) * A1 - (ell + 4) * A2) / ((ell + 2) * A2)
    d = 3 * ell + 2 * (1 - g)
    E = 1 / (1 - A2 / ell)
    V = 2 / ell * (1 + g / d * B) / ((1 - (ell - g) / d * B) ** 2 * (1 - (ell + 2 - g) / d * B))
    rho = V / (2 * E**2)
    m = 4 + (ell + 2) / (ell * rho - 1)
    estimate = L @ fit.fixef.to_numpy()
    F = m / (E * (m - 2)) / ell * estimate @ np.linalg.inv(L @ Phi_A @ L.T) @ estimate
    result = fit.contrast(L, "kenward-roger").iloc[0]
    assert result["den_df"] == pytest.approx(m, rel=1e-6)
    assert result["F"] == pytest.approx(F, rel=1e-6)


def test_balanced_designs_have_the_classical_degrees_of_freedom():
    """A split plot: 6 workers × 3 machines × 3 measurements; machines are tested on (3−1)(6−1) degrees of freedom."""
    fit = lmer("score ~ Machine + (1 | Worker) + (1 | Worker:Machine)", load_dataset("machines"))
    for ddf in ("satterthwaite", "kenward-roger"):
        assert fit.anova(ddf)["den_df"].tolist() == pytest.approx([10.0], rel=1e-6)
    one = fit.contrast({"Machine[T.B]": 1})
    assert one["df"].iloc[0] == pytest.approx(10, rel=1e-6)
    assert one["statistic"].iloc[0] ** 2 == pytest.approx(fit.contrast([[0, 1, 0]])["F"].iloc[0])


def test_tests_do_not_depend_on_how_a_hypothesis_is_written():
    """F never does; Satterthwaite's pooled degrees of freedom only by a little where the rows are not rotated."""
    fit = interior("y ~ f + x + (x | g)")
    L = np.array([[0, 1.0, 0, 0], [0, 0, 1, 0]])
    rotated = np.array([[0.6, 0.8], [-0.8, 0.6]]) @ L
    mixed = np.array([[2.0, 1], [-1, 3]]) @ L
    redundant = np.vstack([L, L.sum(axis=0)])
    for ddf in ("satterthwaite", "kenward-roger", "normal"):
        one = fit.contrast(L, ddf)
        pd.testing.assert_frame_equal(one, fit.contrast(rotated, ddf), rtol=1e-7)
        for other in (mixed, redundant):
            pd.testing.assert_frame_equal(one, fit.contrast(other, ddf), rtol=0.02 if ddf == "satterthwaite" else 1e-6)
            assert fit.contrast(other, ddf)["F"].iloc[0] == pytest.approx(one["F"].iloc[0], rel=1e-7)


def test_units_do_not_matter():
    data = random_data(1)
    fit = lmer("y ~ f + x + (1 | g)", data)
    scaled = lmer("y ~ f + x + (1 | g)", data.assign(x=1e6 * data["x"], y=1e-3 * data["y"]))
    for ddf in ("satterthwaite", "kenward-roger"):
        one, other = fit.contrast({"x": 1}, ddf), scaled.contrast({"x": 1}, ddf)
        np.testing.assert_allclose(one[["df", "statistic"]], other[["df", "statistic"]], rtol=1e-6)


def test_types_of_anova():
    """Without products the types II and III agree; type I depends on the order; the last term is the same in all."""
    data = random_data(5)
    fit = lmer("y ~ x + z + f + (1 | g)", data)
    np.testing.assert_allclose(fit.anova(type=2)["F"], fit.anova(type=3)["F"], rtol=1e-8)
    np.testing.assert_allclose(fit.anova(type=2)["den_df"], fit.anova(type=3)["den_df"], rtol=0.01)
    assert fit.anova(type=1).loc["f", "F"] == pytest.approx(fit.anova(type=3).loc["f", "F"])
    assert fit.anova(type=1).loc["x", "F"] != pytest.approx(fit.anova(type=3).loc["x", "F"])
    swapped = lmer("y ~ f + z + x + (1 | g)", data)
    np.testing.assert_allclose(swapped.anova().loc["f"], fit.anova().loc["f"], rtol=1e-7)
    assert list(fit.anova().columns) == ["sum_sq", "mean_sq", "num_df", "den_df", "F", "p_value"]
    np.testing.assert_allclose(fit.anova()["mean_sq"], fit.anova()["F"] * fit.sigma**2)


@pytest.mark.parametrize(
    "formula", ["y ~ f * x + (1 | g)", "y ~ f * h + x + (1 | g)", "y ~ C(f, contr.sum) * x + (1 | g)"]
)
def test_type_3_does_not_depend_on_the_coding(formula):
    data = random_data(5)
    renamed = data.assign(f=pd.Categorical(data["f"], ["r", "p", "q"]))
    one, other = lmer(formula, data).anova(), lmer(formula, renamed).anova()
    np.testing.assert_allclose(one["F"], other["F"], rtol=1e-7)
    np.testing.assert_allclose(one["den_df"], other["den_df"], rtol=0.02)


def test_type_3_is_refused_with_empty_cells():
    data = random_data(1)
    with pytest.warns(UserWarning, match="rank deficient"):
        fit = lmer("y ~ f * h + (1 | g)", data[~((data["f"] == "q") & (data["h"] == "t"))])
    with pytest.raises(ValueError, match="Use type 2 or 1"):
        fit.anova()
    assert fit.anova(type=2)["F"].notna().all()


def test_singular_fits_say_so():
    data = load_dataset("dyestuff2")
    fit = lmer("Yield ~ 1 + (1 | Batch)", data)
    with pytest.warns(UserWarning, match="singular"):
        df = fit.contrast([1.0])["df"].iloc[0]
    assert df == pytest.approx(len(data) - 1)


def test_marginal_means_are_averages_of_predictions():
    data = random_data(2)
    fit = lmer("y ~ f * x + h + (1 | g)", data)
    table = means(fit, "f")
    grid = pd.DataFrame([(f, h) for f in "pqr" for h in "stuv"], columns=["f", "h"]).assign(x=data["x"].mean())
    expected = fit.predict(grid, random=False).groupby(grid["f"]).mean()
    np.testing.assert_allclose(table["estimate"], expected)
    at = means(fit, ["f", "h"], at={"x": [10.0]})
    assert at.shape[0] == 12
    np.testing.assert_allclose(at["estimate"], fit.predict(grid.assign(x=10.0), random=False))


def test_pairs_and_adjustments():
    fit = lmer("y ~ f + x + (1 | g)", random_data(2))
    plain, tukey = pairwise(fit, "f", adjust="none"), pairwise(fit, "f", adjust="tukey")
    assert list(plain["contrast"]) == ["p - q", "p - r", "q - r"]
    assert plain["estimate"].iloc[0] == pytest.approx(-fit.fixef["f[T.q]"])
    assert (tukey["p_value"] >= plain["p_value"]).all()
    np.testing.assert_allclose(adjusted(plain, "bonferroni", 3), np.minimum(3 * plain["p_value"], 1))
    p = pd.DataFrame({"p_value": [0.01, 0.04, 0.03]})
    np.testing.assert_allclose(adjusted(p, "holm", 3), [0.03, 0.06, 0.06])
    two = lmer("y ~ t + (1 | g)", random_data(2).assign(t=lambda d: np.where(d["x"] > 20, "a", "b")))
    np.testing.assert_allclose(pairwise(two, "t")["p_value"], pairwise(two, "t", adjust="none")["p_value"], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fit: fit.contrast([1, 0]), "needs 3 columns, for Intercept, x, z; this has shape"),
        (lambda fit: fit.contrast({"w": 1}), "no fixed effect 'w'"),
        (lambda fit: fit.contrast([0, 0, 0]), "not all zero"),
        (lambda fit: fit.contrast([0, 1, 0], ddf="kr"), "'satterthwaite', 'kenward-roger' or 'normal'"),
        (lambda fit: fit.contrast([0, 1, 0], level=95), "between 0 and 1"),
        (lambda fit: fit.refit_ml().contrast([0, 1, 0], "kenward-roger"), "needs a REML fit"),
        (lambda fit: fit.anova(type=4), "1, 2 or 3"),
        (lambda fit: means(fit, "f"), "no variable of the fixed part"),
        (lambda fit: means(fit, "x"), "say at which values"),
        (lambda fit: pairwise(fit, "x", at={"x": [1, 2]}, adjust="fdr"), "'tukey', 'holm'"),
        (lambda fit: pairwise(fit, "x", at={"x": [1]}), "one mean only"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(lmer("y ~ x + z + (1 | g)", random_data(0)))


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger"])
def test_a_covariate_far_from_zero_costs_no_digits(ddf):
    """Degrees of freedom of a slope do not depend on where x has its zero."""
    data = random_data(5, 300)
    far = data.assign(x=data["x"] + 1e8)
    near, moved = (lmer("y ~ x + f + (x | g)", d).tidy(ddf=ddf).set_index("term") for d in (data, far))
    for term in ("x", "f[T.q]"):
        assert moved.loc[term, "df"] == pytest.approx(near.loc[term, "df"], rel=1e-4)
