"""Packaged data: loader, cards, and the printed figures that the rebuilt data sets were built to give.

A figure agrees when it is within half a unit of its last printed digit, or within the tolerance beside it.
"""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import chi2

from lmmlite import lmer
from lmmlite.datasets import KINDS, dataset_card, dataset_names, load_dataset

ROWS = {
    "cake": 270, "dyestuff": 30, "dyestuff2": 30, "exam": 4059, "growth": 897, "insteval": 73421, "labs": 1000,
    "machines": 54, "oats": 72, "orthodont": 108, "pastes": 60, "penicillin": 144, "politeness": 84, "rail": 18,
    "schools": 1200, "sleepstudy": 180,
}  # fmt: skip


def printed(text):
    """Approximately the numbers in a text, each to half a unit of its last printed digit."""
    words = text.split()
    digits = [len(word.partition(".")[2]) for word in words]
    return [pytest.approx(float(w), rel=0, abs=0.5 * 10.0**-d + 1e-12) for w, d in zip(words, digits, strict=True)]


# Loader and cards


def test_every_data_set_has_its_rows():
    assert {name: len(load_dataset(name)) for name in dataset_names()} == ROWS


@pytest.mark.parametrize("name", sorted(ROWS))
def test_card_describes_the_table(name):
    card, data = dataset_card(name), load_dataset(name)
    assert list(data.columns) == list(card.columns)
    assert card.kind in KINDS
    assert all([card.title, card.description, card.source, card.licence, *card.columns.values(), *card.notes])
    for column, levels in card.factors.items():
        assert tuple(data[column].cat.categories) == levels
        assert data[column].notna().all()
        assert set(data[column]) == set(levels)
    text, html = str(card), card._repr_html_()
    for column in card.columns:
        assert column in text
        assert f"<code>{column}</code>" in html
    assert KINDS[card.kind] in text


@pytest.mark.parametrize("name", ["schools", "politeness", "labs", "growth"])
def test_built_data_say_so(name):
    assert dataset_card(name).kind == ("simulated" if name == "growth" else "reconstructed")
    assert "tools/datasets/build_" in dataset_card(name).source


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="'sleepstudy'"):
        load_dataset("Sleep_study")
    with pytest.raises(ValueError, match="politeness"):
        dataset_card("zzz")


def test_a_loaded_table_is_the_callers_own():
    mine = load_dataset("rail")
    mine.loc[0, mine.columns[-1]] = None
    assert load_dataset("rail").notna().all(axis=None)


# Schools


@pytest.fixture(scope="module")
def schools():
    return load_dataset("schools")


@pytest.fixture(scope="module")
def schools_fit(schools):
    return lmer("extro ~ open + agree + social + (1 | school)", schools)


def test_schools_table(schools):
    assert (pd.crosstab(schools["class"], schools["school"]) == 50).all(axis=None)
    first = schools.head(6)
    assert first["extro"].tolist() == [63.69, 69.48, 79.74, 62.97, 64.25, 50.97]
    assert first["open"].tolist() == [43.43, 46.87, 32.27, 44.41, 36.86, 46.26]
    assert first["agree"].tolist() == [38.03, 31.49, 40.21, 30.51, 37.44, 38.83]
    assert first["social"].tolist() == [75.06, 98.13, 116.34, 90.47, 98.52, 75.22]
    assert schools["class"].head(10).tolist() == list("dadcddddab")
    assert schools["school"].head(10).tolist() == ["IV", "VI", "VI", "IV", "IV", "I", "III", "IV", "III", "I"]


def test_schools_estimates(schools_fit):
    assert schools_fit.fixef.tolist() == printed("59.116514 0.009751 0.027788 -0.002151")
    assert [schools_fit.sigma] == printed("2.670886")
    effect_sizes = schools_fit.fixef / schools_fit.sigma
    assert effect_sizes.tolist() == printed("22.1336705 0.0036508 0.0104042 -0.0008055")


def test_schools_random_effects(schools_fit):
    modes = schools_fit.ranef()["school"]["Intercept"]
    assert modes.tolist() == printed("-14.091 -6.183 -1.971 1.966 6.331 13.948")
    assert schools_fit.ranef_cov("school").ravel().tolist() == printed("0.03565 " * 6)


def intercept_deviance(data, tau, sigma):
    """ML deviance of the schools' model at given SDs; V^-1 = (I - shrink P) / sigma^2, P takes school means."""
    columns = np.column_stack([np.ones(len(data)), data[["open", "agree", "social", "extro"]]])
    means = pd.DataFrame(columns).groupby(data["school"].to_numpy()).transform("mean").to_numpy()
    ratio = 200 * (tau / sigma) ** 2
    cross = columns.T @ (columns - ratio / (1 + ratio) * means)
    form = cross[4, 4] - cross[4, :4] @ np.linalg.solve(cross[:4, :4], cross[:4, 4])
    return len(data) * np.log(2 * np.pi * sigma**2) + 6 * np.log1p(ratio) + form / sigma**2


@pytest.mark.parametrize(("limits", "tolerance"), [((4.91840, 23.88758), 1e-3), ((2.53287, 2.81456), 5e-6)])
def test_schools_interval_of_sds(schools, schools_fit, limits, tolerance):
    """99 % profile limits: moving a printed limit by its tolerance crosses the chi-square quantile."""
    of_tau = limits[0] > 3
    lowest = schools_fit.refit_ml().deviance

    def profile(value):
        def other(free):
            return intercept_deviance(schools, *((value, free) if of_tau else (free, value)))

        bounds = (2, 4) if of_tau else (3, 40)
        return minimize_scalar(other, bounds=bounds, method="bounded", options={"xatol": 1e-9}).fun - lowest

    quantile = chi2.ppf(0.99, 1)
    for limit in limits:
        crossed = [profile(limit + shift) > quantile for shift in (-tolerance, tolerance)]
        assert crossed[0] != crossed[1]


@pytest.mark.parametrize(
    ("term", "limits", "tolerance"),
    [
        ("Intercept", (46.27751, 71.95610), 2e-3),
        ("open", (-0.02465, 0.04415), 5e-6),
        ("agree", (-0.01164, 0.06721), 5e-6),
        ("social", (-0.01493, 0.01063), 5e-6),
    ],
)
def test_schools_interval_of_fixed_effects(schools, schools_fit, term, limits, tolerance):
    terms = {"Intercept": "1", "open": "open", "agree": "agree", "social": "social"}
    column = np.ones(len(schools)) if term == "Intercept" else schools[term].to_numpy()
    rest = " + ".join(text for name, text in terms.items() if name != term)
    formula = f"extro ~ {'0 + ' * (term == 'Intercept')}{rest} + (1 | school)"
    lowest = schools_fit.refit_ml().deviance

    def profile(value):
        return lmer(formula, schools, reml=False, offset=value * column).deviance - lowest

    quantile = chi2.ppf(0.99, 1)
    for limit in limits:
        crossed = [profile(limit + shift) > quantile for shift in (-tolerance, tolerance)]
        assert crossed[0] != crossed[1]


def test_schools_exact_likelihood_ratio(schools, schools_fit):
    design = np.column_stack([np.ones(1200), schools[["open", "agree", "social"]]])
    rss = np.linalg.lstsq(design, schools["extro"].to_numpy(), rcond=None)[1][0]
    least_squares = -600 * (1 + np.log(2 * np.pi * rss / 1200))
    assert [2 * (schools_fit.refit_ml().loglik - least_squares)] == printed("2958")


# Politeness


@pytest.fixture(scope="module")
def politeness():
    return load_dataset("politeness")


def test_politeness_estimates(politeness):
    fit = lmer("frequency ~ attitude + gender + (1 | subject) + (1 | scenario)", politeness)
    assert fit.nobs == 83
    assert fit.fixef.tolist() == printed("256.846 -19.721 -108.516")
    assert fit.se.tolist()[1:] == printed("5.58 21.01")
    assert fit.varcorr.set_index("group")["variance"][["scenario", "subject", "Residual"]].tolist() == printed(
        "219.45 615.57 645.90"
    )


def test_politeness_missing_frequency(politeness):
    missing = politeness[politeness["frequency"].isna()]
    assert missing[["subject", "scenario", "attitude"]].to_numpy().tolist() == [["M4", "6", "pol"]]


def test_politeness_likelihood_ratio(politeness):
    full, without = (
        lmer(f"frequency ~ {fixed} + (1 | subject) + (1 | scenario)", politeness, reml=False)
        for fixed in ("attitude + gender", "gender")
    )
    statistic = 2 * (full.loglik - without.loglik)
    assert [statistic] == printed("11.618")
    assert [chi2.sf(statistic, 1)] == printed("0.0006532")


def test_politeness_by_least_squares(politeness):
    heard = politeness.dropna()
    design = np.column_stack([np.ones(83), heard["attitude"] == "pol", heard["gender"] == "M"]).astype(float)
    rss = np.linalg.lstsq(design, heard["frequency"].to_numpy(), rcond=None)[1][0]
    se = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * rss / 80)
    assert se.tolist()[1:] == printed("7.83 7.83")


# Labs


@pytest.fixture(scope="module")
def labs():
    return load_dataset("labs")


@pytest.fixture(scope="module")
def labs_fits(labs):
    return (
        lmer("y ~ x + (1 | Group)", labs, reml=False),
        lmer("y ~ x + (1 | Group) + (0 + x | Group)", labs, reml=False),
        lmer("y ~ x + (1 + x | Group)", labs),
    )


# Fixed effects, standard errors, then SDs (and the correlation) as in varcorr. The source prints nine digits.
ESTIMATES = [
    (0.425990318, 0.047049294, 0.049594947, 0.000430711, 0.182703789, 0.262164699),
    (0.441912771, 0.046776353, 0.056084539, 0.000627214, 0.198195525, 0.001170298, 0.260799199),
    (0.436631488, 0.046688799, 0.082690437, 0.000785980, 0.334591939, 0.002807165, -1.0, 0.259399193),
]


@pytest.mark.parametrize(("model", "tolerance"), [(0, 5e-8), (1, 1e-7), (2, 3e-7)])
def test_labs_estimates(labs_fits, model, tolerance):
    fit = labs_fits[model]
    found = [*fit.fixef, *fit.se, *fit.varcorr["sd_or_corr"]]
    assert found == pytest.approx(ESTIMATES[model], rel=0, abs=tolerance)


def test_labs_offsets_of_lmm1(labs_fits):
    offsets = [
        -0.060852065, -0.128570334, 0.004326436, 0.003710606, 0.23398094, 0.368000908, -0.030078499,
        0.185630208, -0.232259178, -0.072573552, -0.216983379, 0.215636079, 0.06191129, -0.33460677,
        0.037591867, -0.008805021, -0.169493747, -0.06162958, -0.023323198, 0.01077819, 0.217608799,
    ]  # fmt: skip
    intercepts = [
        0.365138253, 0.297419984, 0.430316754, 0.429700924, 0.659971258, 0.793991226, 0.395911819, 0.611620526,
        0.19373114, 0.353416766, 0.209006939, 0.641626397, 0.487901608, 0.091383548, 0.463582185, 0.417185297,
        0.256496571, 0.364360738, 0.40266712, 0.436768508, 0.643599117,
    ]  # fmt: skip
    assert labs_fits[0].ranef()["Group"]["Intercept"].tolist() == pytest.approx(offsets, rel=0, abs=1e-8)
    assert labs_fits[0].coef()["Group"]["Intercept"].tolist() == pytest.approx(intercepts, rel=0, abs=1e-8)


def test_labs_third_model_is_singular(labs_fits):
    assert [fit.is_singular for fit in labs_fits] == [False, False, True]


def test_labs_comparison(labs_fits):
    fits = [fit.refit_ml() for fit in labs_fits]
    assert [fit.npar for fit in fits] == [4, 5, 6]
    assert [fit.aic for fit in fits] == printed("220.04 220.94 200.45")
    assert [fit.bic for fit in fits] == printed("239.67 245.48 229.90")
    assert [fit.loglik for fit in fits] == printed("-106.021 -105.470 -94.225")
    assert [fit.deviance for fit in fits] == printed("212.04 210.94 188.45")
    statistics = -np.diff([fit.deviance for fit in fits])
    assert statistics.tolist() == printed("1.101 22.491")
    assert chi2.sf(statistics, 1).tolist() == printed("0.294 0.000002112")
    # with the null on the boundary: lmm1 to lmm2, lmm1 to lmm3
    assert [chi2.sf(statistics[0], 1) / 2] == printed("0.147")
    both = statistics.sum()
    assert [(chi2.sf(both, 1) + chi2.sf(both, 2)) / 2] == printed("0.0000044")


@pytest.mark.parametrize(
    ("model", "figures"),
    [
        (0, (0.9431799, 0.9201095, 0.02307045)),
        (1, (0.9454617, 0.9202339, 0.02522783)),
        (2, (0.9472098, 0.9208767, 0.02633312)),
    ],
)
def test_labs_r2(labs, labs_fits, model, figures):
    fit, x, y = labs_fits[model], labs["x"].to_numpy(), labs["y"].to_numpy()
    rows = fit.theta[:2] if model == 2 else np.diag(np.resize(fit.theta, 2)) if model == 1 else fit.theta[:1]
    z = np.column_stack([np.ones_like(x), x])[:, : len(rows)]
    t = np.square(z @ rows).reshape(len(x), -1).sum(axis=1)
    marginal = y - fit.fixef["Intercept"] - fit.fixef["x"] * x
    total = np.sum((y - y.mean()) ** 2)
    fixed = 1 - marginal @ marginal / total
    whole = 1 - np.sum(t * fit.sigma**2 / (1 + t) + marginal**2 / (1 + t) ** 2) / total
    assert [whole, fixed, whole - fixed] == pytest.approx(figures, rel=0, abs=3e-7)


def test_labs_sizes(labs_fits, labs):
    """Labs near 55 rows lie closer to the fixed effect than labs of ten rows or fewer."""
    sizes = labs["Group"].value_counts()
    offsets = labs_fits[0].ranef()["Group"]["Intercept"].abs()
    assert offsets[sizes[sizes.between(45, 70)].index].max() < offsets[sizes[sizes <= 10].index].mean()


# Growth


def test_growth_figures():
    fit = lmer("arm ~ age + (1 | id)", load_dataset("growth"))
    assert [fit.fixef["Intercept"]] == printed("12.8")
    assert [fit.fixef["age"]] == printed("0.032")
    assert [fit.varcorr["sd_or_corr"].iloc[0]] == printed("0.88")
    assert [fit.fixef["age"] - 1.96 * fit.se["age"], fit.fixef["age"] + 1.96 * fit.se["age"]] == printed("0.027 0.037")
