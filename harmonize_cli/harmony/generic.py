"""Any module that owns parameters: its per-unit gradients by replaying the module, unit by unit.

Exact for modules that treat the rows of a batch apart and draw no random numbers. Slower than the kinds of
`layers`, so meant for small things: AGG tokens, position tables, attention with fused parameters.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony.layers import Cotangents, add_grad
from harmonize_cli.harmony.sums import Buffers, GramSum
from harmonize_cli.harmony.tape import Call, _tensors, owned

Params = dict[str, Tensor]


@dataclass(slots=True)
class GenericLayer:
    """A module's calls, kept to be replayed."""

    name: str
    module: nn.Module
    calls: list[tuple[Call, Cotangents]]
    units: int

    def __post_init__(self) -> None:
        for part in self.module.modules():
            rate = getattr(part, "dropout", getattr(part, "p", 0.0))
            if part.training and isinstance(rate, float) and rate > 0:
                raise BadInput(
                    f"{self.name}: {type(self.module).__name__} draws random numbers (dropout {rate}) beside "
                    "parameters that can only be read by replaying it; set its dropout to 0 or move the "
                    "parameters into modules of their own"
                )

    def parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by name within the module."""
        found = {id(p) for p in owned(self.module)}
        named = self.module.named_parameters()
        return {name: p for name, p in named if p.requires_grad and id(p) in found}

    def add_gram(self, total: GramSum, buffers: Buffers) -> None:
        """Add this layer's terms to `total`."""
        size = sum(p.numel() for p in self.parameters().values()) * total.losses * 8
        step = max(1, min(self.units, 2**28 // max(size, 1)))
        for start in range(0, self.units, step):
            part = range(start, min(start + step, self.units))
            grads = [g for _, g in self._gradients(part, total.losses)]
            per_loss = [[g[:, k] for g in grads] for k in range(total.losses)]
            total.add_all(per_loss, buffers, slice(part.start, part.stop))

    def update(self, weights: Tensor, buffers: Buffers) -> None:
        """Add the gradient under `weights` [U, K], by one ordinary replay."""
        params = self.parameters()
        for call, cotangents in self.calls:
            outputs = len(call.edges)
            combined = [
                combine_rows([of[o] for of in cotangents], weights, call.shapes[o]) for o in range(outputs)
            ]
            if not any(each is not None for each in combined):
                continue
            with torch.enable_grad():
                own = {name: p.detach().requires_grad_() for name, p in params.items()}
                y = self._run(own, call.args, call.kwargs)
                pairs = [(o, d) for o, d in zip(y, combined, strict=True) if d is not None]
                grads = torch.autograd.grad(
                    [o for o, _ in pairs], list(own.values()), [d for _, d in pairs], allow_unused=True
                )
            for p, grad in zip(params.values(), grads, strict=True):
                if grad is not None:
                    add_grad(p, grad)

    def _run(self, params: Params, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        return list(_tensors(functional_call(self.module, params, args, kwargs)))

    def _gradients(self, part: range, losses: int) -> list[tuple[nn.Parameter, Tensor]]:
        params = self.parameters()
        detached = {name: p.detach() for name, p in params.items()}
        totals = [
            torch.zeros(len(part), losses, p.numel(), dtype=p.dtype, device=p.device) for p in params.values()
        ]
        for call, cotangents in self.calls:
            for k in range(losses):
                if all(d is None for d in cotangents[k]):
                    continue
                ds = [
                    torch.zeros(shape, dtype=totals[0].dtype, device=totals[0].device) if d is None else d
                    for d, shape in zip(cotangents[k], call.shapes, strict=True)
                ]
                found = self._per_unit(call, detached, ds, part)
                for total, name in zip(totals, params, strict=True):
                    total[:, k] += found[name].reshape(len(part), -1)
        return list(zip(params.values(), totals, strict=True))

    def _per_unit(self, call: Call, params: Params, ds: list[Tensor], part: range) -> Params:
        """Gradients {name: [len(part), ...]} of one call and loss."""
        rows, share = call.rows, call.rows // self.units
        cut = [_units(d, rows, self.units)[part.start : part.stop] for d in ds]
        batched: list[Tensor] = []

        def is_batched(value: Any) -> bool:
            return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == rows

        for value in [*call.args, *call.kwargs.values()]:
            if is_batched(value):
                batched.append(_units(value.detach(), rows, self.units)[part.start : part.stop])
        alone = not batched  # made from parameters alone: every row is the same function of them

        def one(inputs: list[Tensor], cotangents: list[Tensor]) -> Params:
            queue = iter(inputs)
            args = tuple(next(queue) if is_batched(a) else a for a in call.args)
            kwargs = {name: next(queue) if is_batched(a) else a for name, a in call.kwargs.items()}

            def run(p: Params) -> list[Tensor]:
                outputs = self._run(p, args, kwargs)
                outputs = [y for y in outputs if y.is_floating_point()][: len(cotangents)]
                return [y[:share] for y in outputs] if alone else outputs

            _, pull = cast(tuple[Any, Callable[..., tuple[Params]]], vjp(run, params))
            return pull(cotangents)[0]

        # MATH is the only attention that vmap takes apart; that it is slow elsewhere is said above
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")
            found: Params = vmap(one)(batched, cut) if batched else vmap(lambda c: one([], c))(cut)
        return found


def _units(t: Tensor, rows: int, units: int) -> Tensor:
    """[N, ...] -> [U, N // U, ...]"""
    return t.reshape(units, rows // units, *t.shape[1:])


def combine_rows(d: list[Tensor | None], weights: Tensor, shape: torch.Size) -> Tensor | None:
    """sum_k weights[unit of row, k] d[k], in a new tensor."""
    total: Tensor | None = None
    for k, each in enumerate(d):
        if each is not None:
            rows = weights[:, k].repeat_interleave(shape[0] // weights.shape[0]).to(each.dtype)
            part = each * rows.view(-1, *[1] * (each.dim() - 1))
            total = part if total is None else total + part
    return total
