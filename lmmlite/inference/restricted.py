"""The ML deviance of a model with one parameter held fixed, and its minimum: what a profile is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from lmmlite.criterion import Criterion, Derivatives
from lmmlite.solution import Solution


@dataclass(frozen=True)
class Restricted:
    """The ML deviance with one parameter held fixed, a function of φ with θ = Lφ.

    With τ = log σ² it is log|V| + nτ + r²e^(−τ); τ is the best one, ``tau``, or ``tau`` − log t² with t the entry
    ``tied`` of θ; entries ``same_sign`` of φ must not change theirs.
    """

    criterion: Criterion
    L: np.ndarray
    tau: float | None = None
    tied: int | None = None
    same_sign: Sequence[int] = ()

    def evaluate(self, phi: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, float, Solution]:
        """Deviance, gradient, Hessian, σ² and the solution."""
        theta, n = self.L @ phi, self.criterion.nu
        s, log_V, r = self._parts(theta)
        tau, dtau, d2tau, m = self.tau, np.zeros(len(theta)), np.zeros((len(theta),) * 2), self.tied
        if tau is None:
            tau, dtau = np.log(s.r2 / n), r[0] / s.r2
        elif m is not None:
            tau, dtau[m], d2tau[m, m] = tau - np.log(theta[m] ** 2), -2 / theta[m], 2 / theta[m] ** 2
        e = np.exp(-tau)
        slope = n - s.r2 * e  # ∂/∂τ
        gradient = log_V[0] + e * r[0] + slope * dtau
        mixed = np.outer(r[0], dtau)
        hessian = log_V[1] + e * (r[1] - mixed - mixed.T + s.r2 * np.outer(dtau, dtau)) + slope * d2tau
        cp = self.criterion.cp
        value = s.log_V + n * (tau + np.log(2 * np.pi * cp.basis.scale**2)) + s.r2 * e - cp.log_weights
        return float(value), self.L.T @ gradient, self.L.T @ hessian @ self.L, cp.basis.scale**2 / e, s

    def _parts(self, theta: np.ndarray) -> tuple[Solution, tuple, tuple]:
        """Solution, then gradient and Hessian of log|V| and of r²: the terms of `Derivatives`, not yet added."""
        c = self.criterion
        T = [t.factor(theta) for t in c.cp.templates]
        s = Solution(c.cp, [B @ t for B, t in zip(c.maps, T, strict=True)])
        d = Derivatives(c, s)
        gradients, curvatures, D = np.empty((2, c.size)), np.zeros((2, c.size, c.size)), []
        for g, (t, N, B) in enumerate(zip(c.cp.templates, d.traces(), c.maps, strict=True)):
            half = B @ t.directions @ s.T[g].T
            D.append(half + half.swapaxes(1, 2))
            for i, G in enumerate((B.T @ N @ B, -B.T @ d.ww[g] @ B)):
                gradients[i, t.index] = 2 * (G @ T[g])[t.rows, t.cols]
                curvatures[i][np.ix_(t.index, t.index)] = 2 * G[np.ix_(t.rows, t.rows)] * (t.cols[:, None] == t.cols)
        curvatures[0] -= d.products(D)
        curvatures[1] += 2 * d.quadratic(D)
        return s, (gradients[0], curvatures[0]), (gradients[1], curvatures[1])

    def minimise(self, phi: np.ndarray) -> np.ndarray:
        """φ of the least deviance, by Newton with absolute eigenvalues, a cap on the step, and backtracking."""
        value, gradient, hessian, *_ = self.evaluate(phi)
        for _ in range(100 if len(phi) else 0):
            values, vectors = eigh(hessian)
            size = np.clip(np.abs(values), 1e-8 * np.abs(values).max() + 1e-300, None)
            step = -vectors @ (vectors.T @ gradient / size)
            decrement = float(-gradient @ step) / 2
            if decrement < 1e-8:
                break
            fraction = float(np.minimum(1.0, (0.5 + np.linalg.norm(phi)) / np.linalg.norm(step)))
            while fraction > 1e-10:
                to = phi + fraction * step
                new = self.evaluate(to)
                allowed = all(to[i] * phi[i] > 0 for i in self.same_sign)
                if allowed and new[0] <= value - 1e-4 * fraction * decrement + 1e-12 * abs(value):
                    break
                fraction /= 3
            else:
                break
            phi = to
            value, gradient, hessian = new[:3]
        return phi
