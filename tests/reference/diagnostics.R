# Diagnostics of a few models by lme4, performance and merTools, and brute-force refits; writes diagnostics.json.
#
#   Rscript tests/reference/diagnostics.R      (from the top of the repository; about a minute)
#
# hat           hatvalues()
# without       each level of a grouping factor left out in turn and the model fitted again: fixed effects, their
#               standard errors, standard deviations and correlations (as.data.frame(VarCorr)), sigma
# r2, icc       performance::r2_nakagawa, performance::icc (its variances by group: intercepts only)
# rank          merTools::expectedRank (its std.error is a variance; its percentile is rounded)
# pca           lme4::rePCA
# sim           arm::sim, on which merTools::REsim and FEsim stand: means and SDs of beta and b, SDs of the linear
#               predictor of every tenth row.  Only for models with one scalar term: elsewhere arm 1.13 multiplies
#               by the transpose of Lambda and ignores the permutation of the sparse factor.

suppressMessages({ library(lme4); library(performance); library(merTools); library(jsonlite) })
table_of <- function(name) read.csv(file.path("lmmlite/datasets", paste0(name, ".csv")), stringsAsFactors = TRUE)
tight <- lmerControl(optimizer = "nloptwrap", calc.derivs = FALSE, check.conv.singular = "ignore",
                     optCtrl = list(xtol_abs = 1e-12, ftol_abs = 1e-12, maxeval = 1e4))

model <- function(name, dataset, formula, text, group, reml = TRUE, weights = NULL)
  list(name = name, dataset = dataset, formula = formula, text = text, group = group, reml = reml, weights = weights)

models <- list(
  model("sleepstudy", "sleepstudy", Reaction ~ Days + (Days | Subject), "Reaction ~ Days + (Days | Subject)", "Subject"),
  model("sleepstudy_weights", "sleepstudy", Reaction ~ Days + (Days || Subject), "Reaction ~ Days + (Days || Subject)",
        "Subject", reml = FALSE, weights = c(0.5, 1, 2.5)),
  model("sleepstudy_intercept", "sleepstudy", Reaction ~ Days + (1 | Subject), "Reaction ~ Days + (1 | Subject)", "Subject"),
  model("penicillin", "penicillin", diameter ~ 1 + (1 | plate) + (1 | sample), "diameter ~ 1 + (1 | plate) + (1 | sample)",
        "sample"),
  model("pastes", "pastes", strength ~ 1 + (1 | batch / cask), "strength ~ 1 + (1 | batch / cask)", "batch", reml = FALSE),
  model("machines", "machines", score ~ Machine + (1 | Worker) + (1 | Worker:Machine),
        "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)", "Worker"),
  model("politeness", "politeness", frequency ~ attitude + gender + (1 | subject) + (1 | scenario),
        "frequency ~ attitude + gender + (1 | subject) + (1 | scenario)", "subject"),
  model("labs", "labs", y ~ x + (1 | Group), "y ~ x + (1 | Group)", "Group", reml = FALSE),
  model("schools", "schools", extro ~ open + agree + social + (1 | school), "extro ~ open + agree + social + (1 | school)",
        "school")
)

fit_of <- function(m, data) {
  data$.w <- if (is.null(m$weights)) 1 else rep_len(m$weights, data$.n[1])[data$.row]
  environment(m$formula) <- environment()
  suppressMessages(lmer(m$formula, data, REML = m$reml, weights = .w, control = tight))
}

answers <- lapply(models, function(m) {
  data <- table_of(m$dataset)
  data$.row <- seq_len(nrow(data)); data$.n <- nrow(data)
  data[[m$group]] <- factor(data[[m$group]])
  fit <- fit_of(m, data)
  levels <- sort(unique(as.character(data[[m$group]])))
  without <- lapply(levels, function(level) {
    part <- fit_of(m, droplevels(data[data[[m$group]] != level, ]))
    v <- as.data.frame(VarCorr(part))
    list(level = level, beta = unname(fixef(part)), se = unname(sqrt(diag(as.matrix(vcov(part))))),
         random = v$sdcor, names = paste(v$grp, v$var1, v$var2))
  })
  rank <- tryCatch(expectedRank(fit, groupFctr = m$group), error = function(e) NULL)   # it cannot do (x || g)
  r2 <- suppressWarnings(r2_nakagawa(fit, tolerance = 1e-12))
  set.seed(1)
  scalar <- length(getME(fit, "theta")) == 1
  sims <- if (scalar) arm::sim(fit, n.sims = 20000)
  eta <- if (scalar) {
    rows <- seq(1, nrow(data), by = 10)
    X <- getME(fit, "X")[rows, , drop = FALSE]
    b <- sims@ranef[[1]][, as.integer(data[[m$group]])[rows], 1]
    apply(t(X %*% t(sims@fixef)) + b, 2, sd)
  }
  list(name = m$name, dataset = m$dataset, text = m$text, group = m$group, reml = m$reml, weights = m$weights,
       hat = unname(hatvalues(fit)), without = without,
       r2 = c(r2$R2_marginal, r2$R2_conditional), icc = performance::icc(fit, tolerance = 1e-12)$ICC_adjusted,
       rank = if (!is.null(rank)) list(level = rank$groupLevel, term = rank$term, estimate = rank$estimate,
                                       variance = rank$std.error, ER = rank$ER),
       pca = lapply(rePCA(fit), function(p) list(sdev = p$sdev, rotation = abs(p$rotation))),
       sim = if (scalar) list(level = dimnames(sims@ranef[[1]])[[2]], mean = unname(colMeans(sims@ranef[[1]][, , 1])),
                              sd = unname(apply(sims@ranef[[1]][, , 1], 2, sd)), eta = eta,
                              fixed = unname(apply(sims@fixef, 2, sd))))
})
versions <- sapply(c("lme4", "performance", "merTools", "arm"), function(p) as.character(packageVersion(p)))
write_json(list(versions = as.list(versions), models = answers), "tests/reference/diagnostics.json", digits = 10,
           auto_unbox = TRUE, null = "null")
