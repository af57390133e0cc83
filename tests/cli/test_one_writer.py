"""Every stage that takes a while holds the lock of what it writes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_run import small_run, small_store
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.errors import BadInput
from harmonize_cli.locks import locked
from harmonize_cli.store.reader import Store


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, a run and a manifest."""
    folder = tmp_path_factory.mktemp("place")
    small_run(folder / "run", small_store(folder / "s.h5"))
    (folder / "t.jsonl").write_text('{"id": "s000", "caption_misaligned": true}\n')
    (folder / "m.jsonl").write_text('{"id": "a", "text": "one"}\n')
    return folder


@pytest.mark.parametrize(
    ("words", "target"),
    [
        ("extract m.jsonl -o new.h5", "new.h5"),
        ("extract m.jsonl -o new --shard 0/2", "new"),
        ("extract m.jsonl -o new --mode overwrite", "new"),
        ("pretrain s.h5 -o new", "new"),
        ("pretrain s.h5 -o run --resume", "run"),
        ("store merge s.h5 -o new.h5", "new.h5"),
        ("store merge s.h5 -o new", "new"),
        ("store split s.h5 -o new --parts 2", "new"),
        ("export webdataset s.h5 -o new", "new"),
        ("demo make-data new", "new"),
        ("demo run -o new", "new"),
        ("curriculum score run s.h5 -o new", "new"),
        ("curriculum audit run s.h5 -o new", "new"),
        ("curriculum ledger run s.h5 -o new", "new"),
        ("curriculum compare s.h5 --truth t.jsonl -o new", "new"),
        ("eval retrieval run s.h5 -o new.json", "new.json"),
        ("eval probe run s.h5 -o new.json", "new.json"),
        ("eval finetune run s.h5 -o new", "new"),
        ("export mteb run s.h5 -o new --split test --no-cache", "new"),
        ("export encoder run -o new", "new"),
        ("export embeddings run s.h5 -o new.npy", "new.npy"),
    ],
)
def test_a_second_writer_is_refused(place: Path, words: str, target: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    with locked(Path(target)):
        error = run(*words.split()).exception
    assert isinstance(error, BadInput), error
    assert f"is being written by process {os.getpid()} " in str(error)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [
        "eval retrieval nothing s.h5 -o new",
        "eval probe nothing s.h5 -o new",
        "eval zeroshot nothing s.h5 -o new",
        "eval finetune nothing s.h5 -o new",
        "export mteb nothing s.h5 -o new",
        "export encoder nothing -o new",
        "export embeddings nothing s.h5 -o new",
        "curriculum plan nothing -o new",
    ],
)
def test_the_lock_comes_first(place: Path, words: str, monkeypatch: Any) -> None:
    """Before a run is opened, which takes a while."""
    monkeypatch.chdir(place)
    with locked(Path("new")):
        assert "is being written by process" in str(run(*words.split()).exception)
    assert "is being written" not in str(run(*words.split()).exception)


def test_two_extractions_to_one_store(tmp_path: Path) -> None:
    """Started at once: one makes the store, the other says so, or finds it made."""
    rows = [{"id": str(k), "text": f"number {k}"} for k in range(80)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["extract", "m.jsonl", "-o", "s.h5", "-e", "tokens", "--set", "shard_samples=4"]
    command = [sys.executable, "-m", "harmonize_cli", *words]
    running = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=120)[1] for process in running]
    codes = [process.returncode for process in running]
    assert 0 in codes, said
    assert set(codes) <= {0, 2}, said
    for code, text in zip(codes, said, strict=True):
        assert "Traceback" not in text
        assert code == 0 or "is being written by process" in text
    assert len(Store.open(tmp_path / "s.h5")) == 80
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.jsonl", "s.h5"]


def test_jobs_share_a_store(tmp_path: Path) -> None:
    rows = [{"id": str(k), "text": f"number {k}"} for k in range(40)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["extract", "m.jsonl", "-o", "s", "-e", "tokens", "--set", "shard_samples=4", "--shard"]
    command = [sys.executable, "-m", "harmonize_cli", *words]
    running = [subprocess.Popen([*command, f"{k}/2"], cwd=tmp_path) for k in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    assert len(Store.open(tmp_path / "s")) == 40
