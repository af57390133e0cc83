"""The slow check on a user's own model and batch: a loop of single-sample backward passes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony._cut import Pooled, listed
from harmonize_cli.harmony._graph import Upstream, pull, upstream
from harmonize_cli.harmony._harmonizer import Harmonizer
from harmonize_cli.harmony._measure import single_unit
from harmonize_cli.harmony._report import HarmonyReport
from harmonize_cli.harmony._scope import spread
from harmonize_cli.harmony._sums import inner_products
from harmonize_cli.harmony._tape import RandomState

Forward = Callable[[], tuple[Mapping[str, Tensor], Pooled]]


@dataclass(frozen=True, slots=True)
class Verification:
    """Worst relative errors. gram: entries against the product of the two gradients' lengths; update:
    entries against the largest one. units: how many were looped over; parameters: compared in the Gram
    matrix.
    """

    gram: float
    update: float
    units: int
    parameters: int

    @property
    def worst(self) -> float:
        """The larger of the two."""
        return max(self.gram, self.update)

    def __str__(self) -> str:
        return (
            f"worst relative error against {self.units} single backward passes: Gram {self.gram:.1e} "
            f"({self.parameters} parameters), update {self.update:.1e}"
        )


def verify(harmonizer: Harmonizer, forward: Forward, *, units: int | None = None) -> Verification:
    """Compare a harmonized step with brute force, over every parameter that the pooled vectors depend on.

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
        up = upstream(listed(pooled), [], [])
        # before the second pass, which changes buffers that autograd keeps for the first (BatchNorm's)
        roots = ([(loss, None)] if loss.requires_grad else [] for loss in losses.values())
        up.delta = [pull(root, up.pooled, keep_graph=True) for root in roots]
        _restore(buffers)
        with state.replayed(), harmonizer.record():
            again, pooled_again = forward()
        cut = harmonizer.cut(again, pooled_again, read_heads=False)
        report = harmonizer.run(cut, step=0, valid=None, reduce=False)
        return _compare(harmonizer, up, report, units)
    finally:
        harmonizer.policy = policy
        for p, grad in saved:
            p.grad = grad
        _restore(buffers)


@torch.no_grad()
def _restore(buffers: Mapping[Tensor, Tensor]) -> None:
    for b, before in buffers.items():
        if not torch.equal(b, before):  # autograd counts every write
            b.copy_(before)


def _compare(harmonizer: Harmonizer, up: Upstream, report: HarmonyReport, units: int | None) -> Verification:
    inside = _inside(harmonizer)
    share, K = max(1, harmonizer.granularity.share), len(up.delta)
    count = up.samples // share
    worst, looped = 0.0, min(count, units or count)
    for u in range(looped):
        if harmonizer.scope.name == "representation":
            rows = [_at_pooled(up, slice(u * share, (u + 1) * share), k) for k in range(K)]
        else:
            rows = [single_unit(up, inside, count, u, k) for k in range(K)]
        want = inner_products(rows, torch.float64)
        length = want.diagonal().clamp_min(torch.finfo(want.dtype).tiny).sqrt()
        error = (report.gram[u * share].to(want) - want).abs() / (length[:, None] * length[None])
        worst = max(worst, error.max().item())
    return Verification(worst, _update_error(harmonizer, up, report.weights), looped, len(inside))


def _inside(harmonizer: Harmonizer) -> list[nn.Parameter]:
    chosen = set(harmonizer.in_scope)
    return [p for p in harmonizer.parameters() if chosen & set(harmonizer.names[id(p)])]


def _at_pooled(up: Upstream, own: slice, k: int) -> list[Tensor | None]:
    """At representation scope: the cotangents themselves, where two losses met."""
    reached = up.losses_at()
    least = min(2, len(set[int]().union(*reached)))
    met = [len(by) >= least for by in reached]
    return [
        d.reshape(up.samples, -1)[own] if both and d is not None else None
        for d, both in zip(up.delta[k], met, strict=True)
    ]


def _update_error(harmonizer: Harmonizer, up: Upstream, weights: Tensor) -> float:
    """Against one ordinary backward pass with weighted cotangents, parameters upstream only."""
    params = harmonizer.parameters()
    errors, sizes = [0.0], [torch.finfo(up.pooled[0].dtype).tiny]
    found = up.gradients(params, spread(weights, up.samples), keep_graph=False)
    for p, want in zip(params, found, strict=True):
        if want is not None:
            got = torch.zeros_like(want) if p.grad is None else p.grad
            errors.append((got - want).abs().max().item())
            sizes.append(want.abs().max().item())
    return max(errors) / max(sizes)
