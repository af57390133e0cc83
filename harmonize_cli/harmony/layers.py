"""Layers by kind: how calls and cotangents of a module become Gram terms and, later, one gradient.

A layer is measured (`Layer.add_gram` or, for outer-product layers, `gram.shared_gram`), then updated once
with the weights of all units. To add a kind, add a reader to `READERS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony.gram import Factors
from harmonize_cli.harmony.patches import non_overlapping, patch_rows
from harmonize_cli.harmony.segments import Segment, per_unit
from harmonize_cli.harmony.sums import Buffers, GramSum, wide
from harmonize_cli.harmony.tape import Call

Cotangents = list[list[Tensor | None]]
"""Per loss, per output of the call."""


def add_grad(p: nn.Parameter, grad: Tensor) -> None:
    """Accumulate into `.grad`, as a backward pass does."""
    grad = grad.to(p.dtype).view_as(p)
    p.grad = grad if p.grad is None else p.grad.add_(grad)


@dataclass(slots=True)
class OuterLayer:
    """Linear, patch convolution or embedding: the weight gradient is a sum of outer products over tokens."""

    name: str
    factors: Factors
    weight: nn.Parameter | None
    bias: nn.Parameter | None
    out_first: bool = True
    """Weights are [out, in]; an embedding's are [in, out]."""

    @property
    def segments(self) -> list[Segment]:
        """One per call."""
        return self.factors.segments

    def update(self, weights: Tensor, buffers: Buffers) -> None:
        """Add the gradient under `weights` [U, K] and let go of the cotangents."""
        for segment in self.segments:
            combined = combine(segment.d, weights, buffers)
            segment.d = []
            if combined is None:
                continue
            d = combined.flatten(0, 1)
            if self.bias is not None:
                add_grad(self.bias, d.sum(0))
            if self.weight is not None:
                self._add_weight(self.weight, segment.x.flatten(0, 1), d)

    def _add_weight(self, p: nn.Parameter, x: Tensor, d: Tensor) -> None:
        if not x.is_floating_point():
            grad = torch.zeros_like(p) if p.grad is None else p.grad
            p.grad = grad.index_add_(0, x, d.to(grad.dtype))
        elif p.grad is not None and p.grad.dtype == d.dtype and p.grad.is_contiguous():
            p.grad.view(d.shape[1], -1).addmm_(d.t(), x)
        else:
            add_grad(p, torch.mm(d.t(), x))


@dataclass(slots=True)
class RowLayer:
    """Norms: each token's gradient is elementwise, so per-unit gradients are small and simply kept."""

    name: str
    module: nn.Module
    segments: list[Segment]
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def settle(self, buffers: Buffers) -> "SettledLayer":
        """The per-unit gradients in place of the cotangents."""
        x = self.segments[0].x
        shape = x.shape[0], len(self.segments[0].d), x.shape[2]
        scale, shift = (torch.zeros(shape, dtype=wide(x.dtype), device=x.device) for _ in range(2))
        for segment in self.segments:
            normed = normalise(self.module, segment.x) if self.weight is not None else None
            for k in segment.losses():
                d = segment.d[k]
                assert d is not None
                if normed is not None:
                    scale[:, k] += torch.mul(d, normed, out=buffers.like("scale", normed)).sum(1)
                shift[:, k] += d.sum(1, dtype=shift.dtype)
        pairs = (self.weight, scale), (self.bias, shift)
        return SettledLayer(self.name, [(p, grad) for p, grad in pairs if p is not None])


@dataclass(slots=True)
class SettledLayer:
    """A layer whose per-unit gradients [U, K, P] are known and small."""

    name: str
    grads: list[tuple[nn.Parameter, Tensor]]

    def add_gram(self, total: GramSum, buffers: Buffers) -> None:
        """Add this layer's terms to `total`."""
        per_loss = [[g[:, k] for _, g in self.grads] for k in range(total.losses)]
        total.add_all(per_loss, buffers)

    def update(self, weights: Tensor, buffers: Buffers) -> None:
        """Add the gradient under `weights` [U, K]."""
        for p, g in self.grads:
            add_grad(p, torch.einsum("uk,ukp->p", weights.to(g.dtype), g))


def combine(d: Sequence[Tensor | None], weights: Tensor, buffers: Buffers) -> Tensor | None:
    """sum_k weights[:, k] d[k], [U, n, out], in a buffer; None where all are zero.

    Captured cotangents may share memory with each other, so they are never written to.
    """
    some = [(k, each) for k, each in enumerate(d) if each is not None]
    if not some:
        return None
    k, first = some[0]
    out = torch.mul(first, _column(weights, k, first), out=buffers.like("combined", first))
    for k, each in some[1:]:
        out.addcmul_(each, _column(weights, k, each))
    return out


def _column(weights: Tensor, k: int, d: Tensor) -> Tensor:
    return weights[:, k].to(d.dtype).view(-1, 1, 1)


Calls = list[tuple[Call, Cotangents]]
Reader = Callable[[str, nn.Module, Calls, int], "OuterLayer | RowLayer"]


def read_linear(name: str, module: nn.Module, calls: Calls, units: int) -> OuterLayer:
    """`nn.Linear`."""
    segments = []
    for call, d in calls:
        cotangents = [None if of[0] is None else per_unit(working(of[0]), units) for of in d]
        segments.append(Segment(_match(per_unit(call.input().detach(), units), cotangents), cotangents))
    return _outer(name, module, segments)


def read_patches(name: str, module: nn.Module, calls: Calls, units: int) -> OuterLayer:
    """Convolutions whose patches do not overlap: a linear map of each patch."""
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    segments = []
    for call, d in calls:
        rows = patch_rows(module, call.input().detach())
        cotangents = [None if of[0] is None else per_unit(working(of[0]).movedim(1, -1), units) for of in d]
        segments.append(Segment(_match(per_unit(rows, units), cotangents), cotangents))
    return _outer(name, module, segments)


def read_embedding(name: str, module: nn.Module, calls: Calls, units: int) -> OuterLayer:
    """`nn.Embedding`; padding rows get no gradient."""
    assert isinstance(module, nn.Embedding)
    segments = []
    for call, d in calls:
        rows = per_unit(call.input(), units, features=False).long()
        cotangents = [None if of[0] is None else per_unit(working(of[0]), units) for of in d]
        if module.padding_idx is not None:
            padding = (rows == module.padding_idx).unsqueeze(-1)
            cotangents = [None if each is None else each.masked_fill(padding, 0) for each in cotangents]
        segments.append(Segment(rows, cotangents))
    return _outer(name, module, segments)


def read_norm(name: str, module: nn.Module, calls: Calls, units: int) -> RowLayer:
    """`nn.LayerNorm` and `nn.RMSNorm`."""
    assert isinstance(module, nn.LayerNorm | nn.RMSNorm)
    shape = module.normalized_shape
    segments = []
    for call, d in calls:
        x = call.input().detach()
        cotangents = [
            None if of[0] is None else per_unit(working(of[0]).flatten(-len(shape)), units) for of in d
        ]
        segments.append(Segment(per_unit(x.flatten(-len(shape)), units), cotangents))
    return RowLayer(name, module, segments, _own(module, "weight"), _own(module, "bias"))


def normalise(module: nn.Module, x: Tensor) -> Tensor:
    """The norm without scale and shift, of tokens [U, n, D]."""
    x = x.to(wide(x.dtype))
    if isinstance(module, nn.LayerNorm):
        return nn.functional.layer_norm(x, x.shape[-1:], eps=module.eps)
    assert isinstance(module, nn.RMSNorm)
    return nn.functional.rms_norm(x, x.shape[-1:], eps=module.eps)


def reader_of(module: nn.Module) -> Reader | None:
    """How to read a module's calls; None: only the generic way (`generic`) works.

    Raises:
        BadInput: BatchNorm in training, which has no per-sample gradient.
    """
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
        raise BadInput(
            "BatchNorm couples the samples of a batch, so no per-sample gradient exists through it; use "
            "LayerNorm or GroupNorm, scope representation, or granularity batch"
        )
    forward = type(module).forward
    if isinstance(module, nn.Linear) and forward is nn.Linear.forward and "weight" in module._parameters:
        return read_linear
    if isinstance(module, nn.LayerNorm) and forward is nn.LayerNorm.forward:
        return read_norm
    if isinstance(module, nn.RMSNorm) and forward is nn.RMSNorm.forward:
        return read_norm
    if isinstance(module, nn.Embedding) and forward is nn.Embedding.forward and _plain_embedding(module):
        return read_embedding
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and non_overlapping(module):
        return read_patches
    return None


def _plain_embedding(module: nn.Embedding) -> bool:
    return module.max_norm is None and not module.scale_grad_by_freq and not module.sparse


def _outer(name: str, module: nn.Module, segments: list[Segment]) -> OuterLayer:
    weight, bias = _own(module, "weight"), _own(module, "bias")
    return OuterLayer(name, Factors(segments, weight is not None, bias is not None), weight, bias)


def _own(module: nn.Module, name: str) -> nn.Parameter | None:
    p = getattr(module, name, None)
    return p if isinstance(p, nn.Parameter) and p.requires_grad else None


def working(d: Tensor) -> Tensor:
    """The cotangent in the type to compute in: float32 at least, except bfloat16 on a GPU, whose matrix
    products add up in float32 and cover float32's range."""
    if d.dtype == torch.float16 or (d.dtype == torch.bfloat16 and not d.is_cuda):
        return d.float()
    return d


def _match(x: Tensor, cotangents: Sequence[Tensor | None]) -> Tensor:
    """x in the type of the cotangents (autocast casts inside the layer, so it may differ)."""
    return next((x.to(d.dtype) for d in cotangents if d is not None), x)
