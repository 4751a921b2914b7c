# The callout "In R" of chapter 6. Its rows are the pilot that the chapter draws with NumPy.
suppressMessages(library(lme4))

cat("== pilot ==\n")
pilot <- read.csv("book/in_r/pilot.csv")
fit <- lmer(normexam ~ 1 + (1 | school), data = pilot)
summary(fit)
head(as.data.frame(ranef(fit)), 3)
