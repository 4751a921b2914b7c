"""Fit generated models by the thousand and look for better optima from random starts; writes benchmarks/campaign.md.

python tools/campaign.py            5,000 models, ten restarts each (about ten minutes on two cores)
python tools/campaign.py 200        the first 200; nothing is written
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from joblib import Parallel, delayed

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from generated_models import RESTARTS, TOLERATED, WORSE, fit, generate, shortfall  # noqa: E402

ERRORS = {
    "random effects for": "as many random effects as rows",
    "one level": "grouping factor of one level",
    "one for each": "a level for each row",
    "residual variance goes to zero": "residual variance goes to zero",
    "rounding": "residual variance lost in rounding",
    "cannot estimate": "more fixed effects than rows",
    "constant": "constant response",
    "same value in every row": "constant random coefficient",
}


def outcome(seed: int) -> tuple[str, str]:
    """What became of a model: its kind, and for a beaten one which it is."""
    model = generate(seed)
    try:
        fitted = fit(model)
    except ValueError as error:
        named = next((name for words, name in ERRORS.items() if words in str(error)), str(error)[:60])
        return f"error: {named}", ""
    label = f"seed {seed}: `{model.formula}`, {len(model.data)} rows ({', '.join(model.kinds)})"
    decrement, worse = shortfall(fitted, seed)
    if worse > WORSE:
        return "beaten by a restart", f"{label}: by {worse:.1e}"
    if not fitted.converged or decrement > TOLERATED:
        return "fit with the warning that the search did not converge", label
    return ("singular fit" if fitted.is_singular else "fit"), ""


def main(count: int | None) -> None:
    found = Parallel(n_jobs=2)(delayed(outcome)(seed) for seed in range(count or 5000))
    table = Counter(kind for kind, _ in found).most_common()
    lines = [f"| {kind} | {n} |" for kind, n in table]
    examples = [f"- {kind}: {text}" for kind, text in found if text]
    text = f"""# Campaign

{len(found):,} models made from seeds (`tests/generated_models.py`: designs × terms × variances from none to huge × units × missing values ×
weights), each fitted, then searched again from {RESTARTS} random θ. Beaten means: by more than {WORSE:g} in minus twice the log-likelihood.

| outcome | models |
|---|---|
{chr(10).join(lines)}

What is beaten or not converged (most of it tiny, or nearly without noise):

{chr(10).join(examples)}
"""
    print(text)
    if count is None:
        (ROOT / "benchmarks" / "campaign.md").write_text(text, encoding="utf8")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else None)
