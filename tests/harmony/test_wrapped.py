"""Models in DistributedDataParallel and FSDP2: exact, or refused with the reason."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony import Harmonizer


@pytest.fixture(autouse=True)
def group(tmp_path: Path) -> Iterator[None]:
    """One process that is a group."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def towers() -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)), nn.Linear(4, 1), torch.randn(5, 6)


def losses_of(z: Tensor, head: nn.Module) -> dict[str, Tensor]:
    return {"a": z.square().sum(), "b": -head(z).sum()}


def gradients(body: nn.Module, head: nn.Module, x: Tensor, **options: str) -> list[Tensor]:
    """Of a harmonized step."""
    harmonizer = Harmonizer({"body": body, "head": head}, **options)  # type: ignore[arg-type]
    with harmonizer.record():
        z = body(x)
        losses = losses_of(z, head)
    harmonizer.backward(losses, z)
    return [getattr(p.grad, "full_tensor", lambda g=p.grad: g)() for p in harmonizer.parameters()]


@pytest.mark.parametrize(
    "options", [{}, {"scope": "all"}, {"scope": "representation"}, {"granularity": "batch"}], ids=str
)
def test_ddp_gives_the_gradients_of_the_bare_model(options: dict[str, str]) -> None:
    body, head, x = towers()
    want = gradients(body, head, x, **options)
    body, head, x = towers()
    whole = nn.ModuleDict({"inside": DistributedDataParallel(body)})
    forward = nn.Sequential(whole["inside"])  # wrapped somewhere inside what the harmonizer is given
    torch.testing.assert_close(gradients(forward, head, x, **options), want)


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ("auto", "run the encoder inside"),
        ("representation", "DistributedDataParallel: its forward pass ran outside"),
    ],
)
def test_a_ddp_forward_pass_outside_record_is_refused(scope: str, message: str) -> None:
    body, head, x = towers()
    wrapped = DistributedDataParallel(body)
    harmonizer = Harmonizer({"body": wrapped, "head": head}, scope=scope)
    z = wrapped(x)
    with pytest.raises(BadInput, match=message):
        harmonizer.backward(losses_of(z, head), z)


@pytest.mark.parametrize("scope", ["auto", "representation"])
@pytest.mark.parametrize("called_before", [False, True])
def test_a_ddp_module_that_a_step_does_not_call_is_no_hindrance(scope: str, called_before: bool) -> None:
    body, head, x = towers()
    want = gradients(body, head, x, scope=scope)
    body, head, x = towers()
    other = DistributedDataParallel(nn.Linear(6, 4))
    whole = {"body": DistributedDataParallel(body), "head": head, "other": other}
    if called_before:
        other(x).sum().backward()
    harmonizer = Harmonizer(whole, scope=scope)
    with harmonizer.record():
        z = whole["body"](x)
        losses = losses_of(z, head)
    harmonizer.backward(losses, z)
    got = [p.grad for module in (body, head) for p in module.parameters()]
    torch.testing.assert_close(got, want)


def test_fsdp_at_scope_representation_gives_the_gradients_of_the_bare_model() -> None:
    body, head, x = towers()
    want = gradients(body, head, x, scope="representation")
    body, head, x = towers()
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(body[0], mesh=mesh)  # type: ignore[index]
    fully_shard(body, mesh=mesh)
    torch.testing.assert_close(gradients(body, head, x, scope="representation"), want)


@pytest.mark.parametrize("options", [{}, {"scope": "all"}, {"granularity": "batch"}], ids=str)
def test_fsdp_in_other_scopes_is_refused_by_name(options: dict[str, str]) -> None:
    body, head, x = towers()
    harmonizer = Harmonizer({"body": body, "head": head}, **options)  # type: ignore[arg-type]
    fully_shard(body, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(BadInput, match=r"body\.0\.weight: sharded by FSDP.*scope representation"):
        Harmonizer({"body": body, "head": head}, **options)  # type: ignore[arg-type]
    with harmonizer.record():  # made before it was sharded
        z = body(x)
    with pytest.raises(BadInput, match=r"body\.0\.weight: sharded by FSDP"):
        harmonizer.backward(losses_of(z, head), z)


def test_sharded_heads_are_refused() -> None:
    body, head, x = towers()
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(body, mesh=mesh)
    fully_shard(head, mesh=mesh)
    harmonizer = Harmonizer({"body": body, "head": head}, scope="representation")
    z = body(x)
    with pytest.raises(BadInput, match="losses or heads are sharded by FSDP"):
        harmonizer.backward(losses_of(z, head), z)


@pytest.mark.filterwarnings("ignore")
def test_fsdp_1_is_refused() -> None:
    body, _, _ = towers()
    wrapped = FullyShardedDataParallel(body, device_id=torch.device("cpu"))
    with pytest.raises(BadInput, match="use fully_shard"):
        Harmonizer(wrapped, scope="representation")
