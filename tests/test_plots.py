"""Pictures show the numbers of the fit: what is drawn is compared with tables of the fit or with computations of its own."""

import subprocess
import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from scipy.stats import chi2, kstest, norm

from lmmlite import lmer, load_dataset, plots
from lmmlite.inference.bootstrap import bootstrap
from lmmlite.inference.profile import profile
from lmmlite.plots import COLORS
from lmmlite.plots.groups import complete_pooling, no_pooling
from lmmlite.plots.inference import Curve, contour
from lmmlite.plots.residuals import normal_bands, smooth

SLEEP = "Reaction ~ Days + (Days | Subject)"


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def data():
    return load_dataset("sleepstudy")


@pytest.fixture(scope="module")
def sleep(data):
    return lmer(SLEEP, data)


@pytest.fixture(scope="module")
def schools():
    return lmer("extro ~ open + agree + social + (1 | school)", load_dataset("schools"))


@pytest.fixture(scope="module")
def labs():
    return lmer("y ~ x + (1 + x | Group)", load_dataset("labs"))


@pytest.fixture(scope="module")
def penicillin():
    return lmer("diameter ~ 1 + (1 | plate) + (1 | sample)", load_dataset("penicillin"))


@pytest.fixture(scope="module")
def profiled(sleep):
    return profile(sleep)


@pytest.fixture(scope="module")
def booted(sleep):
    return bootstrap(sleep, 60, seed=1)


def points(ax, color):
    """(x, y) of the points drawn in a colour, marks of complete pooling left out."""
    found = [
        line for line in ax.lines if line.get_marker() == "o" and to_hex(line.get_color()).upper() == COLORS[color]
    ]
    return np.concatenate([line.get_xydata() for line in found]).T


def line(ax, label):
    return next(each for each in ax.lines if each.get_label() == label).get_xydata().T


def segments(ax):
    """(n, 2, 2) ends of the intervals."""
    return np.array(ax.collections[0].get_segments())


# --- effects ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("term", "level"), [("Intercept", 0.95), ("Days", 0.8)])
def test_caterpillar_is_sorted_with_conditional_intervals(sleep, term, level):
    ax = plots.plot_ranef(sleep, "Subject", term, level)
    b = sleep.ranef()["Subject"][term].sort_values()
    half = norm.ppf((1 + level) / 2) * sleep.ranef_sd()["Subject"][term][b.index]
    x, y = points(ax, "partial")
    np.testing.assert_allclose(x, b)
    np.testing.assert_array_equal(y, np.arange(18))
    np.testing.assert_allclose(segments(ax)[:, :, 0], np.column_stack([b - half, b + half]))
    assert [t.get_text() for t in ax.get_yticklabels()] == [str(i) for i in b.index]
    assert f"{100 * level:g} %" in ax.get_title("left")


def test_caterpillar_of_many_levels_has_no_labels():
    exam = lmer("normexam ~ standLRT + (1 | school)", load_dataset("exam"))
    ax = plots.plot_ranef(exam)
    assert len(points(ax, "partial")[0]) == 65
    assert not ax.get_yticklabels()


def test_forest_shows_satterthwaite_intervals(schools):
    ax = plots.plot_fixef(schools, level=0.9)
    table = schools.tidy(0.9).set_index("term").loc[["social", "agree", "open"]]
    np.testing.assert_allclose(points(ax, "partial")[0], table["estimate"])
    np.testing.assert_allclose(segments(ax)[:, :, 0], table[["conf_low", "conf_high"]])
    assert [t.get_text() for t in plots.plot_fixef(schools, ["Intercept", "open"]).get_yticklabels()] == [
        "open",
        "Intercept",
    ]
    assert [t.get_text() for t in plots.plot_fixef(schools, "open").get_yticklabels()] == ["open"]


def test_forest_of_the_intercept_alone(penicillin):
    assert points(plots.plot_fixef(penicillin), "partial")[0] == pytest.approx(penicillin.fixef)


def test_sizes_show_coefficients_two_standard_errors_and_rows(labs):
    ax = plots.plot_sizes(labs, "Group", "x")
    x, y = points(ax, "partial")
    np.testing.assert_array_equal(x, load_dataset("labs")["Group"].value_counts(sort=False))
    np.testing.assert_allclose(y, labs.coef()["Group"]["x"])
    np.testing.assert_allclose(np.diff(segments(ax)[:, :, 1])[:, 0], 4 * labs.ranef_sd()["Group"]["x"])
    assert line(ax, "fixed effect")[1] == pytest.approx([labs.fixef["x"]] * 2)
    assert ax.get_xscale() == "log"


# --- residuals ----------------------------------------------------------------------------------------------------------------
def test_residuals_against_fitted_fixed_and_columns(sleep, data):
    for against, x in (("fitted", sleep.fitted), ("fixed", sleep.predict(random=False)), ("Days", data["Days"])):
        for kind in ("scaled", "marginal"):
            shown = points(plots.plot_residuals(sleep, kind, against), "data")
            np.testing.assert_allclose(shown, [x, sleep.residuals(kind)])


def test_residuals_of_rows_used(data):
    gaps = data.assign(Reaction=data["Reaction"].where(data["Days"] != 3))
    fit = lmer(SLEEP, gaps)
    assert set(points(plots.plot_residuals(fit, against="Days"), "data")[0]) == set(range(10)) - {3}


def test_smooth_reproduces_a_line_and_follows_a_curve():
    x = np.sort(np.random.default_rng(1).uniform(-2, 3, 200))
    at, values = smooth(x, 3 - 2 * x)
    np.testing.assert_allclose(values, 3 - 2 * at, atol=1e-9)
    at, values = smooth(x, np.sin(x), span=0.2)
    np.testing.assert_allclose(values, np.sin(at), atol=0.05)
    assert smooth(np.ones(5), np.arange(5.0)) == (pytest.approx([1]), pytest.approx([2]))


def test_scale_location_uses_standardised_residuals(sleep):
    """Var(y − fitted) = σ²P: P from the dense definition."""
    d, Z = sleep.design, sleep.design.Z.toarray()
    T = np.kron(np.eye(18), sleep._T[0])
    V = np.eye(d.n) + Z @ T @ T.T @ Z.T
    Vi = np.linalg.inv(V)
    P = Vi - Vi @ d.X @ np.linalg.solve(d.X.T @ Vi @ d.X, d.X.T @ Vi)
    e = sleep.residuals() / (sleep.sigma * np.sqrt(np.diag(P)))
    ax = plots.plot_scale_location(sleep)
    np.testing.assert_allclose(points(ax, "data"), [sleep.fitted, np.sqrt(np.abs(e))], rtol=1e-6)
    assert line(ax, "expected")[1][0] == pytest.approx(
        np.mean(np.sqrt(np.abs(norm.ppf((np.arange(1e6) + 0.5) / 1e6)))), abs=1e-4
    )
    np.testing.assert_allclose(np.sort(qq_points(plots.plot_qq(sleep), "data")[1]), np.sort(e), rtol=1e-6)


def qq_points(ax, color):
    return np.concatenate([points(ax, color), points(ax, "highlight")], axis=1)


@pytest.mark.parametrize("term", ["Intercept", "Days"])
def test_qq_of_random_effects_uses_their_own_spread(sleep, term):
    """Var(b̃) = σ²ΛΛ'Z'PZΛΛ' from the dense definition."""
    d, Z = sleep.design, sleep.design.Z.toarray()
    T = np.kron(np.eye(18), sleep._T[0])
    Vi = np.linalg.inv(np.eye(d.n) + Z @ T @ T.T @ Z.T)
    P = Vi - Vi @ d.X @ np.linalg.solve(d.X.T @ Vi @ d.X, d.X.T @ Vi)
    var = np.diag(T @ T.T @ Z.T @ P @ Z @ T @ T.T).reshape(18, 2)[:, ["Intercept", "Days"].index(term)]
    expected = np.sort(sleep.ranef()["Subject"][term] / (sleep.sigma * np.sqrt(var)))
    ax = plots.plot_qq(sleep, "Subject", term)
    x, y = qq_points(ax, "partial")
    np.testing.assert_allclose(np.sort(y), expected, rtol=1e-6)
    np.testing.assert_allclose(np.sort(x), norm.ppf((np.arange(1, 19) - 0.375) / 18.25))


@pytest.mark.parametrize("n", [6, 40, 1000])
def test_bands_cover_each_point_and_all_points(n):
    at, each, together = normal_bands(n, 0.9)
    draws = np.sort(np.random.default_rng(5).standard_normal((2000, n)), axis=1)
    rank = np.rint(norm.cdf(at) * (n + 0.25) + 0.375).astype(int) - 1
    shown = draws[:, rank]
    assert np.mean((shown > each[0]) & (shown < each[1])) == pytest.approx(0.9, abs=0.015)
    assert np.mean(((shown > together[0]) & (shown < together[1])).all(axis=1)) == pytest.approx(0.9, abs=0.03)
    assert rank[0] == 0
    assert rank[-1] == n - 1
    np.testing.assert_allclose(each[0], -each[1][::-1])


def test_qq_marks_what_leaves_the_band(sleep):
    assert len(points(plots.plot_qq(sleep), "highlight")[1]) == 3  # the known outliers of these data


def test_standardised_residuals_are_standard_normal_where_the_model_holds():
    rng = np.random.default_rng(2)
    frame = pd.DataFrame({"g": np.repeat(np.arange(60), 6), "x": np.tile(np.arange(6.0), 60)})
    frame["y"] = frame["x"] + 2 * rng.standard_normal(60)[frame["g"]] + rng.standard_normal(360)
    fit = lmer("y ~ x + (1 | g)", frame)
    for what, color in (("residuals", "data"), ("g", "partial")):
        assert kstest(qq_points(plots.plot_qq(fit, what), color)[1], "norm").pvalue > 0.05


# --- groups -------------------------------------------------------------------------------------------------------------------
def test_poolings_are_least_squares(sleep, data):
    own = data.groupby("Subject", observed=True)
    expected = np.array([np.polyfit(part["Days"], part["Reaction"], 1)[::-1] for _, part in own])
    np.testing.assert_allclose(no_pooling(sleep, "Subject"), expected, rtol=1e-6)
    np.testing.assert_allclose(complete_pooling(sleep), np.polyfit(data["Days"], data["Reaction"], 1)[::-1])


def test_no_pooling_of_crossed_factors_and_weights(data):
    """Least squares of what the other terms leave, with weights; nan for a level with too few rows."""
    rng = np.random.default_rng(3)
    frame = data.assign(w=rng.uniform(0.5, 2, 180), h=rng.integers(0, 6, 180)).drop(index=range(1, 10))
    fit = lmer("Reaction ~ Days + (Days | Subject) + (1 | h)", frame, weights="w")
    table = no_pooling(fit, "Subject")
    assert table.iloc[0].isna().all()
    level = table.index[4]
    part = frame[frame["Subject"] == level]
    y = part["Reaction"] - fit.ranef()["h"]["Intercept"][part["h"]].to_numpy()
    slope, intercept = np.polyfit(part["Days"], y, 1, w=np.sqrt(part["w"]))
    assert table.loc[level].to_numpy() == pytest.approx([intercept, slope], rel=1e-6)
    assert len(plots.plot_shrinkage(fit, "Subject").collections[0].U) == 17


def test_shrinkage_arrows_lead_from_no_to_partial_pooling(sleep):
    ax = plots.plot_shrinkage(sleep)
    arrows, no = ax.collections[0], no_pooling(sleep, "Subject").sort_values("Intercept")
    partial = sleep.coef()["Subject"].loc[no.index]
    np.testing.assert_allclose(arrows.XY, no)
    np.testing.assert_allclose(arrows.XY + np.column_stack([arrows.U, arrows.V]), partial)
    np.testing.assert_allclose(points(ax, "no"), no.T)
    np.testing.assert_allclose(points(ax, "partial"), partial.T)
    np.testing.assert_allclose(line(ax, "complete pooling").ravel(), complete_pooling(sleep))
    assert ax.get_xlabel() == "Intercept"


def test_shrinkage_of_one_coefficient_is_rows_of_points(sleep, penicillin):
    ax = plots.plot_shrinkage(penicillin, "plate")
    no = no_pooling(penicillin, "plate")["Intercept"].sort_values()
    np.testing.assert_allclose(points(ax, "no")[0], no)
    np.testing.assert_allclose(points(ax, "partial")[0], penicillin.coef()["plate"]["Intercept"][no.index])
    mean = load_dataset("penicillin")["diameter"].mean()
    assert line(ax, "complete pooling")[0] == pytest.approx([mean, mean])
    assert plots.plot_shrinkage(sleep, terms="Days").get_xlabel() == "Days"


def test_shrinkage_keeps_far_levels_out_of_the_frame():
    exam = lmer("normexam ~ standLRT + (standLRT | school)", load_dataset("exam"))
    ax = plots.plot_shrinkage(exam)
    assert "1 outside" in ax.get_xlabel()
    assert ax.get_ylim()[0] > -1  # school 48 has two rows and a slope of about −7


def test_group_panels_hold_data_and_lines(sleep, data):
    figure = plots.plot_groups(sleep, "Days", n=18)
    order = sleep.ranef()["Subject"]["Days"].sort_values().index
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title("left") for ax in shown] == [str(level) for level in order]
    lines = {
        "complete pooling": np.tile(complete_pooling(sleep), (18, 1)),
        "no pooling": no_pooling(sleep, "Subject").loc[order].to_numpy(),
        "partial pooling": sleep.coef()["Subject"].loc[order].to_numpy(),
    }
    for i, (ax, level) in enumerate(zip(shown, order, strict=True)):
        part = data[data["Subject"] == level]
        np.testing.assert_allclose(points(ax, "data"), [part["Days"], part["Reaction"]])
        for label, coefficients in lines.items():
            x, y = line(ax, label)
            np.testing.assert_allclose(y, coefficients[i, 0] + coefficients[i, 1] * x, rtol=1e-6)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(lines)
    assert shown[-1].get_xlabel() == "Days"
    assert figure.get_supylabel() == "Reaction"


def test_group_panels_are_spread_over_the_order(sleep):
    figure = plots.plot_groups(sleep, "Days", n=4)
    order = sleep.ranef()["Subject"]["Days"].sort_values().index
    titles = [ax.get_title("left") for ax in figure.axes if ax.get_visible()]
    assert len(titles) == 4
    assert titles[0] == str(order[0])
    assert titles[-1] == str(order[-1])


def test_group_panels_hold_other_variables_at_the_group(data):
    """A curve, a covariate, a factor, an offset and weights: lines recomputed from predictions and least squares."""
    rng = np.random.default_rng(4)
    frame = data.assign(
        z=rng.standard_normal(180), f=rng.choice(["a", "b"], 180), o=rng.uniform(0, 9, 180), w=rng.uniform(0.5, 2, 180)
    )
    fit = lmer("Reaction ~ Days + I(Days**2) + z + f + (Days | Subject)", frame, offset="o", weights="w")
    ax = plots.plot_groups(fit, "Days", n=1).axes[0]
    part = frame[frame["Subject"].astype(str) == ax.get_title("left")]
    x, partial = line(ax, "partial pooling")
    new = pd.DataFrame({"Days": x}).assign(
        z=part["z"].mean(), f=part["f"].mode()[0], Subject=part["Subject"].iloc[0], o=part["o"].mean()
    )
    np.testing.assert_allclose(partial, fit.predict(new))
    x, no = line(ax, "no pooling")
    own = np.polyfit(part["Days"], part["Reaction"] - part["o"], 2, w=np.sqrt(part["w"]))
    np.testing.assert_allclose(no, np.polyval(own, x) + part["o"].mean(), rtol=1e-6)


def test_group_panels_over_a_factor_and_without_enough_rows():
    machines = load_dataset("machines")
    fit = lmer("score ~ Machine + (1 | Worker)", machines[(machines["Worker"] != "1") | (machines["Machine"] == "A")])
    figure = plots.plot_groups(fit, "Machine")
    alone = next(ax for ax in figure.axes if ax.get_title("left") == "1")
    labels = {each.get_label() for each in alone.lines}
    assert "no pooling" not in labels
    assert "partial pooling" in labels
    other = next(ax for ax in figure.axes if ax.get_title("left") == "2")
    means = machines[machines["Worker"] == "2"].groupby("Machine", observed=True)["score"].mean()
    np.testing.assert_allclose(line(other, "no pooling")[1], means)
    assert [t.get_text() for t in figure.axes[-1].get_xticklabels()] == ["A", "B", "C"]


def test_group_panels_of_combined_groups():
    cake = lmer("angle ~ recipe * temp + (1 | recipe:replicate)", load_dataset("cake"))
    figure = plots.plot_groups(cake, "temp", n=3)
    b = cake.ranef()["recipe:replicate"]["Intercept"].sort_values()
    assert [ax.get_title("left") for ax in figure.axes] == list(b.index[[0, 22, 44]])


# --- inference ----------------------------------------------------------------------------------------------------------------
def test_profile_panels_pass_through_the_profile(profiled):
    figure = plots.plot_profile(profiled, levels=[0.95])
    table, interval = profiled.zeta, profiled.confint()
    names = list(table["parameter"].unique())
    assert [ax.get_xlabel() for ax in figure.axes] == names
    for ax, name in zip(figure.axes, names, strict=True):
        own = table[table["parameter"] == name]
        curve = next(each for each in ax.lines if len(each.get_xdata()) > 100).get_xydata().T
        np.testing.assert_allclose(np.interp(own["value"], *curve), own["zeta"], atol=5e-3)
        width = np.ptp(interval.loc[name])
        np.testing.assert_allclose(np.sort(segments(ax)[:, 0, 0]), interval.loc[name], atol=0.01 * width)


def test_profile_density_integrates_to_one(profiled):
    figure = plots.plot_profile_density(profiled, ["sigma", "Days"])
    assert [ax.get_xlabel() for ax in figure.axes] == ["sigma", "Days"]
    for ax in figure.axes:
        x, y = next(each for each in ax.lines if len(each.get_xdata()) > 100).get_xydata().T
        assert np.trapezoid(y, x) == pytest.approx(0.999, abs=2e-3)


def test_pairs_are_a_triangle_of_panels(profiled):
    figure = plots.plot_profile_pairs(profiled)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == 6
    assert shown[-1].get_xlabel() == "sd_Days\n|Subject"
    assert len(plots.plot_profile_pairs(profiled, ["Days", "sigma"]).axes) == 1


def test_contours_touch_the_traces_and_enclose_the_joint_region(profiled, data):
    """The contour of (Intercept, Days) is where the deviance, both held fixed by an offset, is χ² above its minimum."""
    table, radius = profiled.zeta, float(np.sqrt(chi2.ppf(0.8, 2)))
    a, b = Curve(table, "Intercept"), Curve(table, "Days")
    x, y = contour(a, b, "Intercept", "Days", radius)
    assert [x.max(), -x.min(), y.max(), -y.min()] == pytest.approx([radius] * 4, rel=0.01)
    least = lmer(SLEEP, data, reml=False).deviance
    for i in (10, 40, 90, 150):
        rest = data["Reaction"] - a.at(x[i]) - b.at(y[i]) * data["Days"]
        held = lmer("rest ~ 0 + (Days | Subject)", data.assign(rest=rest), reml=False)
        assert held.deviance - least == pytest.approx(radius**2, rel=0.1)


def test_bootstrap_panels_hold_replicates_interval_and_estimate(booted):
    figure = plots.plot_bootstrap(booted, level=0.9, kind="basic")
    interval = booted.confint(0.9, "basic")
    assert [ax.get_xlabel() for ax in figure.axes] == list(booted.replicates)
    for ax, name in zip(figure.axes, booted.replicates, strict=True):
        band, *bars = ax.patches
        extent = band.get_window_extent().transformed(ax.transData.inverted())  # a polygon before matplotlib 3.9
        assert [extent.x0, extent.x1] == pytest.approx(list(interval.loc[name]))
        values = booted.replicates[name].dropna()
        edges = np.array([*(bar.get_x() for bar in bars), bars[-1].get_x() + bars[-1].get_width()])
        edges[[0, -1]] += [-1e-9, 1e-9]  # the least and the greatest replicate lie on the edges but for rounding
        heights, _ = np.histogram(values, edges, density=True)
        np.testing.assert_allclose([bar.get_height() for bar in bars], heights, rtol=1e-6)
        assert edges[0] <= values.min()
        assert ax.lines[0].get_xdata()[0] == pytest.approx(booted.estimate[name])
    assert "60 replicates" in figure.get_suptitle()


# --- all of them --------------------------------------------------------------------------------------------------------------
SINGLE = [
    "plot_ranef",
    "plot_fixef",
    "plot_sizes",
    "plot_residuals",
    "plot_scale_location",
    "plot_qq",
    "plot_shrinkage",
]


@pytest.mark.parametrize("name", SINGLE)
def test_single_pictures_use_the_axes_given_and_label_them(name, sleep):
    ax, other = plt.subplots(1, 2)[1]
    plt.sca(other)
    before, settings = plt.get_fignums(), dict(matplotlib.rcParams)
    assert getattr(plots, name)(sleep, ax=ax) is ax
    assert plt.get_fignums() == before
    assert plt.gca() is other
    assert dict(matplotlib.rcParams) == settings
    assert not other.has_data()
    assert all((ax.get_xlabel(), ax.get_ylabel(), ax.get_title("left")))


@pytest.mark.parametrize("name", SINGLE)
def test_single_pictures_make_one_figure_without(name, sleep):
    ax = getattr(plots, name)(sleep)
    assert plt.get_fignums() == [ax.figure.number]
    ax.figure.canvas.draw()


@pytest.mark.parametrize(
    "draw",
    [
        lambda fit, p, b: plots.plot_groups(fit, "Days"),
        lambda fit, p, b: plots.plot_profile(p),
        lambda fit, p, b: plots.plot_profile_density(p),
        lambda fit, p, b: plots.plot_profile_pairs(p),
        lambda fit, p, b: plots.plot_bootstrap(b),
    ],
)
def test_figures_have_titles_and_labels_and_leave_settings(draw, sleep, profiled, booted):
    settings = dict(matplotlib.rcParams)
    figure = draw(sleep, profiled, booted)
    figure.canvas.draw()
    assert dict(matplotlib.rcParams) == settings
    assert figure.get_suptitle()
    assert any(ax.get_xlabel() for ax in figure.axes)


def test_nothing_of_the_fit_changes(data):
    fit = lmer(SLEEP, data)
    before, frame = fit.tidy(), data.copy()
    for name in SINGLE:
        getattr(plots, name)(fit)
    plots.plot_groups(fit, "Days")
    pd.testing.assert_frame_equal(fit.tidy(), before)
    pd.testing.assert_frame_equal(data, frame)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda f: plots.plot_ranef(f, "school"), "grouping factor 'school' .* Subject"),
        (lambda f: plots.plot_ranef(f, "Subject", "x"), "'x' .* Intercept, Days"),
        (lambda f: plots.plot_sizes(f, term="x"), "'x' .* Intercept, Days"),
        (lambda f: plots.plot_qq(f, "resid"), "'resid' .* Subject"),
        (lambda f: plots.plot_qq(f, "Subject", "x"), "'x' .* Intercept, Days"),
        (lambda f: plots.plot_qq(f, level=2), "between 0 and 1"),
        (lambda f: plots.plot_ranef(f, level=95), "between 0 and 1"),
        (lambda f: plots.plot_fixef(f, ["day"]), "fixed effect 'day' .* Intercept, Days"),
        (lambda f: plots.plot_residuals(f, against="Subject"), "numeric column 'Subject' .* Days"),
        (lambda f: plots.plot_residuals(f, kind="raw"), "not 'raw'"),
        (lambda f: plots.plot_groups(f, "day"), "column 'day' .* Days"),
        (lambda f: plots.plot_groups(f, "Days", "school"), "'school' .* Subject"),
        (lambda f: plots.plot_shrinkage(f, terms=["Days", "x"]), "'x' .* Intercept, Days"),
        (lambda f: plots.plot_shrinkage(f, terms=["Days", "Days", "Days"]), "one or two"),
    ],
)
def test_errors_name_what_there_is(draw, message, sleep):
    with pytest.raises(ValueError, match=message):
        draw(sleep)
    assert not plt.get_fignums()


def test_errors_of_profiles_and_bootstraps(profiled, booted):
    with pytest.raises(ValueError, match=r"profile of 'x' .* sigma"):
        plots.plot_profile(profiled, "x")
    with pytest.raises(ValueError, match="at least two"):
        plots.plot_profile_pairs(profiled, ["sigma"])
    with pytest.raises(ValueError, match=r"replicates of 'x' .* sigma"):
        plots.plot_bootstrap(booted, "x")


def test_pictures_at_the_boundary():
    """A zero variance and a correlation of −1: everything that can be drawn is, the rest says why not."""
    fit = lmer("Yield ~ 1 + (1 | Batch)", load_dataset("dyestuff2"))
    for name in SINGLE:
        getattr(plots, name)(fit).figure.canvas.draw()
    with pytest.raises(ValueError, match="estimated as zero"):
        plots.plot_qq(fit, "Batch")
    for figure in (
        plots.plot_profile(profile(fit)),
        plots.plot_profile_density(profile(fit)),
        plots.plot_profile_pairs(profile(fit)),
    ):
        figure.canvas.draw()


def test_without_matplotlib_the_message_says_what_to_install():
    code = "import sys; sys.modules['matplotlib'] = None; import lmmlite; import lmmlite.plots"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install matplotlib" in run.stderr
    assert "lmmlite[plots]" in run.stderr
