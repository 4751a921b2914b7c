"""How well a model fits and what it leans on: R², conditional AIC, ICC, singularity, group residuals, leverage, influence."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import norm

from lmmlite.checks import check_share
from lmmlite.criterion import Criterion, Derivatives
from lmmlite.crossproducts import crossproducts
from lmmlite.effects import JointErrors
from lmmlite.inference.ddf import fixed
from lmmlite.optimize import minimize, unitless
from lmmlite.prediction import own_rows
from lmmlite.table import Levels

if TYPE_CHECKING:
    from lmmlite.model import MixedModel

_ZERO = 1e-4  # SD of a direction, relative to σ on centred and scaled columns, that counts as zero (as in `optimize`)


# --- Quality of fit -----------------------------------------------------------------------------------------------------------
def r2(fit: MixedModel) -> pd.Series:
    """Five measures of explained variation.

    With m = y − Xβ̂ (less the offset), t = diag(ZΛΛ'Z') and prior weights w in the sums,

    - ``fixed`` = 1 − Σ w m²/SST;
    - ``model`` = 1 − Σ w [tσ²/(1 + wt) + m²/(1 + wt)²]/SST, the expected squared residual given the row's own m in place of m²;
    - ``random`` = model − fixed (Zhang 2017, as the R package rsq computes them; SST about the mean);
    - ``marginal`` = σ_f²/(σ_f² + σ_r² + σ_e²) with σ_f² the variance of Xβ̂ over the rows, σ_r² = mean of tσ², σ_e² = mean of σ²/w;
    - ``conditional`` = (σ_f² + σ_r²)/(σ_f² + σ_r² + σ_e²) (Nakagawa & Schielzeth 2013).

    With random slopes the random variance differs from row to row; its mean over the rows is used (Johnson 2014).

    References
    ----------
    Nakagawa & Schielzeth (2013). Methods in Ecology and Evolution 4:133.  Johnson (2014). Methods in Ecology and Evolution 5:944.
    Zhang (2017). A coefficient of determination for generalized linear models. The American Statistician 71:310.
    """
    rows = own_rows(fit)
    w, v, m = rows.weights, fit.sigma**2, fit.residuals("marginal").to_numpy()
    t = (np.hstack(rows.scaled(fit._T)[1]) ** 2).sum(axis=1)
    y = fit.design.y - rows.offset
    sst = (w * (y - np.average(y, weights=w)) ** 2).sum()
    fixed = 1 - (w * m**2).sum() / sst
    model = 1 - (w * (t * v / (1 + w * t) + (m / (1 + w * t)) ** 2)).sum() / sst
    parts = np.array([np.var(y - m, ddof=1), v * np.mean(t), v * np.mean(1 / w)])
    marginal, both = parts[0] / parts.sum(), parts[:2].sum() / parts.sum()
    names = ["model", "fixed", "random", "marginal", "conditional"]
    return pd.Series([model, fixed, model - fixed, marginal, both], names, name="r2")


def conditional_aic(fit: MixedModel) -> pd.Series:
    """Akaike's criterion for predictions in the groups at hand, −2 log f(y | β̂, b̃, σ̂) + 2(ρ + 1).

    The marginal AIC (``fit.aic``) asks how well new groups are predicted and counts each variance as one parameter.  The
    conditional one asks about new rows of the same groups, and counts the effective degrees of freedom ρ = tr(H) of the fitted
    values ŷ = Hy, between p and p + q, plus one for σ (Vaida & Blanchard 2005).

    Returns
    -------
    Series
        ``loglik`` (of y given the random effects), ``edf`` (ρ) and ``caic``.

    Notes
    -----
    With V for σ = 1 the residual is W⁻¹Py, so tr(H) = n − tr(PW⁻¹); since tr(PV) = n − p this is p + tr(Λ'Z'PZΛ), which needs
    only Σ_l (Z'PZ)_ll of each grouping factor.

    ρ treats the estimated θ as if it had been known.  Greven & Kneib (2010) show what that costs: whenever a variance is
    estimated to be positive, however small, this criterion prefers the model with the random effect to the one without.  So do
    not use it to decide whether a variance is zero (that is what `ranova` and the exact tests are for), but to choose among
    models whose variances are clearly positive.

    References
    ----------
    Vaida & Blanchard (2005). Conditional Akaike information for mixed-effects models. Biometrika 92:351.
    Greven & Kneib (2010). On the behaviour of marginal and conditional AIC in linear mixed models. Biometrika 97:773.
    """
    s = fit.optimum.evaluation.solution
    restricted = Criterion(s.cp, True, fit.criterion_function.maps)
    traces = zip(Derivatives(restricted, s).traces(), s.T, strict=True)
    edf = s.cp.p + sum(float(np.vdot(N, T @ T.T)) for N, T in traces)
    squares = float((fit.residuals("pearson") ** 2).sum()) / fit.sigma**2
    loglik = (s.cp.log_weights - fit.nobs * np.log(2 * np.pi * fit.sigma**2) - squares) / 2
    return pd.Series({"loglik": loglik, "edf": edf, "caic": -2 * loglik + 2 * (edf + 1)}, name="conditional")


def icc(fit: MixedModel, level: float = 0.95) -> pd.DataFrame:
    """Intraclass correlation: the share of each grouping factor in the variance that the fixed effects leave.

    A factor's variance is that of its z'b, all its terms together; it depends on x where slopes vary, and is then averaged over the rows
    (Johnson 2014), so such an ICC is that of these rows and no longer a correlation of any two of them.  For nested factors
    ``a`` and ``a:b`` rows that share b are correlated by the sum of both rows of the table.  The ``conditional`` less the
    ``marginal`` R² of `r2` is the ICC with the fixed effects' variance in the denominator.

    The interval is z-based on the logit scale, where the estimate is less skew, by the delta method with the exact Hessian of
    the criterion, and carried back; directions of zero variance are held at zero.  It is nan where the estimate is zero, and
    rough with few groups, where `MixedModel.bootstrap` is better.

    Returns
    -------
    DataFrame
        Columns ``icc lower upper``; a row for each grouping factor and ``adjusted`` for all of them together.

    References
    ----------
    Nakagawa, Johnson & Schielzeth (2017). J. R. Soc. Interface 14:20170213.  Johnson (2014). Methods Ecol. Evol. 5:944.
    """
    check_share(level, "level")
    rows, criterion = own_rows(fit), fit.criterion_function.unitless()  # columns far from zero lose no digits so
    theta = unitless(fit.criterion_function, fit.theta)
    templates, q = criterion.cp.templates, len(rows.z)
    share, slope = np.zeros(q + 1), np.zeros((q, criterion.size))
    free = np.zeros(criterion.size, bool)
    for g, (z, own, t) in enumerate(zip(rows.z, criterion.cp.own_maps, templates, strict=True)):
        scaled, T = np.linalg.solve(own.T, np.stack(z)), t.factor(theta)
        A = scaled @ scaled.T / scaled.shape[1]
        share[g] = np.trace(T.T @ A @ T)
        slope[g, t.index] = 2 * (A @ T)[t.rows, t.cols]
        free[t.index] = (np.abs(T).sum(axis=0) > 1e-12)[t.cols]
    share[q] = np.mean(1 / rows.weights)
    total = share.sum()
    estimates = np.append(share[:q], share[:q].sum()) / total
    slopes = np.vstack([slope, slope.sum(axis=0)]) / total
    slopes = slopes - estimates[:, None] * slopes[-1]  # of the ICCs
    H = criterion.evaluate(theta, 2).hessian
    assert H is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        V = 2 * np.linalg.inv(H[np.ix_(free, free)])
        se = np.sqrt(np.einsum("gi,ij,gj->g", slopes[:, free], V, slopes[:, free])) / (estimates * (1 - estimates))
        ends = [expit(logit(estimates) + sign * norm.ppf((1 + level) / 2) * se) for sign in (-1, 1)]
    names = [*(levels.name for levels in fit.design.groups), "adjusted"]
    return pd.DataFrame({"icc": estimates, "lower": ends[0], "upper": ends[1]}, names)


# --- Singularity --------------------------------------------------------------------------------------------------------------
def rePCA(fit: MixedModel, scaled: bool = True) -> dict[str, pd.DataFrame]:
    """Principal components of the random effects of each term: in how many directions they vary, and which.

    Parameters
    ----------
    scaled : bool
        On centred columns of unit size, so that neither the zero nor the unit of a covariate matters (of a term without
        intercept only the size is changed); False: on the columns as given, as lme4's ``rePCA`` (which divides by σ).

    Returns
    -------
    dict of DataFrame
        By term (as in `MixedModel.covariances`), a row for each component: ``sd`` in units of the response, its share of
        the variance, ``proportion``, and its direction, a coefficient for each random coefficient.

    References
    ----------
    Bates, Kliegl, Vasishth & Baayen (2015). Parsimonious mixed models. arXiv:1506.04967.
    """
    out, names = {}, iter(fit.covariances)
    for term, place in zip(fit.design.terms, fit._places, strict=True):
        T, own = fit._T[term.group][place, place], fit._cp.own_maps[term.group][place, place] / np.sqrt(fit._cp.weight)
        stops = np.cumsum(term.sizes)
        for start, stop in zip(stops - term.sizes, stops, strict=True):
            label, terms, _ = next(names)
            block = T[start:stop, start:stop]
            U, sd, _ = np.linalg.svd(own[start:stop, start:stop] @ block if scaled else block)
            U = U * np.copysign(1.0, U[np.abs(U).argmax(axis=0), np.arange(len(U))])
            table = pd.DataFrame(U.T, pd.RangeIndex(1, len(sd) + 1, name="component"), terms)
            table.insert(0, "sd", fit.sigma * sd)
            table.insert(1, "proportion", sd**2 / max((sd**2).sum(), np.finfo(float).tiny))
            out[label] = table
    return out


def singularity_report(fit: MixedModel) -> str:
    """In plain words: which random term has a direction of zero variance, by how much it falls short, what to try."""
    lines = []
    for label, table in rePCA(fit).items():
        sd, terms = table["sd"].to_numpy(), list(table.columns[2:])
        zero, what = sd < _ZERO * fit.sigma, f"({' + '.join(terms)} | {label})"
        if not zero.any():
            share = f", {100 * table['proportion'].iloc[-1]:.2g} % of the term's variance" if len(sd) > 1 else ""
            lines.append(f"{what}: not singular. Its smallest SD in any direction is {sd[-1]:.3g}{share}.")
        elif zero.all():
            lines.append(
                f"{what}: singular. Every variance is estimated as zero: the levels differ no more than their residuals "
                "explain. Try the model without this term; the fit stays the same."
            )
        else:
            lines.append(
                f"{what}: singular. It varies in {int((~zero).sum())} of {len(sd)} directions (SD {sd[0]:.3g})."
            )
            for _, row in table[zero].iterrows():
                lines.append("  " + _missing_direction(row[terms], terms))
    if fit.is_singular:
        lines.append(
            "Estimates and predictions remain valid; tests and intervals of these variances are at a boundary."
        )
    return "\n".join(lines)


def _missing_direction(direction: pd.Series, terms: list[str]) -> str:
    largest = str(direction.abs().idxmax())
    if abs(direction[largest]) > 0.9999:
        rest = " + ".join(t for t in terms if t != largest)
        return (
            f"Zero variance of {largest}: its effect is the same in all groups. Try the term without it: ({rest} | …)."
        )
    sums = " ".join(f"{'−' if c < 0 else '+'} {abs(c):.2f} {t}" for t, c in direction.items() if abs(c) > 0.05)
    return (
        f"Zero variance of {sums.removeprefix('+ ')} (on centred columns of unit size): it is the same in all groups, so these "
        "coefficients vary only together. Centre the covariate where groups differ least and then try the term without "
        "correlations (||), or leave out the coefficient whose variance is smallest."
    )


# --- Residuals of the groups --------------------------------------------------------------------------------------------------
def group_residuals(fit: MixedModel) -> dict[str, pd.DataFrame]:
    """Standardised random effects b̃/√Var(b̃), about N(0, 1) if the model holds: the residuals at the level of the groups.

    Var(b̃) = σ²ΛΛ' − Var(b̃ − b) is the *diagnostic* variance: what the estimates scatter by, which is less than the effects do
    (Goldstein 2011, Multilevel statistical models).  In the shape of `MixedModel.ranef`; nan where the variance is estimated as zero.
    """
    errors, sizes = JointErrors(fit), fit._cp.sizes
    out: dict[str, pd.DataFrame] = {}
    for g, (group, b) in enumerate(fit.ranef().items()):
        sd = np.empty(b.shape)
        for j, row in enumerate(errors.T[g]):
            codes = [np.arange(sizes[g]) if h == g else np.full(sizes[g], -1) for h in range(len(sizes))]
            zT = [np.tile(row if h == g else np.zeros(len(T)), (sizes[g], 1)) for h, T in enumerate(errors.T)]
            error = errors.variances(np.zeros((sizes[g], fit._cp.p)), codes, zT)
            ratio = 1 - error / (row @ row) if fit._T[g][j].any() else np.zeros(len(sd))  # reliability
            sd[:, j] = fit.sigma * np.sqrt(row @ row * np.where(ratio > 1e-10, ratio, np.nan))
        out[group] = b.div(sd)
    return out


# --- Influence ----------------------------------------------------------------------------------------------------------------
def leverage(fit: MixedModel) -> pd.DataFrame:
    """Diagonal of the matrix that takes y to the fitted values, at fixed θ: how far a row draws its own fit.

    Columns ``leverage`` (as lme4's ``hatvalues``; its sum is the number of effective parameters), and its two parts: ``fixed``,
    of X(X'V⁻¹X)⁻¹X'V⁻¹, which sums to p, and ``random``, of ZΛΛ'Z'P.

    References
    ----------
    Demidenko & Stukel (2005). Influence analysis for linear mixed-effects models. Statistics in Medicine 24:893.
    """
    rows, errors = own_rows(fit), JointErrors(fit)
    x, zT = rows.scaled(errors.T)
    total = rows.weights * errors.variances(x, rows.codes, zT)
    of_fixed = np.einsum("ij,ij->i", x @ fit._fixed[1], _weighted_x(fit))
    if abs(of_fixed.sum() - len(fit.fixef)) > 0.01:
        raise ValueError(
            f"The leverages are lost in rounding: their fixed part sums to {of_fixed.sum():.3g} instead of {len(fit.fixef)}. The residual "
            "variance is too small beside the others, or a covariate too far from zero."
        )
    return pd.DataFrame({"leverage": total, "fixed": of_fixed, "random": total - of_fixed}, rows.index)


def _weighted_x(fit: MixedModel) -> np.ndarray:
    """V⁻¹X = W(X − ZΛΛ'Z'V⁻¹X), (n, p), V for σ = 1."""
    rows, s = own_rows(fit), fit._at.solution
    x, zT = rows.scaled(fit._T)
    out = x @ s.cp.basis.to_user
    for code, v, T, B, U in zip(rows.codes, zT, fit._T, fit.criterion_function.maps, s.U, strict=True):
        out -= np.einsum("na,apn->np", v, np.einsum("ba,bpl->apl", B @ T, U)[:, :, code])
    return np.linalg.solve(s.cp.basis.to_user.T, (rows.weights[:, None] * out).T).T


def influence(fit: MixedModel, group: str | None = None, refit: bool = True) -> pd.DataFrame:
    """Estimates without each level of a grouping factor, or without each row.

    Parameters
    ----------
    group : str, optional
        Grouping factor whose levels are left out one by one; by default the rows are.
    refit : bool
        Whether θ is estimated again each time (a short search from the full fit's θ) or kept.  Rows are always left out at
        fixed θ: β̂ − β̂₍ᵢ₎ = (X'V⁻¹X)⁻¹(V⁻¹X)ᵢ' eᵢ/(1 − hᵢ), exactly, with hᵢ the leverage and eᵢ = y − fitted.

    Returns
    -------
    DataFrame
        The fixed effects, by level or row left out; for levels also their standard errors (``se_x``), and the ``sd_x|g``,
        ``cor_z.x|g`` and ``sigma``.  nan for a coefficient that cannot be estimated without that level, and for a row that no
        other row can predict (leverage 1).

    References
    ----------
    Demidenko & Stukel (2005). Statistics in Medicine 24:893.  Nieuwenhuis, te Grotenhuis & Pelzer (2012). R Journal 4(2):38.
    """
    if group is None:
        return fit.fixef - _row_changes(fit)
    levels = next((g for g in fit.design.groups if g.name == group), None)
    if levels is None:
        known = ", ".join(g.name for g in fit.design.groups)
        raise ValueError(f"'{group}' is not a grouping factor of the model; it has {known}.")
    if levels.size < 3:
        raise ValueError(f"'{group}' has two levels: without one of them nothing varies between groups.")
    triples = fit.varcorr[["group", "term1", "term2"]].iloc[:-1].itertuples(index=False)
    names = [f"cor_{b}.{a}|{g}" if b else f"sd_{a}|{g}" for g, a, b in triples]
    rows, fixed = [], fit.fixef.index
    for level in range(levels.size):
        part = _without(fit, levels.codes != level, refit)
        rows.append([*part.fixef.reindex(fixed), *part.se.reindex(fixed), *part.varcorr["sd_or_corr"]])
    return pd.DataFrame(rows, levels.labels, [*fixed, *("se_" + fixed), *names, "sigma"])


def _without(fit: MixedModel, keep: np.ndarray, refit: bool) -> MixedModel:
    """The fit to some of its rows.  Levels without rows stay as empty ones, which add nothing to the criterion."""
    d = fit.design
    design = replace(
        d,
        y=d.y[keep],
        x_columns=[c[keep] for c in d.x_columns],
        terms=tuple(replace(t, columns=[c[keep] for c in t.columns]) for t in d.terms),
        groups=tuple(Levels(g.name, g.codes[keep], g.size, g._parts) for g in d.groups),
        weights=None if d.weights is None else d.weights[keep],
        offset=None if d.offset is None else d.offset[keep],
        index=d.index[keep],
    )
    criterion = Criterion(crossproducts(design), fit.reml)
    kept = criterion.cp.basis.kept
    if len(kept) < len(d.x_columns):
        lost = tuple(name for j, name in enumerate(d.names) if j not in kept)
        design = replace(design, x_columns=[design.x_columns[j] for j in kept], dropped=(*d.dropped, *lost))
    optimum = replace(fit.optimum, evaluation=criterion.evaluate(fit.theta))
    optimum = minimize(criterion, fit.theta) if refit else optimum
    if not optimum.converged:
        warnings.warn(f"A refit without some rows did not converge ({optimum.message}).", stacklevel=4)
    return replace(fit, design=design, criterion_function=criterion, optimum=optimum)


def _row_changes(fit: MixedModel) -> pd.DataFrame:
    """β̂ − β̂₍ᵢ₎ at fixed θ, (n, p)."""
    left = 1 - leverage(fit)["leverage"]
    of_y = (fit.residuals() / left.where(left > 1e-9)).to_numpy()  # y − its prediction from the other rows
    return pd.DataFrame(of_y[:, None] * (_weighted_x(fit) @ fit._fixed[1]), fit.design.index, fit.fixef.index)


def dfbetas(fit: MixedModel, group: str | None = None, refit: bool = True) -> pd.DataFrame:
    """(β̂ − β̂₍₋₎)/SE: how many standard errors each coefficient owes to a level, or to a row.

    SE is that of the fit without the level (as the R package influence.ME), for rows that of the fit.  2/√(number of levels) is
    a customary mark.  For the arguments see `influence`.
    """
    if group is None:
        return _row_changes(fit) / fit.se
    without = influence(fit, group, refit)
    return (fit.fixef - without[fit.fixef.index]).div(without["se_" + fit.fixef.index].to_numpy())


def cooks_distance(fit: MixedModel, group: str | None = None, refit: bool = True) -> pd.Series:
    """Cook's distance of each level, or row: (β̂ − β̂₍₋₎)' Var(β̂)⁻¹ (β̂ − β̂₍₋₎)/p.

    4/(number of levels) is a customary mark.  nan for a level without which some coefficient cannot be estimated.  Rows are left out
    at fixed θ; lme4's ``cooks.distance`` is another measure, e²h/(pσ²(1 − h)²), which counts as influence also what a row does to
    the random effects; for groups its ``cooks.distance(influence(fit, group))`` is this one times (m − p)/m, m levels.  For the
    arguments see `influence`.

    References
    ----------
    Cook (1977). Technometrics 19:15.  Demidenko & Stukel (2005). Statistics in Medicine 24:893.
    """
    change = _row_changes(fit) if group is None else fit.fixef - influence(fit, group, refit)[fit.fixef.index]
    inside = np.linalg.solve(fit._cp.basis.to_user, change.T.to_numpy())
    squares = (np.linalg.solve(fixed(fit).half, inside) ** 2).sum(axis=0)
    return pd.Series(squares / max(len(fit.fixef), 1), change.index, name="cooks_distance")
