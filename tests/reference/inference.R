# Degrees of freedom, tests and marginal means by lmerTest, pbkrtest and emmeans: writes inference.json.
#
#   Rscript tests/reference/inference.R [names of models]      (from the top of the repository; half a minute)
#
# Each model is brought to its optimum as in lme4.R, then handed to lmer, so that every package sees one exact theta.
# lmerTest differentiates numerically. Beside its df stand those with closed derivatives (df_exact), from the
# definition with n x n matrices: V is linear in the variances and covariances gamma, and at an interior optimum
#   -2 logLik has the Hessian 2 y'P Gi P Gj P y - tr(P Gi P Gj) (REML; ML: V^-1 for P in the trace),
#   the covariance C of the fixed effects has the derivatives C X'V^-1 Gi V^-1 X C.
# They replace lmerTest's two matrices of derivatives, so the same code of lmerTest and emmeans makes both numbers.
# The two agree to 1e-6, and to 2e-5 where the random effects are large (schools).
#
# What one should know of the packages:
#   The joint F of a Satterthwaite test belongs to a hypothesis, its df to the rows that state it: with other rows that
#   span the same space they change, here by up to one per cent. Hence the hypotheses of every term are written too (L).
#   Type III takes, for a factor, "level minus first level", averaged with equal weights over the other factors, and
#   rounds it to seven digits: F changes by up to 1e-6. A numerical covariate stands at zero, not at its mean. A model of
#   a single term has the type I rows instead.
#   Type II takes x as contained in x:f, but not f (SAS's rule): f is tested at x = 0, as in type III.
#   By Kenward-Roger, sum_sq and mean_sq come from the F statistic before it is scaled; F and p_value are scaled.
#   emmeans weighs the levels of the other factors equally, however many rows they have, and averages covariates over the
#   rows of the data it is given: so it gets those that the fit used. R's ptukey, for Tukey's p, is good to some 1e-6.
#   At a singular optimum lmerTest's df are those with the zero variance held at zero. pbkrtest would count it: no values.

suppressMessages({ library(lmerTest); library(pbkrtest); library(emmeans) })
for (line in parse("tests/reference/lme4.R")) {             # all of lme4.R but its last lines, which write lme4.json
  if (identical(line[[2]], quote(chosen))) break
  eval(line)
}
emm_options(lmerTest.limit = 1e4, pbkrtest.limit = 1e4)

# -- the models --------------------------------------------------------------------------------------------------------
# Those of models.R by name, and others. To each:
#   means      factors of which marginal means and pairwise differences are wanted, alone or several together
#   contrasts  lists of rows, each row a sum of coefficients, named as in lme4; one row: t test, more: joint F test
#   kr         FALSE: no Kenward-Roger values (too many rows for n x n matrices; never for ML or a singular fit)

csv <- function(name, factors) {
  data <- read.csv(sprintf("lmmlite/datasets/%s.csv", name))
  for (column in factors) data[[column]] <- factor(data[[column]])
  data
}
tables$politeness <- csv("politeness", c("subject", "gender", "scenario", "attitude"))
tables$schools <- csv("schools", c("class", "school"))
tables$labs <- csv("labs", "Group")
tables$growth <- csv("growth", "id")

with_inference <- function(model, means = list(), contrasts = list(), kr = model$reml)
  c(model, list(means = means, contrasts = contrasts, kr = kr))
known <- function(name, ...) with_inference(Filter(function(m) m$name == name, models)[[1]], ...)
new <- function(name, dataset, formula, text, ..., means = list(), contrasts = list(), kr = NULL) {
  m <- model(name, dataset, formula, text, list(), ...)
  with_inference(m, means, contrasts, if (is.null(kr)) m$reml else kr)
}

cake_gaps <- list(angle = c(0, 1, 7, 13:16, 40, 90:93, 100, 133, 180:186, 200, 240, 241, 268))
days <- list(list(c("(Intercept)" = 1, Days = 9)), list(c("(Intercept)" = 1), c(Days = 1)))
machine <- list(list(c(MachineB = 1, MachineC = -1)), list(c(MachineB = 1), c(MachineC = 1)),
                list(c(MachineB = 1), c(MachineC = 1), c(MachineB = 1, MachineC = -1)))   # a row too many
inference_models <- list(
  known("sleepstudy_slope_reml", contrasts = days),
  known("sleepstudy_slope_ml", contrasts = days),
  known("sleepstudy_double_bar", contrasts = days),
  known("sleepstudy_missing", contrasts = days),
  known("sleepstudy_quadratic", contrasts = list(list(c(Days = 1, "I(Days^2)" = 18)), list(c(Days = 1), c("I(Days^2)" = 1)))),
  known("machines_factor_reml", means = list("Machine"), contrasts = machine),
  new("machines_crossed_unbalanced", "machines", score ~ Machine + (1 | Worker) + (1 | Worker:Machine),
      "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)", means = list("Machine"), contrasts = machine,
      missing = list(score = c(1, 2, 5, 26, 29, 30, 40, 51, 52, 53))),
  known("machines_nested_ml", means = list("Machine"), contrasts = machine),
  new("machines_no_intercept", "machines", score ~ 0 + Machine + (1 | Worker), "score ~ 0 + Machine + (1 | Worker)",
      rename = c(MachineA = "Machine[A]", MachineB = "Machine[B]", MachineC = "Machine[C]"), means = list("Machine"),
      contrasts = list(list(c(MachineA = 1, MachineB = -0.5, MachineC = -0.5)))),
  known("oats_nested_reml", means = list("Variety"),
        contrasts = list(list(c(nitro = 1, "nitro:VarietyVictory" = 1)), list(c(VarietyMarvellous = 1), c(nitro = 0.2)))),
  known("cake_factorial", means = list("recipe", "temperature", c("recipe", "temperature")),
        contrasts = list(list(c(recipeB = 1, "recipeB:temperature225" = 1)))),
  new("cake_factorial_unbalanced", "cake", angle ~ recipe * temperature + (1 | recipe:replicate),
      "angle ~ recipe * temperature + (1 | recipe:replicate)", missing = cake_gaps,
      means = list("recipe", "temperature", c("recipe", "temperature")),
      contrasts = list(list(c(recipeB = 1), c(recipeC = 1)), list(c(temperature185 = 1, temperature195 = -1)))),
  new("cake_additive_unbalanced", "cake", angle ~ recipe + temperature + (1 | replicate) + (1 | recipe:replicate),
      "angle ~ recipe + temperature + (1 | replicate) + (1 | recipe:replicate)", missing = cake_gaps,
      means = list("recipe", "temperature", c("recipe", "temperature")),
      contrasts = list(list(c(recipeB = 1, recipeC = -1)))),
  new("cake_slopes_unbalanced", "cake", angle ~ recipe * temp + (1 | recipe:replicate),
      "angle ~ recipe * temp + (1 | recipe:replicate)", missing = cake_gaps, means = list("recipe"),
      contrasts = list(list(c(recipeB = 1, "recipeB:temp" = 200)), list(c("recipeB:temp" = 1), c("recipeC:temp" = 1)))),
  new("cake_sum_contrasts_unbalanced", "cake", angle ~ C(recipe, contr.sum) * I(temp - 200) + (1 | recipe:replicate),
      "angle ~ C(recipe, contr.sum) * I(temp - 200) + (1 | recipe:replicate)", missing = cake_gaps,
      rename = sum_recipe, note = "emmeans does not read contr.sum in a formula: its means are those of cake_slopes_unbalanced",
      contrasts = list(list(c("C(recipe, contr.sum)1" = 1, "C(recipe, contr.sum)2" = -1)))),
  known("orthodont_interaction_reml", means = list("Sex"),
        contrasts = list(list(c(SexFemale = 1, "age:SexFemale" = 14)), list(c(SexFemale = 1), c("age:SexFemale" = 1)))),
  known("orthodont_centred_ml", means = list("Sex"), contrasts = list(list(c("(Intercept)" = 1, SexFemale = 0.5)))),
  new("politeness_interaction", "politeness", frequency ~ attitude * gender + (1 | subject) + (1 | scenario),
      "frequency ~ attitude * gender + (1 | subject) + (1 | scenario)",
      means = list("attitude", "gender", c("attitude", "gender")),
      contrasts = list(list(c(attitudepol = 1, "attitudepol:genderM" = 1)), list(c(attitudepol = 1), c("attitudepol:genderM" = 1)))),
  new("politeness_additive_ml", "politeness", frequency ~ attitude + gender + (1 | subject) + (1 | scenario),
      "frequency ~ attitude + gender + (1 | subject) + (1 | scenario)", reml = FALSE, means = list("attitude", "gender"),
      contrasts = list(list(c(attitudepol = 1), c(genderM = 1)))),
  new("schools_covariates", "schools", extro ~ open + agree + social + (1 | school),
      "extro ~ open + agree + social + (1 | school)",
      contrasts = list(list(c(open = 1, agree = -1)), list(c(open = 1), c(agree = 1), c(social = 1)))),
  new("schools_classes", "schools", extro ~ class * open + social + (1 | school) + (1 | school:class),
      "extro ~ class * open + social + (1 | school) + (1 | school:class)", means = list("class"), kr = FALSE,
      contrasts = list(list(c(classd = 1, "classd:open" = 40)), list(c("classb:open" = 1), c("classc:open" = 1), c("classd:open" = 1)))),
  new("labs_intercepts_ml", "labs", y ~ x + (1 | Group), "y ~ x + (1 | Group)", reml = FALSE,
      contrasts = list(list(c("(Intercept)" = 1, x = 50)))),
  new("labs_intercepts_reml", "labs", y ~ x + (1 | Group), "y ~ x + (1 | Group)",
      contrasts = list(list(c("(Intercept)" = 1, x = 50)), list(c("(Intercept)" = 1), c(x = 1)))),
  new("labs_two_terms_ml", "labs", y ~ x + (1 | Group) + (0 + x | Group), "y ~ x + (1 | Group) + (0 + x | Group)",
      reml = FALSE, contrasts = list(list(c("(Intercept)" = 1, x = 50)))),
  new("labs_singular_reml", "labs", y ~ x + (x | Group), "y ~ x + (x | Group)", kr = FALSE,
      contrasts = list(list(c("(Intercept)" = 1, x = 50)), list(c("(Intercept)" = 1), c(x = 1)))),
  known("dyestuff2_reml", kr = FALSE, contrasts = list(list(c("(Intercept)" = 2)))),
  new("growth_slopes", "growth", arm ~ age + (age | id), "arm ~ age + (age | id)", kr = FALSE,
      contrasts = list(list(c("(Intercept)" = 1, age = 24)))),
  new("exam_three_way", "exam", normexam ~ standLRT * intake * sex + schavg + (standLRT | school),
      "normexam ~ standLRT * intake * sex + schavg + (standLRT | school)", head = 1000, kr = FALSE,
      means = list("intake", "sex", c("intake", "sex")),
      contrasts = list(list(c("standLRT:sexM" = 1, "standLRT:intakemid 50%:sexM" = 1)))),
  new("exam_two_factors", "exam", normexam ~ standLRT + intake + schgend + sex + (1 | school),
      "normexam ~ standLRT + intake + schgend + sex + (1 | school)", head = 900,
      means = list("intake", "schgend", c("schgend", "intake")),
      contrasts = list(list(c("intakemid 50%" = 1, "intaketop 25%" = -1)), list(c(schgendboys = 1), c(schgendgirls = 1)))),
  known("penicillin_reml", contrasts = list(list(c("(Intercept)" = 2)))),
  known("pastes_nested_reml"),
  new("insteval_part_satterthwaite", "insteval", y ~ service * lectage + (1 | s) + (1 | d),
      "y ~ service * lectage + (1 | s) + (1 | d)", head = 3000, kr = FALSE, means = list("service", "lectage"),
      contrasts = list(list(c(service1 = 1))))
)

# -- lmer at a given theta -----------------------------------------------------------------------------------------------
best_fit <- function(model, data) {
  checks <- function(...) lmerControl(check.nobs.vs.nlev = "ignore", check.nobs.vs.nRE = "ignore", check.nobs.vs.rankZ = "ignore",
                                      check.scaleX = "ignore", calc.derivs = FALSE, boundary.tol = 0, restart_edge = FALSE, ...)
  parts <- lFormula(model$formula, data = data, REML = model$reml, control = checks())
  devfun <- do.call(mkLmerDevfun, parts)
  theta <- optimum(devfun, environment(devfun)$pp$theta + 0, environment(devfun)$lower, quick = nrow(parts$fr) > 5000)
  stay <- function(fn, par, lower, upper, control) list(par = theta, fval = fn(theta), feval = 1, conv = 0, message = "")
  environment(stay) <- list2env(list(theta = theta))
  fitted <- do.call(lmerTest::lmer, list(model$formula, data, REML = model$reml, control = checks(optimizer = stay)))
  stopifnot(identical(unname(getME(fitted, "theta")), unname(theta)))
  fitted
}

# -- closed derivatives ----------------------------------------------------------------------------------------------------
with_closed_derivatives <- function(fitted) {
  parts <- pbkrtest::get_SigmaG(fitted)
  X <- getME(fitted, "X"); y <- getME(fitted, "y") - getME(fitted, "offset")
  Vi <- chol2inv(chol(as.matrix(parts$Sigma)))
  C <- solve(crossprod(X, Vi %*% X)); ViX <- Vi %*% X
  P <- Vi - ViX %*% C %*% t(ViX)
  Py <- as.vector(P %*% y)
  Q <- if (isREML(fitted)) P else Vi
  GQ <- lapply(parts$G, function(G) as.matrix(G %*% Q)); GPy <- sapply(parts$G, function(G) as.vector(G %*% Py))
  curvature <- 2 * crossprod(GPy, P %*% GPy)
  gradient <- vapply(GQ, function(A) sum(diag(A)), 0) - as.vector(crossprod(GPy, Py))
  for (i in seq_along(GQ)) for (j in seq_along(GQ)) curvature[i, j] <- curvature[i, j] - sum(t(GQ[[i]]) * GQ[[j]])
  message(sprintf("  gradient left in units of standard errors: %.1e", sqrt(2 * sum(gradient * solve(curvature, gradient)))))
  exact <- fitted
  exact@vcov_varpar <- 2 * solve(curvature)
  exact@Jac_list <- lapply(parts$G, function(G) { B <- C %*% t(ViX); as.matrix(B %*% G %*% t(B)) })
  exact
}

# -- tables ------------------------------------------------------------------------------------------------------------------
columns <- function(table, names) setNames(lapply(seq_along(names), function(j) I(unname(table[[j]]))), names)
t_names <- c("estimate", "std_error", "df", "statistic", "p_value")
F_names <- c("sum_sq", "mean_sq", "num_df", "den_df", "F", "p_value")
exact_df <- function(table, exact, column) { if (!is.null(exact)) table$df_exact <- I(unname(exact[[column]])); table }

term_names <- function(table, model) I(ifelse(rownames(table) %in% names(model$rename), model$rename[rownames(table)], rownames(table)))
anova_table <- function(fitted, exact, model, type, ddf = "Satterthwaite") {
  table <- anova(fitted, type = type, ddf = ddf)
  if (!nrow(table)) return(NULL)
  other <- if (!is.null(exact)) anova(exact, type = type)
  L <- lapply(unname(attr(table, "hypotheses")), unname)
  c(list(term = term_names(table, model)), exact_df(columns(table, F_names), other, "DenDF"), if (ddf == "Satterthwaite") list(L = L))
}

contrast_table <- function(fitted, exact, contrast, ddf = "Satterthwaite") {
  L <- t(vapply(contrast, function(row) {
    stopifnot(names(row) %in% names(fixef(fitted)))
    replace(setNames(numeric(length(fixef(fitted))), names(fixef(fitted))), names(row), row)
  }, fixef(fitted)))
  if (length(fixef(fitted)) == 1) L <- matrix(contrast[[1]], 1)
  joint <- nrow(L) > 1
  test <- function(object, ...) contest(object, if (joint) L else drop(L), joint = joint, confint = FALSE, ...)
  table <- columns(test(fitted, ddf = ddf), if (joint) F_names else t_names)
  c(list(L = unname(L)), exact_df(table, if (!is.null(exact)) test(exact), if (joint) "DenDF" else "df"))
}

means_table <- function(fitted, exact, factors, data, mode) {
  used <- data[rownames(model.frame(fitted)), ]             # given all rows, emmeans would average covariates over all
  grid <- function(object) suppressMessages(emmeans(object, factors, data = used, lmer.df = mode))
  means <- grid(fitted)
  rows <- as.data.frame(summary(means, infer = c(TRUE, FALSE)))
  levels <- lapply(factors, function(f) as.character(rows[[f]]))
  table <- columns(rows[c("emmean", "SE", "df", "lower.CL", "upper.CL")], c("estimate", "std_error", "df", "lower", "upper"))
  table <- exact_df(table, if (!is.null(exact)) as.data.frame(grid(exact)), "df")
  out <- list(factors = I(factors), levels = setNames(lapply(levels, I), factors), means = table)
  if (length(factors) == 1) {
    adjusted <- function(how, object = means) as.data.frame(summary(pairs(object), adjust = how))
    plain <- adjusted("none")
    first <- combn(levels[[1]], 2)
    pair <- columns(plain[c("estimate", "SE", "df", "t.ratio", "p.value")], t_names)
    pair <- exact_df(pair, if (!is.null(exact)) adjusted("none", grid(exact)), "df")
    out$pairs <- c(list(first = I(first[1, ]), second = I(first[2, ])), pair,
                   sapply(c("tukey", "holm", "bonferroni"), function(how) I(adjusted(how)$p.value), simplify = FALSE))
  }
  out
}

same_hypotheses <- function(fitted, model) {
  # The type III hypotheses of lmerTest against the coefficients of sum contrasts, which span the same spaces.
  frame <- model.frame(fitted); terms <- terms(fitted)
  if (!attr(terms, "intercept") || any(grepl("contr", attr(terms, "term.labels")))) return(invisible())
  factors <- names(Filter(is.factor, frame[intersect(rownames(attr(terms, "factors")), names(frame))]))
  if (!length(factors)) return(invisible())
  X <- getME(fitted, "X")
  S <- model.matrix(terms, frame, contrasts.arg = sapply(factors, function(f) "contr.sum", simplify = FALSE))
  B <- qr.solve(S, X)
  stopifnot(max(abs(S %*% B - X)) < 1e-8 * max(abs(X)))
  table <- anova(fitted, type = 3)
  error <- vapply(seq_len(nrow(table)), function(k) {
    exact <- contestMD(fitted, B[attr(S, "assign") == k, , drop = FALSE])
    c(exact[["F value"]] / table[["F value"]][k], exact[["DenDF"]] / table[["DenDF"]][k]) - 1
  }, c(0, 0))
  message("  type III against sum contrasts, F and df: ",
          paste(sprintf("%s %.0e %.0e", rownames(table), error[1, ], error[2, ]), collapse = ", "))
}

infer <- function(model) {
  message(model$name)
  data <- table_of(model)
  fitted <- best_fit(model, data)
  singular <- isSingular(fitted, 1e-6)
  stopifnot(!(singular && model$kr))
  exact <- if (!singular && nobs(fitted) <= 1500) with_closed_derivatives(fitted)
  same_hypotheses(fitted, model)
  coefficients <- as.data.frame(coef(summary(fitted)))
  satterthwaite <- list(
    coefficients = exact_df(columns(coefficients, t_names), if (!is.null(exact)) as.data.frame(coef(summary(exact))), "df"),
    anova = setNames(lapply(1:3, function(type) anova_table(fitted, exact, model, type)), 1:3),
    contrasts = lapply(model$contrasts, function(contrast) contrast_table(fitted, exact, contrast)),
    means = lapply(model$means, function(factors) means_table(fitted, exact, factors, data, "satterthwaite"))
  )
  kenward_roger <- if (model$kr) {
    adjusted <- pbkrtest::vcovAdj(fitted)
    stopifnot(attr(adjusted, "condi") > 1e-9)               # below 1e-10 pbkrtest takes a generalised inverse
    list(
      vcov = unname(as.matrix(adjusted)),
      coefficients = columns(as.data.frame(coef(summary(fitted, ddf = "Kenward-Roger"))), t_names),
      anova = setNames(lapply(1:3, function(type) anova_table(fitted, NULL, model, type, "Kenward-Roger")), 1:3),
      contrasts = lapply(model$contrasts, function(contrast) contrast_table(fitted, NULL, contrast, "Kenward-Roger")),
      means = lapply(model$means, function(factors) means_table(fitted, NULL, factors, data, "kenward-roger"))
    )
  }
  list(
    name = model$name, dataset = model$dataset, formula = model$text,
    lme4_formula = paste(deparse(model$formula, 500), collapse = ""), reml = model$reml,
    missing = lapply(model$missing, I), head = model$head, note = model$note, singular = singular, nobs = nobs(fitted),
    criterion = if (model$reml) REMLcrit(fitted) else deviance(fitted), sigma = sigma(fitted),
    names = I(translate_fixed(names(fixef(fitted)), data, model$rename)),
    satterthwaite = satterthwaite, kenward_roger = kenward_roger
  )
}

chosen <- commandArgs(trailingOnly = TRUE)
output <- file.path(here, "inference.json")
if (length(chosen)) { inference_models <- Filter(function(m) m$name %in% chosen, inference_models); output <- stdout() }
results <- vapply(inference_models, function(m) json(infer(m)), "")
packages <- c("lme4", "lmerTest", "pbkrtest", "emmeans", "numDeriv")
versions <- c(list(R = as.character(getRversion())), sapply(packages, function(p) as.character(packageVersion(p)), simplify = FALSE))
writeLines(c("{", paste0("\"made_by\": ", json(versions), ","), "\"models\": [", paste(results, collapse = ",\n"), "]", "}"), output)
