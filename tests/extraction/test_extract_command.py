import json

import pytest
from media_samples import grey_frames, make_clip, tone
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.errors import BadInput, TooManyFailed
from harmonize_cli.store.reader import Store

SMALL = ["--set", "raw.size=8", "--set", "waveform.sample_rate=8000"]


@pytest.fixture
def manifest(tmp_path):
    make_clip(tmp_path / "a.mkv", grey_frames(10, 16, 16), tone(1.0))
    (tmp_path / "bad.mp4").write_bytes(b"nonsense")
    rows = [{"id": "a", "video": "a.mkv", "text": "one"}, {"id": "b", "video": "bad.mp4", "text": "two"}]
    path = tmp_path / "clips.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def run(*args):
    return CliRunner().invoke(app, ["extract", *map(str, args)])


def test_one_line_at_the_end_and_a_store(manifest, tmp_path):
    out = tmp_path / "s.h5"
    result = run(manifest, "-o", out, *SMALL)
    assert result.exit_code == 0, result.output
    assert "2 of 2 samples extracted" in result.stdout
    assert "1 failed" in result.stdout
    assert str(out) in result.stdout
    assert len(Store.open(out)) == 2
    assert Store.open(out).attrs["config"]["raw"]["size"] == 8
    assert "2 were there" in run(manifest, "-o", out, *SMALL).stdout


@pytest.mark.parametrize(("limit", "fails"), [("0", True), ("1", False), ("49%", True), ("50%", False)])
def test_max_failed(manifest, tmp_path, limit, fails):
    result = run(manifest, "-o", tmp_path / "s", *SMALL, "--max-failed", limit)
    assert isinstance(result.exception, TooManyFailed) is fails
    assert len(Store.open(tmp_path / "s")) == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--max-failed", "many"], "--max-failed many"),
        (["--encoder", "magic"], "encoder 'magic': unknown; known: "),
        (["--encoder", "open_clip:ViT-B-32"], "MODEL/TAG"),
        (["--set", "raw.sise=3"], "unknown key"),
        (["--decoder", "gstreamer"], "decoder"),
        (["--shard", "3/3"], "0 <= I < N"),
        (["--shard", "0/3"], "folder of shards"),
    ],
)
def test_bad_usage_is_named(manifest, tmp_path, args, message):
    result = run(manifest, "-o", tmp_path / "s.h5", *args)
    assert isinstance(result.exception, BadInput)
    assert message in str(result.exception)
    assert not (tmp_path / "s.h5").exists()


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_decoders_by_name(manifest, tmp_path, decoder):
    pytest.importorskip("av")
    assert run(manifest, "-o", tmp_path / "p.h5", *SMALL, "--decoder", decoder).exit_code == 0
    assert run(manifest, "-o", tmp_path / "f.h5", *SMALL).exit_code == 0
    one, two = Store.open(tmp_path / "p.h5"), Store.open(tmp_path / "f.h5")
    assert (one.read("video/frames", 0) == two.read("video/frames", 0)).all()


def test_help_has_an_example():
    assert "harmonize extract clips.jsonl" in run("--help").stdout
