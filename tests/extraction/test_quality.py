import json

import numpy as np
import pytest
from media_samples import grey_frames, make_clip, tone
from typer.testing import CliRunner

from harmonize_cli.cli.main import app


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    quiet = tone(3.0)
    quiet[:24000] = 0
    make_clip(folder / "a.mkv", grey_frames(30, 16, 16), tone(3.0))
    make_clip(folder / "b.mkv", grey_frames(30, 16, 16), quiet)
    make_clip(folder / "late.mkv", grey_frames(30, 16, 16), tone(3.5))
    make_clip(folder / "none.mkv", grey_frames(30, 16, 16), np.zeros(48000, np.float32))
    (folder / "copy.mkv").write_bytes((folder / "a.mkv").read_bytes())
    (folder / "bad.mkv").write_bytes(b"")
    texts = {"a": "One two!", "b": "three", "late": "one, TWO", "none": "four", "copy": "five", "bad": "six"}
    rows = [{"id": name, "video": f"{name}.mkv", "text": text} for name, text in texts.items()]
    (folder / "m.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    args = ["extract", str(folder / "m.jsonl"), "-o", str(folder / "s"), "--report", str(folder / "r.json")]
    sets = ["raw.size=8", "waveform.sample_rate=16000"]
    result = CliRunner().invoke(app, [*args, *(x for s in sets for x in ("--set", s))])
    assert result.exit_code == 0, result.output
    assert (folder / "r.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((folder / "r.json").read_text())


def test_statuses_and_reasons(report):
    assert report["status"]["audio"] == {"ok": 4, "missing": 0, "failed": 1, "silent": 1}
    assert report["status"]["video"]["failed"] == 1
    assert report["reasons"]["video"] == [{"reason": "the file is empty (0 bytes)", "samples": 1}]
    assert report["coverage"] == {"expected": 6, "present": 6}


def test_silence(report):
    assert report["silence"]["silent"] == 1
    assert report["silence"]["mean_silent_share"] == pytest.approx((0 + 0.5 + 0 + 1 + 0) / 5, abs=0.02)


def test_drift(report):
    assert report["drift"]["max_abs"] == pytest.approx(0.5, abs=0.06)
    assert report["drift"]["share_over_0.1_s"] == pytest.approx(1 / 5)


def test_duplicates(report):
    assert report["duplicate_captions"] == {
        "texts": 1,
        "samples": 2,
        "top": [{"text": "one two", "samples": 2}],
    }
    assert report["duplicate_videos"]["examples"] == [["a", "copy"]]


def test_lengths(report):
    assert report["length"]["samples"] == 5
    assert report["length"]["median"] == pytest.approx(3.0, abs=0.05)
    assert sum(report["length"]["histogram"]["counts"]) == 5
