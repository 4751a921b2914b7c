# What the "In R" callouts of chapter 16 show.  Run from the root of the project: Rscript book/in_r/16.R
suppressPackageStartupMessages(library(lme4))

sleepstudy <- read.csv("lmmlite/datasets/sleepstudy.csv", colClasses = c(Subject = "factor"))
fit <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy)

cat("== leverage ==\n")
print(round(sum(hatvalues(fit)), 3))

cat("== standardised ==\n")
standardised <- resid(fit, scaled = TRUE) / sqrt(1 - hatvalues(fit))
print(round(standardised[abs(standardised) > 3], 2))

cat("== subjects ==\n")
without <- influence(fit, groups = "Subject")
cook <- cooks.distance(without)
print(round(sort(cook, decreasing = TRUE)[1:4], 3))
print(round(dfbeta(without)[c("309", "332", "335"), ], 2))
print(round(dfbetas(without)[c("309", "332", "335"), ], 2))
