# The callout "In R" of chapter 8.
suppressMessages(library(lme4))

cat("== nested ==\n")
pastes <- read.csv("lmmlite/datasets/pastes.csv")
summary(lmer(strength ~ 1 + (1 | batch/cask), data = pastes))

cat("== labels ==\n")
isNested(factor(pastes$cask), factor(pastes$batch))
isNested(factor(pastes$sample), factor(pastes$batch))
