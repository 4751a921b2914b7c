# Export the classic data sets of R's lme4, nlme and mlmRev to lmmlite/datasets/<name>.csv.
#
#   Rscript tools/datasets/export_r.R [folder]      (default folder: lmmlite/datasets)
#
# Columns, labels and row order stay as in R; numbers are written with the fewest digits that read
# back to the same double. The order of factor levels cannot be written in a CSV file: it stands in
# the [factors] table of the hand-written card <name>.toml.

classics <- list(
  lme4   = c("sleepstudy", "Dyestuff", "Dyestuff2", "Penicillin", "Pastes", "cake", "InstEval"),
  nlme   = c("Machines", "Oats", "Orthodont", "Rail"),
  mlmRev = "Exam"
)
compressed <- "InstEval"   # the one table too long to keep as plain text

shortest <- function(x) {
  # The fewest of 15, 16 or 17 significant digits that give each number back exactly.
  text <- formatC(x, digits = 15, width = 1, format = "g")
  for (digits in 16:17) {
    wrong <- !is.na(x) & as.numeric(text) != x
    text[wrong] <- formatC(x[wrong], digits = digits, width = 1, format = "g")
  }
  ifelse(is.na(x), "", text)
}

export <- function(name, package, folder) {
  data <- as.data.frame(getExportedValue(package, name))
  text <- lapply(data, function(column) if (is.numeric(column)) shortest(column) else as.character(column))
  lines <- c(paste(names(data), collapse = ","), do.call(paste, c(unname(text), sep = ",")))
  path <- file.path(folder, paste0(tolower(name), ".csv", if (name %in% compressed) ".gz"))
  connection <- if (name %in% compressed) gzfile(path, "wb", compression = 9) else file(path, "wb")
  on.exit(close(connection))
  writeLines(lines, connection, sep = "\n")
}

arguments <- commandArgs(trailingOnly = TRUE)
folder <- if (length(arguments)) arguments[1] else file.path("lmmlite", "datasets")
for (package in names(classics)) for (name in classics[[package]]) export(name, package, folder)
