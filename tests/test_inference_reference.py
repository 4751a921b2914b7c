"""lmmlite against lmerTest, pbkrtest and emmeans: the models of ``reference/inference.R``, all at their exact optimum.

lmerTest takes derivatives numerically, so its df are asked for to 1e-4. ``df_exact`` are the same df by closed
derivatives of the dense likelihood, asked for to 1e-6: both fits end within about 1e-7 of the optimum.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from lmmlite import lmer, load_dataset
from lmmlite.means import means, pairwise

REFERENCE = json.loads(Path(__file__).with_name("reference").joinpath("inference.json").read_text("utf-8"))
MODELS = {model["name"]: model for model in REFERENCE["models"]}
SATTERTHWAITE = [(name, "satterthwaite") for name in MODELS]
KENWARD_ROGER = [(name, "kenward-roger") for name, model in MODELS.items() if model["kenward_roger"]]
SINGULAR = [name for name, model in MODELS.items() if model["singular"]]
both_methods = pytest.mark.parametrize(("name", "ddf"), SATTERTHWAITE + KENWARD_ROGER)
quiet = pytest.mark.filterwarnings("ignore:The fit is singular")

ESTIMATE = 1e-6  # estimates in units of their SE, and SE relatively
DF = {"satterthwaite": 1e-4, "kenward-roger": 1e-5}  # df, F and log p relatively
EXACT_DF = 1e-6
T_COLUMNS = ["estimate", "std_error", "df", "statistic", "p_value"]
F_COLUMNS = ["num_df", "den_df", "F", "p_value"]


# -- models and tables ---------------------------------------------------------------------------------------------


@cache
def fitted(name):
    model = MODELS[name]
    data = load_dataset(model["dataset"]).head(model["head"])
    for column, rows in model["missing"].items():
        data[column] = data[column].mask(np.isin(np.arange(len(data)), rows))
    return lmer(model["formula"], data, reml=model["reml"])


def reference(name, ddf):
    return MODELS[name][ddf.replace("-", "_")]


def table(columns, names):
    return pd.DataFrame({name: columns[name] for name in [*names, "df_exact"] if name in columns}, dtype=float)


def own_order(name, L):
    """Hypotheses in the order of our coefficients; the JSON has them in lme4's."""
    names = MODELS[name]["names"]
    return pd.DataFrame(np.atleast_2d(L), columns=names)[list(fitted(name).fixef.index)].to_numpy(float)


def one_row(result):
    """A test as a Series, whether it came as one or as a table of one row."""
    if isinstance(result, pd.DataFrame):
        assert len(result) == 1
        return result.iloc[0]
    return result


# -- comparing ---------------------------------------------------------------------------------------------------------


def same_p(ours, R, tolerance, what):
    """log p relatively, and absolutely above 1/e: far in the tail p magnifies whatever is wrong with df and t."""
    ours, R = np.maximum(np.asarray(ours, float), 1e-300), np.maximum(np.asarray(R, float), 1e-300)
    assert_allclose(np.log(ours), np.log(R), rtol=tolerance, atol=tolerance, err_msg=f"p_value {what}")


def same_t_tests(ours, R, ddf, what=""):
    """Rows of estimate, std_error, df, statistic and p_value, in the same order."""
    ours, tolerance = ours.reset_index(drop=True).astype(float), DF[ddf]
    assert_allclose((ours["estimate"] - R["estimate"]) / R["std_error"], 0, atol=ESTIMATE, err_msg=f"estimate {what}")
    assert_allclose(ours["std_error"], R["std_error"], rtol=ESTIMATE, err_msg=f"std_error {what}")
    assert_allclose(ours["df"], R["df"], rtol=tolerance, err_msg=f"df {what}")
    if "df_exact" in R:
        assert_allclose(ours["df"], R["df_exact"], rtol=EXACT_DF, err_msg=f"df, closed derivatives {what}")
    if "statistic" in R:
        assert_allclose(ours["statistic"], R["statistic"], rtol=tolerance, atol=ESTIMATE, err_msg=f"statistic {what}")
        same_p(ours["p_value"], R["p_value"], tolerance, what)


def same_F_tests(ours, R, ddf, what="", exact_df=True):
    ours, tolerance = ours.reset_index(drop=True).astype(float), DF[ddf]
    assert_allclose(ours["num_df"], R["num_df"], err_msg=f"num_df {what}")
    assert_allclose(ours["den_df"], R["den_df"], rtol=tolerance, err_msg=f"den_df {what}")
    if exact_df and "df_exact" in R:
        assert_allclose(ours["den_df"], R["df_exact"], rtol=EXACT_DF, err_msg=f"den_df, closed derivatives {what}")
    assert_allclose(ours["F"], R["F"], rtol=tolerance, err_msg=f"F {what}")
    same_p(ours["p_value"], R["p_value"], tolerance, what)


# -- coefficients --------------------------------------------------------------------------------------------------------


def test_breadth():
    """At least 16 models over 8 data sets; REML and ML; singular ones; terms, joint contrasts and means of both kinds."""
    assert len(MODELS) >= 16
    assert len({m["dataset"] for m in MODELS.values()}) >= 8
    assert {"schools", "politeness", "labs"} <= {m["dataset"] for m in MODELS.values()}
    assert len(KENWARD_ROGER) >= 12
    assert sum(not m["reml"] for m in MODELS.values()) >= 4
    assert len(SINGULAR) >= 2
    found = [m["satterthwaite"] for m in MODELS.values()]
    assert {len(c["L"]) for values in found for c in values["contrasts"]} >= {1, 2, 3}
    assert {len(m["factors"]) for values in found for m in values["means"]} == {1, 2}


@pytest.mark.parametrize("name", MODELS)
def test_same_model(name):
    model, fit = MODELS[name], fitted(name)
    assert fit.nobs == model["nobs"]
    assert fit.is_singular == model["singular"]
    assert sorted(fit.fixef.index) == sorted(model["names"])
    assert_allclose(fit.criterion, model["criterion"], rtol=0, atol=1e-6)
    assert_allclose(fit.sigma, model["sigma"], rtol=1e-6)


@quiet
@both_methods
def test_coefficients(name, ddf):
    """The table of coefficients, from summary and from tidy."""
    fit, R = fitted(name), table(reference(name, ddf)["coefficients"], T_COLUMNS)
    fixed = fit.summary(ddf=ddf).fixed.loc[MODELS[name]["names"]].rename(columns={"t": "statistic"})
    same_t_tests(fixed[T_COLUMNS], R, ddf)
    tidied = fit.tidy(ddf=ddf).query("effect == 'fixed'").set_index("term").loc[MODELS[name]["names"]]
    same_t_tests(tidied[T_COLUMNS], R, ddf, "(tidy)")


@pytest.mark.parametrize("name", [name for name, _ in KENWARD_ROGER])
def test_adjusted_covariance(name):
    """Φ_A in units of two standard errors."""
    names, R = MODELS[name]["names"], np.array(reference(name, "kenward-roger")["vcov"])
    se = np.sqrt(np.diag(R))
    ours = fitted(name).vcov_kr.loc[names, names].to_numpy()
    assert_allclose(ours / np.outer(se, se), R / np.outer(se, se), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SINGULAR)
def test_singular_fit_warns(name):
    """lmerTest's df at a singular optimum are those with the zero variance held at zero; lmmlite says so."""
    fit = fitted.__wrapped__(name)
    with pytest.warns(UserWarning, match="singular"):
        fit.contrast(np.eye(len(fit.fixef))[0], ddf="satterthwaite")


# -- contrasts and terms -----------------------------------------------------------------------------------------------------


@quiet
@both_methods
def test_contrasts(name, ddf):
    """One row: a t test. Several rows, one of them perhaps too many: a joint F test."""
    fit = fitted(name)
    for contrast in reference(name, ddf)["contrasts"]:
        L = own_order(name, contrast["L"])
        if len(L) == 1:
            ours = one_row(fit.contrast(L[0], ddf=ddf)).to_frame().T
            same_t_tests(ours, table(contrast, T_COLUMNS), ddf, f"of {L}")
        else:
            ours = one_row(fit.contrast(L, ddf=ddf)).to_frame().T
            same_F_tests(ours, table(contrast, F_COLUMNS), ddf, f"of {L}")


@quiet
@both_methods
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_anova(name, ddf, kind):
    """Tables of all three types. The sums of squares by Kenward–Roger are, as in lmerTest, those of the unscaled F."""
    fit, R = fitted(name), reference(name, ddf)["anova"][str(kind)]
    ours = fit.anova(ddf=ddf, type=kind)
    if R is None:
        assert len(ours) == 0
        return
    assert list(ours.index) == R["term"]
    same_F_tests(ours, table(R, F_COLUMNS), ddf, f"of {R['term']}, type {kind}", exact_df=False)
    for column in ("sum_sq", "mean_sq"):
        assert_allclose(ours[column], R[column], rtol=DF[ddf], err_msg=f"{column} of {R['term']}, type {kind}")


@quiet
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_hypotheses_of_lmerTest(name, kind):
    """The terms again by lmerTest's own hypotheses, whose last digits it rounds: here also the exact df must agree."""
    fit, R = fitted(name), reference(name, "satterthwaite")["anova"][str(kind)]
    if R is None:
        assert fit.anova(type=kind).empty
        return
    tests = [one_row(fit.contrast(own_order(name, L), ddf="satterthwaite")) for L in R["L"]]
    same_F_tests(pd.DataFrame(tests), table(R, F_COLUMNS), "satterthwaite", f"of {R['term']}, type {kind}")


# -- marginal means ----------------------------------------------------------------------------------------------------------

with_means = pytest.mark.parametrize(
    ("name", "ddf", "factors"),
    [(n, d, tuple(m["factors"])) for n, d in SATTERTHWAITE + KENWARD_ROGER for m in reference(n, d)["means"]],
)
with_pairs = pytest.mark.parametrize(
    ("name", "ddf", "factor"),
    [
        (n, d, m["factors"][0])
        for n, d in SATTERTHWAITE + KENWARD_ROGER
        for m in reference(n, d)["means"]
        if "pairs" in m
    ],
)


def reference_means(name, ddf, factors):
    return next(m for m in reference(name, ddf)["means"] if m["factors"] == list(factors))


def asked_for(factors):
    """One factor by its name, several as a list."""
    return factors[0] if len(factors) == 1 else list(factors)


def by_levels(frame, factors, levels):
    """Rows in the order of emmeans, which lets the first factor run fastest."""
    keys = pd.MultiIndex.from_frame(frame[list(factors)].astype(str))
    return frame.set_axis(keys).loc[list(zip(*(levels[f] for f in factors), strict=True))]


@with_means
def test_means(name, ddf, factors):
    """Estimated marginal means with their intervals: other factors weighted equally, covariates at their means."""
    R = reference_means(name, ddf, factors)
    ours = means(fitted(name), asked_for(factors), ddf=ddf)
    assert len(ours) == len(R["means"]["estimate"])
    ours = by_levels(ours, factors, R["levels"])
    expected = table(R["means"], ["estimate", "std_error", "df", "lower", "upper"])
    same_t_tests(ours[["estimate", "std_error", "df"]], expected, ddf)
    for end, name_in_R in (("conf_low", "lower"), ("conf_high", "upper")):
        error = (ours[end].to_numpy() - expected[name_in_R]) / (expected["upper"] - expected["lower"])
        assert_allclose(error, 0, atol=DF[ddf], err_msg=end)


@with_pairs
@pytest.mark.parametrize("adjust", ["tukey", "holm", "bonferroni"])
def test_pairwise(name, ddf, factor, adjust):
    """All differences, earlier level minus later, in the order of emmeans.

    R's ptukey is off by up to some 1e-6: where R has 0.000652497, 25 digits of the integral give 0.000652751, as here.
    """
    R = reference_means(name, ddf, [factor])["pairs"]
    ours = pairwise(fitted(name), factor, adjust=adjust, ddf=ddf)
    assert list(ours["contrast"]) == [f"{a} - {b}" for a, b in zip(R["first"], R["second"], strict=True)]
    same_t_tests(ours[T_COLUMNS].assign(p_value=R["p_value"]), table(R, T_COLUMNS), ddf)
    if adjust == "tukey" and len(R["first"]) > 1:
        assert_allclose(ours["p_value"], R[adjust], rtol=DF[ddf], atol=2e-6, err_msg=adjust)
    else:
        same_p(ours["p_value"], R[adjust], DF[ddf], adjust)


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger"])
def test_means_do_not_depend_on_coding(ddf):
    """Sum contrasts and a centred covariate give the means of treatment contrasts and a raw one."""
    one, other = (means(fitted(f"cake_{kind}_unbalanced"), "recipe", ddf=ddf) for kind in ("slopes", "sum_contrasts"))
    columns = ["estimate", "std_error", "df", "conf_low", "conf_high"]
    assert list(one["recipe"]) == list(other["recipe"])
    assert_allclose(one[columns].to_numpy(float), other[columns].to_numpy(float), rtol=1e-6)
