# The callout "In R" of chapter 13.
suppressMessages(library(lme4))

schools <- read.csv("lmmlite/datasets/schools.csv")

cat("== profile intervals ==\n")
m <- lmer(extro ~ open + agree + social + (1 | school), data = schools)
confint(m, level = 0.99)

cat("== names and Wald intervals ==\n")
confint(m, level = 0.99, oldNames = FALSE)
confint(m, method = "Wald")
