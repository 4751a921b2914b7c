"""θ from which the search starts: covariances by the method of moments, or variances by backfitting where large factors are crossed."""

from __future__ import annotations

import numpy as np

from lmmlite import blocks
from lmmlite.covariance import canonical, to_theta
from lmmlite.criterion import Criterion
from lmmlite.crossproducts import CrossProducts
from lmmlite.solution import Solution

_FEW_COLUMNS = 300  # of the rest, up to which they are worth removing for a better start
_ROUNDS, _SWEEPS = 8, 2  # of backfitting: updates of the variances, and sweeps over the factors before each


def starting_theta(criterion: Criterion) -> np.ndarray:
    """A unitless θ, neither near zero nor huge in any direction of a block."""
    cp, maps = criterion.cp, criterion.unitless().maps
    if cp.rest.q > _FEW_COLUMNS and not cp.above:
        covariances = [np.diag(cp.weight * ratio) for ratio in backfitted(cp)]
    else:
        inverses = (np.linalg.inv(B) for B in maps)
        covariances = [B @ Psi @ B.T for B, Psi in zip(inverses, moments(cp, criterion.reml), strict=True)]
    factors = [np.zeros_like(Psi) for Psi in covariances]
    for t, T, Psi in zip(cp.templates, factors, covariances, strict=True):
        for own in (slice(*block) for block in t.blocks):
            values, vectors = np.linalg.eigh(Psi[own, own])
            T[own, own] = canonical(vectors * np.sqrt(np.clip(values, 0.01, 100.0)))
    return to_theta(cp.templates, factors)


def moments(cp: CrossProducts, reml: bool = True) -> list[np.ndarray]:
    """Ψ, the covariance of the random effects over σ², for each grouping factor as if there were no other: (k, k).

    Notes
    -----
    With w_l = Z_l'y of the residuals y of least squares, M_l = Z_l'Z_l and (REML) M̃_l = M_l − Z_l'X(X'X)⁻¹X'Z_l,

        Σ_l w_l w_l' ≈ σ² Σ_l (M̃_l + (M̃_l Ψ M_l + M_l Ψ M̃_l)/2)    in expectation,

    which Ψ = S⁻¹(Σ w_l w_l'/σ² − Σ M̃_l)S⁻¹ solves, with S² = Σ (M̃_l M_l + M_l M̃_l)/2, where all M_l are the same.  In a balanced
    design it is the estimate of the analysis of variance, which REML gives, too, unless it is singular.
    """
    null = Solution(cp, [np.zeros((t.k, t.k)) for t in cp.templates])
    residual, out = _no_pooling_variance(cp), []
    for M, w, U in zip(cp.ZZ, null.w, null.U, strict=True):
        X = U.swapaxes(0, 1)
        left = M - reml * blocks.matmul(X, X)
        MM = M.reshape(len(M), -1) @ left.reshape(len(M), -1).T
        values, vectors = np.linalg.eigh(MM + MM.T)
        size = np.sqrt(np.maximum(values / 2, max(1e-12 * values[-1], 1e-300)))
        inverse = vectors / size @ vectors.T
        out.append(inverse @ (w @ w.T / residual - left.sum(axis=2)) @ inverse)
    return out


def _no_pooling_variance(cp: CrossProducts) -> float:
    """σ² of least squares with the random effects as fixed ones, in the units of the summed y; 0.5 where nothing is left.

    Those of the rest only where they are few.
    """
    left, freedom = cp, cp.n - np.count_nonzero(np.diagonal(cp.R))
    while left.W.own:  # within the levels of one factor after the other
        left = left.after(left.W)
        freedom -= np.count_nonzero(np.diagonal(left.R) ** 2 > 1e-9)  # what earlier levels explain is left as rounding
    W, c = left.W.tail, len(left.W.tail) - 1
    within = W[-1, -1]
    if c <= _FEW_COLUMNS:
        values, vectors = np.linalg.eigh(W[:c, :c])
        kept = values > 1e-9 * cp.n
        within -= ((vectors[:, kept].T @ W[:c, -1]) ** 2 / values[kept]).sum()
        freedom -= np.count_nonzero(kept)
    return float(np.clip(within / freedom, 1e-6, 1.0)) if freedom > 0.1 * cp.n else 0.5


def backfitted(cp: CrossProducts) -> list[np.ndarray]:
    """τ²/σ² of each coefficient, from effects b̃ that are shrunk factor by factor in turn; X stays as it is.

    τ² = Σ b̃²/γ with γ = Σ_l 1 − (C_l)_aa σ²/τ² and C_l = (Z_l'Z_l + Ψ⁻¹)⁻¹, as if there were no other factor (MacKay 1992, Neural
    Computation 4:415: γ counts the well-determined effects).  This needs products of the cross-products with vectors only.
    """
    q, rest = cp.rest.q, cp.rest
    y, W_y, W = cp.Rd[:, -1], cp.W.tail[:q, -1], cp.W.tail[:q, :q]

    def of_rest(e: np.ndarray) -> np.ndarray:
        return np.sum([rest.cross(v, d[None])[:, 0] for v, d in zip(rest.values, e, strict=True)], axis=0)

    Zy = {cp.first: blocks.matmul(cp.R, y), **_by_factor(cp, W_y + of_rest(y))}
    b = {g: np.zeros_like(z) for g, z in Zy.items()}
    ratio = {g: np.full(len(z), 0.2 / cp.weight) for g, z in Zy.items()}
    total = cp.W.tail[-1, -1] + (y**2).sum()
    for _ in range(_ROUNDS):
        F = {g: _shrinkage(cp.ZZ[g], ratio[g]) for g in b}
        for _ in range(_SWEEPS):
            for g in b:
                others = b | {g: np.zeros_like(b[g])}
                b_rest = np.concatenate([others[h].ravel() for h, _ in cp.others])
                e = (
                    y
                    - np.einsum("abl,bl->al", cp.R, others[cp.first])
                    - np.stack([rest.apply(v, b_rest[None])[0] for v in rest.values])
                )
                left = blocks.matmul(cp.R, e) if g == cp.first else _by_factor(cp, W_y + of_rest(e) - W @ b_rest)[g]
                b[g] = blocks.matmul(F[g], np.einsum("abl,bl->al", F[g], left))
        variance = max(total - sum(np.vdot(b[g], Zy[g]) for g in b), 1e-6 * total) / cp.n
        for g, effects in b.items():
            known = effects.shape[1] - (F[g] ** 2).sum(axis=(0, 2)) / ratio[g]
            ratio[g] = np.clip(
                (effects**2).sum(axis=1) / np.maximum(known, 1e-300) / variance, 1e-4 / cp.weight, 1e4 / cp.weight
            )
    return [ratio[g] for g in range(len(ratio))]


def _shrinkage(ZZ: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """F_l with F_l'F_l = (Z_l'Z_l + Ψ⁻¹)⁻¹, Ψ = diag(τ²/σ²): (k, k, L)."""
    k, L = ZZ.shape[1:]
    H = ZZ + np.diag(1 / ratio)[:, :, None]
    return blocks.forward(blocks.cholesky(H), np.repeat(np.eye(k)[:, :, None], L, axis=2))


def _by_factor(cp: CrossProducts, values: np.ndarray) -> dict[int, np.ndarray]:
    """Values of the rest (q,) as (k, levels) of each of its grouping factors."""
    return {g: values[place].reshape(cp.templates[g].k, -1) for g, place in cp.others}
