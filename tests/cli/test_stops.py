"""A stage that is ended early says in one line what is kept and how to go on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from small_run import small_store
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.cli.stops import Group, Interrupted, Signal, kept


def stopped(place: Path, words: str, number: int, ready: Callable[[], bool]) -> tuple[int, list[str]]:
    """Exit code and messages of a command that gets a signal once it is `ready`."""
    command = [sys.executable, "-m", "harmonize_cli", *words.split()]
    process = subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(number)
    said = process.communicate(timeout=120)[1]
    return process.returncode, [line for line in said.splitlines() if not line.startswith("step ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    small_store(folder / "s.h5")
    return folder


def test_pre_training(place: Path) -> None:
    words = "pretrain s.h5 -o run --set batch=8 --set steps=100000 --set checkpoint.every=5 --set device=cpu"
    code, said = stopped(place, words, signal.SIGINT, (place / "run" / "last").exists)
    assert code == 130
    assert said == [
        "stopped by SIGINT: the last checkpoint is kept; go on with: harmonize pretrain STORE -o RUN --resume"
    ]


def test_a_comparison_takes_no_stopped_run_for_a_finished_one(place: Path) -> None:
    truth = "".join(
        f'{{"id": "s{k:03d}", "caption_misaligned": {str(k % 3 == 0).lower()}}}\n' for k in range(40)
    )
    (place / "t.jsonl").write_text(truth)
    words = "curriculum compare s.h5 --truth t.jsonl -o cmp --method baseline --seeds 1 --set batch=8"
    words += " --set steps=100000 --set device=cpu --set log_every=1"
    run = place / "cmp" / "baseline" / "seed-0"
    code, said = stopped(place, words, signal.SIGTERM, (run / "run" / "metrics.jsonl").exists)
    assert code == 130
    assert said == ["stopped by SIGINT: finished runs are kept, the same command goes on from there"]
    assert not (run / "retrieval.json").exists()


def test_making_data(place: Path) -> None:
    words = "demo make-data data --workers 2"
    done = lambda: bool(list(place.glob("data/videos/*.mp4")))  # noqa: E731
    code, said = stopped(place, words, signal.SIGINT, done)
    assert code == 130
    assert said == ["stopped by SIGINT: finished files are kept, the same command goes on from there"]
    assert not list(place.glob("data/videos/*.tmp"))


def test_what_says_nothing_of_its_own() -> None:
    inner = typer.Typer()

    @inner.command()
    def own() -> None:
        raise Signal(signal.SIGTERM)

    @inner.command()
    @kept("half is there")
    def half(number: int = 2) -> None:
        """What it does."""
        raise KeyboardInterrupt

    outer = typer.Typer(cls=Group)
    outer.add_typer(inner, name="inner")
    error = CliRunner().invoke(outer, ["inner", "own"]).exception
    assert isinstance(error, Interrupted)
    assert str(error) == "stopped by SIGTERM: nothing of it was written; run the command again"
    assert error.exit_code == 143
    error = CliRunner().invoke(outer, ["inner", "half", "--number", "3"]).exception
    assert str(error) == "stopped by SIGINT: half is there"
    assert "What it does." in CliRunner().invoke(outer, ["inner", "half", "--help"]).stdout


def test_nohup_is_respected(place: Path) -> None:
    command = [sys.executable, "-c", "import signal, harmonize_cli.cli.stops as s; s.listen(); "
               "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"]  # fmt: skip
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    done = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=ignore)
    assert done.stdout == "True\n"


def test_the_whole_help_still_stands() -> None:
    for words in ("extract", "pretrain", "eval retrieval", "eval finetune", "demo run", "curriculum score"):
        told = CliRunner().invoke(app, [*words.split(), "--help"], env={"COLUMNS": "200", **os.environ})
        assert told.exit_code == 0
        assert "Example" in told.stdout
