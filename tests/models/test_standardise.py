"""Standardised inputs: the statistics of what went in, saved with the weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize_cli.models.standardise import FLOOR, Standardise


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(2, 40), st.integers(1, 6), st.integers(0, 2**31 - 1))
def test_parts_give_the_statistics_of_the_whole(parts: int, rows: int, features: int, seed: int) -> None:
    data = np.random.default_rng(seed).normal(3, 2, (parts * rows, 2, features)).astype(np.float32)
    layer = Standardise(features)
    layer.fit(torch.from_numpy(part) for part in np.split(data, parts))
    flat = data.reshape(-1, features).astype(np.float64)
    overall = np.sqrt(flat.var(0).mean())
    expected = (data - flat.mean(0)) / (flat.std(0) + FLOOR * overall)
    np.testing.assert_allclose(layer(torch.from_numpy(data)).numpy(), expected, rtol=1e-3, atol=1e-3)


def test_constant_dimensions_stay_finite_and_nothing_seen_is_the_identity() -> None:
    layer = Standardise(3)
    x = torch.tensor([[1.0, 5.0, 0.0], [2.0, 5.0, 0.0]])
    layer.fit([])
    assert torch.equal(layer(x), x)
    layer.fit([x])
    assert torch.isfinite(layer(x)).all()
    layer.fit([torch.full((4, 3), 7.0)])
    assert torch.equal(layer(torch.full((1, 3), 7.0)), torch.zeros(1, 3))


def test_a_damaged_clip_does_not_spoil_the_statistics() -> None:
    whole, damaged = Standardise(2), Standardise(2)
    x = torch.randn(10, 2)
    whole.fit([x])
    damaged.fit([x, torch.tensor([[float("nan"), 1.0], [1.0, float("inf")]])])
    assert torch.equal(whole.mean, damaged.mean)
    assert torch.equal(whole.std, damaged.std)


def test_statistics_travel_with_the_weights_and_get_no_gradient() -> None:
    layer = Standardise(2)
    layer.fit([torch.randn(10, 2)])
    other = Standardise(2)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.mean, layer.mean)
    assert list(layer.parameters()) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_input_decides_the_dtype(dtype: torch.dtype) -> None:
    assert Standardise(2)(torch.zeros(1, 2, dtype=dtype)).dtype == dtype
