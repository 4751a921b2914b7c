# The callout "In R" of chapter 10.
suppressMessages(library(lme4))

sleepstudy <- read.csv("lmmlite/datasets/sleepstudy.csv")

cat("== fit ==\n")
fit <- lmer(Reaction ~ Days + (Days | Subject), data = sleepstudy)
summary(fit)
getME(fit, "theta")

cat("== criterion ==\n")
print(REMLcrit(fit), digits = 10)
devfun <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy, devFunOnly = TRUE)
print(devfun(c(1, 0, 0)), digits = 12)
fit@optinfo$feval
