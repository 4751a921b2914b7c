"""Joint distribution of fixed and random effects: simulated effects and expected ranks against dense matrices and arm."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from random_models import FORMULAS, couple_sparsely, dense_Lambda, random_data
from scipy.stats import norm

from lmmlite import effects, lmer, load_dataset, textbook
from lmmlite.effects import expected_rank, simulate_effects

REFERENCE = json.loads((Path(__file__).parent / "reference" / "diagnostics.json").read_text())["models"]


def fit_reference(model):
    data = load_dataset(model["dataset"])
    weights = None if model["weights"] is None else np.resize(model["weights"], len(data))
    return lmer(model["text"], data, reml=model["reml"], weights=weights)


def dense(fit):
    """X, Z, Cov(b), V, weights and the joint covariance C of (β̂ − β, b̂ − b), from n × n matrices, all with σ² in them."""
    design, s2 = fit.design, fit.sigma**2
    w = np.ones(design.n) if design.weights is None else design.weights
    X, Z, Lambda = design.X, design.Z.toarray(), dense_Lambda(design, fit.theta)
    D = s2 * Lambda @ Lambda.T
    V = textbook.marginal_covariance(Z, Lambda, s2, w)
    VX, K = np.linalg.solve(V, X), D @ Z.T
    G = np.linalg.inv(X.T @ VX)
    Cbx = -K @ VX @ G
    Cbb = D - K @ np.linalg.solve(V, K.T) + K @ VX @ G @ VX.T @ K.T
    return SimpleNamespace(X=X, Z=Z, D=D, V=V, w=w, VX=VX, G=G, C=np.block([[G, Cbx.T], [Cbx, Cbb]]))


def by_column(fit, values):
    """Values of the columns of `Design.Z` as {(group, level, term): value}."""
    keys = [
        (term.bar.group, level, name)
        for term in fit.design.terms
        for level in fit.design.groups[term.group].labels
        for name in term.side.names
    ]
    return dict(zip(keys, values, strict=True))


def crossed_slopes():
    """Correlated slopes on two crossed factors, no direction of zero variance: coordinates and columns all differ."""
    rng = np.random.default_rng(1)
    data = random_data(1, 600).assign(g=rng.integers(0, 20, 600), h=rng.integers(0, 8, 600))
    b, c = rng.normal(size=(20, 2)), rng.normal(size=(8, 2))
    data["y"] = rng.normal(size=600) + b[data["g"], 0] + b[data["g"], 1] * data["z"]
    data["y"] += c[data["h"], 0] + c[data["h"], 1] * data["z"]
    fit = lmer("y ~ z + (z | g) + (z | h)", data)
    assert not fit.is_singular
    return fit


def fitted_with(kind, formula, monkeypatch):
    """A fit whose factors are coupled densely, sparsely, or densely with one level handled at a time."""
    if kind == "sparse":
        couple_sparsely(monkeypatch)
    if kind == "pieces":
        monkeypatch.setattr(effects.JointErrors, "_ENTRIES", 1)
    return crossed_slopes() if formula is None else lmer(formula, random_data(6), weights="w", offset="o")


def test_the_dense_covariance_is_hendersons():
    fit = crossed_slopes()
    d = dense(fit)
    equations = textbook.mixed_model_equations(fit.design.y, d.X, d.Z, d.D, np.diag(fit.sigma**2 / d.w))
    np.testing.assert_allclose(d.C, equations.cov, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["dense", "sparse", "pieces"])
@pytest.mark.parametrize("formula", [*FORMULAS, None])
def test_draws_have_the_joint_covariance(formula, kind, monkeypatch):
    """Draws with the unit vectors in place of normal numbers give a square root of the covariance, exactly."""
    fit = fitted_with(kind, formula, monkeypatch)
    d = dense(fit)

    class UnitVectors:
        """Rows of an identity matrix, one after the other."""

        used = 0

        def standard_normal(self, shape):
            count = int(np.prod(shape[:-1]))
            rows = np.eye(size)[self.used : self.used + count]
            self.used += count
            return rows.reshape(shape)

    size = len(fit.fixef) + sum(b.size for b in fit._b)
    root, b = {}, [np.zeros((*b.shape, size)) for b in fit._b]
    for g, levels, error in effects.JointErrors(fit).draws(size, UnitVectors()):
        if g < 0:
            root["fixed"] = error
        else:
            b[g][levels] = error
    of_terms = [b[t.group][:, place].reshape(-1, size) for t, place in zip(fit.design.terms, fit._places, strict=True)]
    whole = fit.sigma * np.vstack([root["fixed"], *of_terms])
    np.testing.assert_allclose(whole @ whole.T, d.C, rtol=1e-8, atol=1e-10 * np.abs(d.C).max())


def test_simulated_effects_have_the_moments_of_their_margins():
    fit = crossed_slopes()
    sd = np.sqrt(np.diag(dense(fit).C))
    p, n = len(fit.fixef), 4000
    out = simulate_effects(fit, n, seed=3)
    assert list(out.columns) == ["effect", "group", "level", "term", "mean", "median", "sd"]
    fixed = out[out["effect"] == "fixed"].set_index("term")
    assert np.abs(fixed["mean"] - fit.fixef).max() < 5 * sd[:p].max() / np.sqrt(n)
    np.testing.assert_allclose(fixed["sd"], sd[:p], rtol=0.06)
    expected, ranef = by_column(fit, sd[p:]), fit.ranef()
    for row in out[out["effect"] == "ran_vals"].itertuples():
        spread = expected[row.group, row.level, row.term]
        assert row.sd == pytest.approx(spread, rel=0.06)
        assert abs(row.mean - ranef[row.group].loc[row.level, row.term]) < 5 * spread / np.sqrt(n)
        assert abs(row.median - row.mean) < 5 * spread / np.sqrt(n)
    assert len(out) == p + sum(b.size for b in ranef.values())
    assert out.equals(simulate_effects(fit, n, seed=3))


def test_joint_errors_of_the_schools_know_that_the_intercept_is_estimated():
    """The joint SD of a school's effect is τ/√6, not its conditional SD."""
    fit = lmer("extro ~ open + agree + social + (1 | school)", load_dataset("schools"))
    tau = fit.varcorr["sd_or_corr"].iloc[0]
    assert np.sqrt(dense(fit).C[4:, 4:].diagonal()) == pytest.approx(tau / np.sqrt(6), rel=1e-3)


@pytest.mark.parametrize("model", [m for m in REFERENCE if m["sim"]], ids=lambda m: m["name"])
def test_standard_deviations_agree_with_arm(model):
    """20,000 draws each; arm draws σ as well, which its SDs show in small samples."""
    out, sim = simulate_effects(fit_reference(model), 20_000, seed=1), model["sim"]
    random = out[out["effect"] == "ran_vals"].set_index(out["level"].astype(str)[out["effect"] == "ran_vals"])
    random = random.loc[[str(level) for level in sim["level"]]]
    np.testing.assert_allclose(random["sd"], sim["sd"], rtol=0.04)
    assert np.abs((random["mean"] - sim["mean"]) / sim["sd"]).max() < 0.06
    np.testing.assert_allclose(out[out["effect"] == "fixed"]["sd"], sim["fixed"], rtol=0.04)


@pytest.mark.parametrize("model", [m for m in REFERENCE if m["rank"]], ids=lambda m: m["name"])
def test_expected_ranks_are_those_of_merTools(model):
    fit, rank = fit_reference(model), model["rank"]
    for term in dict.fromkeys(rank["term"]):
        own = [i for i, t in enumerate(rank["term"]) if t == term]
        out = expected_rank(fit, model["group"], term)
        out = out.set_axis(out.index.astype(str)).loc[[str(rank["level"][i]) for i in own]]
        np.testing.assert_allclose(out["estimate"], [rank["estimate"][i] for i in own], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out["sd"] ** 2, [rank["variance"][i] for i in own], rtol=1e-4)
        np.testing.assert_allclose(out["expected_rank"], [rank["ER"][i] for i in own], rtol=1e-5)


def test_expected_ranks_from_the_definition():
    fit = lmer("y ~ x + (1 | g)", random_data(1))
    b, v = fit.ranef()["g"]["Intercept"].to_numpy(), fit.ranef_cov("g")[:, 0, 0]
    out = expected_rank(fit, "g")
    for j in range(len(b)):
        others = np.arange(len(b)) != j
        rank = 1 + norm.cdf((b[j] - b[others]) / np.sqrt(v[j] + v[others])).sum()
        assert out["expected_rank"].iloc[j] == pytest.approx(rank, rel=1e-12)
        assert out["percentile"].iloc[j] == pytest.approx(100 * (rank - 0.5) / len(b))
    assert out["expected_rank"].sum() == pytest.approx(len(b) * (len(b) + 1) / 2)


def test_what_cannot_be_done_is_said():
    fit = lmer("y ~ x + (1 | g)", random_data(1))
    with pytest.raises(ValueError, match="at least 2"):
        simulate_effects(fit, 1)
    with pytest.raises(ValueError, match="'x' does not vary over 'g'; Intercept can be ranked"):
        expected_rank(fit, "g", "x")
    with pytest.raises(ValueError, match="no random effects for 'h'"):
        expected_rank(fit, "h")
    with pytest.raises(ValueError, match="estimated as zero"):
        expected_rank(lmer("Yield ~ 1 + (1 | Batch)", load_dataset("dyestuff2")), "Batch")


def test_a_model_without_fixed_effects():
    fit = lmer("y ~ 0 + (1 | g)", random_data(2).assign(y=lambda d: d["y"] - d["y"].mean()))
    out = simulate_effects(fit, 4000, seed=1)
    assert list(out["effect"].unique()) == ["ran_vals"]
    np.testing.assert_allclose(out["sd"], fit.ranef_sd()["g"]["Intercept"], rtol=0.06)
