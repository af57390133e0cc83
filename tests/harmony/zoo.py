"""What judges the engine: small models, and a brute-force reference that knows nothing of the engine.

A case builds a model and a function that encodes a batch into pooled vectors. The reference masks the
losses' cotangents at the pooled vectors to one sample and lets autograd pull them back, one sample and loss
at a time.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

B = 4
"""Samples of every case. Other sizes of a case coincide with it on purpose, or avoid it on purpose."""

D, T = 8, 6
"""Width and length of most cases."""

Pooled = dict[str, Tensor]
Losses = dict[str, Tensor]
Encode = Callable[[], Pooled]
Built = tuple[nn.Module, Encode] | tuple[nn.Module, Encode, Callable[[Pooled], Losses]]
"""The model, its encoder over a batch, and the losses where they are not `contrasts`."""


@dataclass(frozen=True, slots=True)
class Case:
    """refused: what the BadInput says where layers are compared, in all scopes but `representation`; empty:
    the case is exact. Refusals that follow from a scope alone (`backbone` without common layers) are no such.
    refusable: what the BadInput says where the case may be refused as well as exact.
    tolerance: a larger one than usual, where the model itself computes parts in single precision.
    everywhere: what is said of refusals holds for scope `representation` as well.
    plain: as `build`, with a model of the same values whose graph takes single-sample backward passes, where
    that of `build` does not.
    own_losses: `build` gives them.
    autocast: whether the case runs under bf16 autocast at all.
    """

    name: str
    build: Callable[[], Built]
    refused: str = ""
    refusable: str = ""
    everywhere: bool = False
    tolerance: float = 0.0
    plain: Callable[[], Built] | None = None
    long: bool = False
    own_losses: bool = False
    autocast: bool = True


CASES: dict[str, Case] = {}


def add(name: str, build: Callable[[], Built], **options: Any) -> None:
    assert name not in CASES, name
    CASES[name] = Case(name, build, **options)


def case(name: str, **options: Any) -> Callable[[Callable[[], Built]], Callable[[], Built]]:
    def register(build: Callable[[], Built]) -> Callable[[], Built]:
        add(name, build, **options)
        return build

    return register


class Net(nn.Module):
    """Parts by name (modules, parameters, lists of modules), and how they are run."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Any) -> Any:
        return self.run(self, *inputs)


def single(model: nn.Module, *inputs: Any) -> Built:
    """A model whose output is the one pooled vector."""
    return model, lambda: {"z": model(*inputs)}


def param(*shape: int, scale: float = 0.5) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * scale)


def around(
    name: str,
    run: Callable[[Any, Tensor], Tensor],
    parts: Callable[[], dict[str, Any]],
    T: int = T,
    **options: Any,
) -> None:
    """`run(model, hidden [B, T, D])` between two Linear layers; its output [B, T, ...]."""

    def build() -> Built:
        x = torch.randn(B, T, 6)
        net = Net(
            lambda m, x: m.last(torch.tanh(run(m, m.first(x)))).mean(1),
            first=nn.Linear(6, D),
            **parts(),
            last=nn.Linear(D, 4),
        )
        return single(net, x)

    add(name, build, **options)


def linear(*names: str, width: int = D) -> Callable[[], dict[str, Any]]:
    return lambda: {name: nn.Linear(width, width) for name in names}


def params(**shapes: tuple[int, ...]) -> Callable[[], dict[str, Any]]:
    return lambda: {name: param(*shape) for name, shape in shapes.items()}


def wave(*shape: int) -> Tensor:
    """A constant without structure."""
    return torch.arange(math.prod(shape)).sin().view(shape)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def contrasts(pooled: Pooled, number: int = 2, mask: Tensor | None = None) -> Losses:
    """Contrastive losses without parameters: every sample's cotangent depends on the whole batch.

    With three pooled vectors loss 0 is of the first two, loss 1 of the first and the last. mask: [B], the
    samples that loss 1 has.
    """
    z = [each.reshape(B, -1) for each in pooled.values()]
    ends = [(0, len(z) > 1), (0, len(z) - 1), (len(z) > 1, len(z) - 1)]
    losses: Losses = {}
    for k, (a, b) in enumerate(ends[:number]):
        one = project(z[int(a)], 10 + k)
        two = project(z[int(b)], 20 + k)
        scores = one @ two.T
        present = torch.ones(B, dtype=torch.bool) if mask is None or k != 1 else mask
        scores = scores.masked_fill(~present, -1e4)
        each = scores.logsumexp(1) - scores.diagonal()
        losses[f"loss {k}"] = each[present].mean()
    if (
        len(z) < 3 and number > 1 and mask is None
    ):  # the losses reach the same vectors: let some samples conflict
        losses["loss 1"] = losses["loss 1"] - 0.7 * losses["loss 0"]
    return losses


def project(z: Tensor, seed: int) -> Tensor:
    """[B, F] -> [B, 5], bounded; the same random projection for a seed."""
    g = torch.Generator().manual_seed(seed)
    matrix = torch.randn(z.shape[1], 5, generator=g, dtype=torch.float64).to(z)
    centred = z - z.detach().mean() if z.is_floating_point() else z
    scale = centred.detach().square().mean().sqrt().clamp_min(1e-6)
    return torch.tanh(centred / scale @ matrix / z.shape[1] ** 0.5) * 2


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

    def gram(self, scope: str, units: int = B) -> Tensor:
        """[B, K, K]; the same for all samples of a unit."""
        of = self.representation if scope == "representation" else self.grads[:, :, self.scopes[scope]]
        of = of.unflatten(0, (units, -1)).sum(1)
        return torch.einsum("ukp,ulp->ukl", of, of).repeat_interleave(B // units, 0)

    def rounding(self) -> float:
        """How far the gradients upstream are from adding up to the plain one."""
        rest = (self.grads.sum((0, 1)) - self.plain)[self.scopes["all"]]
        return (rest.abs().max() / self.plain.abs().max()).item()

    def update(self, weights: Tensor) -> Tensor:
        """The whole `.grad`: weighted upstream, plain downstream."""
        return self.plain + torch.einsum("bk,bkp->p", weights.to(self.grads) - 1, self.grads)


def reference_of(model: nn.Module, pooled: Pooled, losses: Mapping[str, Tensor]) -> Reference:
    """By B * K single-sample backward passes over the graph as it stands; the graph is kept."""
    params = [p for p in model.parameters() if p.requires_grad]
    z = [each for each in pooled.values() if each.requires_grad]
    deltas = [pull([loss], z, [None]) if loss.requires_grad else [None] * len(z) for loss in losses.values()]
    rows = torch.stack(
        [
            torch.stack(
                [flat(params, pull(z, params, [one_sample(d, b) for d in delta])) for delta in deltas]
            )
            for b in range(B)
        ]
    )
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
    empty = torch.zeros(B, len(deltas), 0)
    total = [loss for loss in losses.values() if loss.requires_grad]
    whole = pull(total, params, [None] * len(total))
    return Reference(
        pooled={name: each.detach() for name, each in pooled.items()},
        grads=rows,
        plain=flat(params, whole),
        reached=present(whole),
        scopes={name: of.repeat_interleave(sizes) for name, of in at.items()},
        representation=torch.cat(
            [empty, *(torch.stack([rows_of(z[m], d[m]) for d in deltas], dim=1) for m in common)], dim=2
        ),
    )


def pull(
    roots: Sequence[Tensor], at: Sequence[Tensor], cotangents: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """autograd.grad for cotangents of which some may be missing (of a scalar: 1)."""
    pairs = [(y, d) for y, d in zip(roots, cotangents, strict=True) if d is not None or y.numel() == 1]
    if not pairs or not at:
        return [None] * len(at)
    found = torch.autograd.grad(
        [y for y, _ in pairs], list(at), [d for _, d in pairs], retain_graph=True, allow_unused=True
    )
    return list(found)


def one_sample(delta: Tensor | None, b: int) -> Tensor | None:
    if delta is None:
        return None
    keep = torch.zeros(B, dtype=delta.dtype)
    keep[b] = 1
    return delta * keep.repeat_interleave(len(delta) // B).view(-1, *[1] * (delta.dim() - 1))


def rows_of(z: Tensor, delta: Tensor | None) -> Tensor:
    return (torch.zeros_like(z) if delta is None else delta).detach().reshape(B, -1)


def present(grads: Sequence[Tensor | None]) -> Tensor:
    return torch.tensor([g is not None for g in grads])


def flat(params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> Tensor:
    parts = [torch.zeros_like(p) if g is None else g.to_dense() for p, g in zip(params, grads, strict=True)]
    return torch.cat([part.detach().flatten() for part in parts])
