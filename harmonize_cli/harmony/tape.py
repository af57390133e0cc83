"""What a forward pass leaves behind: the inputs and the output edges of every layer with parameters."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from harmonize_cli.errors import HarmonizeError


@dataclass(eq=False, slots=True)
class Call:
    """One call of one layer.

    edges: where the gradients of its outputs arrive, one per output tensor that needs one; shapes likewise.
    Output tensors themselves are not kept: autograd keeps those that it needs.
    """

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    edges: list[GradientEdge]
    shapes: list[torch.Size]
    versions: list[int]

    @property
    def rows(self) -> int:
        """Leading dimension: samples, or samples times candidates."""
        return self.shapes[0][0] if self.shapes[0] else 1

    def input(self) -> Tensor:
        """The first argument, checked to be what the layer saw.

        Raises:
            HarmonizeError: it was changed in place since.
        """
        x = self.args[0]
        assert isinstance(x, Tensor)
        if x._version != self.versions[0]:
            raise HarmonizeError(
                f"{self.name}: its input was changed in place after the call; use an out-of-place operation"
            )
        return x


class Tape:
    """Records the calls of all modules below `roots` that own trainable parameters."""

    def __init__(self, roots: Mapping[str, nn.Module]) -> None:
        self.names: dict[nn.Module, str] = {}
        for prefix, root in roots.items():
            for name, module in root.named_modules(prefix=prefix):
                self.names.setdefault(module, name)
        self.calls: list[Call] = []

    def owners(self) -> dict[nn.Module, str]:
        """Modules with trainable parameters of their own that forward hooks can see."""
        inside_opaque: set[nn.Module] = set()
        found: dict[nn.Module, str] = {}
        for module, name in self.names.items():
            if module in inside_opaque:
                continue
            if isinstance(module, OPAQUE):
                inside_opaque.update(module.modules())
            if any(p.requires_grad for p in owned(module)) and not _mixes(module):
                found[module] = name
        return found

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record the forward passes made inside; what an earlier pass left is dropped."""
        self.calls = []
        # hooks can't look into a compiled graph: run compiled modules as they were written
        eager = torch.compiler.set_stance("force_eager") if self._compiled() else nullcontext()
        handles = [module.register_forward_hook(self._hook, with_kwargs=True) for module in self.owners()]
        try:
            with eager:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _compiled(self) -> bool:
        compiled = (type(m).__name__ == "OptimizedModule" or m._compiled_call_impl for m in self.names)
        return any(compiled)

    def take(self) -> list[Call]:
        """The calls of the last pass, in order; the tape is empty afterwards."""
        calls, self.calls = self.calls, []
        return calls

    def _hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        outputs = [y for y in _tensors(output) if y.requires_grad and y.grad_fn is not None]
        if not (torch.is_grad_enabled() and outputs):
            return
        edges, shapes = [get_gradient_edge(y) for y in outputs], [y.shape for y in outputs]
        versions = [a._version for a in args if isinstance(a, Tensor)]
        self.calls.append(Call(self.names[module], module, args, kwargs, edges, shapes, versions))


# layers whose forward uses its children's parameters without calling them
OPAQUE = (nn.MultiheadAttention,)


def _mixes(module: nn.Module) -> bool:
    """Parameters of its own beside children with theirs: replaying it would replay the children as well."""
    if isinstance(module, OPAQUE):
        return False
    return any(p is not None for child in module.children() for p in child.parameters())


def owned(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that a recorded call of `module` accounts for."""
    return module.parameters(recurse=isinstance(module, OPAQUE))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
