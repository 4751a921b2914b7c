# The callout "In R" of chapter 20. The three models have the optimisers of the source.
suppressMessages(library(lmerTest))

labs <- read.csv("lmmlite/datasets/labs.csv")
lmm1 <- lmer(y ~ x + (1 | Group), labs, REML = FALSE, control = lmerControl("Nelder_Mead"))
lmm2 <- lmer(y ~ x + (1 | Group) + (0 + x | Group), labs, REML = FALSE, control = lmerControl("bobyqa"))

cat("== lmm3 ==\n")
lmm3 <- lmer(y ~ x + (1 + x | Group), labs, control = lmerControl("Nelder_Mead"))
VarCorr(lmm3)
isSingular(lmm3)

cat("== table ==\n")
anova(lmm1, lmm2, lmm3)

cat("== pinned ==\n")
labs$far <- (labs$x - 119.19) / 100
pinned <- lmer(y ~ x + (0 + far | Group), labs)
VarCorr(pinned)
isSingular(pinned)
c(REMLcrit(lmm3), REMLcrit(pinned))
