# The callout "In R" of chapter 14. The three models have the optimisers of the source.
suppressMessages(library(lme4))

labs <- read.csv("lmmlite/datasets/labs.csv")
dyestuff <- read.csv("lmmlite/datasets/dyestuff.csv")

cat("== three models ==\n")
lmm1 <- lmer(y ~ x + (1 | Group), labs, REML = FALSE, control = lmerControl("Nelder_Mead"))
lmm2 <- lmer(y ~ x + (1 | Group) + (0 + x | Group), labs, REML = FALSE, control = lmerControl("bobyqa"))
lmm3 <- lmer(y ~ x + (1 + x | Group), labs, control = lmerControl("Nelder_Mead"))
anova(lmm1, lmm2, lmm3)

cat("== one variance ==\n")
lmerTest::ranova(lmer(Yield ~ 1 + (1 | Batch), dyestuff))

cat("== exact test ==\n")
set.seed(1); RLRsim::exactRLRT(lmer(Yield ~ 1 + (1 | Batch), dyestuff))
