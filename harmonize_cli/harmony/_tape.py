"""What a forward pass leaves behind: every operation that a trainable parameter enters.

A parameter is recorded where it is used, not where it is stored: in its module's forward, in a functional
call, under a parametrization, or tied to another layer. What such operations make from parameters alone (a
normalised or transposed weight, an expanded token) is followed to the operations that it enters.
"""

import sys
import types
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, slots=True)
class RandomState:
    """torch's random state, on the CPU and on the current GPU."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls, device: torch.device | None = None) -> "RandomState":
        """The present one; device: leave the GPU's out where the work is done elsewhere."""
        gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state() if gpu else None)

    def moved_on(self) -> bool:
        """Whether numbers were drawn since."""
        if not torch.equal(self.cpu, torch.get_rng_state()):
            return True
        return self.cuda is not None and not torch.equal(self.cuda, torch.cuda.get_rng_state())

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw the same numbers again inside; afterwards go on as if nothing had been drawn."""
        before = RandomState.now()
        self._set()
        try:
            yield
        finally:
            before._set()

    def _set(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)


@dataclass(eq=False, slots=True)
class Side:
    """An argument made from parameters alone: a parameter itself, or what the operation `made_by` returned.

    edge: where its gradient arrives.
    """

    tensor: Tensor
    made_by: "Op | None"
    edge: GradientEdge


@dataclass(eq=False, slots=True)
class Op:
    """One operation with a parameter, or something made from parameters, among its arguments.

    sides: those arguments. inputs: edges of all other arguments that need a gradient. edges, shapes: where
    the gradients of its outputs arrive; outputs themselves are not kept. pure: nothing but sides and
    constants entered. random: torch's random state before, where the operation drew numbers.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sides: list[Side]
    inputs: list[GradientEdge]
    pure: bool
    versions: list[tuple[Tensor, int]]
    autocast: tuple[bool, torch.dtype] | None
    random: RandomState | None = None
    edges: list[GradientEdge] = field(default_factory=list)
    shapes: list[torch.Size] = field(default_factory=list)
    in_place: bool = False

    def signature(self) -> Hashable:
        """What it does to which parameters, in what shapes."""
        ids = (id(s.tensor) if s.made_by is None else 0 for s in self.sides)
        return self.func, self.pure, *ids, *self.shapes

    @property
    def changed(self) -> bool:
        """Whether an argument was changed in place after the call, so that it can't be read any more."""
        return any(t._version != version for t, version in self.versions)

    def shaped(self, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients that arrived at `edges`, in the shapes of the outputs."""
        return [None if d is None else d.reshape(n) for d, n in zip(grads, self.shapes, strict=True)]

    def replay(self, replaced: Mapping[int, Tensor], func: Callable[..., Any] | None = None) -> list[Tensor]:
        """Run it again with other tensors in place of some (by id); its differentiable outputs in order."""
        args, kwargs = swap((self.args, self.kwargs), replaced)
        mixed: Any = nullcontext()
        if self.autocast is not None:
            device = self.sides[0].tensor.device.type
            mixed = torch.autocast(device, self.autocast[1], enabled=self.autocast[0], cache_enabled=False)
        drawn = self.random.replayed() if self.random is not None else nullcontext()
        with mixed, drawn:
            return [y for y in tensors((func or self.func)(*args, **kwargs)) if y.is_floating_point()]


class Tape(TorchFunctionMode):
    """Records the operations made inside `record()` on the parameters of `roots`."""

    def __init__(self, roots: Mapping[str, nn.Module], known: Iterable[Callable[..., Any]]) -> None:
        super().__init__()
        self.roots = dict(roots)
        self.known = frozenset(known)
        """Functions that draw no random numbers, which need not be looked for then."""
        self.ops: list[Op] = []
        self.couplings: list[GradientEdge] = []
        """Outputs of operations that mix the samples by batch statistics."""
        self._sides: dict[int, Side] = {}
        self._constants: dict[int, Tensor] = {}

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record the forward pass made inside; what an earlier pass left is dropped."""
        self.take()
        self._constants = {id(b): b for root in self.roots.values() for b in root.buffers()}
        # a compiled graph can't be looked into: run compiled functions as they were written
        compiled = "torch._dynamo" in sys.modules
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext(), self:
            yield
        self._sides, self._constants = {}, {}

    def take(self) -> list[Op]:
        """The operations of the last pass, in order; the tape is empty afterwards."""
        ops, self.ops, self.couplings = self.ops, [], []
        return ops

    def __torch_function__(
        self, func: Callable[..., Any], kinds: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return _OPEN_ATTENTION(*args, **kwargs)
        given = tensors(args) + tensors(kwargs) if kwargs else tensors(args)
        found = [self._side(t) for t in given]
        sides = [side for side in found if side is not None]
        pure = (
            func in FACTORIES
            if not given
            else all(
                side is not None or t.dim() == 0 or id(t) in self._constants
                for side, t in zip(found, given, strict=True)
            )
        )
        if not sides or not torch.is_grad_enabled():
            out = func(*args, **kwargs)
            self._look_for_coupling(func, args, kwargs, out)
            if pure:
                self._constants.update((id(t), t) for t in tensors(out))
            elif _in_place(func, kwargs):
                self._forget(given[0])
            return out
        own = {id(s.tensor) for s in sides}
        inputs = [get_gradient_edge(t) for t in given if t.requires_grad and id(t) not in own]
        device = given[0].device.type
        mixed = (True, torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None
        op = Op(func, args, kwargs, sides, inputs, pure, [(t, t._version) for t in given], mixed)
        before = RandomState.now(given[0].device) if func not in self.known else None
        out = func(*args, **kwargs)
        if before is not None and before.moved_on():
            op.random = before
        self._look_for_coupling(func, args, kwargs, out)
        self._finish(op, out, given)
        return out

    def _finish(self, op: Op, out: Any, given: list[Tensor]) -> None:
        found = tensors(out)
        entered = {id(t) for t in given}
        op.in_place = op.changed or any(t.is_complex() for t in (*found, *given))
        if op.in_place and not op.pure:
            self._forget(given[0])
        if not op.in_place:
            found = [y for y in found if id(y) not in entered]  # dropout of rate 0 gives back what it got
        roots = entered | {id(t._base) for t in given if t._is_view()}
        for y in found:
            if not y.requires_grad or y.grad_fn is None:
                if op.pure:
                    self._constants[id(y)] = y
                continue
            if op.pure:
                self._sides[id(y)] = Side(y, op, get_gradient_edge(y))
            source = y
            # an in-place operation on a view would leave the view's own node out of the graph
            if y._is_view() and y._base is not None and id(y._base) not in roots:
                base = y._base
                if base.grad_fn is not None and base.numel() == y.numel() and _contiguous(base, y):
                    source = base
            op.edges.append(get_gradient_edge(source))
            op.shapes.append(y.shape)
        if op.edges:
            self.ops.append(op)

    def _look_for_coupling(self, func: Callable[..., Any], args: Any, kwargs: Any, out: Any) -> None:
        if func is F.batch_norm and isinstance(out, Tensor) and out.grad_fn is not None:
            training = kwargs.get("training", args[5] if len(args) > 5 else False)
            if training:
                self.couplings.append(get_gradient_edge(out))

    def _side(self, t: Tensor) -> Side | None:
        side = self._sides.get(id(t))
        # asking for the type first is faster: a parameter's `isinstance` is a function in Python
        if side is None and (
            type(t) is nn.Parameter or (type(t) is not Tensor and isinstance(t, nn.Parameter))
        ):
            if not t.requires_grad:
                return None
            side = self._sides[id(t)] = Side(t, None, get_gradient_edge(t))
        return side

    def _forget(self, t: Tensor) -> None:
        """Data was written into `t`: it is no constant any more."""
        for each in (t, t._base):
            self._constants.pop(id(each), None)
            self._sides.pop(id(each), None)


def tensors(value: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples and dictionaries, in order."""
    if isinstance(value, Tensor):
        return [value]
    found: list[Tensor] = []
    if isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            if isinstance(item, Tensor):
                found.append(item)
            elif isinstance(item, list | tuple | dict):
                found += tensors(item)
    return found


def swap(value: Any, replaced: Mapping[int, Tensor]) -> Any:
    """`value` with tensors replaced by id, all others detached."""
    if isinstance(value, Tensor):
        return replaced[id(value)] if id(value) in replaced else value.detach()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(swap(item, replaced) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(swap(item, replaced) for item in value)
    if isinstance(value, dict):
        return {key: swap(item, replaced) for key, item in value.items()}
    return value


def _contiguous(base: Tensor, y: Tensor) -> bool:
    return base.is_contiguous() and y.is_contiguous()


def _in_place(func: Callable[..., Any], kwargs: Mapping[str, Any]) -> bool:
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or "out" in kwargs or (name.endswith("_") and not name.endswith("__"))


FACTORIES = frozenset(
    (torch.arange, torch.empty, torch.eye, torch.full, torch.linspace, torch.ones, torch.zeros)
)
"""What makes constants; other tensors that come into being in a forward pass may be data."""

# attention with its own test for overrides switched off, so that the linear maps inside it are seen one by
# one
_OPEN_ATTENTION = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), "has_torch_function": lambda *_: False},
    "multi_head_attention_forward",
    F.multi_head_attention_forward.__defaults__,
)
_OPEN_ATTENTION.__kwdefaults__ = F.multi_head_attention_forward.__kwdefaults__
