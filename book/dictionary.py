"""The dictionary of appendix C: one table, whose lmmlite column is executed each time the page is built or tested."""

from __future__ import annotations

from typing import Any, NamedTuple


class Entry(NamedTuple):
    """What one wants, and how each program says it; a dash where it has no counterpart."""

    task: str
    lme4: str
    lmmlite: str
    statsmodels: str
    julia: str


ENTRIES = [
    Entry("fit by REML", "lmer(f, d)", "lmer(f, d)", "mixedlm(f, d, groups).fit()", "lmm(f, d; REML=true)"),
    Entry("fit by ML", "lmer(f, d, REML=FALSE)", "lmer(f, d, reml=False)", ".fit(reml=False)", "lmm(f, d)"),
    Entry("show", "print, summary", "fit.summary()", "result.summary()", "show(m)"),
    Entry("formula", "formula, terms", "fit.formula", "model.formula", "formula(m)"),
    Entry("fixed effects", "fixef", "fit.fixef", "result.fe_params", "coef(m), fixef(m)"),
    Entry("their covariance", "vcov", "fit.vcov", "result.cov_params()", "vcov(m)"),
    Entry("standard errors", "coef(summary(m))", "fit.se", "result.bse_fe", "stderror(m)"),
    Entry("random effects", "ranef", "fit.ranef()", "result.random_effects", "ranef(m)"),
    Entry(
        "their conditional variances",
        "ranef(condVar=TRUE)",
        "fit.ranef_sd()",
        "result.random_effects_cov",
        "condVar(m)",
    ),
    Entry("coefficients by group", "coef", "fit.coef()", "–", "–"),
    Entry("variance components", "VarCorr", "fit.varcorr", "result.cov_re, vcomp", "VarCorr(m)"),
    Entry("residual SD", "sigma", "fit.sigma", "result.scale ** 0.5", "m.σ"),
    Entry(
        "θ, model matrices",
        "getME, model.matrix",
        "fit.theta, fit.design.X, fit.design.Z",
        "model.exog",
        "m.θ, modelmatrix(m)",
    ),
    Entry("model frame", "model.frame", "fit.design.y", "model.endog", "response(m)"),
    Entry("prior weights", "weights", "fit.design.weights", "–", "m.sqrtwts"),
    Entry("groups, rows", "ngrps, nobs", "fit.ngroups, fit.nobs", "model.n_groups, nobs", "nlevs, nobs(m)"),
    Entry("log-likelihood", "logLik", "fit.loglik", "result.llf", "loglikelihood(m)"),
    Entry("deviance, REML criterion", "deviance, REMLcrit", "fit.deviance, fit.criterion", "–", "deviance(m)"),
    Entry("AIC, BIC", "AIC, BIC, extractAIC", "fit.aic, fit.bic", "result.aic, bic", "aic(m), bic(m)"),
    Entry("conditional AIC", "cAIC4::cAIC, extractDIC", "fit.conditional_aic()", "–", "–"),
    Entry("residual df", "df.residual", "fit.df_resid", "result.df_resid", "dof_residual(m)"),
    Entry("REML or ML?", "isREML", "fit.reml", "model.reml", "m.optsum.REML"),
    Entry("is it linear, Gaussian?", "isLMM, isGLMM, isNLMM, family", "isinstance(fit, MixedModel)", "–", "–"),
    Entry("singular?", "isSingular, rePCA", "fit.is_singular, fit.rePCA()", "–", "issingular(m), m.rePCA"),
    Entry(
        "fitted, residuals",
        "fitted, residuals",
        "fit.fitted, fit.residuals()",
        "fittedvalues, resid",
        "fitted(m), residuals(m)",
    ),
    Entry("predict", "predict", "fit.predict(d)", "result.predict (population)", "predict(m, d)"),
    Entry("prediction interval", "merTools::predictInterval", "fit.predict(d, interval='prediction')", "–", "–"),
    Entry("simulate", "simulate", "fit.simulate(2, seed=1)", "–", "simulate(m)"),
    Entry("refit", "refit, refitML", "fit.refit(2 * fit.design.y), fit.refit_ml()", "–", "refit!(m, y)"),
    Entry("change the formula", "update", "fit.update('. ~ . - x')", "–", "–"),
    Entry("df and tests of coefficients", "lmerTest::summary", "fit.tidy()", "– (normal)", "MixedModelsSmallSample"),
    Entry(
        "Kenward–Roger",
        "pbkrtest::vcovAdj, KRmodcomp",
        "fit.vcov_kr, fit.anova('kenward-roger')",
        "–",
        "MixedModelsSmallSample",
    ),
    Entry("tests of terms", "lmerTest::anova", "fit.anova()", "wald_test_terms", "–"),
    Entry("any contrast", "lmerTest::contest", "fit.contrast({'x': 1})", "t_test, f_test", "–"),
    Entry("drop terms one by one", "drop1, lmerTest::ranova", "fit.drop1(), fit.ranova()", "–", "–"),
    Entry("compare models", "anova(m0, m1)", "compare(small, fit, refit_ml=True)", "–", "lrtest(m0, m1)"),
    Entry("exact test of a variance", "RLRsim::exactRLRT", "exact_rlrt(small, seed=1)", "–", "–"),
    Entry("bootstrap comparison", "pbkrtest::PBmodcomp", "pb_compare(small, fit, n=20, seed=1)", "–", "–"),
    Entry("intervals", "confint(method='Wald')", "fit.confint()", "result.conf_int()", "confint(m)"),
    Entry("profile intervals", "profile, confint", "fit.confint(method='profile')", "profile_re", "profile(m)"),
    Entry("bootstrap", "bootMer", "fit.bootstrap(20, seed=1)", "–", "parametricbootstrap(n, m)"),
    Entry("simulated effects", "merTools::REsim, FEsim", "fit.simulate_effects(100, seed=1)", "–", "–"),
    Entry("expected rank", "merTools::expectedRank", "fit.expected_rank('g')", "–", "–"),
    Entry(
        "marginal means", "emmeans::emmeans, pairs", "means(fit, 'f'), pairwise(fit, 'f')", "–", "Effects.jl: emmeans"
    ),
    Entry("R²", "rsq::rsq, performance::r2", "fit.r2()", "–", "–"),
    Entry("ICC", "performance::icc", "fit.icc()", "–", "–"),
    Entry("leverage", "hatvalues", "fit.leverage()", "–", "leverage(m)"),
    Entry("influence of a group", "influence, cooks.distance", "fit.influence('g'), fit.cooks_distance('g')", "–", "–"),
    Entry(
        "tidy tables",
        "broom.mixed::tidy, glance, augment",
        "fit.tidy(), fit.glance(), fit.augment()",
        "–",
        "coeftable(m)",
    ),
    Entry("caterpillar plot", "dotplot(ranef(m))", "fit.plot_ranef()", "–", "MixedModelsMakie: caterpillar"),
    Entry("quantile plots", "qqmath", "fit.plot_qq()", "–", "MixedModelsMakie: qqnorm"),
    Entry("residual plot", "plot", "fit.plot_residuals()", "–", "–"),
    Entry(
        "the criterion as a function",
        "as.function, mkLmerDevfun",
        "fit.criterion_function.evaluate(fit.theta)",
        "model.loglike",
        "objective!(m, θ)",
    ),
    Entry("power by simulation", "simr::powerSim", "power(fit, 'x', n=20, seed=1)", "–", "MixedModelsSim"),
    Entry("the published sentence", "report::report", "report(fit)", "–", "–"),
]


def namespace() -> dict[str, Any]:
    """Everything that the lmmlite column names: a small data set d, formula f, the fit and a smaller model."""
    import numpy as np
    import pandas as pd

    import lmmlite

    rng = np.random.default_rng(4)
    d = pd.DataFrame({"x": rng.normal(size=60), "f": rng.choice(["a", "b"], 60), "g": np.repeat(np.arange(12), 5)})
    d["y"] = 1 + d["x"] + rng.normal(size=12)[d["g"]] + rng.normal(size=12)[d["g"]] * d["x"] + rng.normal(size=60)
    names = {name: getattr(lmmlite, name) for name in lmmlite.__all__}
    f = "y ~ x + f + (x | g)"
    return names | {"d": d, "f": f, "fit": lmmlite.lmer(f, d), "small": lmmlite.lmer("y ~ x + f + (1 | g)", d)}


def execute(entry: Entry, names: dict[str, Any]) -> str:
    """Run the lmmlite column of an entry; the types it gives."""
    value = eval(entry.lmmlite, {}, names)
    values = value if isinstance(value, tuple) else (value,)
    return ", ".join(type(v).__name__ for v in values)
