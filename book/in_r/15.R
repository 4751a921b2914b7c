# The "In R" callouts of chapter 15. Run from the root of the project: Rscript book/in_r/15.R
suppressPackageStartupMessages({
  library(lme4)
  library(merTools)
  foreach::registerDoSEQ()
})
sleepstudy <- read.csv("lmmlite/datasets/sleepstudy.csv")
sleepstudy$Subject <- factor(sleepstudy$Subject)
fit <- lmer(Reaction ~ Days + (Days | Subject), data = sleepstudy)

cat("== r2 ==\n")
performance::r2_nakagawa(fit)

cat("== predict ==\n")
new <- data.frame(Days = 9, Subject = c("308", "999"))
predict(fit, new, re.form = NA)
predict(fit, new, allow.new.levels = TRUE)

cat("== predictInterval ==\n")
set.seed(15)
known <- data.frame(Days = 9, Subject = "308")
round(predictInterval(fit, known, level = 0.95, n.sims = 10000), 1)

cat("== versions ==\n")
for (p in c("lme4", "merTools", "performance")) cat(p, as.character(packageVersion(p)), "\n")
