"""`make bench-probe`: logistic regression by the torch solver against scikit-learn, at one optimum."""

from typing import Any

import numpy as np
import torch
from harness import Row, row, run, seconds
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from harmonize_cli.evaluation.classifiers.lbfgs import fit_softmax

GAP = 1e-6
"""Relative distance from the best objective seen at which a fit counts as arrived."""


def bench_probe(
    *, rows: int = 100_000, dims: int = 1024, classes: int = 10, c: float = 0.1, device: str = "cpu"
) -> list[Row]:
    """Logistic regression: the torch solver against scikit-learn, until both stand at the same optimum.

    The features have the spectrum 1 / rank that representations of networks are known for, rotated and
    standardised, in float32 for both. scikit-learn runs with ever smaller `tol` until its objective is within
    `GAP` of the optimum; only that last run is counted.
    """
    x, y = _task(rows, dims, classes)
    tensors = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
    fits = []
    ours = seconds(lambda: fits.append(next(fit_softmax(*tensors, [c], classes))), device)
    fit = fits[0]
    value = _objective(x, y, fit.weights.cpu().numpy(), fit.bias.cpu().numpy(), c)
    for tolerance in (1e-4, 1e-5, 1e-6, 1e-7):
        model = LogisticRegression(C=c, tol=tolerance, max_iter=10_000)
        theirs = seconds(lambda: model.fit(x, y))  # noqa: B023
        other = _objective(x, y, model.coef_, model.intercept_, c)
        if other <= value * (1 + GAP):
            break
    best = min(value, other)
    return [
        row(f"{rows:,} x {dims:,}, {classes} classes, C = {c:g}: torch", ours, "s", ours / theirs),
        row(f"the same by scikit-learn (tol {tolerance:g})", theirs, "s"),
        row("times faster", theirs / ours),
        row("steps of the torch solver", float(fit.steps)),
        row("steps of scikit-learn", float(model.n_iter_[0])),
        row("objective above the best, torch", (value / best - 1) * 1e6, "ppm"),
        row("objective above the best, scikit-learn", (other / best - 1) * 1e6, "ppm"),
    ]


def _task(rows: int, dims: int, classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    spectrum = (1 / np.arange(1, dims + 1, dtype=np.float32)) ** 0.5
    hidden = rng.standard_normal((rows, dims), dtype=np.float32) * spectrum.astype(np.float32)
    truth = rng.standard_normal((dims, classes), dtype=np.float32) * 3 / np.linalg.norm(spectrum)
    y = (hidden @ truth + rng.gumbel(size=(rows, classes))).argmax(axis=1)
    turn, _ = np.linalg.qr(rng.standard_normal((dims, dims)))
    x = hidden @ turn.astype(np.float32)
    x -= x.mean(axis=0)
    x /= x.std(axis=0)
    return x.astype(np.float32), y.astype(np.int64)


def _objective(
    x: NDArray[np.float32], y: NDArray[np.int64], weights: NDArray[Any], bias: NDArray[Any], c: float
) -> float:
    """Mean loss + |W|^2 / (2 C N), logits in float64."""
    logits = (x @ weights.T.astype(np.float32)).astype(np.float64) + bias
    logits -= logits.max(axis=1, keepdims=True)
    loss = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]
    return float(loss.mean() + (weights.astype(np.float64) ** 2).sum() / 2 / c / len(y))


if __name__ == "__main__":
    run(bench_probe)
