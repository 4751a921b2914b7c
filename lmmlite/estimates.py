"""What a solved criterion says about β, b and σ, in the user's units: pure functions on arrays.

Equations in the notation of `criterion`; (k, levels) arrays of random effects, levels last inside, first outside.
"""

from __future__ import annotations

import numpy as np

from lmmlite.criterion import Criterion, Evaluation
from lmmlite.solution import Solution

_ENTRIES = 1 << 21  # of arrays with all coefficients of the rest for some levels


def sigma(criterion: Criterion, s: Solution) -> float:
    """σ̂ = √(r²/ν), ν = n (ML) or n − p (REML)."""
    return float(criterion.cp.basis.scale * np.sqrt(s.r2 / criterion.nu))


def fixed_effects(s: Solution) -> tuple[np.ndarray, np.ndarray]:
    """β̂ = (X'V⁻¹X)⁻¹X'V⁻¹y and (X'V⁻¹X)⁻¹, V for σ = 1."""
    basis, q = s.cp.basis, s.cp.rest.q
    beta = basis.beta + basis.scale * basis.to_user @ s.coefficients[q:]
    return beta, basis.to_user @ s.beta_covariance @ basis.to_user.T


def factors(criterion: Criterion, theta: np.ndarray) -> list[np.ndarray]:
    """T of each grouping factor in the user's units."""
    return [t.factor(theta) for t in criterion.cp.templates]


def random_effects(criterion: Criterion, e: Evaluation) -> list[np.ndarray]:
    """b̃ = ΛΛ'Z'Py of each grouping factor, (levels, k): the conditional modes."""
    scale = criterion.cp.basis.scale
    return [
        scale * (T @ ((B @ T).T @ w)).T
        for T, B, w in zip(factors(criterion, e.theta), criterion.maps, e.solution.w, strict=True)
    ]


def conditional_covariances(criterion: Criterion, e: Evaluation) -> list[np.ndarray]:
    """Var(b | y, β) = σ²Λ(Λ'Z'ZΛ + I)⁻¹Λ' of each grouping factor, its diagonal blocks (levels, k, k) (Bates et al. eq. 56)."""
    cp, s = criterion.cp, e.solution
    variance, q = sigma(criterion, s) ** 2, cp.rest.q
    G = s.inverse(known_beta=True)
    out: list[np.ndarray] = [np.empty(0)] * len(cp.templates)
    for g, T in enumerate(factors(criterion, e.theta)):
        S = np.linalg.solve(criterion.maps[g], s.T[g])  # the rotation of T in which u stands
        if g not in dict(cp.others):
            k, L = len(T), cp.sizes[g]
            C, size = np.empty((k, k, L)), max(1, _ENTRIES // (k * (cp.nested.shape[1] + q + cp.p + 1)))
            for start in range(0, L, size):
                levels = np.arange(start, min(start + size, L))
                v = np.repeat(S.T[:, :, None], len(levels), axis=2)
                C[:, :, levels] = s.covariance(
                    {g: [(levels, v)]}, np.zeros((q + cp.p, k, len(levels))), known_beta=True
                )
            out[g] = variance * C.transpose(2, 0, 1)
        else:
            place = dict(cp.others)[g]
            own = G[place, place].reshape(len(T), cp.sizes[g], len(T), cp.sizes[g])
            out[g] = variance * np.einsum("ac,cldl,bd->lab", S, own, S, optimize=True)
    return out
