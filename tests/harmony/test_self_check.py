"""The first step's check: a fast path that were wrong is found out, and its parameters are read slowly."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from harmony_models import TriModal, gram_error, gram_of, losses_of, make_inputs, per_sample_gradients
from torch import Tensor, nn

from harmonize_cli.harmony import Harmonizer, HarmonyReport, _gram, _kinds, _measure, _trial, _uses
from harmonize_cli.harmony._scope import Rows

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
            monkeypatch.setattr(_trial.Trial, "_lie", lambda self, seen, given: Rows())
        harmonizer = Harmonizer(model)
        with harmonizer.record():
            z = model.encode(x)
        losses = {"one": z.square().sum() + z[0] @ z[1], "two": z.sin().sum()}
        grads = per_sample_gradients(list(losses.values()), [z], list(model.parameters()))
        report = harmonizer.backward(losses, z)
        errors.append(gram_error(report.gram, gram_of(grads)))
        assert bool(report.slow) == broken
    assert max(errors) < 1e-9


@pytest.mark.parametrize("T", [3, 4, 8])
def test_rows_are_found_without_the_check_too(T: int) -> None:
    torch.manual_seed(0)
    model, x = SequenceFirst().double(), torch.randn(T, 4, 8, dtype=torch.float64)
    harmonizer = Harmonizer(model, check=False)
    for _ in range(2):
        model.zero_grad()
        with harmonizer.record():
            z = model.encode(x)
        losses = {"one": z.square().sum() + z[0] @ z[1], "two": z.sin().sum()}
        grads = per_sample_gradients(list(losses.values()), [z], list(model.parameters()))
        report = harmonizer.backward(losses, z)
        assert gram_error(report.gram, gram_of(grads)) < 1e-9
        want = torch.einsum("uk,ukp->p", report.weights, grads)
        torch.testing.assert_close(torch.cat([p.grad.flatten() for p in model.parameters()]), want)


def test_it_is_made_for_new_shapes_and_after_two_four_eight_steps_and_for_new_shapes_alone_without() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    for check, wanted in ((True, [1, 2, 2, 3, 4]), (False, [1, 1, 1, 2, 2])):
        harmonizer, trials = Harmonizer(body, check=check), []
        for B in (4, 4, 4, 6, 4):
            with harmonizer.record():
                z = body(torch.randn(B, 4))
            before = harmonizer.check_seconds
            harmonizer.backward({"one": z.square().sum(), "two": z.sum()}, z)
            trials.append((trials[-1] if trials else 0) + (harmonizer.check_seconds > before))
        assert trials == wanted


class Small(nn.Module):
    """A narrow layer of small gradients beside one whose gradients are a hundred times as long."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.norm, self.table = nn.Linear(6, 6), nn.LayerNorm(6), nn.Embedding(5, 6)
        self.wide = nn.Linear(400, 2)

    def encode(self, x: Tensor, words: Tensor) -> Tensor:
        small = self.norm(self.narrow(x[..., :6])) + self.table(words)
        return torch.cat([0.3 * small.mean(1), self.wide(x).mean(1)], 1)


def no_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the Gram alone."""
    product = _gram._inputs_product
    monkeypatch.setattr(_gram, "_inputs_product", lambda x, y, weight, bias: product(x, y, weight, False))


def other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    product = _gram._inputs_product
    monkeypatch.setattr(
        _gram,
        "_inputs_product",
        lambda x, y, *rest: product(x, y if x.is_floating_point() else y - 1, *rest),
    )


def halved_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    add_all = _gram.GramSum.add_all
    monkeypatch.setattr(
        _gram.GramSum,
        "add_all",
        lambda self, grads, *rest: add_all(self, [[g / 2 for g in of] for of in grads], *rest),
    )


def lost_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the update alone."""
    monkeypatch.setattr(_uses.SettledUse, "add_to", lambda *_: None)


@pytest.mark.parametrize(
    ("breakage", "slow"),
    [
        (None, set()),
        (no_bias, {"narrow.bias", "narrow.weight"}),
        (other_words, {"table.weight"}),
        (halved_norms, {"norm.bias", "norm.weight"}),
        (lost_norms, {"norm.bias", "norm.weight"}),
        (lost_bias, {"narrow.bias", "narrow.weight"}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_error_in_a_small_layer_does_not_hide_behind_a_large_one(
    breakage: Callable[[pytest.MonkeyPatch], None] | None,
    slow: set[str],
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model, x, words = Small().to(dtype), torch.randn(4, 3, 400, dtype=dtype), torch.randint(0, 5, (4, 3))
    if breakage is not None:
        breakage(monkeypatch)
    harmonizer = Harmonizer(model)
    with harmonizer.record():
        z = model.encode(x, words)
    report = harmonizer.backward({"one": z.square().sum() + z[0] @ z[1], "two": z.sin().sum()}, z)
    assert slow <= set(report.slow) <= slow | {"wide.bias", "wide.weight"}


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
