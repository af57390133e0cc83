import json

from typer.testing import CliRunner

from harmonize_cli.benchmarks.extract import bench_extract
from harmonize_cli.cli.main import app


def test_small_run_has_all_comparisons(tmp_path):
    args = ["--clips", "2", "--minutes", "0.15", "--clip-frames", "0", "--rounds", "1"]
    result = CliRunner().invoke(app, ["bench", "extract", *args, "--json", str(tmp_path / "b.json")])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "b.json").read_text())
    assert [row["target"] for row in rows] == [0.85, 0.85, 5.0, 5.0]
    assert all(row["ratio"] > 0 and row["value"] > 0 for row in rows)
    assert "against a call each" in result.stdout


def test_own_videos_can_be_measured(tmp_path):
    from media_samples import grey_frames, make_clip, tone

    make_clip(tmp_path / "own.mkv", grey_frames(10), tone(1.0))
    rows = [*bench_extract(folder=tmp_path, minutes=0.1, clip_frames=0, rounds=1)]
    assert rows[0]["name"].startswith("raw extraction of 1 clips")
