"""Intervals cover, tests keep their level, the same seed gives the same numbers."""

import numpy as np
import pytest

from harmonize_cli.evaluation import statistics
from harmonize_cli.evaluation.statistics import compare


def bootstrap(values, **options):
    return statistics.bootstrap({"x": (values, "mean")}, **options)["x"]


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        interval = bootstrap((rng.random(80) < 0.4).astype(float), draws=400, seed=trial)
        hits += interval.low <= 0.4 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_same_seed_same_interval_other_seed_another():
    values = np.random.default_rng(0).random(50)
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3) != bootstrap(values, seed=4)


@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_weighted_median_equals_numpys(n):
    rng = np.random.default_rng(n)
    values = rng.integers(0, 5, n).astype(float)
    weights = rng.integers(0, 4, (50, n))
    weights[:, 0] += 1
    got = statistics._summaries({"x": (values[None], "median")}, weights)["x"][0]
    assert got == pytest.approx([np.median(np.repeat(values, w)) for w in weights])


def test_clusters_widen_the_interval_of_values_that_repeat_within_them():
    values = np.repeat(np.random.default_rng(0).random(20), 30)
    loose = bootstrap(values)
    tight = bootstrap(values, clusters=np.repeat(np.arange(20), 30).tolist())
    assert tight.value == loose.value
    assert tight.high - tight.low > 3 * (loose.high - loose.low)


def test_no_difference_is_no_difference():
    values = np.random.default_rng(0).random((1, 40))
    same = compare(values, values)
    assert (same.p_value, same.difference.value, same.difference.low) == (1, 0, 0)


def test_permutation_test_keeps_its_level_and_has_power():
    rng = np.random.default_rng(0)
    null, shifted = [], []
    for trial in range(120):
        a, b = rng.normal(size=(1, 30)), rng.normal(size=(1, 30))
        null.append(compare(a, b, draws=200, seed=trial).p_value < 0.1)
        shifted.append(compare(a, a + 0.5 * rng.random((1, 30)), draws=200, seed=trial).p_value < 0.1)
    assert 0.03 <= np.mean(null) <= 0.19
    assert np.mean(shifted) == 1


def test_pairing_helps_where_queries_differ_more_than_systems():
    hard = np.random.default_rng(0).normal(0, 10, (1, 60))
    paired = compare(hard, hard + 0.1, draws=300)
    assert paired.difference.low > 0.09
    assert paired.p_value < 0.01


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(0)
    base = rng.random((1, 200))
    a = np.repeat(base, 3, axis=0)
    steady = compare(a, a + 0.1)
    shaky = compare(a, a + np.array([[0.0], [0.1], [0.2]]))
    assert shaky.difference.value == pytest.approx(steady.difference.value)
    assert shaky.difference.high - shaky.difference.low > 5 * (steady.difference.high - steady.difference.low)
    assert shaky.seeds == (3, 3)


def test_median_comparison():
    a = np.arange(1.0, 41.0)[None]
    result = compare(2 * a, a, "median", draws=300)
    assert result.difference.value == pytest.approx(-20.5)
    assert result.difference.high < 0


def test_unequal_queries_are_refused():
    with pytest.raises(ValueError, match="no pairs"):
        compare(np.ones((1, 3)), np.ones((1, 4)))


def test_metrics_of_one_pool_share_their_draws_and_keep_their_intervals(monkeypatch):
    """Six directions of eight metrics: one draw of resamples, where each metric used to draw its own."""
    rng = np.random.default_rng(0)
    columns = {f"{k}": (rng.random(40), "median" if k % 8 == 0 else "mean") for k in range(48)}
    alone = {name: statistics.bootstrap({name: column})[name] for name, column in columns.items()}
    calls = []
    plain = statistics._resamples

    def counted(*args):
        calls.append(args)
        return plain(*args)

    monkeypatch.setattr(statistics, "_resamples", counted)
    together = statistics.bootstrap(columns)
    assert len(calls) == 1
    for name, interval in together.items():
        assert (interval.value, interval.low, interval.high) == pytest.approx(
            (alone[name].value, alone[name].low, alone[name].high)
        )
    with pytest.raises(ValueError, match="different queries"):
        statistics.bootstrap({"a": (np.ones(3), "mean"), "b": (np.ones(4), "mean")})


def test_an_interval_is_the_percentiles_of_plain_resamples():
    """Against the obvious loop: draw queries with replacement, take the statistic."""
    values = np.random.default_rng(1).normal(size=30) ** 2
    for statistic in ("mean", "median"):
        got = statistics.bootstrap({"x": (values, statistic)}, draws=4000)["x"]
        rng = np.random.default_rng(7)
        drawn = [getattr(np, statistic)(rng.choice(values, 30)) for _ in range(4000)]
        assert (got.low, got.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), rel=0.1)
