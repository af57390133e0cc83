"""The slow check on a user's own model and batch: a loop of single-sample backward passes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony._report import HarmonyReport
from harmonize_cli.harmony.cached import RandomState
from harmonize_cli.harmony.graph import reached
from harmonize_cli.harmony.harmonizer import Harmonizer, Pooled, listed

Forward = Callable[[], tuple[Mapping[str, Tensor], Pooled]]


@dataclass(frozen=True, slots=True)
class Verification:
    """Worst relative errors. gram: entries against the product of the two gradients' lengths; update:
    entries against the largest one. units: how many were looped over; layers: in scope.
    """

    gram: float
    update: float
    units: int
    layers: int

    @property
    def worst(self) -> float:
        """The larger of the two."""
        return max(self.gram, self.update)

    def __str__(self) -> str:
        return (
            f"worst relative error against {self.units} single backward passes: Gram {self.gram:.1e} "
            f"({self.layers} layers), update {self.update:.1e}"
        )


def worst_error(harmonizer: Harmonizer, forward: Forward, *, units: int | None = None) -> Verification:
    """Compare a harmonized step with brute force.

    forward: runs encoder and heads on one batch and returns (losses, pooled), as given to `backward`. It is
    run twice with the same random numbers. units: loop over the first so many only. Gradients and buffers
    are left as they were. Heads are left out of scope `all` here: single-sample passes start at the pooled
    vectors. So is a gate, which takes losses away behind them.

    Raises:
        BadInput: granularity `batch`, which uses ordinary backward passes, so there is nothing to check.
    """
    if harmonizer.granularity.whole:
        raise BadInput("verify: granularity batch uses ordinary backward passes; nothing to compare")
    saved = [(p, p.grad) for p in harmonizer.parameters()]
    buffers = {b: b.clone() for module in harmonizer.modules.values() for b in module.buffers()}
    state, policy = RandomState.now(), harmonizer.policy
    harmonizer.policy = replace(policy, gate=None, control=None)
    try:
        for p, _ in saved:
            p.grad = None
        losses, pooled = forward()
        with state.replayed(), harmonizer.record():
            again, pooled_again = forward()
        if harmonizer.scope.name == "all":
            _forget_heads(harmonizer, listed(pooled_again))
        report = harmonizer.backward(again, pooled_again, reduce=False)
        return _compare(harmonizer, dict(losses), listed(pooled), report, units)
    finally:
        harmonizer.policy = policy
        for p, grad in saved:
            p.grad = grad
        with torch.no_grad():
            for b, before in buffers.items():
                b.copy_(before)


def _forget_heads(harmonizer: Harmonizer, pooled: list[Tensor]) -> None:
    nodes = reached([z.grad_fn for z in pooled])
    tape = harmonizer.tape
    tape.calls = [call for call in tape.calls if any(edge.node in nodes for edge in call.edges)]


def _compare(
    harmonizer: Harmonizer,
    losses: dict[str, Tensor],
    pooled: list[Tensor],
    report: HarmonyReport,
    units: int | None,
) -> Verification:
    pooled = [z for z in pooled if z.requires_grad]
    deltas: list[Deltas] = [
        torch.autograd.grad(loss, pooled, retain_graph=True, allow_unused=True) for loss in losses.values()
    ]
    samples = min(len(z) for z in pooled)
    share = max(1, harmonizer.granularity.share)
    inside = harmonizer.parameters_in_scope()
    met = [sum(d is not None for d in of) > 1 for of in zip(*deltas, strict=True)]
    worst, count = 0.0, min(samples // share, units or samples)
    for u in range(count):
        own = slice(u * share, (u + 1) * share)
        rows = [_one(pooled, delta, met, inside, own) for delta in deltas]
        want = torch.stack([torch.stack([_inner(a, b) for b in rows]) for a in rows])
        length = want.diagonal().clamp_min(torch.finfo(want.dtype).tiny).sqrt()
        error = (report.gram[u * share].to(want) - want).abs() / (length[:, None] * length[None])
        worst = max(worst, error.max().item())
    return Verification(
        worst, _update_error(harmonizer, pooled, deltas, report.weights), count, len(harmonizer.in_scope)
    )


Deltas = tuple[Tensor | None, ...]


def _one(
    pooled: list[Tensor], delta: Deltas, met: list[bool], inside: list[nn.Parameter], own: slice
) -> list[Tensor]:
    """The gradient of one unit under one loss; at representation scope the cotangents
    themselves, where two losses met."""
    samples = min(len(z) for z in pooled)
    masked: list[Tensor] = []
    for z, d in zip(pooled, delta, strict=True):
        mask = torch.zeros_like(z)
        factor = len(z) // samples
        mask[own.start * factor : own.stop * factor] = 1
        masked.append(mask * (0.0 if d is None else d))
    if not inside:
        return [d for d, both in zip(masked, met, strict=True) if both]
    grads = torch.autograd.grad(pooled, inside, masked, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(inside, grads, strict=True)]


def _inner(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)]).sum()


def _update_error(
    harmonizer: Harmonizer, pooled: list[Tensor], deltas: list[Deltas], weights: Tensor
) -> float:
    """Against one ordinary backward pass with weighted cotangents, parameters upstream only."""
    total = [torch.zeros_like(z) for z in pooled]
    for k, delta in enumerate(deltas):
        for m, d in enumerate(delta):
            if d is not None:
                rows = weights[:, k].repeat_interleave(len(d) // len(weights)).to(d)
                total[m] += d * rows.view(-1, *[1] * (d.dim() - 1))
    params = harmonizer.parameters()
    errors, sizes = [0.0], [torch.finfo(total[0].dtype).tiny]
    for p, want in zip(params, torch.autograd.grad(pooled, params, total, allow_unused=True), strict=True):
        if want is not None:
            got = torch.zeros_like(want) if p.grad is None else p.grad
            errors.append((got - want).abs().max().item())
            sizes.append(want.abs().max().item())
    return max(errors) / max(sizes)
