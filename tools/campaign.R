# Fit the models of a campaign by lme4; part of tools/campaign.py.
#
#   Rscript tools/campaign.R cases.json results.json
#
# A case is {"csv", "formula", "reml", "weighted"}; a result {"criterion", "theta"} or {"error"}. Tolerances are tight, so
# that what is compared are optima and not the moment at which a search stops.

suppressMessages({ library(lme4); library(jsonlite) })

control <- lmerControl(optimizer = "bobyqa", calc.derivs = FALSE, optCtrl = list(rhoend = 1e-9, maxfun = 1e5))

fit <- function(case) {
  data <- read.csv(case$csv)
  for (column in c("f", "g", "h", "k")) data[[column]] <- factor(data[[column]])
  data$w <- if (case$weighted) data$w else 1
  model <- lmer(as.formula(case$formula), data, REML = case$reml, weights = w, control = control)
  list(criterion = -2 * as.numeric(logLik(model)), theta = I(unname(getME(model, "theta"))))
}

files <- commandArgs(trailingOnly = TRUE)
cases <- fromJSON(files[1], simplifyDataFrame = FALSE)
results <- lapply(cases, function(case) {
  tryCatch(suppressMessages(suppressWarnings(fit(case))), error = function(e) list(error = conditionMessage(e)))
})
write(toJSON(results, auto_unbox = TRUE, digits = I(17)), files[2])
