"""Linear mixed models: lmer-style formulas, exact ML and REML, in a library small enough to read."""

from lmmlite.criterion import Criterion
from lmmlite.crossproducts import crossproducts
from lmmlite.datasets import dataset_card, dataset_names, load_dataset
from lmmlite.design import build_design
from lmmlite.expressions import FormulaError
from lmmlite.formula import parse_formula
from lmmlite.inference.bootstrap import pb_compare
from lmmlite.inference.compare import compare
from lmmlite.inference.rlrt import exact_lrt, exact_rlrt
from lmmlite.means import means, pairwise
from lmmlite.model import MixedModel, lmer, load
from lmmlite.optimize import minimize
from lmmlite.power import power
from lmmlite.report import report

__version__ = "0.1.0"
__all__ = [
    "Criterion",
    "FormulaError",
    "MixedModel",
    "build_design",
    "compare",
    "crossproducts",
    "dataset_card",
    "dataset_names",
    "exact_lrt",
    "exact_rlrt",
    "lmer",
    "load",
    "load_dataset",
    "means",
    "minimize",
    "pairwise",
    "parse_formula",
    "pb_compare",
    "power",
    "report",
]
