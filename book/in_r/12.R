# The callout "In R" of chapter 12.
politeness <- read.csv("lmmlite/datasets/politeness.csv")

cat("== Satterthwaite ==\n")
suppressMessages(library(lmerTest))
summary(lmer(frequency ~ attitude + gender + (1 | subject) + (1 | scenario), politeness))
