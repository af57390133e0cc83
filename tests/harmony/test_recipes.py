"""The recipes for training frameworks: with rule `sum` they train what the framework's plain step trains."""

import runpy
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harmonize_cli.harmony import Harmonizer

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
RECIPE = {
    "lightning": "lightning_module",
    "accelerate": "accelerate_loop",
    "transformers": "huggingface_trainer",
}
# what the frameworks warn of among themselves
pytestmark = pytest.mark.filterwarnings("ignore")


class Plain:
    """Stands where the harmonizer does, for the reference: one backward pass of the losses' sum."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def record(self) -> nullcontext[None]:
        return nullcontext()

    def backward(self, losses: dict[str, Tensor], pooled: Tensor, **_: Any) -> "Plain":
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        return self

    def scalars(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())


def moved(recipe: str, rule: str, **settings: Any) -> Tensor:
    """How far the recipe took the weights; rule "" is the plain step."""
    models: list[nn.Module] = []
    before: list[Tensor] = []

    def make(given: nn.Module | dict[str, nn.Module], **options: Any) -> Harmonizer | Plain:
        model = given if isinstance(given, nn.Module) else nn.ModuleDict(given)
        models.append(model)
        before.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
        return Harmonizer(given, **options) if rule else Plain(model)

    main = runpy.run_path(str(RECIPES / f"{recipe}.py"))["main"]
    main.__globals__["Harmonizer"] = make
    torch.manual_seed(0)
    main(rule=rule, **settings)
    return nn.utils.parameters_to_vector(models[0].parameters()).detach() - before[0]


@pytest.mark.parametrize(
    ("package", "settings", "tolerance"),
    [
        ("lightning", {"limit_train_batches": 5}, 1e-4),
        ("lightning", {"limit_train_batches": 5, "precision": "bf16-mixed"}, 1e-2),
        ("accelerate", {}, 1e-4),
        ("accelerate", {"accumulate": 1, "mixed_precision": "bf16"}, 1e-2),
        ("transformers", {}, 1e-3),
        ("transformers", {"gradient_accumulation_steps": 2}, 1e-3),
        ("transformers", {"bf16": True}, 1e-2),
    ],
)
def test_rule_sum_is_the_frameworks_plain_step(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    settings: dict[str, Any],
    tolerance: float,
) -> None:
    pytest.importorskip(package)
    if package == "transformers":  # which takes the folder tests/datasets for the package of that name
        monkeypatch.setattr("transformers.trainer.is_datasets_available", lambda: False)
        settings = settings | {"output_dir": tmp_path}
    if package != "lightning":  # accelerate's settings are those of the process
        monkeypatch.setattr("accelerate.state.AcceleratorState._shared_state", {})
    if package == "lightning":
        settings = settings | {"default_root_dir": tmp_path}
    recipe = RECIPE[package]
    plain = moved(recipe, "", **settings)
    assert 1 - torch.cosine_similarity(moved(recipe, "sum", **settings), plain, dim=0) < tolerance
    realigned = moved(recipe, "realign", **settings)
    assert realigned.isfinite().all()
    assert 1 - torch.cosine_similarity(realigned, plain, dim=0) > 2 * tolerance


@pytest.mark.parametrize("scope", ["backbone", "all", "representation"])
def test_backward_under_autocast_is_that_outside(scope: str) -> None:
    """Lightning makes the whole step under autocast; Gram matrices and gradients must not be cast."""

    def made(*, inside: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model, head, x = (
            nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8)),
            nn.Linear(8, 1),
            torch.randn(12, 16),
        )
        harmonizer = Harmonizer({"model": model, "head": head}, scope=scope)
        with torch.autocast("cpu", torch.bfloat16):
            with harmonizer.record():
                z = model(x)
                losses = {"a": z.float().square().sum(), "b": -head(z).float().sum()}
            if inside:
                report = harmonizer.backward(losses, z)
        if not inside:
            report = harmonizer.backward(losses, z)
        grads = [p.grad for p in harmonizer.parameters() if p.grad is not None]
        return [report.gram, *grads]

    torch.testing.assert_close(made(inside=True), made(inside=False), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("recipe", ["distributed", "fully_sharded"])
def test_two_processes_train_the_weights_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    script, one, two = RECIPES / f"{recipe}.py", tmp_path / "one.pt", tmp_path / "two.pt"
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--log-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, str(script), str(two)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    runpy.run_path(str(script))["main"](str(one))
    torch.testing.assert_close(torch.load(one), torch.load(two), rtol=1e-5, atol=1e-6)


def test_lightnings_checkpoint_keeps_the_rules_state(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    moved("lightning_module", "gradvac:ema", limit_train_batches=3, default_root_dir=tmp_path)
    (file,) = tmp_path.rglob("*.ckpt")
    assert torch.load(file)["harmonizer"]["rule"]["target"] != 0
