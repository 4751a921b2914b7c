# The callout "In R" of chapter 3.
suppressMessages(library(lme4))

cat("== growth ==\n")
growth <- read.csv("lmmlite/datasets/growth.csv")
fit <- lmer(arm ~ age + (1 | id), data = growth)
summary(fit)
