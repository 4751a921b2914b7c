"""lmmlite against lme4: every model of ``reference/models.R``, as fitted by lme4 with tight tolerances.

Three questions for each model. Is the criterion the same function of θ? At lme4's θ, is every number the same?
Does the search of lmmlite find an optimum as good as lme4's, and the same estimates?
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.linalg import eigvalsh

from lmmlite import lmer, load_dataset

REFERENCE = json.loads(Path(__file__).with_name("reference").joinpath("lme4.json").read_text("utf-8"))
MODELS = {model["name"]: model for model in REFERENCE["models"]}
every_model = pytest.mark.parametrize("name", MODELS)


# -- the same model in lmmlite ------------------------------------------------------------------------------------


@cache
def fitted(name):
    """The reference model fitted by lmmlite: weights as a column, the offset as an array."""
    model = MODELS[name]
    data = load_dataset(model["dataset"]).head(model["head"])
    for column, rows in model["missing"].items():
        data[column] = data[column].mask(np.isin(np.arange(len(data)), rows))
    arguments = {"reml": model["reml"]}
    if model["weights"]:
        arguments["weights"] = "prior_weight"
        data = data.assign(prior_weight=np.resize(np.array(model["weights"], float), len(data)))
    if model["offset"]:
        arguments["offset"] = np.resize(np.array(model["offset"], float), len(data))
    return lmer(model["formula"], data, **arguments)


def theta_of(factors):
    """θ in lmmlite's order: the terms as in the formula, each lower triangle column by column (the JSON has it by rows)."""
    theta = []
    for entries in factors:
        k = int(np.sqrt(2 * len(entries)))
        T = np.zeros((k, k))
        T[np.tril_indices(k)] = entries
        theta.append(T.T[np.triu_indices(k)])
    return np.concatenate(theta)


def at_lme4_theta(name):
    """The fit as it would be, had the search ended at lme4's θ."""
    fit = fitted(name)
    theta = theta_of([term["T"] for term in MODELS[name]["terms"]])
    return replace(fit, optimum=replace(fit.optimum, evaluation=fit.criterion_function.evaluate(theta)))


# -- comparing -------------------------------------------------------------------------------------------------------


def agree(what, ours, lme4, tolerance, scale=None):
    """Assert |ours − lme4| ≤ tolerance · scale; the scale is |lme4| unless given."""
    ours, lme4 = np.asarray(ours, float), np.asarray(lme4, float)
    assert ours.shape == lme4.shape, f"{what}: shape {ours.shape}, in lme4 {lme4.shape}"
    scale = np.broadcast_to(np.abs(lme4) if scale is None else scale, lme4.shape)
    error = np.abs(ours - lme4)
    wrong = ~(error <= tolerance * scale)
    if wrong.any():
        worst = np.unravel_index(np.argmax(np.where(wrong, error / np.maximum(scale, 1e-300), -1)), wrong.shape)
        pytest.fail(
            f"{what}{[int(i) for i in worst] or ''}: lmmlite {ours[worst]:.15g}, lme4 {lme4[worst]:.15g}; "
            f"they differ by {error[worst]:.2e}, allowed {tolerance * scale[worst]:.2e} ({wrong.sum()} of {wrong.size} differ)"
        )


def compare_fixed(fit, model, tolerance, se_tolerance):
    """β in units of its standard error, SE relatively, covariances in units of the two standard errors."""
    names, se = model["fixef"]["names"], np.array(model["fixef"]["se"])
    assert sorted(fit.fixef.index) == sorted(names)
    agree("fixef", fit.fixef[names], model["fixef"]["estimate"], tolerance, se)
    agree("se", fit.se[names], se, se_tolerance)
    agree("vcov", fit.vcov.loc[names, names], model["fixef"]["vcov"], 2 * se_tolerance, np.outer(se, se))


def compare_variances(fit, model, tolerance):
    """Variances relatively, covariances in units of the two SDs: what is zero in lme4 must be zero here."""
    table = fit.varcorr.assign(group=fit.varcorr["group"].str.replace(r"\.\d+$", "", regex=True))
    ours = table.set_index(["group", "term1", "term2"])["variance"]
    rows = [((r["group"], r["term1"] or "", r["term2"] or ""), r["variance"]) for r in model["varcorr"]]
    lme4 = dict(rows)
    assert len(lme4) == len(rows)
    assert sorted(ours.index) == sorted(lme4)
    for (group, one, two), variance in lme4.items():
        scale = np.sqrt(lme4[group, one, ""] * lme4[group, two or one, ""])
        agree(f"variance of {group}, {one} {two}", ours[group, one, two], variance, tolerance, scale)


def compare_random(fit, model, tolerance):
    """Conditional modes in units of the largest of their column, conditional covariances in units of the largest SDs."""
    for group, expected in model["ranef"].items():
        table = fit.ranef()[group]
        assert list(table.columns) == expected["terms"]
        assert sorted(map(str, table.index)) == sorted(expected["levels"])
        order = table.index.astype(str).get_indexer(expected["levels"])
        modes, covariance = np.array(expected["values"]), np.array(expected["covariance"])
        variances = np.diagonal(covariance, axis1=1, axis2=2)
        size = np.abs(modes).max(axis=0) + np.sqrt(variances.max(axis=0))
        agree(f"ranef of {group}", table.to_numpy()[order], modes, tolerance, size)
        agree(
            f"ranef_sd² of {group}",
            fit.ranef_sd()[group].to_numpy()[order] ** 2,
            variances,
            tolerance,
            size**2,
        )
        agree(f"ranef_cov of {group}", fit.ranef_cov(group)[order], covariance, tolerance, np.outer(size, size))


def compare_rows(fit, model, tolerance):
    """Fitted values, population predictions and sums of squared residuals."""
    residuals = fit.residuals()
    size = np.abs(model["fitted"]).max() + model["sigma"]
    agree("fitted", fit.fitted.iloc[:10], model["fitted"], tolerance, size)
    agree("predict(random=False)", fit.predict(random=False).iloc[:5], model["population"], tolerance, size)
    agree("sum of squared residuals", (residuals**2).sum(), model["residual_ss"], tolerance)
    agree("the same, weighted", (fit.residuals("pearson") ** 2).sum(), model["weighted_residual_ss"], tolerance)


# -- the questions ----------------------------------------------------------------------------------------------------


def test_breadth():
    """At least 30 models over 12 data sets, singular ones and both criteria among them."""
    models = MODELS.values()
    assert len(models) >= 30
    assert len({m["dataset"] for m in models}) >= 12
    assert sum(m["singular"] for m in models) >= 6
    assert min(sum(m["reml"] for m in models), sum(not m["reml"] for m in models)) >= 12


@every_model
def test_same_criterion(name):
    """The criterion at fixed θ, one of them with a zero variance, and at lme4's optimum."""
    model, criterion = MODELS[name], fitted(name).criterion_function
    for point in model["elsewhere"]:
        theta = theta_of(point["theta"])
        agree(f"criterion at {theta}", criterion.evaluate(theta).value, point["criterion"], 1e-10)
    agree("criterion at lme4's theta", at_lme4_theta(name).criterion, model["criterion"], 1e-10)


@every_model
def test_same_model_at_lme4_theta(name):
    model, fit = MODELS[name], at_lme4_theta(name)
    compare_fixed(fit, model, 1e-9, 1e-9)
    agree("sigma", fit.sigma, model["sigma"], 1e-9)
    compare_variances(fit, model, 1e-9)
    compare_random(fit, model, 1e-9)
    compare_rows(fit, model, 1e-9)
    for measure in ("loglik", "aic", "bic"):
        agree(measure, getattr(fit, measure), model[measure], 1e-9)


@every_model
def test_counts(name):
    model, fit = MODELS[name], fitted(name)
    assert (fit.nobs, fit.npar, fit.df_resid) == (model["nobs"], model["npar"], model["df_resid"])
    assert fit.is_singular == model["singular"]


@every_model
def test_optimum_not_above_lme4(name):
    """Never above by more than 1e-6; nor far below, since the references are polished."""
    model, fit = MODELS[name], fitted(name)
    assert fit.converged, fit.optimum.message
    excess = fit.criterion - model["criterion"]
    assert -1e-6 <= excess <= 1e-6, f"criterion {fit.criterion:.12g}, lme4 {model['criterion']:.12g}: {excess:+.2e}"


@every_model
def test_same_estimates_at_the_optimum(name):
    """β within 1e-5 of its SE, SE and σ within 1e-5, variances within 1e-4; singular models are no exception."""
    model, fit = MODELS[name], fitted(name)
    compare_fixed(fit, model, 1e-5, 1e-5)
    agree("sigma", fit.sigma, model["sigma"], 1e-5)
    compare_variances(fit, model, 1e-4)
    compare_random(fit, model, 1e-4)
    compare_rows(fit, model, 1e-4)


@pytest.mark.parametrize("name", [name for name, m in MODELS.items() if m["singular"]])
def test_singular_optimum_is_an_optimum(name):
    """Where a term is singular, 𝒢 is positive semidefinite: no direction left out would lower the criterion."""
    fit = fitted(name)
    templates = fit.criterion_function.cp.templates
    for template, G in zip(templates, fit.optimum.evaluation.G, strict=True):
        for start, stop in template.blocks:
            values = eigvalsh(G[start:stop, start:stop])
            assert values[0] >= -1e-7 * fit.nobs, f"eigenvalues of 𝒢, a sum over rows: {values}"
