"""The summary of a fit as a statistician expects it, in text and HTML, and the one-line repr."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmmlite.inference.ddf import Method, coefficients

if TYPE_CHECKING:
    from lmmlite.model import MixedModel


def describe(fit: MixedModel) -> str:
    """What a fit says of itself at the prompt."""
    groups = ", ".join(f"{name} {size}" for name, size in fit.ngroups.items())
    notes = [", singular"] * fit.is_singular + [", NOT CONVERGED"] * (not fit.converged)
    method = "REML" if fit.reml else "ML"
    return (
        f"<MixedModel {fit.formula} by {method}: {fit.nobs} rows ({groups}), "
        f"{'REML criterion' if fit.reml else 'deviance'} {fit.criterion:.4f}{''.join(notes)}>"
    )


class Summary:
    """Text (``print``) and HTML (in a notebook) of a fit; the parts are data frames.

    Attributes
    ----------
    random : DataFrame
        group, term, variance, SD and the correlations with the terms before.
    fixed : DataFrame
        Estimate, standard error, degrees of freedom, t and p of each fixed effect.
    correlation : DataFrame
        Correlations of the fixed-effect estimates.
    """

    def __init__(self, fit: MixedModel, ddf: Method):
        self._fit, self._ddf = fit, ddf
        table = coefficients(fit, ddf, 0.95).rename(columns={"statistic": "t"})
        self.fixed = table[["estimate", "std_error", "df", "t", "p_value"]]
        self.random = _random_table(fit)
        self.correlation: pd.DataFrame = fit.vcov.div(fit.se, axis=0).div(fit.se, axis=1)

    def _head(self) -> list[tuple[str, str]]:
        fit = self._fit
        missing = f", {fit.n_missing} left out for missing values" if fit.n_missing else ""
        rows = [("formula", fit.formula)]
        if fit.reml:
            rows.append(("REML criterion", f"{fit.criterion:.4f}"))
        else:
            parts = {"AIC": fit.aic, "BIC": fit.bic, "log-likelihood": fit.loglik, "deviance": fit.deviance}
            rows.append(("fit", ", ".join(f"{name} {value:.2f}" for name, value in parts.items())))
        if fit.design.has_rows:
            r = fit.residuals("scaled").quantile([0, 0.25, 0.5, 0.75, 1])
            quantiles = zip(("min", "1Q", "median", "3Q", "max"), r, strict=True)
            rows.append(("scaled residuals", "  ".join(f"{name} {v:.3f}" for name, v in quantiles)))
        rows.append(("rows", f"{fit.nobs}{missing}; groups: " + ", ".join(f"{g} {n}" for g, n in fit.ngroups.items())))
        return rows

    def _notes(self) -> list[str]:
        fit, notes = self._fit, []
        if fit.design.dropped:
            notes.append(f"Left out as linear combinations of earlier columns: {', '.join(fit.design.dropped)}.")
        if fit.is_singular:
            notes.append(
                "The fit is singular: a random term has a direction of zero variance (a variance of 0 or a correlation of ±1), "
                "so the data do not support it in full."
            )
        if not fit.converged:
            notes.append("The search did not converge; the numbers are not the optimum.")
        return notes

    def _title(self) -> str:
        return f"Linear mixed model fit by {'REML' if self._fit.reml else 'maximum likelihood'}"

    def _tables(self) -> list[tuple[str, pd.DataFrame]]:
        fixed = self.fixed.copy()
        fixed["estimate"], fixed["std_error"] = _digits(fixed["estimate"]), _digits(fixed["std_error"])
        fixed["df"], fixed["t"] = fixed["df"].map("{:.2f}".format), fixed["t"].map("{:.3f}".format)
        fixed["p_value"] = fixed["p_value"].map(_p_value)
        method = {"satterthwaite": "Satterthwaite's df", "kenward-roger": "Kenward–Roger df", "normal": "Wald z"}[
            self._ddf
        ]
        tables = [("Random effects", self.random), (f"Fixed effects ({method})", fixed)]
        if 1 < len(fixed) <= 6:  # a larger table hides more than it shows; it is in .correlation
            lower = self.correlation.map("{:.3f}".format).where(np.tri(len(fixed), k=-1, dtype=bool), "")
            tables.append(("Correlation of fixed effects", lower.iloc[1:, :-1]))
        return tables

    def __str__(self) -> str:
        lines = [self._title(), *(f"  {name}: {text}" for name, text in self._head())]
        for title, table in self._tables():
            index = title != "Random effects"
            lines += ["", f"{title}:", *(f"  {line}" for line in table.to_string(index=index).split("\n"))]
        return "\n".join(lines + ["", *self._notes()]).rstrip()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        import html

        head = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in self._head())
        parts = [f'<div class="lmmlite-summary"><p><strong>{self._title()}</strong></p><table>{head}</table>']
        for title, table in self._tables():
            parts.append(f"<p><strong>{title}</strong></p>{table.to_html(index=title != 'Random effects', border=0)}")
        parts += [f"<p>{html.escape(note)}</p>" for note in self._notes()]
        return "".join(parts) + "</div>"


def _random_table(fit: MixedModel) -> pd.DataFrame:
    rows = []
    width = max(len(terms) for _, terms, _ in fit.covariances)
    for group, terms, cov in fit.covariances:
        sd = np.sqrt(np.diag(cov))
        for i, term in enumerate(terms):
            products = sd[i] * sd[:i]
            corr = [f"{c / p:.3f}" if p else "nan" for c, p in zip(cov[i, :i], products, strict=True)]
            rows.append([group if i == 0 else "", term, cov[i, i], sd[i], *corr, *[""] * (width - 1 - i)])
    rows.append(["Residual", "", fit.sigma**2, fit.sigma, *[""] * (width - 1)])
    table = pd.DataFrame(rows, columns=["group", "term", "variance", "sd", *["corr", *[""] * (width - 2)][: width - 1]])
    table["variance"], table["sd"] = _digits(table["variance"]), _digits(table["sd"])
    return table


def _digits(values: pd.Series) -> pd.Series:
    """Five significant digits each, never in exponent form for ordinary sizes."""
    return (values * (1 + 1e-12)).map(  # a tie, as 2451.25 of balanced data, shall not depend on rounding errors
        lambda v: f"{v:.5g}" if v == 0 or 1e-4 <= abs(v) < 1e5 else f"{v:.4e}" if abs(v) < 1e-4 else f"{v:.1f}"
    )


def _p_value(p: float) -> str:
    return "<1e-16" if p < 1e-16 else f"{p:.3g}" if p < 1e-4 else f"{p:.4f}"
