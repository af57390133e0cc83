"""Calls that can't mean anything: BadInput with a message, whatever the scope, and `.grad` as it was."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harmonize_cli.errors import BadInput, HarmonizeError
from harmonize_cli.harmony import Harmonizer

Z = dict[str, Tensor]

OPTIONS: list[dict[str, str]] = [
    *({"scope": scope} for scope in ("representation", "backbone", "shared", "all")),
    {"granularity": "microbatch:2"},
    {"granularity": "batch"},
]

LOSSES: dict[str, tuple[Callable[[Z], Any], str]] = {
    "none": (lambda z: {}, "loss"),
    "one per sample": (lambda z: {"a": z["v"].sum(1), "b": z["t"].sum()}, "'?a'?.*(scalar|mean)"),
    "detached": (lambda z: {"a": z["v"].sum().detach(), "b": z["v"].sum().detach()}, "gradient|depend"),
    "a number": (lambda z: {"a": 1.0, "b": z["v"].sum()}, "'?a'?.*(tensor|scalar)"),
    "missing": (lambda z: {"a": None, "b": z["v"].sum()}, "'?a'?.*(tensor|scalar)"),
    "a list": (lambda z: [z["v"].sum(), z["t"].sum()], "losses.*(name|mapping|dict)"),
    "complex": (lambda z: {"a": z["v"].sum() * 1j, "b": z["t"].sum()}, "'?a'?.*(real|complex|float|scalar)"),
    "not from the pooled vectors": (
        lambda z: {"a": torch.ones((), requires_grad=True) * 2},
        "pooled|parameters",
    ),
}

POOLED: dict[str, tuple[Callable[[Z], Any], str]] = {
    "none": (lambda z: {}, "pooled"),
    "detached": (lambda z: {n: e.detach() for n, e in z.items()}, "pooled|gradient"),
    "one number": (lambda z: {"v": z["v"].sum()}, "pooled"),
    "rows that fit no batch": (lambda z: {"v": z["v"], "t": torch.cat([z["t"], z["t"][:1]])}, "rows"),
    "no rows": (lambda z: {"v": z["v"][:0]}, "rows|pooled"),
    "missing": (lambda z: {"v": z["v"], "t": None}, "pooled|'?t'?"),
    "a number": (lambda z: {"v": z["v"], "t": 3.0}, "pooled|'?t'?"),
    "not what the losses read": (lambda z: {n: e * 1 for n, e in z.items()}, "pooled"),
}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5))


def encode(net: nn.Module) -> Z:
    x = torch.randn(4, 3)
    return {"v": net(x), "t": net(x.sin())}


def ordinary(z: Z) -> Z:
    return {"a": z["v"].square().sum() + z["t"].sum(), "b": (z["v"] * z["t"]).sum()}


def assert_refused(net: nn.Module, harmonizer: Harmonizer, losses: Any, pooled: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        harmonizer.backward(losses, pooled)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
@pytest.mark.parametrize("kind", LOSSES)
def test_losses_that_cannot_be_harmonized(kind: str, options: dict[str, Any]) -> None:
    net = model()
    harmonizer = Harmonizer(net, **options)
    with harmonizer.record():
        pooled = encode(net)
    losses, message = LOSSES[kind]
    assert_refused(net, harmonizer, losses(pooled), pooled, message)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
@pytest.mark.parametrize("kind", POOLED)
def test_pooled_vectors_that_cannot_be_harmonized(kind: str, options: dict[str, Any]) -> None:
    net = model()
    harmonizer = Harmonizer(net, **options)
    with harmonizer.record():
        z = encode(net)
    pooled, message = POOLED[kind]
    assert_refused(net, harmonizer, ordinary(z), pooled(z), message)


@pytest.mark.parametrize("scope", ["backbone", "shared", "all"])
def test_a_forward_pass_that_was_not_recorded(scope: str) -> None:
    net = model()
    z = encode(net)
    assert_refused(net, Harmonizer(net, scope=scope), ordinary(z), z, "record")


@pytest.mark.parametrize("scope", ["backbone", "shared", "all"])
def test_a_forward_pass_that_was_recorded_before_the_last(scope: str) -> None:
    """The record of another pass says nothing about this one: refused, or seen to be of no use."""
    net = model()
    harmonizer = Harmonizer(net, scope=scope)
    grams = []
    for last_recorded in (True, False):
        torch.manual_seed(1)
        with harmonizer.record():
            encode(net)
        torch.manual_seed(2)
        with harmonizer.record() if last_recorded else nullcontext():
            z = encode(net)
        try:
            grams.append(harmonizer.backward(ordinary(z), z).gram)
        except BadInput:
            assert not last_recorded
            return
    torch.testing.assert_close(grams[0], grams[1])


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
def test_a_graph_that_was_used_already(options: dict[str, Any]) -> None:
    net = model()
    harmonizer = Harmonizer(net, **options)
    with harmonizer.record():
        z = encode(net)
    losses = ordinary(z)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    net.zero_grad()
    with pytest.raises(HarmonizeError, match=r"second time|graph|record"):
        harmonizer.backward(losses, z)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
def test_a_loss_that_is_not_a_number(options: dict[str, Any]) -> None:
    """Gradients that are not finite, as in plain training: it is the loop that looks at them."""
    net = model()
    harmonizer = Harmonizer(net, **options)
    with harmonizer.record():
        z = encode(net)
    losses = ordinary(z)
    losses["a"] = losses["a"] * float("nan")
    harmonizer.backward(losses, z)
    assert not torch.isfinite(net[0].weight.grad).all()


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
def test_one_loss_alone_is_plain_training(options: dict[str, Any]) -> None:
    """A batch without any text."""
    net = model()
    harmonizer = Harmonizer(net, **options)
    with harmonizer.record():
        z = encode(net)
    loss = ordinary(z)["a"]
    want = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    report = harmonizer.backward({"a": loss}, z)
    assert report.gram.shape == (4, 1, 1)
    assert (report.gram > 0).all()
    assert report.cosine.isnan().all()
    for p, grad in zip(net.parameters(), want, strict=True):
        torch.testing.assert_close(p.grad, grad)
