"""The slow obvious reference: single-sample backward passes through autograd, nothing of the engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from zoo import Pooled


@dataclass(slots=True)
class Reference:
    """grads[b, k, p]: what flows through sample b's pooled vectors under loss k, over all trainable
    parameters laid end to end. plain: gradient of the sum of losses. reached: parameters that have one.
    scopes: which entries of p are compared, by scope. representation: [B, K, ...], the cotangents compared.
    """

    pooled: Pooled
    grads: Tensor
    plain: Tensor
    reached: Tensor
    scopes: dict[str, Tensor]
    representation: Tensor

    def gram(self, scope: str, units: int | None = None) -> Tensor:
        """[B, K, K]; the same for all samples of a unit."""
        of = self.representation if scope == "representation" else self.grads[:, :, self.scopes[scope]]
        samples = len(of)
        of = of.unflatten(0, (units or samples, -1)).sum(1)
        return torch.einsum("ukp,ulp->ukl", of, of).repeat_interleave(samples // len(of), 0)

    def rounding(self) -> float:
        """How far the gradients upstream are from adding up to the plain one."""
        rest = (self.grads.sum((0, 1)) - self.plain)[self.scopes["all"]]
        largest = self.plain.abs().max().clamp_min(1e-2 * self.grads.abs().max().item())
        return (rest.abs().max() / largest).item()

    def update(self, weights: Tensor) -> Tensor:
        """The whole `.grad`: weighted upstream, plain downstream."""
        return self.plain + torch.einsum("bk,bkp->p", weights.to(self.grads) - 1, self.grads)


def reference_of(model: nn.Module, pooled: Pooled, losses: Mapping[str, Tensor]) -> Reference:
    """By B * K single-sample backward passes over the graph as it stands; the graph is kept."""
    params = [p for p in model.parameters() if p.requires_grad]
    z = list({id(each): each for each in pooled.values() if each.requires_grad}.values())
    samples = min(len(each) for each in pooled.values())
    deltas = [pull([loss], z, [torch.ones_like(loss)]) for loss in losses.values()]
    rows = [
        flat(params, pull(z, params, [one_sample(d, b, samples) for d in delta]))
        for b in range(samples)
        for delta in deltas
    ]
    passes = torch.stack([present(pull([each], params, [torch.ones_like(each)])) for each in z])  # [M, n]
    meets = torch.tensor([[d is not None for d in delta] for delta in deltas])  # [K, M]
    reach = (meets.to(torch.int) @ passes.to(torch.int)) > 0  # [K, n]
    sizes = torch.tensor([p.numel() for p in params])
    at = {
        "all": reach.any(0),
        "shared": reach.sum(0) >= 2,
        "backbone": passes.all(0) & reach.any(0),
    }
    common = [m for m in range(len(z)) if meets[:, m].sum() >= 2]
    at_pooled = [torch.stack([rows_of(z[m], d[m], samples) for d in deltas], dim=1) for m in common]
    whole = pull(list(losses.values()), params, [torch.ones_like(loss) for loss in losses.values()])
    return Reference(
        pooled={name: each.detach() for name, each in pooled.items()},
        grads=torch.stack(rows).unflatten(0, (samples, -1)),
        plain=flat(params, whole),
        reached=present(whole),
        scopes={name: of.repeat_interleave(sizes) for name, of in at.items()},
        representation=torch.cat([torch.zeros(samples, len(deltas), 0), *at_pooled], dim=2),
    )


def pull(
    roots: Sequence[Tensor], at: Sequence[Tensor], cotangents: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """autograd.grad for cotangents of which some may be missing, and roots that are constants."""
    pairs = [(y, d) for y, d in zip(roots, cotangents, strict=True) if d is not None and y.requires_grad]
    if not pairs or not at:
        return [None] * len(at)
    found = torch.autograd.grad(
        [y for y, _ in pairs], list(at), [d for _, d in pairs], retain_graph=True, allow_unused=True
    )
    return list(found)


def one_sample(delta: Tensor | None, b: int, samples: int) -> Tensor | None:
    if delta is None:
        return None
    keep = torch.zeros(samples, dtype=delta.dtype)
    keep[b] = 1
    return delta * keep.repeat_interleave(len(delta) // samples).view(-1, *[1] * (delta.dim() - 1))


def rows_of(z: Tensor, delta: Tensor | None, samples: int) -> Tensor:
    return (torch.zeros_like(z) if delta is None else delta).detach().reshape(samples, -1)


def present(grads: Sequence[Tensor | None]) -> Tensor:
    return torch.tensor([g is not None for g in grads])


def flat(params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> Tensor:
    parts = [torch.zeros_like(p) if g is None else g.to_dense() for p, g in zip(params, grads, strict=True)]
    return torch.cat([part.detach().flatten() for part in parts])
