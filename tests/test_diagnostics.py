"""R², ICC, singularity, group residuals, leverage and influence against dense matrices, refits from scratch, lme4 and performance."""

import numpy as np
import pandas as pd
import pytest
from random_models import FORMULAS, couple_sparsely, random_data
from test_effects import REFERENCE, crossed_slopes, dense, fit_reference

from lmmlite import lmer, load_dataset
from lmmlite.diagnostics import (
    cooks_distance,
    dfbetas,
    group_residuals,
    icc,
    influence,
    leverage,
    r2,
    rePCA,
    singularity_report,
)

references = pytest.mark.parametrize("model", REFERENCE, ids=lambda m: m["name"])
every_formula = pytest.mark.parametrize("formula", FORMULAS)


# --- R² and ICC ---------------------------------------------------------------------------------------------------------------
@references
def test_r2_and_icc_are_those_of_performance(model):
    """performance takes the slopes' columns from X, as we do from Z; they are the same here.  It ignores prior weights."""
    fit = fit_reference(model)
    if model["weights"] is None:
        np.testing.assert_allclose(r2(fit)[["marginal", "conditional"]], model["r2"], rtol=1e-4, atol=1e-12)
        assert icc(fit).loc["adjusted", "icc"] == pytest.approx(model["icc"], rel=1e-4)


@every_formula
def test_r2_from_the_definitions(formula):
    fit = lmer(formula, random_data(6), weights="w", offset="o")
    d, v, y = dense(fit), fit.sigma**2, fit.design.y - fit.design.offset
    m = y - d.X @ fit.fixef.to_numpy()
    ZDZ = d.Z @ d.D @ d.Z.T
    sst = d.w @ (y - np.average(y, weights=d.w)) ** 2
    error_mean, error_variance = [], []  # of each ε given its own m = Zb + ε
    for i in range(fit.nobs):
        error_mean.append(v / d.w[i] / d.V[i, i] * m[i])
        error_variance.append(v / d.w[i] - (v / d.w[i]) ** 2 / d.V[i, i])
    out = r2(fit)
    assert out["fixed"] == pytest.approx(1 - d.w @ m**2 / sst, rel=1e-9)
    explained = 1 - d.w @ (np.array(error_variance) + np.square(error_mean)) / sst
    assert out["model"] == pytest.approx(explained, rel=1e-9)
    assert out["random"] == pytest.approx(explained - out["fixed"], abs=1e-9)
    parts = [np.var(d.X @ fit.fixef.to_numpy(), ddof=1), np.diag(ZDZ).mean(), (v / d.w).mean()]
    assert out["marginal"] == pytest.approx(parts[0] / sum(parts), rel=1e-9)
    assert out["conditional"] == pytest.approx(sum(parts[:2]) / sum(parts), rel=1e-9)
    assert icc(fit).loc["adjusted", "icc"] == pytest.approx(parts[1] / sum(parts[1:]), rel=1e-8, abs=1e-12)


def test_icc_of_one_random_intercept_and_its_interval():
    """With κ = θ² = τ²/σ² the logit of the ICC is log κ = 2 log θ: its variance is 4/θ² times that of θ̂."""
    fit = lmer("Yield ~ 1 + (1 | Batch)", load_dataset("dyestuff"))
    tau2, sigma2 = fit.varcorr["variance"]
    out, theta = icc(fit, 0.9).loc["Batch"], fit.theta[0]
    assert out["icc"] == pytest.approx(tau2 / (tau2 + sigma2), rel=1e-9)
    value, h = fit.criterion_function.evaluate, 1e-3
    second = (value([theta + h]).value - 2 * value([theta]).value + value([theta - h]).value) / h**2
    half = 1.6448536 * 2 / theta * np.sqrt(2 / second)
    kappa = theta**2 * np.exp([-half, half])
    np.testing.assert_allclose(out[["lower", "upper"]], kappa / (1 + kappa), rtol=1e-5)


def test_iccs_add_up_and_know_their_errors():
    """Delta method by numerical derivatives of the ICCs themselves."""
    fit = crossed_slopes()
    out = icc(fit)
    assert out.loc[["g", "h"], "icc"].sum() == pytest.approx(out.loc["adjusted", "icc"])

    def iccs(theta):
        T = [t.factor(theta) for t in fit.criterion_function.cp.templates]
        z = np.column_stack([np.ones(fit.nobs), fit.data["z"]])
        parts = np.array([((z @ F) ** 2).sum(axis=1).mean() for F in T])
        return np.append(parts, parts.sum()) / (parts.sum() + 1)

    h = 1e-5 * np.eye(len(fit.theta))
    slopes = np.array([(iccs(fit.theta + e) - iccs(fit.theta - e)) / 2e-5 for e in h])
    H = fit.criterion_function.evaluate(fit.theta, 2).hessian
    se = np.sqrt(np.diag(slopes.T @ (2 * np.linalg.inv(H)) @ slopes)) / (out["icc"] * (1 - out["icc"]))
    logit = np.log(out / (1 - out))
    np.testing.assert_allclose((logit["upper"] - logit["lower"]) / 2, 1.959964 * se, rtol=1e-6)


def test_icc_at_the_boundary():
    out = icc(lmer("Yield ~ 1 + (1 | Batch)", load_dataset("dyestuff2")))
    assert (out["icc"] == 0).all()
    assert out[["lower", "upper"]].isna().all(axis=None)
    one_direction = icc(lmer("y ~ x + (x | Group)", load_dataset("labs"))).loc["Group"]
    assert 0 < one_direction["lower"] < one_direction["icc"] < one_direction["upper"] < 1


# --- Singularity --------------------------------------------------------------------------------------------------------------
@references
def test_components_are_those_of_lme4(model):
    """lme4 takes the terms of a grouping factor together and divides by σ; here only one term on each."""
    fit = fit_reference(model)
    tables = {k.removesuffix(".1"): t for k, t in rePCA(fit, scaled=False).items() if f"{k}.1" not in rePCA(fit)}
    for group, pca in model["pca"].items():
        named = ":".join(reversed(group.split(":"))) if group not in tables else group
        if named in tables and len(np.ravel(pca["sdev"])) == len(tables[named]):
            np.testing.assert_allclose(tables[named]["sd"] / fit.sigma, np.ravel(pca["sdev"]), rtol=1e-4, atol=1e-5)
            rotation = np.reshape(pca["rotation"], (len(tables[named]), -1))
            np.testing.assert_allclose(tables[named].iloc[:, 2:].abs(), rotation.T, atol=1e-3)


def test_components_have_no_units():
    data = load_dataset("sleepstudy")
    one = rePCA(lmer("Reaction ~ Days + (Days | Subject)", data))["Subject"]
    other = rePCA(lmer("Reaction ~ Days + (Days | Subject)", data.assign(Days=3.5 + data["Days"] / 1000)))["Subject"]
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)
    fit = lmer("Reaction ~ Days + (Days | Subject)", data)
    mean, sd = data["Days"].mean(), data["Days"].std(ddof=0)
    to_scaled = np.array([[1, mean], [0, sd]])
    variances = np.linalg.eigvalsh(to_scaled @ fit.covariances[0][2] @ to_scaled.T)[::-1]
    np.testing.assert_allclose(one["sd"] ** 2, variances, rtol=1e-9)
    np.testing.assert_allclose(one["proportion"], variances / variances.sum(), rtol=1e-9)


def test_singularity_in_words():
    report = singularity_report(lmer("y ~ x + (x | Group)", load_dataset("labs")))
    assert "(Intercept + x | Group): singular. It varies in 1 of 2 directions" in report
    assert "0.34 Intercept + 0.94 x" in report
    assert "without correlations" in report
    assert "vary only together" in report
    assert "at a boundary" in report
    report = singularity_report(lmer("Yield ~ 1 + (1 | Batch)", load_dataset("dyestuff2")))
    assert "Every variance is estimated as zero" in report
    report = singularity_report(lmer("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy")))
    assert report == (
        "(Intercept + Days | Subject): not singular. Its smallest SD in any direction is 10.5, 6.5 % of the term's variance."
    )


def test_a_coefficient_that_does_not_vary_is_named():
    """Slopes that are the same in all groups, in data whose residuals leave less variation than chance would."""
    n = 240
    data = pd.DataFrame({"g": np.repeat(np.arange(12), 20), "x": np.tile([-1.0, 1.0], n // 2)})
    data["y"] = 3 * np.sin(data["g"]) + 2 * data["x"] + np.tile([1.0, 1.0, -1.0, -1.0], n // 4)
    data["z"] = np.cos(np.arange(n))
    report = singularity_report(lmer("y ~ x + (x | g)", data))
    assert "It varies in 1 of 2 directions" in report
    assert (
        "Zero variance of x: its effect is the same in all groups. Try the term without it: (Intercept | …)." in report
    )
    report = singularity_report(lmer("y ~ x + (x || g)", data))
    assert "(Intercept | g): not singular" in report
    assert "(x | g.1): singular. Every variance is estimated as zero" in report


# --- Group residuals ----------------------------------------------------------------------------------------------------------
@every_formula
def test_group_residuals(formula):
    """b̃/√Var(b̃) with Var(b̃) = DZ'PZD from n × n matrices."""
    fit = lmer(formula, random_data(6), weights="w", offset="o")
    d = dense(fit)
    P = np.linalg.inv(d.V) - d.VX @ d.G @ d.VX.T
    sd = np.sqrt(np.clip(np.diag(d.D @ d.Z.T @ P @ d.Z @ d.D), 0, None))
    b = d.D @ d.Z.T @ P @ (fit.design.y - fit.design.offset)
    expected = np.divide(b, sd, out=np.full(len(b), np.nan), where=np.diag(d.D) > 1e-8)
    tables, got = group_residuals(fit), []
    for term, place in zip(fit.design.terms, fit._places, strict=True):
        got.append(tables[term.bar.group].to_numpy()[:, place].ravel())
    np.testing.assert_allclose(np.concatenate(got), expected, rtol=1e-7, atol=1e-9)


# --- Leverage and influence ---------------------------------------------------------------------------------------------------
@references
def test_leverage_is_that_of_lme4(model):
    np.testing.assert_allclose(leverage(fit_reference(model))["leverage"], model["hat"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("formula", [*FORMULAS, None])
def test_leverage_from_the_hat_matrices(formula, kind, monkeypatch):
    if kind == "sparse":
        couple_sparsely(monkeypatch)
    fit = crossed_slopes() if formula is None else lmer(formula, random_data(6), weights="w", offset="o")
    d = dense(fit)
    fixed = d.X @ d.G @ d.VX.T
    P = np.linalg.inv(d.V) - d.VX @ d.G @ d.VX.T
    whole = np.eye(fit.nobs) - np.diag(fit.sigma**2 / d.w) @ P
    out = leverage(fit)
    np.testing.assert_allclose(out["leverage"], np.diag(whole), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(out["fixed"], np.diag(fixed), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(out["random"], np.diag(d.Z @ d.D @ d.Z.T @ P), atol=1e-10)
    assert out["fixed"].sum() == pytest.approx(len(fit.fixef))


@every_formula
def test_rows_left_out_at_fixed_theta(formula):
    """Generalised least squares without each row, with the same V."""
    fit = lmer(formula, random_data(6), weights="w", offset="o")
    d, y = dense(fit), fit.design.y - fit.design.offset
    out, change, cook = influence(fit), dfbetas(fit), cooks_distance(fit)
    for i in range(0, fit.nobs, 7):
        keep = np.arange(fit.nobs) != i
        VX = np.linalg.solve(d.V[np.ix_(keep, keep)], d.X[keep])
        beta = np.linalg.solve(d.X[keep].T @ VX, VX.T @ y[keep])
        np.testing.assert_allclose(out.iloc[i], beta, rtol=1e-7)
        moved = fit.fixef.to_numpy() - beta
        np.testing.assert_allclose(change.iloc[i], moved / fit.se, rtol=1e-5, atol=1e-7)
        assert cook.iloc[i] == pytest.approx(moved @ np.linalg.solve(fit.vcov, moved) / len(beta), rel=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"weights": "w", "offset": "o"}])
@pytest.mark.parametrize("formula", FORMULAS[:6])
def test_groups_left_out_are_fits_without_their_rows(formula, arguments):
    data = random_data(6, 90)
    fit = lmer(formula, data, **arguments)
    group = fit.design.groups[0].name
    out = influence(fit, group)
    for level in out.index[:3]:
        part = lmer(formula, data[data[group] != level], **arguments)
        v = part.varcorr["sd_or_corr"]
        np.testing.assert_allclose(out.loc[level, part.fixef.index], part.fixef, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(out.loc[level, "se_" + part.fixef.index], part.se, rtol=1e-5)
        sds = (part.varcorr["term2"] == "").to_numpy()  # correlations are noise where a variance is zero
        np.testing.assert_allclose(out.loc[level].iloc[-len(v) :][sds], v[sds], rtol=1e-4, atol=1e-4)


@references
def test_influence_agrees_with_refits_by_lme4(model):
    fit = fit_reference(model)
    out, change, cook = (f(fit, model["group"]) for f in (influence, dfbetas, cooks_distance))
    p = len(fit.fixef)
    for table in (out, change, cook):
        table.index = table.index.astype(str)
    for part in model["without"]:
        beta, se = np.atleast_1d(part["beta"]), np.atleast_1d(part["se"])
        row = out.loc[str(part["level"])]
        np.testing.assert_allclose((row.iloc[:p] - beta) / se, 0, atol=2e-4)
        np.testing.assert_allclose(row.iloc[p : 2 * p], se, rtol=2e-4)
        moved = fit.fixef.to_numpy() - beta
        np.testing.assert_allclose(change.loc[str(part["level"])], moved / se, atol=4e-4)
        expected = moved @ np.linalg.solve(fit.vcov, moved) / p
        assert cook[str(part["level"])] == pytest.approx(expected, rel=1e-2, abs=1e-5)
        assert row["sigma"] == pytest.approx(part["random"][-1], rel=1e-4)
        random = sorted(np.abs(row.iloc[2 * p : -1]))
        np.testing.assert_allclose(random, sorted(np.abs(part["random"][:-1])), rtol=1e-3, atol=1e-3)


def test_labels_of_influence():
    fit = lmer("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy"))
    out = influence(fit, "Subject", refit=False)
    assert list(out.columns) == [
        *["Intercept", "Days", "se_Intercept", "se_Days"],
        *["sd_Intercept|Subject", "sd_Days|Subject", "cor_Days.Intercept|Subject", "sigma"],
    ]
    assert out.index.equals(fit.ranef()["Subject"].index)
    assert list(dfbetas(fit, "Subject", refit=False).columns) == ["Intercept", "Days"]
    assert out["cor_Days.Intercept|Subject"].to_numpy() == pytest.approx(fit.varcorr["sd_or_corr"][2])


def test_groups_left_out_at_fixed_theta():
    fit = lmer("y ~ x + (x | g) + (1 | h)", random_data(3), weights="w")
    out, d = influence(fit, "g", refit=False), dense(fit)
    for level in out.index:
        keep = (fit.data["g"] != level).to_numpy()
        VX = np.linalg.solve(d.V[np.ix_(keep, keep)], d.X[keep])
        beta = np.linalg.solve(d.X[keep].T @ VX, VX.T @ fit.design.y[keep])
        np.testing.assert_allclose(out.loc[level, ["Intercept", "x"]].to_numpy(float), beta, rtol=1e-8)


def test_a_coefficient_that_hangs_on_one_group_is_missing_without_it():
    data = random_data(3)
    data["treated"] = (data["g"] == 4).astype(float)
    fit = lmer("y ~ x + treated + (1 | g)", data)
    out, cook = influence(fit, "g"), cooks_distance(fit, "g")
    assert list(out.index[out["treated"].isna()]) == [4]
    assert out["x"].notna().all()
    assert list(cook.index[cook.isna()]) == [4]
    part = lmer("y ~ x + (1 | g)", data[data["g"] != 4])
    assert out.loc[4, "x"] == pytest.approx(part.fixef["x"], rel=1e-6)


def test_a_row_that_no_other_can_predict():
    data = random_data(3)
    data["alone"] = (np.arange(60) == 5).astype(float)
    fit = lmer("y ~ x + alone + (1 | g)", data)
    assert leverage(fit)["leverage"][5] == pytest.approx(1)
    assert list(np.flatnonzero(dfbetas(fit)["x"].isna())) == [5]


def test_what_cannot_be_done_is_said():
    data = random_data(1)
    fit = lmer("y ~ x + (1 | g)", data)
    with pytest.raises(ValueError, match="'h' is not a grouping factor of the model; it has g"):
        influence(fit, "h")
    with pytest.raises(ValueError, match="between 0 and 1"):
        icc(fit, 95)
    two = lmer("y ~ x + (1 | g)", data[data["g"].isin([1, 2])])
    with pytest.raises(ValueError, match="two levels"):
        cooks_distance(two, "g")


def test_a_model_without_fixed_effects():
    data = random_data(2).assign(y=lambda d: d["y"] - d["y"].mean())
    fit = lmer("y ~ 0 + (1 | g)", data)
    assert (leverage(fit)["fixed"] == 0).all()
    assert influence(fit).shape == (60, 0)
    assert isinstance(r2(fit), pd.Series)
