"""The joint distribution of fixed and random effects given y: errors of any combination, simulated effects, ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.linalg import lapack
from scipy.special import ndtr

from lmmlite import blocks
from lmmlite.chain import times_parent
from lmmlite.solution import Solution

if TYPE_CHECKING:
    from lmmlite.model import MixedModel


class JointErrors:
    """Covariance of the errors (β̂ − β, b̂ − b) over σ² at fixed θ: the inverse C of Henderson's matrix, never formed.

    With b = Λu: the rest, [u_r β], has covariance G; given it, level l of the first grouping factor has covariance
    M_l⁻¹ = (I + T'Z_l'Z_lT)⁻¹ and regresses on the rest with −H_l', H_l = Λ'[Z_r X]'V₁⁻¹Z_lT.  So for a row a = (x, z) with
    v = T'z on each grouping factor, and r its part on the rest,

        a'Ca = v₁'M_l⁻¹v₁ + (r − H_lv₁)'G(r − H_lv₁).

    In a chain the rest of a level includes its levels above, and the same step is repeated for them.

    Attributes
    ----------
    T : list of (k, k) arrays
        Relative covariance factors in the user's units, in the rotation of the solution (not triangular).

    References
    ----------
    Henderson (1975). Biometrics 31:423.  Bates, Mächler, Bolker & Walker (2015). JSS 67(1), section 3.
    """

    _ENTRIES = 1 << 21  # of H at a time

    def __init__(self, fit: MixedModel):
        self.s, self.cp = fit._at.solution, fit._cp
        self.T = [np.linalg.solve(B, T) for B, T in zip(fit.criterion_function.maps, self.s.T, strict=True)]

    def pieces(self, t: Solution, levels: np.ndarray, width: int = 1) -> Iterator[np.ndarray]:
        """These levels of the first grouping factor of t, so many at a time that H, or ``width`` numbers for each, stay small."""
        cp = t.cp
        size = max(1, self._ENTRIES // (max(width, len(self.s.coefficients) + cp.nested.shape[1]) * len(cp.R)))
        return (levels[start : start + size] for start in range(0, len(levels), size))

    def variances(self, x: np.ndarray, codes: list[np.ndarray], zT: list[np.ndarray]) -> np.ndarray:
        """a'Ca of n rows: x (n, p), level codes and v' = z'T (n, k) of each grouping factor; those with code −1 count as zero."""
        x = x @ self.cp.basis.to_user
        v = [np.where(code[:, None] < 0, 0.0, values) for code, values in zip(codes, zT, strict=True)]
        codes = [np.maximum(code, 0) for code in codes]
        if self.s.inner:
            parts = self.pieces(self.s, np.arange(len(x)))
            return np.concatenate([self._in_chain(x[n], [c[n] for c in codes], [u[n] for u in v]) for n in parts])
        return self._by_level(x, codes, v)

    def _in_chain(self, x: np.ndarray, codes: list[np.ndarray], v: list[np.ndarray]) -> np.ndarray:
        """Where factors are nested in one another: each row carried through all of them."""
        cp, n = self.cp, np.arange(len(x))
        rest = np.zeros((cp.rest.q + cp.p, 1, len(x)))
        rest[cp.rest.q :, 0] = x.T
        for g, place in cp.others:
            for a, column in enumerate(v[g].T):
                rest[place.start + a * cp.sizes[g] + codes[g], 0, n] = column
        eliminated = set(range(len(v))) - {g for g, _ in cp.others}
        return self.s.covariance({g: [(codes[g], v[g].T[:, None])] for g in eliminated}, rest)[0, 0]

    def _by_level(self, x: np.ndarray, codes: list[np.ndarray], v: list[np.ndarray]) -> np.ndarray:
        """Otherwise, for speed: rows of one level of the first factor have H_l and GH_l in common."""
        cp, G, first = self.cp, self.s.G, self.cp.first
        r = [(np.full(len(x), cp.rest.q + j), column) for j, column in enumerate(x.T)]  # places and values of r
        for g, place in cp.others:
            start = place.start + codes[g]
            r += [(start + a * cp.sizes[g], column) for a, column in enumerate(v[g].T)]
        out = np.zeros(len(x))
        for i, (at, value) in enumerate(r):
            out += value * value * G[at, at]
            for other, factor in r[:i]:
                out += 2 * value * factor * G[at, other]
        order = np.argsort(codes[first], kind="stable")
        order = order[v[first][order].any(axis=1)]
        for levels in self.pieces(self.s, np.unique(codes[first][order])):
            part = order[slice(*np.searchsorted(codes[first][order], [levels[0], levels[-1] + 1]))]
            m = np.searchsorted(levels, codes[first][part])
            F, H = self.s.regression(levels)
            GH = np.tensordot(G, H, 1)
            own, w = blocks.matmul(F, F) + blocks.matmul(H, GH), v[first][part].T
            out[part] += np.einsum("an,abn,bn->n", w, own[:, :, m], w)
            for at, value in r:
                out[part] -= 2 * value[part] * (GH[at[part], :, m] * w.T).sum(axis=1)
        return out

    def draws(self, n: int, rng: np.random.Generator) -> Iterator[tuple[int, Any, np.ndarray]]:
        """n joint draws of the errors over σ, piece by piece: (−1, all, β (p, n)), then (grouping factor, levels, b (m, k, n))."""
        s, cp, c = self.s, self.cp, len(self.s.coefficients)
        normal = rng.standard_normal((c, n))
        rest = lapack.dtrtrs(s.L, normal, lower=1, trans=1)[0] if c else normal
        yield -1, slice(None), cp.basis.to_user @ rest[cp.rest.q :]
        for g, place in cp.others:
            u = rest[place].reshape(len(self.T[g]), cp.sizes[g], n)
            yield g, slice(None), np.einsum("ab,bmn->man", self.T[g], u)
        u_above: dict[int, np.ndarray] = {}
        for t in reversed(s.stages):
            g = t.cp.first
            drawn = []
            for levels in self.pieces(t, np.arange(cp.levels(g)), n):
                F, H = t.regression(levels)
                normal = rng.standard_normal((len(F), len(levels), n))
                u = blocks.matmul(F[..., None], normal)
                for up, place, parent in t.cp.above:
                    u -= times_parent(parent[levels], u_above[up].transpose(2, 0, 1), H[place]).transpose(1, 2, 0)
                u -= np.einsum("ckm,cn->kmn", H[t.nested.shape[1] :], rest, optimize=True)
                if t is not s:
                    drawn.append(u)
                if g < len(self.T):
                    yield g, levels, np.einsum("ab,bmn->man", self.T[g], u)
            u_above[g] = np.concatenate(drawn, axis=1) if drawn else np.empty(0)
            if g == cp.clusters.code:
                for f, u in cp.clusters.spread(u_above[g].swapaxes(1, 2)).items():
                    yield f, slice(None), np.einsum("ab,bnm->man", self.T[f], u)


def simulate_effects(fit: MixedModel, n: int = 1000, seed: Any = None) -> pd.DataFrame:
    """Mean, median and SD of fixed and random effects drawn from their joint distribution given y.

    Given θ and σ, (β, b) is normal about (β̂, b̃) with σ² times the inverse of Henderson's matrix as its covariance (β under a flat
    prior).  The rows of a random effect describe its own margin, over all draws of β: its SD is the prediction standard
    error √Var(b̃ − b), not the smaller `MixedModel.ranef_sd`, which holds β fixed.  In a balanced design with six groups, say, it
    is nearly τ/√6: how far the six lie from their common mean is known well, but not where the mean of all groups is.  That
    uncertainty is shared and cancels in differences of groups and in sums like intercept + effect, which `predict` reports.

    Parameters
    ----------
    n : int
        Number of draws.
    seed : int, Generator or None

    Returns
    -------
    DataFrame
        Columns ``effect group level term mean median sd``: the fixed effects (effect ``fixed``, no group or level), then every
        coefficient of every level (effect ``ran_vals``).

    References
    ----------
    Henderson (1975). Biometrics 31:423.  Gelman & Hill (2007). Data analysis using regression and multilevel models, ch. 7
    (``sim`` in their R package arm, summarised by REsim and FEsim in merTools; they draw σ, too).
    """
    if n < 2:
        raise ValueError(f"n must be at least 2, not {n}: one draw has no SD.")
    estimates = [*fit._b, fit.fixef.to_numpy()]
    numbers = [np.empty((*estimate.shape, 3)) for estimate in estimates]
    for g, levels, error in JointErrors(fit).draws(n, np.random.default_rng(seed)):
        draws = estimates[g][levels][..., None] + fit.sigma * error
        of_draws = [draws.mean(axis=-1), np.median(draws, axis=-1), draws.std(axis=-1, ddof=1)]
        numbers[g][levels] = np.stack(of_draws, axis=-1)
    rows: list[tuple] = [("fixed", None, None, term) for term in fit.fixef.index]
    for group, b in fit.ranef().items():
        rows += [("ran_vals", group, level, term) for level in b.index for term in b.columns]
    out = pd.DataFrame(rows, columns=["effect", "group", "level", "term"])
    out[["mean", "median", "sd"]] = np.vstack([x.reshape(-1, 3) for x in (numbers[-1], *numbers[:-1])])
    return out


def expected_rank(fit: MixedModel, group: str, term: str = "Intercept") -> pd.DataFrame:
    """Expected rank of each level: ranks that allow for the uncertainty of the estimates.

    ER_j = 1 + Σ_{k≠j} Φ((b̃_j − b̃_k)/√(v_j + v_k)) with v the conditional variances; 1 is the lowest.  Levels of which little is known
    move towards the middle rank.  L levels take L² normal probabilities.

    Returns
    -------
    DataFrame
        By level, columns ``estimate sd expected_rank percentile``; percentile is 100 (ER − ½)/L.

    References
    ----------
    Lingsma, Steyerberg, Eijkemans et al. (2010). Comparing and ranking hospitals based on outcome. QJM 103:99.
    ``expectedRank`` in the R package merTools (which rounds the percentile, and prints v as ``std.error``).
    """
    v, names = fit.ranef_cov(group), list(fit.ranef()[group].columns)
    if term not in names:
        raise ValueError(f"'{term}' does not vary over '{group}'; {', '.join(names)} can be ranked.")
    j = names.index(term)
    b, variance = fit.ranef()[group].iloc[:, j], np.maximum(v[:, j, j], 0.0)
    if not variance.any():
        raise ValueError(f"The variance of '{term}' over '{group}' is estimated as zero: its levels have no ranks.")
    values, L = b.to_numpy(), len(b)
    rank = np.array(
        [0.5 + ndtr((x - values) / np.sqrt(s + variance)).sum() for x, s in zip(values, variance, strict=True)]
    )
    out = {"estimate": values, "sd": np.sqrt(variance), "expected_rank": rank, "percentile": 100 * (rank - 0.5) / L}
    return pd.DataFrame(out, b.index)
