# The callout "In R" of chapter 2.
suppressMessages(library(lmerTest))

labs <- read.csv("lmmlite/datasets/labs.csv")
labs$Group <- factor(labs$Group)

cat("== partial pooling ==\n")
lmm1 <- lmer(y ~ x + (1 | Group), data = labs, REML = FALSE)
summary(lmm1)
coef(lmm1)$Group[1, ]
ranef(lmm1)$Group[1, ]

cat("== no pooling ==\n")
no <- lm(y ~ x + Group, labs, contrasts = list(Group = "contr.sum"))
coef(summary(no))[1:2, ]
