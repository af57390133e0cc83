"""The first step's check: a fast path that were wrong is found out, and its parameters are read slowly."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from harmony_models import TriModal, gram_error, gram_of, losses_of, make_inputs, per_sample_gradients
from torch import Tensor, nn

from harmonize_cli.harmony import Harmonizer, HarmonyReport, _kinds, _measure, _reading, _uses
from harmonize_cli.harmony._units import Rows

Patch = Callable[[Any, str, Any], None]


def step(model: TriModal, **options: Any) -> tuple[Harmonizer, HarmonyReport, float, float]:
    """Errors of Gram and update against brute force."""
    inputs = make_inputs(B=6, dtype=torch.float64)
    harmonizer = Harmonizer(model, scope="all", **options)
    with harmonizer.record():
        pooled = model.encode(inputs)
    losses = losses_of(model.embed(pooled))
    params = [p for name, p in model.named_parameters() if not name.startswith("heads")]
    grads = per_sample_gradients(list(losses.values()), list(pooled.values()), params)
    report = harmonizer.backward(losses, pooled)
    want = torch.einsum("uk,ukp->p", report.weights, grads)
    got = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in params])
    return (
        harmonizer,
        report,
        gram_error(report.gram, gram_of(grads)),
        ((got - want).abs().max() / want.abs().max()).item(),
    )


def shifted_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = _kinds.tokens
    monkeypatch.setattr(_kinds, "tokens", lambda t, rows, units: tokens(t, rows, units).roll(1, 0))


def lost_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    add_to = _uses.OuterUse.add_to

    def without(self: _uses.OuterUse, *args: Any) -> None:
        kept, self.bias = self.bias, None
        add_to(self, *args)
        self.bias = kept

    monkeypatch.setattr(_uses.OuterUse, "add_to", without)


def doubled_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    grads = _uses.SettledUse.unit_gradients
    monkeypatch.setattr(
        _uses.SettledUse, "unit_gradients", lambda self, k, part: [2 * g for g in grads(self, k, part) or ()]
    )


def wrong_products(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = _measure.add_shared

    def twice(*args: Any) -> None:
        shared(*args)
        shared(*args)

    monkeypatch.setattr(_measure, "add_shared", twice)


@pytest.mark.parametrize("breakage", [shifted_inputs, lost_bias, doubled_norms, wrong_products])
def test_a_broken_fast_path_is_found_out(
    breakage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = TriModal().double()
    breakage(monkeypatch)
    *_, gram, update = step(model, check=False)
    assert max(gram, update) > 1e-2, "the fast path must be broken for this test to say anything"
    model.zero_grad()
    _, report, gram, update = step(model)
    assert report.slow
    assert gram < 1e-9
    assert update < 1e-9


class SequenceFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)

    def encode(self, x: Tensor) -> Tensor:  # [T, B, D]
        out: Tensor = self.layer(x).mean(0)
        return out


def test_samples_taken_to_lie_elsewhere_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = SequenceFirst().double(), torch.randn(4, 4, 8, dtype=torch.float64)
    errors = []
    for broken in (False, True):
        if broken:
            monkeypatch.setattr(_reading.Trial, "_lie", lambda self, seen, given: Rows())
        harmonizer = Harmonizer(model)
        with harmonizer.record():
            z = model.encode(x)
        losses = {"one": z.square().sum() + z[0] @ z[1], "two": z.sin().sum()}
        grads = per_sample_gradients(list(losses.values()), [z], list(model.parameters()))
        report = harmonizer.backward(losses, z)
        errors.append(gram_error(report.gram, gram_of(grads)))
        assert bool(report.slow) == broken
    assert max(errors) < 1e-9


def test_it_is_made_for_new_shapes_and_after_two_four_eight_steps_and_not_at_all_without() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    for check, wanted in ((True, [1, 2, 2, 3, 4]), (False, [0, 0, 0, 0, 0])):
        harmonizer, trials = Harmonizer(body, check=check), []
        for B in (4, 4, 4, 6, 4):
            with harmonizer.record():
                z = body(torch.randn(B, 4))
            before = harmonizer.check_seconds
            harmonizer.backward({"one": z.square().sum(), "two": z.sum()}, z)
            trials.append((trials[-1] if trials else 0) + (harmonizer.check_seconds > before))
        assert trials == wanted


class LoRA(nn.Module):
    """B starts at zero, so no cotangent comes to A in the first step."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 4).requires_grad_(False)
        self.A, self.B = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.zeros(2, 4))

    def encode(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + x @ self.A @ self.B
        return out


def test_what_gets_no_cotangent_at_first_is_looked_at_when_it_does() -> None:
    torch.manual_seed(0)
    model = LoRA().double()
    harmonizer = Harmonizer(model)
    for _ in range(3):
        x = torch.randn(5, 3, 4, dtype=torch.float64)
        with harmonizer.record():
            z = model.encode(x).mean(1)
        losses = {"one": z.square().sum() + z[0] @ z[1], "two": z.sin().sum()}
        grads = per_sample_gradients(list(losses.values()), [z], [model.A, model.B])
        model.zero_grad()
        report = harmonizer.backward(losses, z)
        assert gram_error(report.gram, gram_of(grads)) < 1e-9
        assert report.slow == ()
        with torch.no_grad():
            model.B += 0.1
