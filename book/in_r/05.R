# The callout "In R" of chapter 5.
suppressMessages(library(lme4))
options(width = 70)

cat("== matrices ==\n")
sleep <- read.csv("lmmlite/datasets/sleepstudy.csv")
fit <- lmer(Reaction ~ Days + (Days | Subject), data = sleep)
dim(getME(fit, "Z"))
getME(fit, "Z")[1:3, 1:4]
VarCorr(fit)$Subject
getME(fit, "theta")
