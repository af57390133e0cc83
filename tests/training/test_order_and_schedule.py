"""Data order and learning rate are pure functions of the step."""

import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonize_cli.config import load_config
from harmonize_cli.errors import BadInput
from harmonize_cli.harmony import Gate
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.data import Schedule, shuffled
from harmonize_cli.training.optim import learning_rate
from harmonize_cli.training.step import build_gate


@given(samples=st.integers(8, 60), share=st.integers(1, 4), ranks=st.integers(1, 3), seed=st.integers(0, 99))
def test_ranks_share_an_epoch_without_overlap(samples, share, ranks, seed):
    batch = share * ranks
    if batch > samples or batch < 2:
        return
    order = shuffled(np.arange(100, 100 + samples), seed)
    alone = Schedule(order, batch)
    parts = [Schedule(order, batch, rank=r, ranks=ranks) for r in range(ranks)]
    for epoch in range(2):
        seen = []
        for k in range(alone.per_epoch):
            step = epoch * alone.per_epoch + k
            together = [draw for part in parts for draw in part.draws(step)]
            assert together == alone.draws(step)
            seen += [draw.index for draw in together]
        assert len(set(seen)) == len(seen) == alone.per_epoch * batch
        assert set(seen) <= set(range(100, 100 + samples))


def test_order_depends_on_seed_and_epoch_alone():
    indices = np.arange(50)
    assert (shuffled(indices, 3)(7) == shuffled(indices, 3)(7)).all()
    assert (shuffled(indices, 3)(7) != shuffled(indices, 3)(8)).any()
    assert (shuffled(indices, 3)(7) != shuffled(indices, 4)(7)).any()
    a = Schedule(shuffled(indices, 0), 8)
    b = Schedule(shuffled(indices, 0), 8)
    a.draws(3)
    assert a.draws(20) == b.draws(20)  # whatever was asked before


def test_batches_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="only 10 to train on"):
        Schedule(shuffled(np.arange(10), 0), 16)
    with pytest.raises(BadInput, match="3 processes"):
        Schedule(shuffled(np.arange(10), 0), 8, ranks=3)
    with pytest.raises(BadInput, match="the 3 clips of each of 2 processes can't be made in 2 equal parts"):
        Schedule(shuffled(np.arange(10), 0), 6, ranks=2, parts=2)


def test_published_learning_rates():
    paper = PretrainConfig(model={"preset": "medium"})
    steps = 500_000
    assert learning_rate(10_000, steps, paper) == pytest.approx(1e-4)
    assert learning_rate(steps - 1, steps, paper) == pytest.approx(5e-5)
    assert learning_rate(4_999, steps, paper) == pytest.approx(5e-5, rel=1e-3)
    half = 10_000 + (steps - 1 - 10_000) / 2
    assert learning_rate(int(half), steps, paper) == pytest.approx(
        5e-5 + 5e-5 * math.cos(math.pi / 4), rel=1e-4
    )
    code = PretrainConfig(model={"preset": "medium"}, optim={"schedule": "half-cosine", "warmup": 5000})
    s = 250_000
    want = 5e-5 + 2.5e-5 * (1 + math.cos(math.pi * (s - 5000) / (steps - 1 - 5000)))
    assert learning_rate(s, steps, code) == pytest.approx(want)


def test_config_is_checked_as_a_whole():
    with pytest.raises(BadInput) as fault:
        load_config(
            PretrainConfig,
            None,
            ["batch=1", "optim.lrr=1", "model.width=30", "harmonize.mode=always", "loss.temperature=0"],
        )
    for part in (
        "batch",
        "optim.lrr: unknown key",
        "lr, ",
        "multiple of heads",
        "harmonize.mode",
        "temperature",
    ):
        assert part in str(fault.value)
    with pytest.raises(BadInput, match="steps or epochs"):
        load_config(PretrainConfig, None, ["steps=3", "epochs=2"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("schedule=cosine", "gate.schedule"),
        ("gamma_start=-0.2", "gate.start"),
        ("gamma_end=0.1", "gate.end"),
        ("warmup=10", "gate.warmup"),
        ("min_kept=0.5", "gate.min_share"),
        ("reject=one", "gate.rejected"),
    ],
)
def test_old_names_of_the_gates_settings_give_the_new_ones(old, new):
    with pytest.raises(BadInput, match=rf"{old.partition('=')[0]} is now called {new}"):
        load_config(PretrainConfig, None, [f"harmonize.{old}"])


def test_a_gates_settings_are_those_of_the_engine():
    config = load_config(PretrainConfig, None, ["harmonize.gate.start=-0.5", "harmonize.gate.warmup=20"])
    assert set(type(config.harmonize.gate).model_fields) == {field.name for field in fields(Gate)}
    assert build_gate(config.harmonize.gate, 100) == Gate(start=-0.5, end=0.0, steps=80, warmup=20)
    short = load_config(PretrainConfig, None, ["harmonize.gate.steps=7"])
    assert build_gate(short.harmonize.gate, 100).steps == 7
    assert {f.name: f.default for f in fields(Gate)} == type(config.harmonize.gate)().model_dump()
    with pytest.raises(BadInput, match="shares from 0 to 1"):
        load_config(PretrainConfig, None, ["harmonize.gate.schedule=quantile"])
