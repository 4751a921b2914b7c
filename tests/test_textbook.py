"""The textbook formulas against each other and against independent computations."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.linalg import block_diag
from scipy.stats import multivariate_normal

from lmmlite import Criterion, build_design, crossproducts, lmer, parse_formula
from lmmlite import textbook as tb

seeds = st.integers(0, 2**32 - 1)
variances = st.floats(0.05, 20)
sizes = st.integers(2, 12)


def random_model(seed, groups=5, slope=True):
    """Draw y, X, Z, G (correlated intercepts and slopes), R (unequal variances) and V, unbalanced."""
    rng = np.random.default_rng(seed)
    group = np.concatenate([np.arange(groups), rng.integers(groups, size=rng.integers(8, 20))])
    n, x = len(group), rng.normal(size=len(group))
    indicator = np.eye(groups)[group]
    Z = np.hstack([indicator, indicator * x[:, None]]) if slope else indicator
    factor = np.tril(rng.normal(size=(2, 2))) + np.eye(2) if slope else np.array([[1.3]])
    G = np.kron(factor @ factor.T + 0.1 * np.eye(len(factor)), np.eye(groups))
    R = np.diag(rng.uniform(0.5, 2, n))
    X = np.column_stack([np.ones(n), x, rng.normal(size=n)])
    return rng.normal(size=n) * 2 + 5, X, Z, G, R, Z @ G @ Z.T + R


# --- covariance ---------------------------------------------------------------------------------------------
@given(seeds)
def test_marginal_covariance_is_the_same_from_the_relative_factor_from_terms_and_entry_by_entry(seed):
    _, _, Z, G, R, V = random_model(seed)
    sigma2 = 1.7
    Lambda = np.linalg.cholesky(G / sigma2)
    assert_allclose(tb.marginal_covariance(Z, Lambda, sigma2, sigma2 / np.diag(R)), V, rtol=1e-10, atol=1e-12)
    q = Z.shape[1] // 2
    independent = [(Z[:, :q], G[:q, :q]), (Z[:, q:], G[q:, q:])]
    by_hand = [[R[i, j] + sum(z[i] @ g @ z[j] for z, g in independent) for j in range(len(Z))] for i in range(len(Z))]
    assert_allclose(tb.marginal_covariance_from_terms(independent, R), by_hand, atol=1e-12)


@given(sizes, variances, variances)
def test_compound_symmetric_block_has_its_two_eigenvalues_and_known_inverse(n, tau2, sigma2):
    V = tb.compound_symmetric(n, tau2, sigma2)
    assert_allclose(np.linalg.eigvalsh(V), [sigma2] * (n - 1) + [sigma2 + n * tau2], rtol=1e-9)
    assert_allclose(tb.marginal_covariance(np.ones((n, 1)), np.array([[np.sqrt(tau2 / sigma2)]]), sigma2), V)
    inverse = (np.eye(n) - tau2 / (sigma2 + n * tau2)) / sigma2  # Sherman-Morrison
    assert_allclose(V @ inverse, np.eye(n), atol=1e-9)
    assert_allclose(V[0, 1] / V[0, 0], tb.icc(tau2, sigma2))


# --- fixed and random effects -------------------------------------------------------------------------------
@given(seeds)
def test_henderson_equals_gls_and_blup_with_their_error_covariances(seed):
    y, X, Z, G, R, V = random_model(seed)
    mme, (beta, cov), p = tb.mixed_model_equations(y, X, Z, G, R), tb.gls(y, X, V), X.shape[1]
    assert_allclose(mme.matrix @ np.r_[mme.beta, mme.b], mme.rhs, atol=1e-8)
    assert_allclose(mme.beta, beta, atol=1e-9)
    assert_allclose(mme.cov[:p, :p], cov, atol=1e-9)
    assert_allclose(mme.b, tb.blup(y, X, beta, Z, G, V), atol=1e-9)
    # The errors are linear in (b, e): their covariance from first principles, with beta estimated.
    A = G @ Z.T @ np.linalg.inv(V)
    H = X @ cov @ X.T @ np.linalg.inv(V)
    B = A @ (np.eye(len(y)) - H)  # b^ = B y, and B X = 0
    error = B @ Z - np.eye(len(G))
    assert_allclose(mme.cov[p:, p:], error @ G @ error.T + B @ R @ B.T, atol=1e-9)
    # With beta known the last block of the matrix alone is inverted.
    assert_allclose(np.linalg.inv(mme.matrix[p:, p:]), tb.blup_conditional_variance(Z, G, V), atol=1e-9)
    assert np.linalg.eigvalsh(mme.cov[p:, p:] - tb.blup_conditional_variance(Z, G, V)).min() > -1e-9


@given(seeds)
def test_gls_is_least_squares_on_whitened_data_and_unbiased_minimum_variance(seed):
    y, X, *_, V = random_model(seed)
    W = np.linalg.inv(np.linalg.cholesky(V))
    beta, cov = tb.gls(y, X, V)
    assert_allclose(beta, np.linalg.lstsq(W @ X, W @ y)[0], atol=1e-9)
    ols = np.linalg.pinv(X)
    assert np.linalg.eigvalsh(ols @ V @ ols.T - cov).min() > -1e-9


@given(seeds)
def test_blup_and_its_variance_are_the_conditional_normal_of_b_given_y(seed):
    y, X, Z, G, _, V = random_model(seed)
    beta, q, n = np.array([1.0, -2.0, 0.5]), len(G), len(y)
    joint = np.block([[G, G @ Z.T], [Z @ G, V]])
    mean, cov = tb.conditional_normal(np.r_[np.zeros(q), X @ beta], joint, range(q, q + n), y)
    assert_allclose(mean, tb.blup(y, X, beta, Z, G, V), atol=1e-9)
    assert_allclose(cov, tb.blup_conditional_variance(Z, G, V), atol=1e-9)
    # Independent of the formula: log f(b|y) = log f(b,y) - log f(y), so the quadratic must match everywhere.
    b = np.random.default_rng(seed).normal(size=q)
    full = multivariate_normal(np.r_[np.zeros(q), X @ beta], joint).logpdf(np.r_[b, y])
    marginal = multivariate_normal(X @ beta, V).logpdf(y)
    assert_allclose(multivariate_normal(mean, cov).logpdf(b), full - marginal, rtol=1e-7, atol=1e-6)


def test_henderson_needs_an_invertible_g_and_blup_does_not():
    y, X, Z, G, R, _ = random_model(1)
    with pytest.raises(np.linalg.LinAlgError):
        tb.mixed_model_equations(y, X, Z, 0 * G, R)
    assert_allclose(tb.blup(y, X, np.zeros(3), Z, 0 * G, R), 0)


# --- the random intercept in scalars ------------------------------------------------------------------------
@given(sizes, variances, variances, st.floats(-50, 50), st.floats(-50, 50))
def test_every_form_of_the_shrinkage_estimator_agrees(n, tau2, sigma2, mean, mu):
    weight, rho = tb.shrinkage_weight(n, tau2, sigma2), tb.icc(tau2, sigma2)
    assert_allclose(weight, tb.shrinkage_weight_icc(n, rho))
    assert_allclose(weight, n * tau2 / (n * tau2 + sigma2))
    predicted = tb.shrink(mean, mu, n, tau2, sigma2)
    assert_allclose(predicted, (n * mean + sigma2 / tau2 * mu) / (n + sigma2 / tau2), atol=1e-9)
    assert_allclose(predicted, ((1 - rho) * mu + n * rho * mean) / (1 - rho + n * rho), atol=1e-9)
    # ... and with the matrix formula, for a group of n rows whose mean is `mean`.
    y, one = mean + np.linspace(-1, 1, n), np.ones((n, 1))
    V, G = tb.compound_symmetric(n, tau2, sigma2), np.array([[tau2]])
    assert_allclose(mu + tb.blup(y, one, np.array([mu]), one, G, V)[0], predicted, atol=1e-8)
    variance = tb.blup_conditional_variance(one, G, V)[0, 0]
    assert_allclose([variance] * 2, [tau2 * (1 - weight), 1 / (n / sigma2 + 1 / tau2)], rtol=1e-8)


@pytest.mark.parametrize(
    ("tau2", "sigma2", "weight", "rho"),
    [(1e-12, 1, 0, 0), (1e12, 1, 1, 1), (1, 1e-12, 1, 1), (1, 1e12, 0, 0)],
    ids=["tau2 to 0", "tau2 to infinity", "sigma2 to 0", "sigma2 to infinity"],
)
def test_the_four_limits_of_the_icc_and_of_shrinkage(tau2, sigma2, weight, rho):
    assert_allclose(tb.icc(tau2, sigma2), rho, atol=1e-11)
    assert_allclose(tb.shrinkage_weight(10, tau2, sigma2), weight, atol=1e-10)
    assert_allclose(tb.shrink(7.0, 3.0, 10, tau2, sigma2), 7.0 if weight else 3.0, atol=1e-9)
    assert_allclose(tb.shrinkage_weight_icc(10, float(rho)), weight)


def test_more_rows_trust_the_group_more_and_arrays_pass_through():
    n = np.arange(1, 200)
    weight = tb.shrinkage_weight(n, 2.0, 5.0)
    assert weight.shape == n.shape
    assert np.all(np.diff(weight) > 0)
    assert_allclose(weight[0], tb.icc(2.0, 5.0))


@pytest.mark.parametrize("bad", [(0, 1), (1, 0), (-1, 1), (1, np.array([1.0, -1.0]))])
def test_shrinkage_weight_refuses_variances_that_are_not_positive(bad):
    with pytest.raises(ValueError, match="must be positive"):
        tb.shrinkage_weight(3, *bad)


@given(sizes, st.integers(1, 8), variances, variances)
def test_variance_of_a_clustered_mean_three_ways(n, groups, tau2, sigma2):
    V = np.kron(np.eye(groups), tb.compound_symmetric(n, tau2, sigma2))
    a = np.full(n * groups, 1 / (n * groups))
    direct, rho = a @ V @ a, tb.icc(tau2, sigma2)
    assert_allclose(tb.variance_of_mean(n, groups, tau2, sigma2), direct)
    assert_allclose(tb.design_effect(n, rho) * (tau2 + sigma2) / (n * groups), direct)
    assert_allclose((tau2 + sigma2) / tb.effective_sample_size(n, groups, rho), direct)
    assert groups - 1e-9 <= tb.effective_sample_size(n, groups, rho) <= n * groups


# --- one variance: ML and REML ------------------------------------------------------------------------------
@given(seeds, st.integers(1, 4), st.integers(6, 15))
def test_expected_rss_is_n_minus_p_so_reml_is_unbiased_and_ml_is_not(seed, p, n):
    rng = np.random.default_rng(seed)
    X, beta, sigma2 = rng.normal(size=(n, p)), rng.normal(size=p), 2.5
    # RSS is y'My with M'M = M, so E[RSS] = tr(M) sigma2 + beta'X'MX beta; M's columns are residuals of e_i.
    trace = sum(tb.residual_sum_of_squares(e, X) for e in np.eye(n))
    expected = sigma2 * trace + tb.residual_sum_of_squares(X @ beta, X)
    assert_allclose(expected, (n - p) * sigma2, rtol=1e-8)
    y = rng.normal(size=n)
    assert_allclose(expected * tb.reml_variance(y, X) / tb.residual_sum_of_squares(y, X), sigma2, rtol=1e-8)
    bias = expected * tb.ml_variance(y, X) / tb.residual_sum_of_squares(y, X) - sigma2
    assert_allclose(bias, -sigma2 * p / n, rtol=1e-7)


@given(seeds)
def test_iid_sample_divides_by_n_and_by_n_minus_one(seed):
    y = np.random.default_rng(seed).normal(3, 2, 9)
    assert_allclose([tb.ml_variance(y), tb.reml_variance(y)], [np.var(y), np.var(y, ddof=1)])


def test_reml_variance_without_degrees_of_freedom_is_an_error():
    with pytest.raises(ValueError, match="no degrees of freedom"):
        tb.reml_variance(np.array([1.0]))


# --- criteria -----------------------------------------------------------------------------------------------
@given(seeds)
def test_ml_deviance_is_the_normal_density_at_the_gls_estimate_and_no_beta_does_better(seed):
    y, X, *_, V = random_model(seed)
    beta = tb.gls(y, X, V).beta
    density = multivariate_normal(np.zeros(len(y)), V)
    assert_allclose(tb.ml_deviance(y, X, V), -2 * density.logpdf(y - X @ beta), rtol=1e-10)
    other = beta + np.random.default_rng(seed).normal(size=len(beta)) * 0.1
    assert tb.ml_deviance(y, X, V) <= -2 * density.logpdf(y - X @ other)


@given(seeds)
def test_reml_is_the_likelihood_of_error_contrasts_and_ml_integrated_over_beta(seed):
    y, X, *_, V = random_model(seed)
    K, n, p = tb.error_contrasts(X), *X.shape
    assert K.shape == (n, n - p)
    assert_allclose(K.T @ X, 0, atol=1e-12)
    assert_allclose(K.T @ K, np.eye(n - p), atol=1e-12)
    reml = tb.reml_deviance(y, X, V)
    assert_allclose(tb.error_contrast_deviance(y, X, V) + tb.logdet(X.T @ X), reml, rtol=1e-9, atol=1e-8)
    contrasts = -2 * multivariate_normal(np.zeros(n - p), K.T @ V @ K).logpdf(K.T @ y)
    assert_allclose(contrasts, tb.error_contrast_deviance(y, X, V), rtol=1e-9, atol=1e-8)
    # Laplace's integral of exp(-deviance/2) over beta is exact for a Gaussian (Bates et al. 2015, eq. 35-39).
    integrated = tb.ml_deviance(y, X, V) - p * tb.LOG_2PI - tb.logdet(tb.gls(y, X, V).cov)
    assert_allclose(integrated, reml, rtol=1e-10)


@given(seeds)
def test_beta_drops_out_of_the_contrasts_and_reml_moves_by_its_known_constants(seed):
    y, X, *_, V = random_model(seed)
    reml = tb.reml_deviance(y, X, V)
    assert_allclose(tb.reml_deviance(y + X @ [3.0, -1.0, 2.0], X, V), reml, rtol=1e-9)
    assert_allclose(tb.reml_deviance(y, X * [1, 1, 10.0], V), reml + 2 * np.log(10), rtol=1e-9)


@given(seeds, st.booleans())
def test_profiled_deviance_is_the_minimum_over_sigma2(seed, reml):
    y, X, *_, H = random_model(seed)
    criterion = tb.reml_deviance if reml else tb.ml_deviance
    best = tb.profiled_sigma2(y, X, H, reml=reml)
    profiled = tb.profiled_deviance(y, X, H, reml=reml)
    assert_allclose(profiled, criterion(y, X, best * H), rtol=1e-10)
    for factor in (0.8, 0.99, 1.01, 1.25):
        assert criterion(y, X, factor * best * H) > profiled


def test_with_independent_rows_the_profiled_variances_are_the_simple_estimators():
    y, X, *_ = random_model(3)
    H = np.eye(len(y))
    assert_allclose(tb.profiled_sigma2(y, X, H, reml=False), tb.ml_variance(y, X))
    assert_allclose(tb.profiled_sigma2(y, X, H, reml=True), tb.reml_variance(y, X))


# --- engine and textbook ------------------------------------------------------------------------------------
MODELS = {
    "random intercept": "y ~ x + (1 | g)",
    "correlated slope": "y ~ x + f + (x | g)",
    "uncorrelated slope": "y ~ x + (x || g)",
    "two terms on one factor": "y ~ 1 + (1 | g) + (0 + x | g)",
    "crossed": "y ~ x + (1 | g) + (1 | h)",
    "nested": "y ~ x + (1 | f / g)",
    "slope and crossed": "y ~ x * f + (x | g) + (1 | h)",
    "factor in the bar": "y ~ x + (f | g) + (1 | h)",
}


def random_data(seed, weighted):
    """Draw an unbalanced table with three factors, real effects of each, and unequal weights if wanted."""
    rng = np.random.default_rng(seed)
    n = 90
    g, h, f = rng.integers(0, 12, n), rng.integers(0, 7, n), rng.integers(0, 3, n)
    x, weights = rng.normal(1, 2, n), rng.uniform(0.3, 3, n) if weighted else np.ones(n)
    effects = rng.normal(size=12)[g] + rng.normal(size=12)[g] * x * 0.5 + rng.normal(size=7)[h]
    y = 5 + x + f + effects + rng.normal(size=36)[12 * f + g] + rng.normal(size=n) / np.sqrt(weights)
    columns = {"g": [f"g{v:02d}" for v in g], "h": [f"h{v}" for v in h], "f": [f"f{v}" for v in f]}
    return pd.DataFrame({"y": y, "x": x, **columns, "w": weights})


def dense_lambda(design, theta):
    """Lambda (q, q) in the order of the columns of ``design.Z``, from theta by its definition alone."""
    left, blocks = list(theta), []
    for term in design.terms:
        small = []
        for size in term.sizes:
            T = np.zeros((size, size))
            for column in range(size):  # lower triangle, column by column
                T[column:, column] = [left.pop(0) for _ in range(size - column)]
            small.append(T)
        blocks += [block_diag(*small)] * design.groups[term.group].size
    assert not left
    return block_diag(*blocks)


def dense_ranef(fit):
    """The predicted random effects in the order of the columns of ``design.Z``."""
    used, parts = dict.fromkeys(fit.ranef(), 0), []
    for term in fit.design.terms:
        name, k = fit.design.groups[term.group].name, len(term.columns)
        parts.append(fit.ranef()[name].to_numpy()[:, used[name] : used[name] + k].ravel())
        used[name] += k
    return np.concatenate(parts)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize("formula", MODELS.values(), ids=MODELS)
def test_the_criterion_of_the_engine_is_the_profiled_deviance_at_any_theta(formula, reml, weighted):
    design = build_design(parse_formula(formula), random_data(11, weighted), weights="w")
    criterion = Criterion(crossproducts(design), reml)
    X, Z, rng = design.X, design.Z.toarray(), np.random.default_rng(12)
    for scale in (0.0, 0.1, 1.0, 10.0):
        theta = scale * rng.normal(size=criterion.size)
        H = tb.marginal_covariance(Z, dense_lambda(design, theta), 1.0, design.weights)
        expected = tb.profiled_deviance(design.y, X, H, reml=reml)
        assert_allclose(criterion.evaluate(theta).value, expected, rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize("formula", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("seed", [21, 22])
def test_every_estimate_of_the_engine_is_the_textbook_formula_at_its_theta(formula, reml, weighted, seed):
    fit = lmer(formula, random_data(seed, weighted), reml=reml, weights="w")
    y, X, Z = fit.design.y, fit.design.X, fit.design.Z.toarray()
    Lambda = dense_lambda(fit.design, fit.theta)
    H = tb.marginal_covariance(Z, Lambda, 1.0, fit.design.weights)
    assert_allclose(fit.sigma**2, tb.profiled_sigma2(y, X, H, reml=reml), rtol=1e-9)
    V, G = fit.sigma**2 * H, fit.sigma**2 * Lambda @ Lambda.T
    R = V - Z @ G @ Z.T
    deviance = (tb.reml_deviance if reml else tb.ml_deviance)(y, X, V)
    assert_allclose([fit.criterion, -2 * fit.loglik], deviance, rtol=1e-9)
    assert_allclose(fit.deviance, tb.profiled_deviance(y, X, H, reml=False), rtol=1e-9)

    beta, cov = tb.gls(y, X, V)
    b = tb.blup(y, X, beta, Z, G, V)
    assert_allclose(fit.fixef, beta, rtol=1e-9, atol=1e-9)
    assert_allclose(fit.vcov, cov, rtol=1e-9, atol=1e-9)
    assert_allclose(dense_ranef(fit), b, atol=1e-9)
    assert_allclose(fit.fitted, X @ beta + Z @ b, rtol=1e-9)
    if np.linalg.cond(G) < 1e8:  # Henderson's form needs the inverse of G
        mme = tb.mixed_model_equations(y, X, Z, G, R)
        assert_allclose(np.r_[mme.beta, mme.b], np.r_[fit.fixef, dense_ranef(fit)], atol=1e-8)

    conditional, column = tb.blup_conditional_variance(Z, G, V), 0
    if len(fit.design.groups) == len(fit.design.terms):
        for term in fit.design.terms:
            group, k = fit.design.groups[term.group], len(term.columns)
            for block in fit.ranef_cov(group.name):
                expected = conditional[column : column + k, column : column + k]
                assert_allclose(block, expected, atol=1e-9)
                column += k
        assert column == Z.shape[1]


@given(seeds)
def test_a_random_intercept_shrinks_the_mean_residual_of_each_group(seed):
    data = random_data(seed, False)
    fit = lmer("y ~ x + (1 | g)", data)
    tau2, sigma2 = fit.varcorr["variance"]
    by_group = fit.residuals("marginal").groupby(data["g"])
    effects, spread = fit.ranef()["g"]["Intercept"], fit.ranef_sd()["g"]["Intercept"]
    if tau2 > 1e-6:
        weight = tb.shrinkage_weight(by_group.size(), tau2, sigma2)
        assert_allclose(
            effects.loc[weight.index], tb.shrink(by_group.mean(), 0, by_group.size(), tau2, sigma2), atol=1e-9
        )
        assert_allclose(spread.loc[weight.index] ** 2, (1 - weight) * tau2, atol=1e-9)
    else:
        assert_allclose(effects, 0, atol=1e-5)
