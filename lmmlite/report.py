"""The sentence and the table that one would publish, as text, Markdown or LaTeX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pandas as pd

from lmmlite.inference.ddf import Method, coefficients

if TYPE_CHECKING:
    from lmmlite.model import MixedModel

Format = Literal["text", "markdown", "latex"]
_METHODS = {"satterthwaite": "Satterthwaite's", "kenward-roger": "Kenward and Roger's"}


def report(fit: MixedModel, style: Format = "text", ddf: Method = "satterthwaite", level: float = 0.95) -> str:
    """Describe a fit as a paper would: model, method, sample, random SDs; then the table of fixed effects.

    Parameters
    ----------
    style : {"text", "markdown", "latex"}
    ddf, level
        As in `MixedModel.contrast`.
    """
    if style not in ("text", "markdown", "latex"):
        raise ValueError(f"style is 'text', 'markdown' or 'latex', not {style!r}.")
    table = coefficients(fit, ddf, level)
    published = pd.DataFrame(
        {
            "term": table.index,
            "estimate": [f"{v:.4g}" for v in table["estimate"]],
            "SE": [f"{v:.3g}" for v in table["std_error"]],
            f"{100 * level:g} % CI": [
                f"{a:.4g} to {b:.4g}" for a, b in zip(table["conf_low"], table["conf_high"], strict=True)
            ],
            **({} if ddf == "normal" else {"df": [f"{v:.1f}" for v in table["df"]]}),
            "z" if ddf == "normal" else "t": [f"{v:.2f}" for v in table["statistic"]],
            "p": [_p(v) for v in table["p_value"]],
        }
    )
    return sentence(fit, ddf) + "\n\n" + _TABLES[style](published)


def sentence(fit: MixedModel, ddf: Method) -> str:
    """One paragraph: what was fitted to what, how, and how large the random variation is."""
    groups = " and ".join(f"{size} levels of {name}" for name, size in fit.ngroups.items())
    left_out = f"{fit.n_missing} row{'s' * (fit.n_missing > 1)}"
    missing = f" ({left_out} with missing values left out)" if fit.n_missing else ""
    sds = fit.varcorr[fit.varcorr["term2"] == ""]
    parts = [f"{r.sd_or_corr:.3g} for {r.term1} by {r.group}" for r in sds.iloc[:-1].itertuples()]
    singular = " The fit is singular: the data do not support all of these variances." if fit.is_singular else ""
    method = f"{_METHODS[ddf]} degrees of freedom" if ddf != "normal" else "the normal approximation"
    return (
        f"A linear mixed model, {fit.formula}, was fitted by {'REML' if fit.reml else 'maximum likelihood'} to {fit.nobs} rows"
        f"{missing} in {groups}. Standard deviations of the random effects were {', '.join(parts)}; the residual standard "
        f"deviation was {fit.sigma:.3g}.{singular} Tests and intervals use {method}."
    )


def _markdown(table: pd.DataFrame) -> str:
    rows = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)


def _latex(table: pd.DataFrame) -> str:
    special = str.maketrans({c: f"\\{c}" for c in "_%&#$"} | {"<": "$<$"})
    lines = [" & ".join(str(cell).translate(special) for cell in row) + r" \\" for row in table.to_numpy().tolist()]
    head = " & ".join(name.translate(special) for name in table.columns) + r" \\"
    columns = "l" + "r" * (table.shape[1] - 1)
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"\hline", head, r"\hline", *lines, r"\hline", r"\end{tabular}"]
    )


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


_TABLES = {"text": lambda table: table.to_string(index=False), "markdown": _markdown, "latex": _latex}
