# The callout "In R" of chapter 1.
suppressMessages(library(lme4))

voices <- read.csv("lmmlite/datasets/politeness.csv")

cat("== least squares ==\n")
summary(lm(frequency ~ attitude + gender, data = voices))

cat("== mixed model ==\n")
summary(lmer(frequency ~ attitude + gender +
               (1 | subject) + (1 | scenario), data = voices))
