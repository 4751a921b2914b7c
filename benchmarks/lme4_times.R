# Time lme4's lmer on one case; print the median seconds as JSON.
#
#   Rscript benchmarks/lme4_times.R case.json
#
# case.json holds {"csv", "formula", "factors", "repeats", "patience"}; factors are columns that are categories though
# they may look like numbers. Only lmer() is timed, not the reading of the file. Two settings are tried, without the
# final check by numerical derivatives and lme4's defaults; the quicker one's median is reported. A fit is repeated, and
# the second setting tried, only as far as the patience (seconds) lasts. For fair times run it with OMP_NUM_THREADS=1.

suppressMessages({ library(lme4); library(jsonlite) })

read_table <- function(path) {
  if (requireNamespace("data.table", quietly = TRUE)) as.data.frame(data.table::fread(path)) else read.csv(path)
}

process_bytes <- function(field) { # VmRSS, what is resident now; VmHWM, the most since the last reset
  line <- grep(paste0("^", field), readLines("/proc/self/status"), value = TRUE)
  1024 * as.numeric(gsub("\\D", "", line))
}

case <- fromJSON(commandArgs(trailingOnly = TRUE)[1])
data <- read_table(case$csv)
for (column in case$factors) data[[column]] <- factor(data[[column]])

measure <- function(setting, control) {
  once <- function() {
    begin <- Sys.time()
    fit <- suppressMessages(suppressWarnings(lmer(as.formula(case$formula), data, REML = TRUE, control = control)))
    list(seconds = as.numeric(difftime(Sys.time(), begin, units = "secs")), criterion = -2 * as.numeric(logLik(fit)))
  }
  gc(FALSE)
  cat("5", file = "/proc/self/clear_refs") # the peak counts from here
  before <- process_bytes("VmRSS")
  first <- once()
  beyond <- process_bytes("VmHWM") - before
  spent <- first$seconds
  seconds <- if (spent > case$patience) spent else numeric()
  while (!length(seconds) || (length(seconds) < case$repeats && spent < case$patience)) {
    gc(FALSE)
    seconds <- c(seconds, once()$seconds)
    spent <- spent + tail(seconds, 1)
  }
  list(seconds = median(seconds), criterion = first$criterion, setting = setting, beyond_bytes = beyond)
}

best <- measure("no derivatives", lmerControl(calc.derivs = FALSE))
if (best$seconds < case$patience) {
  default <- measure("default", lmerControl())
  if (default$seconds < best$seconds) best <- default
}
best$made_by <- list(R = as.character(getRversion()), lme4 = as.character(packageVersion("lme4")),
                     BLAS = basename(extSoftVersion()[["BLAS"]]))
cat(toJSON(best, auto_unbox = TRUE, digits = I(12)), "\n")
