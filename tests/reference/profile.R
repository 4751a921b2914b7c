# Profile intervals by lme4 and bootstrap tests by pbkrtest, written to profile.json.
#
#   Rscript tests/reference/profile.R      (from the top of the repository; about five minutes)
#
# The profiles are stepped four times as finely as lme4's default, since its interval ends come from a spline between the points.

suppressMessages({ library(lme4); library(pbkrtest); library(jsonlite) })
table_of <- function(name) {
  data <- read.csv(file.path("lmmlite", "datasets", paste0(name, ".csv")))
  for (group in intersect(c("Subject", "Batch", "plate", "sample", "batch", "cask", "school"), names(data)))
    data[[group]] <- factor(data[[group]])
  data
}

models <- list(
  list(dataset = "sleepstudy", formula = "Reaction ~ Days + (Days | Subject)", level = 0.95),
  list(dataset = "sleepstudy", formula = "Reaction ~ Days + (Days || Subject)", level = 0.9),
  list(dataset = "dyestuff", formula = "Yield ~ 1 + (1 | Batch)", level = 0.95),
  list(dataset = "dyestuff2", formula = "Yield ~ 1 + (1 | Batch)", level = 0.95),
  list(dataset = "penicillin", formula = "diameter ~ 1 + (1 | plate) + (1 | sample)", level = 0.95),
  list(dataset = "pastes", formula = "strength ~ 1 + (1 | batch / cask)", level = 0.8),
  list(dataset = "schools", formula = "extro ~ open + agree + social + (1 | school)", level = 0.99)
)
intervals <- lapply(models, function(model) {
  fit <- lmer(as.formula(model$formula), table_of(model$dataset), REML = TRUE)
  ends <- confint(profile(fit, delta.cutoff = 1 / 32, maxpts = 400), level = model$level)
  model$rows <- lapply(seq_len(nrow(ends)), function(i) unname(ends[i, ]))
  model$lme4_names <- rownames(confint(fit, method = "Wald"))
  model
})

few <- droplevels(subset(table_of("sleepstudy"), Subject %in% c(308, 309, 310, 330, 331)))
large <- lmer(Reaction ~ Days + (Days | Subject), few, REML = FALSE)
small <- lmer(Reaction ~ 1 + (Days | Subject), few, REML = FALSE)
test <- PBmodcomp(large, small, nsim = 4000, seed = 1)
reference <- PBrefdist(large, small, nsim = 4000, seed = 1)
bootstrap <- list(statistic = test$test["LRT", "stat"], p_value = test$test["PBtest", "p.value"], mean = mean(reference),
                  sd = sd(reference), nsim = length(reference))
write_json(list(lme4 = as.character(packageVersion("lme4")), pbkrtest = as.character(packageVersion("pbkrtest")),
                intervals = intervals, bootstrap = bootstrap),
           file.path("tests", "reference", "profile.json"), auto_unbox = TRUE, digits = NA, pretty = TRUE)
