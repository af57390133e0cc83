"""`--check deep` names the samples that an extraction loses, and no others."""

import numpy as np
import pytest
from independent_media import ffmpeg
from small_clips import config, row
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.extraction.check import check
from harmonize_cli.extraction.pipeline import extract
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import Status


def failing(rows, settings, folder):
    extract(rows, folder, settings)
    store = Store.open(folder)
    columns = [store.status(kind) == Status.FAILED for kind in store.modalities]
    return {id for i, id in enumerate(store.ids) if any(column[i] for column in columns)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Good files, and each of them cut, overwritten and emptied in many ways."""
    folder = tmp_path_factory.mktemp("deep")
    inputs = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=6", "-f", "lavfi", "-i", "sine=d=6"]
    x264 = ["-c:v", "libx264", "-g", 10, "-pix_fmt", "yuv420p"]
    good = {
        "a.mp4": x264,
        "fast.mp4": [*x264, "-movflags", "faststart"],
        "a.mkv": x264,
        "a.avi": ["-c:v", "mpeg4"],
        "a.webm": ["-c:v", "libvpx", "-c:a", "libvorbis"],
        "a.ts": x264,
        "a.wav": ["-vn"],
        "a.mp3": ["-vn"],
        "a.flac": ["-vn"],
    }
    random = np.random.default_rng(0)
    for name, args in good.items():
        path = folder / name
        ffmpeg(*inputs, *args, path)
        data = path.read_bytes()
        n = len(data)
        for k, share in enumerate((0.1, 0.4, 0.7)):
            (folder / f"cut{k}_{name}").write_bytes(data[: round(n * share)])
        for k, begin in enumerate((0.0, 0.02)):
            spoilt = bytearray(data)
            a, b = round(n * begin), round(n * (begin + 0.3))
            spoilt[a:b] = random.bytes(b - a) if k % 2 else bytes(b - a)
            (folder / f"spoilt{k}_{name}").write_bytes(spoilt)
        (folder / f"empty_{name}").write_bytes(b"")
    whole = folder / "a.mkv"
    both = ["-itsoffset", 2.5, "-i", whole, "-i", whole, "-map", "0:v", "-map", "1:a"]
    ffmpeg(*both, "-c", "copy", folder / "late_pictures.mkv")
    data = (folder / "a.mkv").read_bytes()
    assert b"V_MPEG4/ISO/AVC" in data
    (folder / "unknown.mkv").write_bytes(data.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XXX"))
    return folder


def test_it_finds_what_fails_and_nothing_else(folder, tmp_path):
    rows = [row(folder, path.name) for path in sorted(folder.iterdir())]
    rows += [
        row(folder, name, f"end of {name}", 4.0, 6.0) for name in ("a.mp4", "cut1_a.mkv", "late_pictures.mkv")
    ]
    rows.append(row(folder, "a.mp4", "behind the end", 50.0, 51.0))
    settings = config("raw.rate=5", encoders=("raw", "waveform"))
    lost = failing(rows, settings, tmp_path / "s")
    assert len(lost) > 25
    report = check(rows, settings, deep=True)
    assert report.failing <= lost, "false alarms"
    assert len(report.failing) >= 0.93 * len(lost), lost - report.failing
    quick = check(rows, settings)
    assert quick.failing <= lost, "false alarms"
    assert len(quick.failing) < len(report.failing)


@pytest.mark.parametrize("order", [("m.csv", "--check", "deep"), ("--check", "deep", "m.csv")])
def test_on_the_command_line(folder, tmp_path, order):
    names = ["a.mp4", "cut1_a.mkv"]
    (tmp_path / "m.csv").write_text("id,video\n" + "".join(f"{name},{name}\n" for name in names))
    args = [str(tmp_path / word) if word == "m.csv" else word for word in order]
    found = CliRunner().invoke(app, ["extract", *args, "--root", str(folder)])
    assert found.exit_code == 0, found.output
    assert "1 samples will fail" in found.output
    assert "cut1_a.mkv: " in found.output


def test_a_word_too_many(tmp_path):
    found = CliRunner().invoke(app, ["extract", "m.csv", "n.csv", "--check"])
    assert "expected one manifest" in str(found.exception)
