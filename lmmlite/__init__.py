"""Linear mixed models: lmer-style formulas, exact ML and REML, in a library small enough to read."""

from lmmlite.criterion import Criterion
from lmmlite.crossproducts import crossproducts
from lmmlite.datasets import dataset_card, dataset_names, load_dataset
from lmmlite.design import build_design
from lmmlite.expressions import FormulaError
from lmmlite.formula import parse_formula
from lmmlite.model import MixedModel, lmer
from lmmlite.optimize import minimize

__version__ = "0.1.0"
__all__ = [
    "Criterion",
    "FormulaError",
    "MixedModel",
    "build_design",
    "crossproducts",
    "dataset_card",
    "dataset_names",
    "lmer",
    "load_dataset",
    "minimize",
    "parse_formula",
]
