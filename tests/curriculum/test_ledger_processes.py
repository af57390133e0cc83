"""The ledger of real processes: merged over ranks, and whole after a kill -9."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from planted import CONFIG, World

from harmonize_cli.config import dump_yaml
from harmonize_cli.curriculum.ledger import Ledger, Visits, read_ledger
from harmonize_cli.curriculum.plan import Plan, write_plan
from harmonize_cli.curriculum.pretrain import pretrain

SHARE = 0.3
SETTINGS = CONFIG.model_copy(
    update={
        "steps": 30,
        "batch": 20,
        "checkpoint": CONFIG.checkpoint.model_copy(update={"every": 5, "keep": 9}),
        "harmonize": CONFIG.harmonize.model_copy(update={"mode": "realign"}),
    }
)


def _command(world: World, run: Path, *more: str, processes: int = 1) -> list[str]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        launcher += ["--log-dir", str(run.parent / "elastic")]  # else it leaves one under /tmp
    return [*launcher, "-m", "harmonize_cli", "pretrain", str(world.store), "-o", str(run), *more]


def _finish(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


def _settings(folder: Path) -> list[str]:
    file = folder / "pretrain.yaml"
    file.write_text(dump_yaml(SETTINGS))
    return ["-c", str(file)]


@pytest.fixture(scope="module")
def unbroken(world: World, tmp_path_factory: pytest.TempPathFactory) -> Visits:
    """The ledger of one process that nobody disturbed."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    pretrain(world.store, run, SETTINGS, recorders=[Ledger(run)])
    return read_ledger(run)


def _assert_same_visits(found: Visits, whole: Visits) -> None:
    for name in ("step", "index", "epoch"):
        np.testing.assert_array_equal(found[name], whole[name], err_msg=name)


def test_two_processes_keep_one_ledger_and_share_the_gate(
    world: World, unbroken: Visits, tmp_path: Path
) -> None:
    gate = {"by": "loss_vt", "start": SHARE, "end": SHARE}
    write_plan(Plan.model_validate({"phases": [{"until": 1.0, "gate": gate}]}), tmp_path / "plan.yaml")
    run = tmp_path / "run"
    more = [*_settings(tmp_path), "--set", "steps=6", "--curriculum", str(tmp_path / "plan.yaml")]
    _finish(_command(world, run, *more, processes=2))
    assert {path.name[:8] for path in (run / "ledger").iterdir()} == {"rank-000", "rank-001"}
    first = unbroken["step"] <= 6
    visits = read_ledger(run)
    _assert_same_visits(visits, {name: column[first] for name, column in unbroken.items()})
    for step in range(1, 7):
        # the share is one of the samples of both processes
        has = int(np.isfinite(unbroken["loss_vt"][unbroken["step"] == step]).sum())
        left = int(np.isfinite(visits["loss_vt"][visits["step"] == step]).sum())
        assert left == has - int(SHARE * has), step


@pytest.mark.parametrize(
    ("processes", "moment"),
    [
        (1, "ledger/rank-*.npz"),  # written just before the checkpoint that it belongs to
        pytest.param(1, "checkpoints/step-00000010/manifest.json", marks=pytest.mark.long),
        pytest.param(2, "ledger/rank-001-*.npz", marks=pytest.mark.long),
    ],
)
def test_kill_9_neither_loses_nor_doubles_a_visit(
    world: World, unbroken: Visits, tmp_path: Path, processes: int, moment: str
) -> None:
    run = tmp_path / "run"
    running = subprocess.Popen(
        _command(world, run, *_settings(tmp_path), processes=processes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not any(run.glob(moment)):
        assert running.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline, f"no {moment} in two minutes"
        time.sleep(0.001)
    os.killpg(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not (run / "checkpoints" / "step-00000030").exists()
    _finish(_command(world, run, "--resume", processes=processes))
    visits = read_ledger(run)
    _assert_same_visits(visits, unbroken)
    for name in ("loss_va", "loss_vt"):
        np.testing.assert_allclose(visits[name], unbroken[name], rtol=0.02, atol=0.02, err_msg=name)
