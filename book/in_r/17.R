# The callout "In R" of chapter 17.
suppressMessages(library(lmerTest))

voices <- read.csv("lmmlite/datasets/politeness.csv")

cat("== attitude ==\n")
fit <- lmer(frequency ~ attitude + gender + (1 | subject) +
              (1 | scenario), data = voices)
without <- update(fit, . ~ . - attitude)
anova(without, fit)
coef(summary(fit, ddf = "Kenward-Roger"))

cat("== random terms ==\n")
ranova(fit)

cat("== maximal model ==\n")
maximal <- lmer(frequency ~ attitude + gender +
  (attitude | subject) + (attitude | scenario), data = voices)
isSingular(maximal)
print(VarCorr(maximal), digits = 3)
