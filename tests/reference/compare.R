# Comparisons of models by lme4, lmerTest and RLRsim, written to compare.json.
#
#   Rscript tests/reference/compare.R      (from the top of the repository; about half a minute)
#
# The data are the package's own CSV files. Formulas are lme4's; tests/test_compare.py and tests/test_rlrt.py know how lmmlite
# writes them. Fits are tightened so that log-likelihoods are good to about 1e-8.

suppressMessages({ library(lme4); library(lmerTest); library(RLRsim); library(jsonlite) })
control <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5), calc.derivs = FALSE,
                       check.conv.singular = "ignore")
read <- function(name, factors) {
  data <- read.csv(file.path("lmmlite", "datasets", paste0(name, ".csv")), stringsAsFactors = TRUE)
  for (f in factors) data[[f]] <- factor(data[[f]])
  data
}
data <- list(labs = read("labs", "Group"), sleepstudy = read("sleepstudy", "Subject"), schools = read("schools", "school"),
             penicillin = read("penicillin", c("plate", "sample")), pastes = read("pastes", c("batch", "cask")),
             dyestuff = read("dyestuff", "Batch"), dyestuff2 = read("dyestuff2", "Batch"),
             machines = read("machines", "Worker"), orthodont = read("orthodont", "Subject"), exam = read("exam", "school"),
             politeness = read("politeness", c("subject", "scenario")))
data$exam$schgend <- factor(data$exam$schgend, c("mixed", "boys", "girls"))  # Satterthwaite df depend on the coding
fit <- function(formula, dataset, reml = TRUE) {
  eval(bquote(lmerTest::lmer(.(as.formula(formula)), data[[.(dataset)]], REML = .(reml), control = control)))
}

# -- compare: lme4's anova ------------------------------------------------------------------------------------------
comparison <- function(dataset, formulas, reml) {
  models <- lapply(formulas, fit, dataset = dataset, reml = reml)
  a <- do.call(anova, c(unname(models), list(refit = FALSE)))
  list(dataset = dataset, formulas = formulas, reml = reml, npar = a$npar, aic = a$AIC, bic = a$BIC, loglik = a$logLik,
       deviance = -2 * a$logLik, chisq = a$Chisq, p = a[["Pr(>Chisq)"]])
}
compared <- list(
  comparison("labs", c("y ~ x + (1 | Group)", "y ~ x + (1 | Group) + (0 + x | Group)", "y ~ x + (x | Group)"), FALSE),
  comparison("sleepstudy", c("Reaction ~ Days + (1 | Subject)", "Reaction ~ Days + (1 | Subject) + (0 + Days | Subject)",
                             "Reaction ~ Days + (Days | Subject)"), TRUE),
  comparison("schools", c("extro ~ 1 + (1 | school)", "extro ~ open + (1 | school)", "extro ~ open + agree + social + (1 | school)"),
             FALSE),
  comparison("machines", c("score ~ Machine + (1 | Worker)", "score ~ Machine + (Machine | Worker)"), TRUE),
  comparison("pastes", c("strength ~ 1 + (1 | batch)", "strength ~ 1 + (1 | batch) + (1 | batch:cask)"), TRUE))

# -- drop1: lme4's (likelihood ratio) and lmerTest's (F) -------------------------------------------------------------
deletion <- function(dataset, formula, skip = NULL) {
  m <- fit(formula, dataset, FALSE)
  lr <- lme4:::drop1.merMod(as(m, "lmerMod"), test = "Chisq")
  f <- drop1(fit(formula, dataset), ddf = "Satterthwaite")
  list(dataset = dataset, formula = formula, terms = rownames(lr)[-1], df = lr$npar[-1], aic = lr$AIC, chisq = lr$LRT[-1],
       p = lr[["Pr(Chi)"]][-1], f_terms = rownames(f), F = f[["F value"]], num_df = f$NumDF, den_df = f$DenDF,
       f_p = f[["Pr(>F)"]])
}
deletions <- list(
  deletion("sleepstudy", "Reaction ~ Days + (Days | Subject)"),
  deletion("schools", "extro ~ open + agree + social + (1 | school)"),
  deletion("machines", "score ~ Machine + (1 | Worker)"),
  deletion("orthodont", "distance ~ age * Sex + (age | Subject)"),
  deletion("exam", "normexam ~ standLRT + sex + schgend + schavg + standLRT:schavg + (1 | school)"))

# -- ranova ---------------------------------------------------------------------------------------------------------
random <- function(dataset, formula, reml = TRUE) {
  a <- ranova(fit(formula, dataset, reml))
  list(dataset = dataset, formula = formula, reml = reml, rows = rownames(a), npar = a$npar, loglik = a$logLik, aic = a$AIC,
       chisq = a$LRT, df = a$Df, p = a[["Pr(>Chisq)"]])
}
randoms <- list(
  random("sleepstudy", "Reaction ~ Days + (Days | Subject)"),
  random("sleepstudy", "Reaction ~ Days + (1 | Subject) + (0 + Days | Subject)"),
  random("sleepstudy", "Reaction ~ Days + (1 | Subject)", FALSE),
  random("penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)"),
  random("pastes", "strength ~ 1 + (1 | batch) + (1 | batch:cask)"),
  random("machines", "score ~ Machine + (Machine | Worker)"),
  random("machines", "score ~ Machine + (0 + Machine | Worker)"),
  random("politeness", "frequency ~ attitude + gender + (1 | subject) + (1 | scenario)"))

# -- RLRsim ---------------------------------------------------------------------------------------------------------
draws <- 1e5
levels <- c(0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
summary_of <- function(sample) list(zero = mean(sample < 1e-10), quantiles = unname(quantile(sample, levels, type = 1)))
restricted <- function(dataset, formula, alone = NULL, null = NULL) {
  m <- as(fit(formula, dataset), "lmerMod")
  m_alone <- if (is.null(alone)) m else as(fit(alone, dataset), "lmerMod")
  test <- if (is.null(alone)) exactRLRT(m, seed = 1, nsim = draws) else
    exactRLRT(m_alone, m, as(fit(null, dataset), "lmerMod"), seed = 1, nsim = draws)
  X <- getME(m_alone, "X"); Z <- as.matrix(getME(m_alone, "Z"))
  sample <- RLRTSim(X, Z, qrX = qr(X), sqrt.Sigma = diag(ncol(Z)), seed = 2, nsim = draws)
  c(list(dataset = dataset, formula = formula, alone = alone, null = null, statistic = unname(test$statistic), p = test$p.value),
    summary_of(sample))
}
unrestricted <- function(dataset, formula, null) {
  m <- as(fit(formula, dataset, FALSE), "lmerMod")
  m0 <- lm(as.formula(null), data[[dataset]])
  test <- exactLRT(m, m0, seed = 1, nsim = draws)
  X <- getME(m, "X"); Z <- as.matrix(getME(m, "Z"))
  sample <- LRTSim(X, Z, q = ncol(X) - length(coef(m0)), sqrt.Sigma = diag(ncol(Z)), seed = 2, nsim = draws)
  c(list(dataset = dataset, formula = formula, null = null, statistic = unname(test$statistic), p = test$p.value),
    summary_of(sample))
}
double <- "Reaction ~ Days + (1 | Subject) + (0 + Days | Subject)"
intercepts <- "Reaction ~ Days + (1 | Subject)"
slopes <- "Reaction ~ Days + (0 + Days | Subject)"
crossed <- "diameter ~ 1 + (1 | plate) + (1 | sample)"
plate <- "diameter ~ 1 + (1 | plate)"
sample_ <- "diameter ~ 1 + (1 | sample)"
nested <- "strength ~ 1 + (1 | batch) + (1 | batch:cask)"
rlrt <- list(
  restricted("dyestuff", "Yield ~ 1 + (1 | Batch)"),
  restricted("dyestuff2", "Yield ~ 1 + (1 | Batch)"),
  restricted("schools", "extro ~ open + agree + social + (1 | school)"),
  restricted("orthodont", "distance ~ age * Sex + (1 | Subject)"),
  restricted("exam", "normexam ~ standLRT + (1 | school)"),
  restricted("sleepstudy", intercepts),
  restricted("sleepstudy", double, slopes, intercepts),
  restricted("sleepstudy", double, intercepts, slopes),
  restricted("penicillin", crossed, plate, sample_),
  restricted("penicillin", crossed, sample_, plate),
  restricted("pastes", nested, "strength ~ 1 + (1 | batch)", "strength ~ 1 + (1 | batch:cask)"))
lrt <- list(
  unrestricted("dyestuff", "Yield ~ 1 + (1 | Batch)", "Yield ~ 1"),
  unrestricted("schools", "extro ~ open + agree + social + (1 | school)", "extro ~ open + agree + social"),
  unrestricted("schools", "extro ~ open + agree + social + (1 | school)", "extro ~ open"),
  unrestricted("orthodont", "distance ~ age * Sex + (1 | Subject)", "distance ~ age"),
  unrestricted("sleepstudy", slopes, "Reaction ~ 1"))

out <- list(about = list(R = R.version.string, lme4 = as.character(packageVersion("lme4")),
                         lmerTest = as.character(packageVersion("lmerTest")), RLRsim = as.character(packageVersion("RLRsim"))),
            compare = compared, drop1 = deletions, ranova = randoms, draws = draws, levels = levels, rlrt = rlrt, lrt = lrt)
write_json(out, "tests/reference/compare.json", digits = 14, auto_unbox = TRUE, na = "null", null = "null", pretty = TRUE)
