"""Generated models of every kind end in an optimum that nothing beats, or in an error that says why (`make campaign`: thousands)."""

from __future__ import annotations

import pytest
from generated_models import TOLERATED, WORSE, fit, generate, shortfall

RESTARTS = 4


@pytest.mark.parametrize("block", range(12))
def test_no_start_leads_to_a_better_fit(block: int) -> None:
    for seed in range(10 * block, 10 * block + 10):
        model = generate(seed)
        try:
            fitted = fit(model)
        except ValueError as error:
            if len(str(error)) < 40:
                raise
            continue
        assert fitted.converged, (seed, model.formula)
        decrement, worse = shortfall(fitted, seed, RESTARTS)
        assert decrement <= TOLERATED, (seed, model.formula, decrement)
        assert worse <= WORSE, (seed, model.formula, worse)
