"""Fit generated models by the thousand, look for better optima from random starts and from peers; writes benchmarks/campaign.md.

python tools/campaign.py            7,000 models, ten restarts each; glmm fits all that it can, lme4 every twelfth (half an hour)
python tools/campaign.py 200        the first 200; nothing is written
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from generated_models import RESTARTS, TOLERATED, WORSE, Model, fit, generate, rounding, shortfall, violation  # noqa: E402

from lmmlite.covariance import canonical  # noqa: E402

COUNT, EVERY = 7000, 12  # models in all; of which lme4 fits one in so many
FRESH = 6000  # the seed from which on no model was looked at when the restarts were chosen
VERDICTS = ("wins", "ties", "losses", "error of the peer", "cannot")
CANNOT = {  # what glmm says of models that it does not offer
    "intercept suppression": "random slopes without intercept",
    "double-bar": "||",
    "poly(": "poly",
    "numeric fixed term": "a random slope without its fixed effect",
    "syntax error": "terms such as (x | g:h)",
}
ERRORS = {
    "random effects for": "as many random effects as rows",
    "has one level": "factor of one level",
    "one for each": "a level for each row",
    "levels for": "a level for each row",
    "goes to zero": "residual variance goes to zero",
    "rounding": "residual variance lost in rounding",
    "cannot estimate the variances": "variances that the data cannot estimate",
    "cannot estimate": "more fixed effects than rows",
    "is constant": "constant response",
    "same value in every row": "constant random coefficient",
    "linearly dependent": "dependent random coefficients",
    "not finite": "polynomial of degree two in a covariate of two values",
}


@dataclass
class Outcome:
    """What became of a model: its kind, for a bad one which it is, and the verdict on glmm with a difference or a reason."""

    seed: int
    kind: str
    text: str = ""
    glmm: tuple[str, str] | None = None


def rows(model: Model) -> pd.DataFrame:
    """The rows without missing values in the columns that the model uses; labels of groups as text."""
    used = [c for c in model.data if c == model.weights or re.search(rf"\b{c}\b", model.formula)]
    return model.data.dropna(subset=used).astype(dict.fromkeys("ghk", str))


def verdict(fitted: Any, reported: float, theta: np.ndarray) -> tuple[str, str]:
    """Our criterion against a peer's: who has the lower one, and the difference.

    Where they differ ours is evaluated at the peer's θ, for a peer may report another number than that of its own estimates.
    """
    difference = reported - fitted.criterion
    if not abs(difference) <= WORSE and theta.shape == (fitted.criterion_function.size,):
        try:
            difference = fitted.criterion_function.evaluate(theta).value - fitted.criterion
        except (FloatingPointError, ValueError):
            difference = np.inf
    if difference < -max(WORSE, rounding(fitted)):
        return "losses", f"{-difference:.1e}"
    return ("ties" if difference <= WORSE else "wins"), f"{difference:.1e}"


def by_glmm(model: Model, fitted: Any) -> tuple[str, str]:
    """The verdict on glmm: for models that it offers."""
    import glmm

    data, formula = rows(model), model.formula
    weights = None if model.weights is None else data[model.weights].to_numpy()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = glmm.fit(data, formula, reml=model.reml, weights=weights, wald_se="rx", satterthwaite=False)
    except Exception as error:
        reason = str(error)
        cannot = next((words for words in CANNOT if words in reason), None)
        return ("cannot", CANNOT[cannot]) if cannot else ("error of the peer", reason[:80])
    if not np.isfinite(found.loglik):
        return "error of the peer", "no likelihood: " + ", ".join(sorted({w["title"] for w in found.warnings}))
    factors = {}
    for (name, columns), packed in zip(found.re_groups, found.varcorr, strict=False):  # none where the fit failed
        V = np.zeros((len(columns),) * 2)
        V[np.tril_indices(len(V))] = np.array(packed) / found.dispersion
        values, vectors = np.linalg.eigh(V)
        T = canonical(vectors * np.sqrt(np.clip(values, 0, None)))
        factors[frozenset(name.split(":"))] = T.T[np.triu_indices(len(T))]
    theta = [factors.get(frozenset(term.bar.factors), np.empty(0)) for term in fitted.design.terms]
    return verdict(fitted, -2 * found.loglik, np.concatenate(theta))


def by_lme4(seeds: list[int]) -> dict[int, tuple[str, str]]:
    """The verdicts on lme4, all models fitted in one process of R."""
    models, cases = {seed: generate(seed) for seed in seeds}, []
    with tempfile.TemporaryDirectory() as folder:
        for seed, model in models.items():
            path = f"{folder}/{seed}.csv"
            rows(model).to_csv(path, index=False)
            weighted = model.weights is not None
            cases.append({"csv": path, "formula": model.formula, "reml": model.reml, "weighted": weighted})
        Path(folder, "cases.json").write_text(json.dumps(cases), encoding="utf8")
        subprocess.run(
            ["Rscript", ROOT / "tools" / "campaign.R", f"{folder}/cases.json", f"{folder}/results.json"], check=True
        )
        results = json.loads(Path(folder, "results.json").read_text(encoding="utf8"))
    return {seed: _of_lme4(models[seed], result) for seed, result in zip(seeds, results, strict=True)}


def _of_lme4(model: Model, result: dict[str, Any]) -> tuple[str, str]:
    if "error" in result:
        return "error of the peer", result["error"].splitlines()[0][:80]
    fitted = fit(model)
    if "f ||" in model.formula:
        return "cannot", "|| with a factor (there one covariance matrix)"
    reported = float(result["criterion"])  # may be "Inf" or "NaN"
    if not np.isfinite(reported):
        return "error of the peer", f"criterion {reported:g}"
    return verdict(fitted, reported, _from_lme4(fitted, np.array(result["theta"], float)))


def _from_lme4(fitted: Any, theta: np.ndarray) -> np.ndarray:
    """θ in the order of the formula: lme4 has the terms with most levels first, and of equal ones the last."""
    sizes, levels = [], []
    for term in fitted.design.terms:
        for size in term.sizes:
            sizes.append(size * (size + 1) // 2)
            levels.append(fitted.design.groups[term.group].size)
    order = np.argsort(levels, kind="stable")[::-1] if np.any(np.diff(levels) > 0) else np.arange(len(levels))
    if len(theta) != sum(sizes):
        return np.empty(0)
    parts = dict(zip(order, np.split(theta, np.cumsum([sizes[i] for i in order])[:-1]), strict=True))
    return np.concatenate([parts[i] for i in range(len(sizes))])


def outcome(seed: int) -> Outcome:
    model = generate(seed)
    try:
        fitted = fit(model)
    except ValueError as error:
        named = next((name for words, name in ERRORS.items() if words in str(error)), str(error)[:60])
        return Outcome(seed, f"error: {named}")
    label = f"`{model.formula}`, {len(model.data)} rows ({', '.join(model.kinds)})"
    glmm, worse = by_glmm(model, fitted), shortfall(fitted, seed)
    if worse > max(WORSE, rounding(fitted)):
        return Outcome(seed, BEATEN, f"{label}: by {worse:.1e}", glmm)
    if max(violation(fitted)) > max(TOLERATED, rounding(fitted)):
        return Outcome(seed, NOT_OPTIMAL[fitted.converged], label, glmm)
    return Outcome(seed, "singular fit" if fitted.is_singular else "fit", "rounding" if worse > WORSE else "", glmm)


def report(found: list[Outcome], lme4: dict[int, tuple[str, str]]) -> str:
    kinds = Counter(o.kind for o in found).most_common()
    peers = {"glmm": {o.seed: o.glmm for o in found if o.glmm}, "lme4": lme4}
    columns = {name: Counter(kind for kind, _ in verdicts.values()) for name, verdicts in peers.items()}
    lost, why = [], []
    for name, verdicts in peers.items():
        for seed, (kind, text) in verdicts.items():
            if kind == "losses":
                lost.append(f"- {name}: seed {seed}: `{generate(seed).formula}`: by {text}")
        reasons = Counter(v for v in verdicts.values() if v[0] in ("cannot", "error of the peer"))
        why += [f"- {name}, {kind}: {text}: {n}" for (kind, text), n in reasons.most_common()]
    bad = [f"- {o.kind}: seed {o.seed}: {o.text}" for o in found if o.text and o.text != "rounding"]
    return TEXT.format(
        count=len(found),
        restarts=RESTARTS,
        worse=WORSE,
        fresh=FRESH,
        later=sum(o.seed >= FRESH for o in found),
        beaten=sum(o.seed >= FRESH and o.kind == BEATEN for o in found),
        close=sum(o.text == "rounding" for o in found),
        glmm=version("glmm"),
        every=EVERY,
        kinds="\n".join(f"| {kind} | {n} |" for kind, n in kinds),
        peers="\n".join(f"| {kind} | {columns['glmm'][kind]} | {columns['lme4'][kind]} |" for kind in VERDICTS),
        bad="\n".join(bad) or "Nothing.",
        lost="\n".join(lost) or "None.",
        why="\n".join(why),
    )


def main(count: int | None) -> None:
    found = Parallel(n_jobs=2)(delayed(outcome)(seed) for seed in range(count or COUNT))
    text = report(found, by_lme4([o.seed for o in found if o.seed % EVERY == 0 and o.glmm]))
    print(text)
    if count is None:
        (ROOT / "benchmarks" / "campaign.md").write_text(text, encoding="utf8")


BEATEN = "beaten by a restart"
NOT_OPTIMAL = {
    True: "called converged, but the optimality conditions do not hold",
    False: "fit with the warning that the search did not converge",
}
TEXT = """# Campaign

{count:,} models made from seeds (`tests/generated_models.py`: designs × terms × variances from none to huge × units over 24 orders ×
offsets to 10⁸ × nearly collinear, single-precision and integer columns × missing values × weights over up to eight orders), each fitted and
checked for the optimality conditions, then searched again from {restarts} random θ.  Beaten means: by more than {worse:g} in minus twice the
log-likelihood.

| outcome | models |
|---|---|
{kinds}

In {close} of the fits a restart ends lower by more than {worse:g} but by less than rounding can tell: r² = y'Py is a difference of numbers
as large as y'y, and Z'PZ of numbers as large as n TT', so that the criterion is known to about 4·10⁻¹⁶ n times the larger of ν/r² (y'y being n) and
the largest entry of T squared.  They count as fits.

Beaten, or not optimal:

{bad}

## Peers

glmm {glmm} on every fitted model that it offers; lme4 (bobyqa to 10⁻⁹) on every {every}th.  Win, tie, loss: the peer's criterion is higher than
ours by more than {worse:g}, equal within that, or lower.  Where the reported numbers differ, our criterion at the peer's θ decides.

| against | glmm | lme4 |
|---|---|---|
{peers}

Losses:

{lost}

What the peers cannot fit or do not survive:

{why}

## What remains

A restart can still find a better minimum.  With few groups that tell something, or residuals that are tiny beside the random effects, the
criterion has several minima, and nobody knows them all in advance.  A fit to up to 100 rows, or whose first search was hard, or ended at a
singular T, or whose groups tell very different amounts, is searched again from about two dozen starts of different kinds
(`lmmlite/restarts.py`).  The kinds and their numbers were chosen by what they found, and cost, on models of earlier campaigns.  Of the
{later:,} models here from seed {fresh:,} on, which had no part in that, beaten: {beaten}.

Some data leave no maximum to be found; the fit then ends in an error that says so.  Fixed effects can give every group a mean of its own,
so that no variance between groups is left to estimate; or the criterion falls, ever more slowly, while the residual variance goes to zero.
Where the residual variance is below about 10⁻⁸ of the response's, the last digits of the criterion are rounding.
"""


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else None)
