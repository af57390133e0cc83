"""Killed, out of disk, hours long: what is in the store is complete, and the same command goes on."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import ffmpeg
import pytest
from media_samples import grey_frames, make_clip, tone

from harmonize_cli.media.run import run
from harmonize_cli.store.reader import Store

ARGS = ["--set", "raw.size=8", "--set", "raw.rate=5", "--set", "waveform.sample_rate=8000"]


def command(manifest, out, *more):
    return [sys.executable, "-m", "harmonize_cli", "extract", str(manifest), "-o", str(out), *ARGS, *more]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """24 segments in six files."""
    folder = tmp_path_factory.mktemp("many")
    rows = []
    for f in range(6):
        make_clip(folder / f"v{f}.mkv", grey_frames(40, 64, 64)[f:], tone(4.0, hz=300 + 50 * f))
        rows += [
            {
                "id": f"{f}-{k}",
                "video": f"v{f}.mkv",
                "start": k * 0.9,
                "end": k * 0.9 + 0.9,
                "text": f"number {k}",
            }
            for k in range(4)
        ]
    path = folder / "clips.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def kill_series(manifest, tmp_path, kills, seed, *more):
    """Start, kill -9 at a random moment, start again ...; then once to the end."""
    rng = random.Random(seed)
    out = tmp_path / "killed"
    more = ["--set", "shard_samples=1", *more]
    started = time.monotonic()
    subprocess.run(command(manifest, tmp_path / "calm", *more), check=True, capture_output=True)
    whole = time.monotonic() - started
    found = []
    for _ in range(kills):
        process = subprocess.Popen(
            command(manifest, out, *more),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        ended = False
        try:
            process.wait(timeout=rng.uniform(0.3, 0.8) * whole)
            ended = True
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        parts = sorted(out.glob("part-*.h5")) if out.exists() else []
        found.append(len(parts))
        if parts:
            assert len(Store.open(out)) > 0  # whatever is there is complete
        # the calm run may have met another spell of the machine than this one
        whole *= 0.8 if ended else 1.0 if parts else 1.25
        if parts and (ended or len(found) % 4 == 0):
            rng.choice(parts).unlink()  # so that there is always something to be killed at
    last = subprocess.run(command(manifest, out, *more), check=True, capture_output=True, text=True)
    assert "of 24 samples" in last.stdout
    assert Store.open(out).content_hash == Store.open(tmp_path / "calm").content_hash
    assert not list(out.glob("*.tmp"))
    return found


def test_a_kill_costs_nothing_but_the_shard_at_hand(manifest, tmp_path):
    kill_series(manifest, tmp_path, 2, 0)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("more", [[], ["--workers", "2"]])
def test_twenty_kills_cost_nothing_but_the_shard_at_hand(manifest, tmp_path, more):
    found = kill_series(manifest, tmp_path, 20, 1, *more)
    assert len(set(found)) > 1


def test_a_full_disk_stops_cleanly_and_the_rest_follows(manifest, tmp_path):
    """The first file's segments are short and fit; the others don't, and are named."""
    out = tmp_path / "s"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row in rows[:4]:
        row["end"] = row["start"] + 0.2
    manifest = manifest.with_name("short.jsonl")
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ["--set", "shard_samples=4", "--set", "raw.size=64"]

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    full = subprocess.run(
        command(manifest, out, *more), check=False, capture_output=True, text=True, preexec_fn=limit
    )
    assert full.returncode == 1, full.stderr
    assert "Traceback" not in full.stderr
    assert "no room left to write" in full.stderr
    assert "part-00001" in full.stderr
    assert "Still to do, 20 samples:\n  1-0\n  1-1\n" in full.stderr
    assert "and 10 more" in full.stderr
    assert [p.name for p in out.glob("*")] == ["part-00000.h5"]
    done = subprocess.run(command(manifest, out, *more), check=True, capture_output=True, text=True)
    assert "20 of 24 samples extracted" in done.stdout
    assert len(Store.open(out)) == 24


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("whole", "size"), [(True, 48), (False, 112)])
def test_an_hour_of_video_in_constant_memory(tmp_path, whole, size):
    """60 minutes as one sample (0.6 GB), or in segments (1.4 GB): under 1.2 GB of memory."""
    path = tmp_path / "hour.mp4"
    seconds = 3600
    picture = ffmpeg.input(f"testsrc=rate=10:size=160x120:duration={seconds}", f="lavfi")
    sound = ffmpeg.input(f"sine=frequency=440:sample_rate=16000:duration={seconds}", f="lavfi")
    run(ffmpeg.output(picture, sound, f"file:{path}", preset="ultrafast", acodec="aac", pix_fmt="yuv420p"))
    rows = [{"id": "hour", "video": "hour.mp4", "text": "an hour"}]
    if not whole:
        spans = [(k * 36, k * 36 + 36) for k in range(100)]
        rows = [{"id": f"w{a}", "video": "hour.mp4", "start": a, "end": b} for a, b in spans]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(r) + "\n" for r in rows))
    sets = [f"raw.size={size}", "raw.rate=10", "waveform.sample_rate=16000", "logmel.sample_rate=16000"]
    encoders = [x for e in ("raw", "waveform", "logmel", "tokens") for x in ("--encoder", e)]
    args = [*command(manifest, tmp_path / "s"), *encoders, *(x for s in sets for x in ("--set", s))]
    watch = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    out = subprocess.run(
        [sys.executable, "-c", watch, *args], check=True, capture_output=True, text=True
    ).stdout
    peak = int(out.split()[-1]) * 1024
    store = Store.open(tmp_path / "s")
    assert int(store.length("video/frames").sum()) == 36_000
    assert peak < 1.2e9, f"{peak / 1e9:.2f} GB"
