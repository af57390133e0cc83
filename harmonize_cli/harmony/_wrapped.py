"""What surrounds a model and its step: DistributedDataParallel, FSDP2, autocast, and autograd's errors."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from harmonize_cli.errors import BadInput

SHARDED_HEADS = "losses or heads are sharded by FSDP; keep them outside fully_shard"


class Wrapped:
    """The modules that reduce gradients over ranks themselves.

    shards: those that `fully_shard` made its own, by path. replicas: those under DistributedDataParallel.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        every = [item for prefix, root in modules.items() for item in root.named_modules(prefix=prefix)]
        if any(type(m).__name__ == "FullyShardedDataParallel" for _, m in every):
            raise BadInput("FullyShardedDataParallel (FSDP 1): use fully_shard and scope representation")
        self.replicas = [m for _, m in every if isinstance(m, DistributedDataParallel)]
        self.shards: dict[str, Any] = {
            name: m for name, m in every if hasattr(type(m), "set_gradient_divide_factor")
        }
        self._inside = tuple(f"{name}." if name else "" for name in self.shards)

    def owns(self, path: str) -> bool:
        """Whether FSDP shards the parameter at `path`."""
        return path.startswith(self._inside)

    def prepare(self, modules: Mapping[str, nn.Module], *, by_layers: bool) -> None:
        """Let FSDP add gradients up: it averages them by default, but every rank's losses are its share.

        Raises:
            BadInput: layers would have to be read.
        """
        if self.shards and by_layers:
            named = (name for prefix, root in modules.items() for name, _ in root.named_parameters(prefix))
            raise BadInput(
                f"{next(filter(self.owns, named))}: sharded by FSDP, so its layers can't be read by samples; "
                "use scope representation"
            )
        for module in self.shards.values():
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other reduction

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """DistributedDataParallel leaves the gradients made inside alone: the harmonizer sums them."""
        with ExitStack() as stack:
            for module in self.replicas:
                stack.enter_context(module.no_sync())
            yield

    def refuse_reduced(self, reached: Collection[int]) -> None:
        """Raise where DistributedDataParallel is about to reduce what the harmonizer sums; reached: ids of
        the parameters in a step's graph, for a module that was not called says nothing of where it was."""
        for module in self.replicas:
            if not module.require_forward_param_sync or all(
                id(p) not in reached for p in module.parameters()
            ):
                continue
            raise BadInput(
                "DistributedDataParallel: its forward pass ran outside `with harmonizer.record():`, so it "
                "would average the gradients a second time; run it inside, or give the wrapped module"
            )


@contextmanager
def outside_autocast() -> Iterator[None]:
    """Inner products need float32; Lightning, for one, runs the backward pass where the forward pass ran."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


EXPLAINED = {
    "donated buffer": "a compiled head can't be passed twice: set torch._functorch.config.donated_buffer = "
    "False",
    "modified by an inplace operation": "a tensor was changed in place after a layer read it; use an "
    "out-of-place operation",
    "backward through the graph a second time": "the graph is gone: `backward` was called on these losses "
    "before, or parts of them are shared with other losses",
    "When use_reentrant=True": "activation checkpointing with use_reentrant=True; use use_reentrant=False",
}


@contextmanager
def explained() -> Iterator[None]:
    """Errors of autograd, in words that say what to do."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as e:
        advice = next((text for part, text in EXPLAINED.items() if part in str(e)), None)
        raise BadInput(f"harmonizer: {advice or f'autograd refused this graph: {e}'}") from e
