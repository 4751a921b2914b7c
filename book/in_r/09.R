# The callout "In R" of chapter 9.
suppressMessages(library(lme4))

cat("== REML ==\n")
dye <- read.csv("lmmlite/datasets/dyestuff.csv")
fit <- lmer(Yield ~ 1 + (1 | Batch), data = dye)
fit

cat("== ML ==\n")
refitML(fit)
