"""Cached large batches equal the direct step, and their memory does not grow with the batch."""

import pytest
import torch
from harmony_models import TriModal, losses_of, make_inputs
from torch import Tensor

from harmonize_cli.harmony import CachedStep, Gate, Harmonizer

Chunk = dict[str, Tensor]
OPTIONS = {
    "backbone": {},
    "microbatch": {"granularity": "microbatch:2"},
    "batch": {"granularity": "batch"},
    "batch all": {"granularity": "batch", "scope": "all"},
    "batch representation": {"granularity": "batch", "scope": "representation"},
    "representation": {"scope": "representation"},
    "all": {"scope": "all"},
    "gate": {"gate": Gate(schedule="constant", end=0.0)},
    "quantile": {"gate": Gate(schedule="quantile", start=0.4, end=0.4)},
    "quantile before BatchNorm": {"gate": Gate(schedule="quantile", start=0.4, end=0.4)},
    "quantile all": {"gate": Gate(schedule="quantile", start=0.4, end=0.4), "scope": "all"},
    "shuffled": {"control": "shuffled"},
    "norm": {"control": "norm"},
}


def chunks_of(inputs: Chunk, size: int) -> list[Chunk]:
    return [{m: x[i : i + size] for m, x in inputs.items()} for i in range(0, len(inputs["video"]), size)]


def make_model(dropout: float, *, batch_norm: bool = False) -> TriModal:
    torch.manual_seed(2)
    model = TriModal(batch_norm=batch_norm).double()
    for block in model.blocks:
        block.drop.p = dropout
    return model


@pytest.mark.parametrize("name", OPTIONS)
def test_cached_equals_direct(name: str) -> None:
    model = make_model(0.0, batch_norm="BatchNorm" in name)
    inputs = make_inputs(B=8, dtype=torch.float64)
    valid = {"vt": torch.arange(8) != 3}
    direct = Harmonizer(model, **OPTIONS[name])
    with direct.record():
        pooled = model.encode(inputs)
        losses = losses_of(direct.through_gate(model.embed(pooled)))
    want = direct.backward(losses, pooled, valid=valid)
    grads = [p.grad for p in model.parameters()]
    model.zero_grad()
    engine = Harmonizer(model, **OPTIONS[name])
    cached = CachedStep(engine, model.encode)
    chunks = chunks_of(inputs, 4)
    report = cached(chunks, lambda z: losses_of(engine.through_gate(model.embed(z))), valid=valid)
    torch.testing.assert_close(report.gram, want.gram)
    torch.testing.assert_close(report.weights, want.weights)
    torch.testing.assert_close(report.cosine, want.cosine, equal_nan=True)
    for p, grad in zip(model.parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("scope", ["backbone", "representation"])
def test_the_replay_draws_the_same_dropout(scope: str) -> None:
    model, chunks = make_model(0.3), chunks_of(make_inputs(B=8, dtype=torch.float64), 4)
    torch.manual_seed(9)
    parts = [model.encode(chunk) for chunk in chunks]
    after = torch.rand(1)
    pooled = {m: torch.cat([part[m] for part in parts]) for m in parts[0]}
    sum(losses_of(model.embed(pooled)).values()).backward()
    want = [p.grad for p in model.parameters()]
    model.zero_grad()
    torch.manual_seed(9)
    cached = CachedStep(Harmonizer(model, rule="sum", scope=scope), model.encode)
    cached(chunks, lambda z: losses_of(model.embed(z)))
    for p, grad in zip(model.parameters(), want, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-5, atol=1e-9)
    assert torch.equal(after, torch.rand(1))  # afterwards it goes on as after one forward pass


class Meter:
    """Bytes that autograd graphs hold on to: now, and at most."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def pack(self, x: Tensor) -> "Held":
        return Held(self, x.detach())  # the tensor itself would keep its graph alive in a cycle

    @staticmethod
    def unpack(held: "Held") -> Tensor:
        return held.x


class Held:
    def __init__(self, meter: Meter, x: Tensor) -> None:
        self.meter, self.x = meter, x
        meter.now += x.numel() * x.element_size()
        meter.peak = max(meter.peak, meter.now)

    def __del__(self) -> None:
        self.meter.now -= self.x.numel() * self.x.element_size()


@pytest.mark.parametrize("options", [{}, {"scope": "representation"}], ids=["backbone", "representation"])
def test_memory_does_not_grow_with_the_batch(options: dict[str, str]) -> None:
    model = make_model(0.0)
    peaks = []
    for B in (8, 32):
        meter = Meter()
        cached = CachedStep(Harmonizer(model, **options), model.encode)
        chunks = chunks_of(make_inputs(B=B, dtype=torch.float64), 4)

        def losses(z: dict[str, Tensor]) -> dict[str, Tensor]:
            with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
                return losses_of(model.embed(z))  # the batch's similarities may grow; they are small

        with torch.autograd.graph.saved_tensors_hooks(meter.pack, meter.unpack):
            cached(chunks, losses)
        assert meter.peak > 0
        peaks.append(meter.peak)
    assert peaks[1] <= peaks[0] * 1.01
