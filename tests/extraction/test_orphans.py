"""An extraction that is killed leaves no process behind, and the same command goes on at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import ffmpeg
import pytest

from harmonize_cli.media.run import run
from harmonize_cli.store.reader import Store


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight files that take a worker some seconds each."""
    folder = tmp_path_factory.mktemp("slow")
    picture = ffmpeg.input("testsrc=rate=25:size=320x240:duration=60", f="lavfi")
    sound = ffmpeg.input("sine=sample_rate=8000:duration=60", f="lavfi")
    run(ffmpeg.output(picture, sound, f"file:{folder}/v.mkv", preset="ultrafast", acodec="flac"))
    rows = []
    for k in range(8):
        (folder / f"v{k}.mkv").hardlink_to(folder / "v.mkv")
        rows.append({"id": str(k), "video": f"v{k}.mkv", "text": "slow"})
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "clips.jsonl"


def of(mark: str) -> list[int]:
    """Living processes that were started with the mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            living = "\nState:\tZ" not in (folder / "status").read_text()
            if living and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue
    return found


def until(condition, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come to pass"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_no_worker_outlives_a_killed_extraction(manifest: Path, tmp_path: Path, number: int) -> None:
    out, mark = tmp_path / "s", f"mark-{uuid4()}"
    words = ["extract", str(manifest), "-o", str(out), "--workers", "2", "--set", "shard_samples=1"]
    words += ["--set", "raw.size=128", "--set", "raw.rate=25"]
    command = [sys.executable, "-m", "harmonize_cli", *words]
    environ = {**os.environ, "MARK": mark}
    first = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    until(lambda: len(list(out.glob("part-*.h5"))) >= 1)
    assert len(of(mark)) > 2
    first.send_signal(number)
    _, said = first.communicate(timeout=60)
    until(lambda: not of(mark), 20)
    assert "Traceback" not in said
    if number != signal.SIGKILL:
        assert first.returncode == 128 + number
        name = signal.Signals(number).name
        assert said == f"stopped by {name}: complete shards are kept, the same command goes on from there\n"
    if number == signal.SIGKILL:
        kept = len(list(out.glob("part-*.h5")))
        assert len(Store.open(out)) == kept
        short = ["--set", "raw.size=8", "--set", "raw.rate=1"]
        again = subprocess.run([*command, *short], check=False, capture_output=True, text=True)
        assert again.returncode == 2, "other settings: refused, but not for being there"
        assert "remove it" not in again.stderr.lower()
