# The callout "In R" of chapter 4.
suppressMessages(library(lme4))

cat("== variances ==\n")
exam <- read.csv("lmmlite/datasets/exam.csv")
fit <- lmer(normexam ~ 1 + (1 | school), data = exam)
v <- as.data.frame(VarCorr(fit))
v
v$vcov[1] / sum(v$vcov)

cat("== performance ==\n")
full <- lmer(normexam ~ standLRT + (1 | school), data = exam)
performance::icc(full)
