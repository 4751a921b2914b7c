# The callout "In R" of chapter 18.
suppressMessages(library(lme4))

schools <- read.csv("lmmlite/datasets/schools.csv")

cat("== profile intervals ==\n")
m <- lmer(extro ~ open + agree + social + (1 | school), data = schools)
confint(m, level = 0.99)

cat("== effects of schools ==\n")
ranef(m, condVar = TRUE)

cat("== exact test ==\n")
RLRsim::exactRLRT(m)

cat("== simulated effects ==\n")
set.seed(1)
merTools::REsim(m)
