"""Several processes, and processes that die: the same weights in the end."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harmonize_cli.curriculum.pretrain import pretrain
from harmonize_cli.models.checkpoint import list_checkpoints
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.run_folder import read_metrics

WORKER = Path(__file__).with_name("run_worker.py")
CONFIG = {
    "batch": 16,
    "steps": 14,
    "log_every": 4,
    "optim": {"lr": 1e-3},
    "model": {
        "width": 32,
        "heads": 2,
        "layers": 2,
        "feedforward": 64,
        "head": {"va": 32, "vt": 16},
        "dropout": 0.2,
        "drop_token": 0.3,
    },
    "harmonize": {"mode": "both"},
    "checkpoint": {"every": 3, "keep": 2},
}


def start(store: Path, run: Path, config: dict | None, *more: str, processes: int = 1):
    """Run the worker to its end; `config` None resumes."""
    file = "resume"
    if config is not None:
        file = str(run.with_suffix(".json"))
        Path(file).write_text(json.dumps(config))
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        launcher += ["--log-dir", str(run.parent / "elastic")]  # else it leaves one under /tmp
    return subprocess.run(
        [*launcher, str(WORKER), str(store), str(run), file, *more],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def finish(*args, **kwargs) -> None:
    done = start(*args, **kwargs)
    assert done.returncode == 0, done.stderr


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last" / "weights.safetensors")


def assert_same(a: Path, b: Path) -> None:
    one, two = weights(a), weights(b)
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


@pytest.fixture
def one_thread():
    """As in the worker: the sums of a matrix product depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_kill_9_and_resume_gives_the_same_bits(store_path, tmp_path):
    pretrain(store_path, tmp_path / "whole", PretrainConfig.model_validate(CONFIG))
    killed = start(store_path, tmp_path / "cut", CONFIG, "--kill-at", "11")
    assert killed.returncode == -9
    assert list_checkpoints(tmp_path / "cut")[-1].name == "step-00000009"
    pretrain(store_path, tmp_path / "cut")
    assert_same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("processes", [1, 2])
def test_kill_9_at_random_steps_and_moments(store_path, tmp_path, seed, processes):
    rng = random.Random(seed)
    config = {**CONFIG, "seed": seed, "steps": 40}
    finish(store_path, tmp_path / "whole", config, processes=processes)
    for series in range(2):
        run = tmp_path / f"cut{series}"
        died = 0
        settings = config
        for _ in range(3):
            how = (
                ["--kill-at", str(rng.randint(1, 39))]
                if series == 0
                else ["--kill-after", f"{rng.uniform(0.05, 2):.3f}"]
            )
            done = start(store_path, run, settings, *how, processes=processes)
            died += done.returncode != 0
            # killed before the folder was made: there is nothing to resume yet
            settings = None if (run / "config.yaml").exists() else config
        finish(store_path, run, settings, processes=processes)
        assert died
        assert_same(tmp_path / "whole", run)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [pytest.param("none", "fac", marks=pytest.mark.long), ("both", "fac"), ("both", "joint")],
)
@pytest.mark.usefixtures("one_thread")
def test_two_processes_make_the_steps_of_one(store_path, tmp_path, mode, kind):
    """Same rows, gathered negatives, synchronised norms, one sum of gradients: the same weights."""
    config = {
        **CONFIG,
        "steps": 4,
        "log_every": 1,
        # the joint head has biases in front of BatchNorm: their gradients are nothing but rounding
        "optim": {"lr": 1e-3, "eps": 1e-3 if kind == "joint" else 1e-4},
        "model": {
            **CONFIG["model"],
            "dropout": 0,
            "drop_token": 0,
            "head": {"kind": kind, "va": 32, "vt": 16},
        },
        "harmonize": {"mode": mode},
        "loss": {"ignore_same_group": True, "ignore_same_text": True, "learn_temperature": True},
        "validation": {"split": "test", "every": 2},
    }
    pretrain(store_path, tmp_path / "one", PretrainConfig.model_validate(config))
    finish(store_path, tmp_path / "two", config, processes=2)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    a, b = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")
    assert [line["step"] for line in a] == [line["step"] for line in b]
    for key in ("loss", "loss_va", "loss_vt", "grad_norm", "val/score", "conflict_share", "cosine_q50"):
        left = [line[key] for line in a if key in line]
        right = [line[key] for line in b if key in line]
        assert left == pytest.approx(right, rel=1e-4, abs=1e-5)


@pytest.mark.usefixtures("one_thread")
def test_two_processes_leave_alone_what_no_loss_reaches(store_path, tmp_path):
    """As one does: weight decay takes parameters with a gradient of zeros, and spares those without any."""
    config = {
        **CONFIG,
        "steps": 2,
        "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.5, "eps": 1e-4},
        "model": {**CONFIG["model"], "dropout": 0, "drop_token": 0},
        "harmonize": {"mode": "none"},
        "loss": {"vt": 0},
    }
    pretrain(store_path, tmp_path / "one", PretrainConfig.model_validate(config))
    finish(store_path, tmp_path / "two", config, processes=2)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert torch.equal(one["head.va_vt.weight"], two["head.va_vt.weight"])
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_no_checkpoint_before_every_process_has_its_records_on_disk(store_path, tmp_path):
    """A kill in between would cost the records of steps that are not made again."""
    run = tmp_path / "run"
    finish(store_path, run, {**CONFIG, "steps": 1}, "--slow-flush", processes=2)
    manifest = run / "checkpoints" / "step-00000001" / "manifest.json"
    assert (run / "flushed").stat().st_mtime_ns < manifest.stat().st_mtime_ns


@pytest.mark.long
def test_a_batch_that_the_processes_cannot_share_is_refused_at_once(store_path, tmp_path):
    done = start(store_path, tmp_path / "run", {**CONFIG, "batch": 15}, processes=2)
    assert done.returncode != 0
    assert "15 can't be shared by 2 processes" in done.stderr
    assert not (tmp_path / "run").exists()
