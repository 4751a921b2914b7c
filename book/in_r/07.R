# The callouts "In R" of chapter 7.
suppressMessages(library(lme4))

cat("== random slope ==\n")
sleep <- read.csv("lmmlite/datasets/sleepstudy.csv")
fit <- lmer(Reaction ~ Days + (Days | Subject), data = sleep)
summary(fit)

cat("== double bar ==\n")
VarCorr(lmer(Reaction ~ Days + (Days || Subject), data = sleep))

cat("== singular fit, default optimiser ==\n")
labs <- read.csv("lmmlite/datasets/labs.csv")
fit <- lmer(y ~ x + (1 + x | Group), data = labs)
VarCorr(fit); REMLcrit(fit)

cat("== singular fit, Nelder-Mead ==\n")
fit <- update(fit, control = lmerControl(optimizer = "Nelder_Mead"))
VarCorr(fit); REMLcrit(fit)
