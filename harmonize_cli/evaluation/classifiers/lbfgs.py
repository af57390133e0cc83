"""Multinomial logistic regression in torch, for training sets that scikit-learn takes minutes for.

Same objective, same optimum: C sum_i loss_i + |W|^2 / 2, intercepts free. What costs a plain L-BFGS its
steps is that feature dimensions are correlated. Here it works on U with W = U L^-1, where L L^T is the
Hessian's block of one class, averaged over classes: covariance weighted by p (1 - p), plus the decay. The
first steps are nearly Newton's. The transform touches [K, D] only, never the data, and the metric is
refreshed once the probabilities have left their start.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

METRIC_ROWS = 8
"""Rows per dimension that the metric is estimated from: it only steers the steps."""
WARM_STEPS = 6
"""Steps with the metric of the start before it is refreshed."""


@dataclass(frozen=True, slots=True)
class Fit:
    """weights [K, D], bias [K] (mean zero over classes); the objective divided by C N, steps, and the
    largest component of its gradient."""

    weights: Tensor
    bias: Tensor
    objective: float
    steps: int
    gradient: float


def fit_softmax(
    x: Tensor,
    y: Tensor,
    grid: Sequence[float],
    classes: int,
    *,
    tolerance: float = 1e-5,
    max_steps: int = 500,
) -> Iterator[Fit]:
    """One fit per value of C, each starting from the one before.

    Args:
        x: features [N, D], float32 or float64, on the device that is to do the work.
        y: class numbers [N] in 0..classes-1.
        tolerance: largest component of the gradient of the mean objective at which a fit is done, the
            rule that scikit-learn's `tol` stands for.
    """
    problem = _Problem(x, y, classes)
    weights, bias = x.new_zeros(classes, x.shape[1]), x.new_zeros(classes)
    for c in grid:
        decay, steps = 1 / (c * len(x)), 0
        for limit in (WARM_STEPS, max_steps):
            fit = problem.solve(weights, bias, decay, tolerance=tolerance, max_steps=limit)
            weights, bias, steps = fit.weights, fit.bias, steps + fit.steps
            if fit.gradient <= tolerance:
                break
        yield Fit(weights, bias, fit.objective, steps, fit.gradient)


class _Problem:
    def __init__(self, x: Tensor, y: Tensor, classes: int) -> None:
        self.x, self.y, self.classes = x, y, classes
        self.mean = x.mean(dim=0)
        step = max(1, len(x) // (METRIC_ROWS * x.shape[1]))
        self.some = x[::step] - self.mean
        self.rows = torch.arange(len(x), device=x.device)

    def solve(self, weights: Tensor, bias: Tensor, decay: float, *, tolerance: float, max_steps: int) -> Fit:
        """At most `max_steps` steps with the metric of this start."""
        # with centred features the intercept is nearly independent of W: it moves on its own scale
        shifted = bias + weights @ self.mean
        root, scale = self._metric(weights, shifted, decay)
        u = (weights @ root).requires_grad_()
        v = (shifted * scale).requires_grad_()
        state: dict[str, float] = {"largest": float("inf"), "loss": float("inf")}

        def closure() -> Tensor:
            with torch.no_grad():
                w = torch.linalg.solve_triangular(root, u, upper=False, left=False)
                loss, grad, slope = self._value(w, v / scale, decay)
                # the gradient with respect to W at fixed plain intercept decides when it is enough
                plain = grad + slope[:, None] * self.mean
                state["loss"] = float(loss)
                state["largest"] = float(torch.maximum(plain.abs().max(), slope.abs().max()))
                done = state["largest"] <= tolerance
                u.grad = torch.linalg.solve_triangular(root, grad.T, upper=False).T if not done else 0 * u
                v.grad = slope / scale if not done else 0 * v
            return loss

        optimiser = torch.optim.LBFGS(
            [u, v],
            max_iter=max_steps,
            history_size=20,
            tolerance_grad=0,  # the closure zeroes the gradient when it is small in plain space
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )
        optimiser.step(closure)  # type: ignore[no-untyped-call]
        closure()
        steps = int(optimiser.state[u]["n_iter"])
        with torch.no_grad():
            w = torch.linalg.solve_triangular(root, u, upper=False, left=False)
            b = v / scale - w @ self.mean
        return Fit(w.detach(), (b - b.mean()).detach(), state["loss"], steps, state["largest"])

    def _value(self, w: Tensor, shifted: Tensor, decay: float) -> tuple[Tensor, Tensor, Tensor]:
        """Mean objective, its gradient in W at fixed `shifted` intercept, and in the intercept."""
        logits = torch.addmm(shifted - w @ self.mean, self.x, w.T)
        top = logits.max(dim=1, keepdim=True).values
        own = logits[self.rows, self.y]
        logits.sub_(top).exp_()
        total = logits.sum(dim=1, keepdim=True)
        loss = (total.log() + top).squeeze(1).sub_(own).sum(dtype=torch.float64) / len(self.x)
        logits.div_(total)
        logits[self.rows, self.y] -= 1
        # [K, N] x [N, D]: the other way round (what autograd does) is many times slower on a CPU
        grad = (logits.T @ self.x).div_(len(self.x))
        slope = logits.mean(dim=0)
        grad -= slope[:, None] * self.mean
        grad += decay * w
        return loss + decay / 2 * w.square().sum(dtype=torch.float64), grad, slope

    def _metric(self, weights: Tensor, shifted: Tensor, decay: float) -> tuple[Tensor, float]:
        """Cholesky factor of the averaged Hessian block of W [D, D], and the root of the intercept's."""
        p = torch.softmax(torch.addmm(shifted, self.some, weights.T), dim=1)
        spread = (p * (1 - p)).mean(dim=1)
        weighted = self.some * spread.sqrt()[:, None]
        block = weighted.T @ weighted / len(weighted)
        # on few rows the estimate has null directions that the whole set has not: a touch of its mean
        block.diagonal().add_(decay + 1e-3 * float(block.diagonal().mean()))
        return torch.linalg.cholesky(block), max(float(spread.mean()), 1e-6) ** 0.5
