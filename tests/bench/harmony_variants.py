"""Ways to make a step, or the per-sample Gram matrices alone, on the same model and batch."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from harmony_model import Model
from torch import Tensor
from torch.func import functional_call, grad, vmap

from harmonize_cli.errors import missing_extra
from harmonize_cli.harmony import Gate, Harmonizer

Run = Callable[[], Tensor | None]
"""Makes one step (or Gram), returns the Gram matrices [B, 2, 2] where it knows them."""

STEPS: dict[str, dict[str, Any]] = {
    "representation": {"scope": "representation"},
    "exact": {},
    "sketch:16": {"gram": "sketch:16"},
    "sketch:32": {"gram": "sketch:32"},
    "sketch:64": {"gram": "sketch:64"},
    "microbatch:8": {"granularity": "microbatch:8"},
    "batch": {"granularity": "batch"},
    "exact, 30% gated": {"gate": Gate(schedule="quantile", start=0.3, end=0.3)},
}
GRAMS = ("gram ours", "gram loop", "gram vmap", "gram torchjd")
NAMES = ("plain", *STEPS, *GRAMS)


def make_run(name: str, model: Model, batch: dict[str, Tensor], *, bf16: bool) -> Run:
    """The variant called `name`."""
    device = next(iter(batch.values())).device.type

    def mixed() -> AbstractContextManager[Any]:
        return torch.autocast(device, dtype=torch.bfloat16) if bf16 else nullcontext()

    if name == "plain":
        return _plain(model, batch, mixed)
    if name in STEPS:
        return _harmonized(model, batch, mixed, STEPS[name])
    makers = {"gram ours": _ours, "gram loop": _loop, "gram vmap": _vmap, "gram torchjd": _torchjd}
    return makers[name](model, batch, mixed)


Mixed = Callable[[], AbstractContextManager[Any]]


def _plain(model: Model, batch: dict[str, Tensor], mixed: Mixed) -> Run:
    def run() -> None:
        model.zero_grad()
        with mixed():
            losses = model.losses(model.embed(model.encode(batch)))
        torch.autograd.backward(list(losses.values()))

    return run


def _harmonized(model: Model, batch: dict[str, Tensor], mixed: Mixed, options: dict[str, Any]) -> Run:
    # the check of first steps has a figure of its own
    harmonizer = Harmonizer(model, check=False, **options)

    def run() -> Tensor:
        model.zero_grad()
        with mixed(), harmonizer.record():
            pooled = model.encode(batch)
            losses = model.losses(harmonizer.through_gate(model.embed(pooled)))
        return harmonizer.backward(losses, pooled).gram

    return run


def check_seconds(name: str, model: Model, batch: dict[str, Tensor], *, bf16: bool) -> float | None:
    """What the check of a first step takes in this variant; None where it makes none."""
    if name not in STEPS:
        return None
    device = next(iter(batch.values())).device.type
    harmonizer = Harmonizer(model, **STEPS[name])
    mixed = torch.autocast(device, dtype=torch.bfloat16) if bf16 else nullcontext()
    with mixed, harmonizer.record():
        pooled = model.encode(batch)
        losses = model.losses(harmonizer.through_gate(model.embed(pooled)))
    harmonizer.backward(losses, pooled)
    return harmonizer.check_seconds or None


def _ours(model: Model, batch: dict[str, Tensor], mixed: Mixed) -> Run:
    harmonizer = Harmonizer(model, check=False)

    def run() -> Tensor:
        with mixed(), harmonizer.record():
            pooled = model.encode(batch)
            losses = model.losses(model.embed(pooled))
        return harmonizer.grams(losses, pooled)["auto"]

    return run


def _cotangents(model: Model, pooled: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Per loss: the constant delta at each pooled vector."""
    free = {m: z.detach().requires_grad_() for m, z in pooled.items()}
    losses = model.losses(model.embed(free))
    found = []
    for loss in losses.values():
        deltas = torch.autograd.grad(loss, list(free.values()), retain_graph=True, allow_unused=True)
        found.append({m: d for m, d in zip(free, deltas, strict=True) if d is not None})
    return found


def _scalars(pooled: Mapping[str, Tensor], deltas: list[dict[str, Tensor]]) -> Tensor:
    """<delta, z> per sample and loss, [B, 2]: its gradients are the path-anchored ones."""
    rows = [sum((pooled[m] * d).sum(-1) for m, d in of.items()) for of in deltas]
    return torch.stack([row for row in rows if isinstance(row, Tensor)], dim=-1)


def _gram(rows: Tensor) -> Tensor:
    return rows @ rows.transpose(-1, -2)


def _loop(model: Model, batch: dict[str, Tensor], mixed: Mixed) -> Run:
    params = list(model.transformer.parameters())

    def run() -> Tensor:
        with mixed():
            with torch.no_grad():
                pooled = model.encode(batch)
            deltas = _cotangents(model, pooled)
            grams = []
            for i in range(len(pooled["video"])):
                one = model.encode({m: x[i : i + 1] for m, x in batch.items()})
                scalars = _scalars(one, [{m: d[i : i + 1] for m, d in of.items()} for of in deltas])[0]
                rows = [torch.autograd.grad(s, params, retain_graph=True) for s in scalars]
                pairs = (torch.stack([g.flatten() for g in pair]) for pair in zip(*rows, strict=True))
                grams.append(torch.stack([_gram(pair) for pair in pairs]).sum(0))
        return torch.stack(grams)

    return run


def _vmap(model: Model, batch: dict[str, Tensor], mixed: Mixed) -> Run:
    shared = {n: p.detach() for n, p in model.transformer.named_parameters()}

    def scalar(params: dict[str, Tensor], tokens: dict[str, Tensor], delta: dict[str, Tensor]) -> Tensor:
        total = next(iter(delta.values())).new_zeros(())
        for m, d in delta.items():
            z = functional_call(model.transformer, params, (tokens[m].unsqueeze(0),))[0]
            total = total + (z * d).sum()
        return total

    per_sample = vmap(grad(scalar), in_dims=(None, 0, 0))

    def run() -> Tensor:
        with mixed(), torch.no_grad():
            tokens = {m: model.stem[m](x) for m, x in batch.items()}
            pooled = {m: model.transformer(x) for m, x in tokens.items()}
            with torch.enable_grad():
                deltas = _cotangents(model, pooled)
            grads = [per_sample(shared, tokens, delta) for delta in deltas]
            pairs = (torch.stack([of[name].flatten(1) for of in grads], dim=1) for name in shared)
            return torch.stack([_gram(pair) for pair in pairs]).sum(0)

    return run


def _torchjd(model: Model, batch: dict[str, Tensor], mixed: Mixed) -> Run:
    try:
        from torchjd.autogram import Engine
    except ImportError:
        raise missing_extra("torchjd", "torchjd", "the comparison with TorchJD") from None
    engine = Engine(model.transformer, batch_dim=0)

    def run() -> Tensor:
        with mixed():
            pooled = model.encode(batch)
            scalars = _scalars(pooled, _cotangents(model, pooled))
        own = torch.arange(len(scalars))
        gramian: Tensor = engine.compute_gramian(scalars)  # [B * 2, B * 2]
        return gramian.detach().view(*scalars.shape, *scalars.shape)[own, :, own]

    return run
