# Time lme4's lmer on the cases of a JSON file; print the median seconds as JSON.
#
#   Rscript benchmarks/lme4_times.R cases.json
#
# cases.json is a list of {"name", "csv", "formula", "reml", "repeats"}, optionally "factors": columns of numbers
# that are categories. Only lmer() is timed, not the reading of the file. Two settings are tried, lme4's defaults and
# without the final check by numerical derivatives; "seconds" is the quicker one's median. With more than one repeat
# a first, unmeasured run warms up. For fair times run it with OMP_NUM_THREADS=1.

suppressMessages({ library(lme4); library(jsonlite) })

read_table <- function(path) {
  if (requireNamespace("data.table", quietly = TRUE)) as.data.frame(data.table::fread(path)) else read.csv(path)
}

time_case <- function(case) {
  data <- read_table(case$csv)
  for (column in unlist(case$factors)) data[[column]] <- factor(data[[column]])
  settings <- list(default = lmerControl(), no_derivatives = lmerControl(calc.derivs = FALSE))
  runs <- lapply(settings, function(control) {
    once <- function() {
      begin <- Sys.time()
      fit <- suppressMessages(suppressWarnings(lmer(as.formula(case$formula), data, REML = case$reml, control = control)))
      list(seconds = as.numeric(difftime(Sys.time(), begin, units = "secs")), criterion = -2 * as.numeric(logLik(fit)))
    }
    if (case$repeats > 1) once()
    repeats <- replicate(case$repeats, { gc(FALSE); once() }, simplify = FALSE)
    list(seconds = median(vapply(repeats, `[[`, 0, "seconds")), criterion = repeats[[1]]$criterion)
  })
  best <- names(which.min(vapply(runs, `[[`, 0, "seconds")))
  list(name = case$name, rows = nrow(data), seconds = runs[[best]]$seconds, criterion = runs[[best]]$criterion,
       setting = best, settings = lapply(runs, `[[`, "seconds"))
}

cases <- fromJSON(commandArgs(trailingOnly = TRUE)[1], simplifyVector = FALSE)
made_by <- list(R = as.character(getRversion()), lme4 = as.character(packageVersion("lme4")),
                BLAS = basename(extSoftVersion()[["BLAS"]]))
cat(toJSON(list(made_by = made_by, cases = lapply(cases, time_case)), auto_unbox = TRUE, digits = I(12), pretty = TRUE), "\n")
