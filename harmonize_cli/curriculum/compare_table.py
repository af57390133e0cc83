"""Means over seeds, differences from the baseline seed by seed, and the share of the gap to the oracle."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harmonize_cli.curriculum.methods import BASELINE, ORACLE

Interval = tuple[float, float, float]
"""Value, low, high; the bounds are NaN where the seeds say nothing of them."""
UNKNOWN = float("nan")


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean over seeds and its 95% t interval: none of one seed, and none where all seeds agree exactly, which
    happens to metrics in coarse steps and is no certainty."""
    x = np.asarray(values, np.float64)
    half = _t(len(x)) * x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 and np.ptp(x) > 1e-9 else UNKNOWN
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def gap_closed(method: Sequence[float], base: Sequence[float], oracle: Sequence[float]) -> Interval | None:
    """(method - base) / (oracle - base), with the 95% interval of Fieller (1954) for a ratio of paired means.

    None where the seeds allow no such claim: one seed, or an oracle whose own gain may be chance (Fieller's
    interval is unbounded then).
    """
    m, b, o = (np.asarray(x, np.float64) for x in (method, base, oracle))
    n, gains, gaps = len(m), m - b, o - b
    gain, gap = float(gains.mean()), float(gaps.mean())
    if n < 2 or gap <= 0:
        return None
    (v_gain, both), (_, v_gap) = np.cov(gains, gaps) / n
    t2 = _t(n) ** 2
    a, half_b, c = gap**2 - t2 * v_gap, gain * gap - t2 * both, gain**2 - t2 * v_gain
    if a <= 0:
        return None
    root = float(np.sqrt(max(0.0, half_b**2 - a * c)))
    if root < 1e-9:
        return gain / gap, UNKNOWN, UNKNOWN
    return gain / gap, float((half_b - root) / a), float((half_b + root) / a)


def _t(seeds: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, seeds - 1))


def table(result: Mapping[str, Any], metric: str) -> str:
    """One line per method: mean, difference from the baseline, share of the gap closed; with intervals."""
    methods = result["methods"]
    values = {name: entry["metrics"][metric] for name, entry in methods.items()}
    bounds = (0.0, 1.0) if "/R@" in metric else (-np.inf, np.inf)
    lines = [
        f"{metric}, {result['seeds']} seeds, {result['wrong_share']:.0%} of captions wrong; 95% intervals",
        f"{'method':<12}{'mean':>25}{'against baseline':>27}{'gap closed':>24}{'seconds':>9}",
    ]
    claims = {BASELINE, ORACLE} <= set(values)
    for name, x in values.items():
        mean = _cell(mean_interval(x), ".3f", bounds)
        against = share = ""
        if name != BASELINE and BASELINE in values:
            paired = np.asarray(x) - np.asarray(values[BASELINE])
            against = _cell(mean_interval(paired.tolist()), "+.3f")
        if name not in (BASELINE, ORACLE) and claims:
            ratio = gap_closed(x, values[BASELINE], values[ORACLE])
            share = "-" if ratio is None else _cell(ratio, ".0%")
        seconds = float(np.mean(methods[name]["seconds"]))
        lines.append(f"{name:<12}{mean:>25}{against:>27}{share:>24}{seconds:>9.0f}")
    if result["seeds"] < 2:
        lines.append("one seed: no intervals and no shares of the gap; --seeds 5 says what chance does")
    elif claims and gap_closed(values[ORACLE], values[BASELINE], values[ORACLE]) is None:
        lines.append("gap closed: not claimed, the oracle's own gain may be chance; more --seeds may tell")
    return "\n".join(lines)


def _cell(interval: Interval, form: str, bounds: tuple[float, float] = (-np.inf, np.inf)) -> str:
    value, low, high = interval
    if np.isnan(low):
        return f"{value:{form}}"
    return f"{value:{form}} [{max(low, bounds[0]):{form}}, {min(high, bounds[1]):{form}}]"
