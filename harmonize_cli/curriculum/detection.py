"""How well a score tells wrong samples from right ones, with bootstrap intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
METRICS = ("auroc", "ap", "p@1%", "p@5%", "p@10%")


@dataclass(frozen=True, slots=True)
class Detection:
    """metrics: name -> (value, low, high). defined: share of samples with a score."""

    metrics: dict[str, tuple[float, float, float]]
    defined: float


def detect(
    suspicion: Floats, wrong: NDArray[np.bool_], *, draws: int = 300, seed: int = 0, level: float = 0.95
) -> Detection:
    """Metrics of `suspicion` [N] (high: noisy) against the truth `wrong` [N]; NaN scores are left out.

    Intervals: percentiles of `draws` resamples of the samples.
    """
    ok = np.isfinite(suspicion)
    x, y = np.asarray(suspicion, np.float64)[ok], wrong[ok]
    if not y.any() or y.all():
        nothing = (float("nan"),) * 3
        return Detection(dict.fromkeys(METRICS, nothing), float(ok.mean()))
    point = _metrics(x, y)
    rng = np.random.default_rng(seed)
    resampled = []
    for _ in range(draws):
        pick = rng.integers(len(x), size=len(x))
        if y[pick].any() and not y[pick].all():
            resampled.append(_metrics(x[pick], y[pick]))
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(np.array(resampled), tails, axis=0)
    found = {n: (float(p), float(a), float(b)) for n, p, a, b in zip(METRICS, point, low, high, strict=True)}
    return Detection(found, float(ok.mean()))


def _metrics(x: Floats, y: NDArray[np.bool_]) -> list[float]:
    return [auroc(x, y), average_precision(x, y), *(precision_at(x, y, share) for share in (0.01, 0.05, 0.1))]


def auroc(x: Floats, y: NDArray[np.bool_]) -> float:
    """Chance that a wrong sample scores above a right one; ties count half."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]
    wrong = int(y.sum())
    right = len(y) - wrong
    return float((ranks[y].sum() - wrong * (wrong + 1) / 2) / (wrong * right))


def average_precision(x: Floats, y: NDArray[np.bool_]) -> float:
    """Mean precision at each wrong sample; tied scores share one threshold."""
    order = np.argsort(-x, kind="stable")
    hits = np.cumsum(y[order])
    last = np.append(np.flatnonzero(np.diff(x[order])), len(x) - 1)
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def precision_at(x: Floats, y: NDArray[np.bool_], share: float) -> float:
    """Share of wrong samples among the `share` with the highest scores; of ties at the edge the mean."""
    k = max(1, round(share * len(x)))
    edge = np.partition(x, len(x) - k)[len(x) - k]
    above, at = x > edge, x == edge
    return float((y[above].sum() + y[at].mean() * (k - above.sum())) / k)
