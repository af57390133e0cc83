"""What judges the engine: small models, and a brute-force reference that knows nothing of the engine.

A case builds a model and a function that encodes a batch into pooled vectors. The reference masks the
losses' cotangents at the pooled vectors to one sample and lets autograd pull them back, one sample and loss
at a time.
"""

import math
from collections.abc import Callable, Iterator
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
    several: it gives several pooled vectors. own_losses: `build` gives the losses as well.
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
    several: bool = False
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
    samples = min(len(each) for each in pooled.values())
    z = [each.reshape(samples, -1) for each in pooled.values()]
    ends = [(0, len(z) > 1), (0, len(z) - 1), (len(z) > 1, len(z) - 1)]
    losses: Losses = {}
    for k, (a, b) in enumerate(ends[:number]):
        one = project(z[int(a)], 10 + k)
        two = project(z[int(b)], 20 + k)
        scores = one @ two.T
        present = torch.ones(samples, dtype=torch.bool) if mask is None or k != 1 else mask
        scores = scores.masked_fill(~present, -1e4)
        each = scores.logsumexp(1) - scores.diagonal()
        losses[f"loss {k}"] = each[present].mean()
    if len(z) < 3 and number > 1 and mask is None:
        # the losses reach the same vectors: let some samples conflict
        losses["loss 1"] = losses["loss 1"] - 0.7 * losses["loss 0"]
    return losses


def project(z: Tensor, seed: int) -> Tensor:
    """[B, F] -> [B, 5], bounded; the same random projection for a seed."""
    g = torch.Generator().manual_seed(seed)
    matrix = torch.randn(z.shape[1], 5, generator=g, dtype=torch.float64).to(z)
    centred = z - z.detach().mean() if z.is_floating_point() else z
    scale = centred.detach().square().mean().sqrt().clamp_min(1e-6)
    return torch.tanh(centred / scale @ matrix / z.shape[1] ** 0.5) * 2
