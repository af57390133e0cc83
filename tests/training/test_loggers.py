"""Figures go to every logger that the config names, and early checkpoints may stay."""

import subprocess
import sys

import pytest

from harmonize_cli.curriculum.pretrain import pretrain
from harmonize_cli.errors import BadInput
from harmonize_cli.models.checkpoint_folders import list_checkpoints
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.loggers import LOGGERS, Logger
from harmonize_cli.training.run import Run, train_run
from harmonize_cli.training.run_folder import read_metrics

SMALL = {"width": 16, "heads": 1, "layers": 1, "feedforward": 16, "head": {"va": 8, "vt": 8}}


def config(**more) -> PretrainConfig:
    return PretrainConfig.model_validate({"batch": 8, "steps": 8, "log_every": 2, "model": SMALL, **more})


def test_a_registered_logger_gets_what_the_file_gets(store_path, tmp_path, monkeypatch):
    lines = []

    class Kept(Logger):
        closed = 0

        def write(self, step, figures):
            lines.append({"step": step, **figures})

        def close(self):
            Kept.closed += 1

    monkeypatch.setitem(LOGGERS._entries, "kept", Kept)
    pretrain(store_path, tmp_path / "run", config(loggers=["kept"], validation={"split": "test", "every": 4}))
    assert lines == read_metrics(tmp_path / "run")
    assert Kept.closed == 1


def test_an_unknown_logger_is_refused_before_the_folder_is_made(store_path, tmp_path):
    with pytest.raises(BadInput, match=r"logger 'tensorbord': unknown .did you mean 'tensorboard'"):
        pretrain(store_path, tmp_path / "run", config(loggers=["tensorbord"]))
    assert not (tmp_path / "run").exists()


def test_checkpoints_of_chosen_steps_stay(store_path, tmp_path):
    settings = config(checkpoint={"every": 2, "keep": 1, "keep_steps": [3]})
    pretrain(store_path, tmp_path / "run", settings)
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-00000003", "step-00000008"]


def test_a_run_that_would_validate_or_follow_a_plan_is_not_made_without(store_path, tmp_path):
    settings = config(validation={"split": "test", "every": 4})
    with pytest.raises(BadInput, match=r"pass a validator, or set validation.every=0"):
        train_run(store_path, tmp_path / "run", settings)
    pretrain(store_path, tmp_path / "run", config(steps=2))
    (tmp_path / "run/curriculum").mkdir()
    with pytest.raises(BadInput, match="follows a plan"):
        train_run(store_path, tmp_path / "run")


def test_a_run_can_be_stepped_by_hand(store_path, tmp_path):
    run = Run(Store.open(store_path), config(harmonize={"mode": "realign"}), tmp_path / "run")
    for step, batch in enumerate(run.batches(2)):
        outcome, norm = run.step(step, batch)
        assert list(outcome.terms) == ["va", "vt"]
        assert float(norm) > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("module", ["config", "runs", "run_folder"])
def test_looking_at_settings_and_runs_needs_no_torch(module):
    code = f"import sys, harmonize_cli.training.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
