"""Means over seeds, differences from the baseline seed by seed, and the share of the gap to the oracle."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.curriculum.methods import BASELINE, ORACLE

Floats = NDArray[np.float64]


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and its t interval over seeds; NaN bounds for one seed."""
    from scipy.stats import t

    x = np.asarray(values, np.float64)
    if len(x) < 2:
        return float(x.mean()), float("nan"), float("nan")
    half = t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def gap_closed(
    method: Sequence[float], base: Sequence[float], oracle: Sequence[float], *, draws: int = 5000
) -> tuple[float, float, float]:
    """(method - base) / (oracle - base) of the means over seeds, with a bootstrap over seeds (paired)."""
    m, b, o = (np.asarray(x, np.float64) for x in (method, base, oracle))
    pick = np.random.default_rng(0).integers(len(m), size=(draws, len(m)))
    gaps = (o - b)[pick].mean(1)
    shares = (m - b)[pick].mean(1)[gaps > 0] / gaps[gaps > 0]
    gap = (o - b).mean()
    if gap <= 0 or not len(shares):
        return (float("nan"),) * 3
    low, high = np.quantile(shares, [0.025, 0.975])
    return float((m - b).mean() / gap), float(low), float(high)


def table(result: Mapping[str, Any], metric: str) -> str:
    """One line per method: mean, difference from the baseline, share of the gap closed; with intervals."""
    methods = result["methods"]
    values = {name: entry["metrics"][metric] for name, entry in methods.items()}
    lines = [
        f"{metric}, {result['seeds']} seeds, {result['wrong_share']:.0%} of captions wrong; 95% intervals",
        f"{'method':<12}{'mean':>25}{'against baseline':>27}{'gap closed':>24}{'seconds':>9}",
    ]
    for name, x in values.items():
        mean = "{:.3f} [{:.3f}, {:.3f}]".format(*mean_interval(x))
        against = share = ""
        if name != BASELINE and BASELINE in values:
            paired = np.asarray(x) - np.asarray(values[BASELINE])
            against = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*mean_interval(paired.tolist()))
        if name not in (BASELINE, ORACLE) and {BASELINE, ORACLE} <= set(values):
            share = "{:.0%} [{:.0%}, {:.0%}]".format(*gap_closed(x, values[BASELINE], values[ORACLE]))
        seconds = float(np.mean(methods[name]["seconds"]))
        lines.append(f"{name:<12}{mean:>25}{against:>27}{share:>24}{seconds:>9.0f}")
    return "\n".join(lines)
