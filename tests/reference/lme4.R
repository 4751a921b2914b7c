# Fit the models of models.R with lme4, as exactly as lme4 can, and write lme4.json.
#
#   Rscript tests/reference/lme4.R [names of models]      (from the top of the repository; about a minute)
#
# The criterion is minimised from several starts by two derivative-free optimisers with tight tolerances,
# then by Newton steps on differences; where a variance can be set to zero without raising the criterion it is.
# All numbers of a model belong to that one theta. The criterion of small models is checked against its
# definition with dense matrices, so lme4 itself is not taken on trust.

suppressMessages({ library(lme4); library(nlme); library(mlmRev) })
options(contrasts = c("contr.treatment", "contr.treatment"), nwarnings = 1000)
here <- "tests/reference"
source(file.path(here, "models.R"))

# -- data ---------------------------------------------------------------------------------------------------------
tables <- list(sleepstudy = sleepstudy, dyestuff = Dyestuff, dyestuff2 = Dyestuff2, penicillin = Penicillin,
               pastes = Pastes, cake = cake, insteval = InstEval, machines = as.data.frame(Machines),
               oats = as.data.frame(Oats), orthodont = as.data.frame(Orthodont), rail = as.data.frame(Rail), exam = Exam)
tables$machines <- transform(tables$machines, dummy_b = as.numeric(Machine == "B"), dummy_c = as.numeric(Machine == "C"))
tables$orthodont <- transform(tables$orthodont, dummy_male = as.numeric(Sex == "Male"),
                              dummy_female = as.numeric(Sex == "Female"))

table_of <- function(model) {
  data <- tables[[model$dataset]]
  if (!is.null(model$head)) data <- droplevels(head(data, model$head))
  for (column in names(model$missing)) data[[column]][model$missing[[column]] + 1] <- NA
  data
}

# -- names in lmmlite's spelling ------------------------------------------------------------------------------------
translate <- function(names, data, rename) {
  full <- !("(Intercept)" %in% names)   # a bar without an intercept: a column for every level
  piece <- function(text, whole) {
    if (text %in% names(rename)) return(rename[[text]])
    if (text == "(Intercept)") return("Intercept")
    for (column in names(data)) if (is.factor(data[[column]])) {
      level <- substring(text, nchar(column) + 1)
      if (startsWith(text, column) && level %in% levels(data[[column]]))
        return(sprintf(if (whole) "%s[%s]" else "%s[T.%s]", column, level))
    }
    text
  }
  vapply(names, function(name) {
    parts <- if (name %in% names(rename)) name else strsplit(name, ":", fixed = TRUE)[[1]]
    paste(vapply(parts, piece, "", whole = full), collapse = ":")
  }, "", USE.NAMES = FALSE)
}

# -- the optimum -----------------------------------------------------------------------------------------------------
difference <- function(f, x, free, h) {
  # Gradient and Hessian in the free coordinates, by differences of fourth order with steps h.
  at <- function(i, a, j = i, b = 0) { y <- x; y[i] <- y[i] + a * h[i]; y[j] <- y[j] + b * h[j]; f(y) }
  w <- c(1, -8, 8, -1) / 12; s <- c(-2, -1, 1, 2)
  grid <- lapply(free, function(i) vapply(s, function(a) at(i, a), 0))
  k <- length(free); f0 <- f(x)
  hessian <- matrix(0, k, k)
  for (p in seq_len(k)) {
    hessian[p, p] <- (-sum(grid[[p]][c(1, 4)]) + 16 * sum(grid[[p]][2:3]) - 30 * f0) / (12 * h[free[p]]^2)
    for (q in seq_len(p - 1)) {
      cross <- at(free[p], 1, free[q], 1) - at(free[p], 1, free[q], -1) - at(free[p], -1, free[q], 1) + at(free[p], -1, free[q], -1)
      hessian[p, q] <- hessian[q, p] <- cross / (4 * h[free[p]] * h[free[q]])
    }
  }
  list(gradient = vapply(grid, function(v) sum(w * v), 0) / h[free], hessian = hessian)
}

optimum <- function(f, start, lower, quick) {
  nlopt <- function(x) nloptwrap(x, f, lower, rep(Inf, length(x)),
                                 control = list(algorithm = "NLOPT_LN_BOBYQA", xtol_abs = 1e-12, ftol_abs = 0, maxeval = 1e4))
  minqa <- function(x) {
    if (length(x) == 1) return(list(fval = Inf, par = x))   # minqa needs two parameters
    found <- minqa::bobyqa(x, f, lower, control = list(rhobeg = 0.1, rhoend = 1e-10, maxfun = 1e4))
    list(fval = found$fval, par = found$par)
  }
  starts <- if (quick) list(start) else list(start, 0.3 * start, ifelse(start > 0, 2, 0.1))
  found <- unlist(lapply(starts, function(x) list(nlopt(x), if (!quick) minqa(x))), recursive = FALSE)
  best <- Filter(Negate(is.null), found)
  best <- best[[which.min(vapply(best, `[[`, 0, "fval"))]]
  if (!quick) for (again in list(nlopt, minqa)) {
    other <- again(best$par)
    if (other$fval < best$fval) best <- other
  }
  x <- best$par
  for (i in which(lower == 0 & x < 1e-2)) {                 # a zero variance, if that is as good
    y <- replace(x, i, 0)
    if (f(y) <= f(x) + 1e-9) x <- y
  }
  free <- which(!(lower == 0 & x == 0))
  h <- rep(1e-4, length(x))
  for (step in seq_len(if (length(free)) 6 else 0)) {
    d <- difference(f, x, free, h)
    h[free] <- sqrt(2e-4 / pmax(diag(d$hessian), 0.1))      # next, steps that raise the criterion by some 1e-4
    if (step == 1) next
    units <- 1 / sqrt(pmax(abs(diag(d$hessian)), 1e-8))
    e <- eigen(d$hessian * outer(units, units), symmetric = TRUE)
    use <- e$values > 1e-6                                  # a flat direction stays where it is
    move <- units * -e$vectors[, use, drop = FALSE] %*% (crossprod(e$vectors[, use, drop = FALSE], units * d$gradient) / e$values[use])
    y <- replace(x, free, x[free] + move)
    if (any(y < lower) || f(y) > f(x) + 1e-10 + 1e-14 * abs(f(x))) break
    x <- y
  }
  x
}

# -- the criterion by its definition ---------------------------------------------------------------------------------
dense_criterion <- function(X, Z, Lambda, y, weights, reml) {
  V <- diag(1 / weights) + tcrossprod(as.matrix(Z %*% Lambda))
  R <- chol(V); Xw <- backsolve(R, X, transpose = TRUE); yw <- backsolve(R, y, transpose = TRUE)
  fit <- qr(Xw); rss <- sum(qr.resid(fit, yw)^2); n <- length(y); nu <- if (reml) n - ncol(X) else n
  2 * sum(log(diag(R))) + nu * (1 + log(2 * pi * rss / nu)) + if (reml) 2 * sum(log(abs(diag(qr.R(fit))))) else 0
}

# -- one model ---------------------------------------------------------------------------------------------------------
fit <- function(model) {
  data <- table_of(model)
  cycle <- function(values) if (is.null(values)) NULL else rep_len(values, nrow(data))
  checks <- lmerControl(check.nobs.vs.nlev = "ignore", check.nobs.vs.nRE = "ignore", check.nobs.vs.rankZ = "ignore",
                        check.nlev.gtr.1 = "ignore", check.scaleX = "ignore")
  parts <- do.call(lFormula, c(list(model$formula, data = data, REML = model$reml, control = checks),
                               list(weights = cycle(model$weights), offset = cycle(model$offset))))
  devfun <- do.call(mkLmerDevfun, parts)
  start <- environment(devfun)$pp$theta + 0
  lower <- environment(devfun)$lower
  big <- nrow(parts$fr) > 5000
  theta <- optimum(devfun, start, lower, quick = big)
  criterion <- devfun(theta)
  fitted <- mkMerMod(environment(devfun), list(par = theta, fval = criterion, feval = 0, conv = 0, message = ""),
                     parts$reTrms, fr = parts$fr)

  # lme4's terms and where lmmlite has them
  cnms <- parts$reTrms$cnms
  group_key <- function(group) paste(sort(strsplit(group, ":", fixed = TRUE)[[1]]), collapse = ":")
  lme4_key <- mapply(function(group, columns) paste(c(group_key(group), translate(columns, data, model$rename)), collapse = " "),
                     names(cnms), cnms)
  own_key <- vapply(model$terms, function(term) paste(c(group_key(term[1]), term[-1]), collapse = " "), "")
  position <- match(own_key, lme4_key)
  stopifnot(!anyNA(position), !anyDuplicated(position), length(position) == length(cnms))
  sizes <- lengths(cnms); ends <- cumsum(sizes * (sizes + 1) / 2)
  template <- function(theta, i) {
    T <- matrix(0, sizes[i], sizes[i])
    T[lower.tri(T, TRUE)] <- theta[(ends[i] - sizes[i] * (sizes[i] + 1) / 2 + 1):ends[i]]
    unname(T)
  }
  rowwise <- function(theta) lapply(position, function(i) { T <- t(template(theta, i)); I(T[upper.tri(T, TRUE)]) })

  # the criterion elsewhere
  index <- seq_along(theta)
  points <- list(start, ifelse(start > 0, 0.4 + 0.1 * index, 0.15 * (-1)^index), replace(ifelse(start > 0, 2, -0.3), 1, 0))
  elsewhere <- lapply(points, function(at) list(theta = rowwise(at), criterion = devfun(at)))
  if (nrow(parts$fr) <= 400) for (at in c(points, list(theta))) {
    value <- devfun(at)
    y <- model.response(parts$fr); o <- model.offset(parts$fr); w <- model.weights(parts$fr)
    dense <- dense_criterion(parts$X, t(parts$reTrms$Zt), t(environment(devfun)$pp$Lambdat),
                             y - if (is.null(o)) 0 else o, if (is.null(w)) rep(1, length(y)) else w, model$reml)
    if (abs(dense / value - 1) > 1e-10) stop(model$name, ": lme4 ", value, " is not the dense criterion ", dense)
  }
  devfun(theta)                                             # back to the optimum: mkMerMod shares this state

  # covariances
  sigma2 <- sigma(fitted)^2
  components <- do.call(rbind, lapply(seq_along(position), function(m) {
    T <- template(theta, position[m]); S <- sigma2 * tcrossprod(T); names <- model$terms[[m]][-1]
    rows <- rbind(cbind(seq_along(names), seq_along(names)), t(combn(length(names) + 1, 2))[0, , drop = FALSE])
    if (length(names) > 1) rows <- rbind(rows, t(combn(length(names), 2)))
    data.frame(group = model$terms[[m]][1], term1 = names[rows[, 1]],
               term2 = ifelse(rows[, 1] == rows[, 2], NA, names[rows[, 2]]), variance = S[rows])
  }))
  components <- rbind(components, data.frame(group = "Residual", term1 = NA, term2 = NA, variance = sigma2))

  # random effects and their conditional covariance, gathered by group: sigma^2 Lambda (Lambda'Z'WZ Lambda + I)^-1 Lambda'
  groups <- unique(vapply(model$terms, `[`, "", 1))
  Lambdat <- getME(fitted, "Lambdat"); L <- getME(fitted, "L"); b <- as.vector(getME(fitted, "b")); Gp <- getME(fitted, "Gp")
  effects <- lapply(groups, function(group) {
    mine <- position[vapply(model$terms, `[`, "", 1) == group]
    their <- names(cnms)[mine[1]]
    labels <- levels(getME(fitted, "flist")[[their]])
    if (their != group)                                     # a:b instead of b:a
      labels <- vapply(strsplit(labels, ":", fixed = TRUE), function(x) paste(rev(x), collapse = ":"), "")
    if (length(labels) > 100 && big) return(NULL)
    where <- do.call(cbind, lapply(mine, function(i)
      matrix(Gp[i] + seq_len(length(labels) * sizes[i]), length(labels), sizes[i], byrow = TRUE)))
    right <- Lambdat[, as.vector(t(where)), drop = FALSE]
    C <- as.matrix(crossprod(right, solve(L, right, system = "A"))) * sigma2
    k <- ncol(where)
    covariance <- lapply(seq_along(labels), function(l) unname(C[(l - 1) * k + seq_len(k), (l - 1) * k + seq_len(k), drop = FALSE]))
    if (length(mine) == 1 && nrow(parts$fr) < 1e4)          # the same as lme4's own
      stopifnot(isTRUE(all.equal(unlist(covariance), c(attr(ranef(fitted)[[their]], "postVar")), tolerance = 1e-8)))
    list(terms = I(unlist(lapply(model$terms[vapply(model$terms, `[`, "", 1) == group], `[`, -1))), levels = I(labels),
         values = matrix(b[where], length(labels)), covariance = covariance)
  })
  names(effects) <- groups

  zero <- vapply(position, function(i) { S <- tcrossprod(template(theta, i)); min(eigen(cov2cor0(S), TRUE, TRUE)$values) < 1e-8 }, NA)
  residual <- residuals(fitted)
  ll <- logLik(fitted)
  names_fixed <- translate_fixed(names(fixef(fitted)), data, model$rename)
  list(
    name = model$name, dataset = model$dataset, formula = model$text, lme4_formula = paste(deparse(model$formula, 500), collapse = ""),
    reml = model$reml, weights = model$weights, offset = model$offset, missing = lapply(model$missing, I), head = model$head,
    note = model$note,
    singular = any(zero),
    nobs = nobs(fitted), npar = attr(ll, "df"), df_resid = df.residual(fitted), criterion = criterion,
    loglik = as.numeric(ll), aic = AIC(fitted), bic = BIC(fitted), sigma = sigma(fitted),
    terms = lapply(seq_along(position), function(m) list(group = model$terms[[m]][1], names = I(model$terms[[m]][-1]),
                                                         T = rowwise(theta)[[m]])),
    elsewhere = elsewhere,
    fixef = list(names = I(names_fixed), estimate = I(unname(fixef(fitted))), se = I(unname(sqrt(diag(as.matrix(vcov(fitted)))))),
                 vcov = unname(as.matrix(vcov(fitted)))),
    varcorr = lapply(seq_len(nrow(components)), function(i) as.list(components[i, ])),
    ranef = effects[!vapply(effects, is.null, NA)],
    fitted = I(unname(head(fitted(fitted), 10))), population = I(unname(head(predict(fitted, re.form = NA), 5))),
    residual_ss = sum(residual^2), weighted_residual_ss = sum(residual^2 * weights(fitted))
  )
}

translate_fixed <- function(names, data, rename) translate(union("(Intercept)", names), data, rename)[match(names, union("(Intercept)", names))]

cov2cor0 <- function(S) {                                   # correlations, with zero rows for zero variances
  d <- sqrt(diag(S)); S / outer(ifelse(d > 0, d, 1), ifelse(d > 0, d, 1))
}

# -- JSON with every digit ----------------------------------------------------------------------------------------------
number <- function(x) {
  text <- formatC(x, digits = 15, width = 1, format = "g")
  for (digits in 16:17) {
    wrong <- is.finite(x) & as.numeric(text) != x
    text[wrong] <- formatC(x[wrong], digits = digits, width = 1, format = "g")
  }
  ifelse(is.finite(x), text, "null")
}
json <- function(x) {
  if (is.null(x)) return("null")
  if (is.matrix(x)) return(paste0("[", paste(apply(x, 1, function(row) json(I(row))), collapse = ", "), "]"))
  if (is.list(x)) {
    if (!length(x)) return("{}")
    inside <- vapply(x, json, "")
    if (is.null(names(x))) return(paste0("[", paste(inside, collapse = ", "), "]"))
    return(paste0("{", paste0("\"", names(x), "\": ", inside, collapse = ", "), "}"))
  }
  text <- if (is.character(x)) ifelse(is.na(x), "null", encodeString(x, quote = "\"")) else
          if (is.logical(x)) ifelse(is.na(x), "null", tolower(x)) else number(x)
  if (length(x) == 1 && !inherits(x, "AsIs")) text else paste0("[", paste(text, collapse = ", "), "]")
}

chosen <- commandArgs(trailingOnly = TRUE)
output <- file.path(here, "lme4.json")
if (length(chosen)) { models <- Filter(function(m) m$name %in% chosen, models); output <- stdout() }
results <- vapply(models, function(m) { message(m$name); json(fit(m)) }, "")
writeLines(c("{", paste0("\"made_by\": ", json(list(R = as.character(getRversion()), lme4 = as.character(packageVersion("lme4")),
             nlme = as.character(packageVersion("nlme")), mlmRev = as.character(packageVersion("mlmRev")))), ","),
             "\"models\": [", paste(results, collapse = ",\n"), "]", "}"), output)
