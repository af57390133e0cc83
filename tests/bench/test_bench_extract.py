import json

from bench_extract import bench_extract
from harness import run


def test_small_run_has_all_comparisons(tmp_path, capsys):
    args = ["--clips", "2", "--minutes", "0.15", "--clip-frames", "0", "--rounds", "1"]
    run(bench_extract, [*args, "--json", str(tmp_path / "b.json")])
    rows = json.loads((tmp_path / "b.json").read_text())
    assert [row["target"] for row in rows] == [0.85, 0.85, 5.0, 5.0]
    assert all(row["ratio"] > 0 and row["value"] > 0 for row in rows)
    assert "against a call each" in capsys.readouterr().out


def test_own_videos_can_be_measured(tmp_path):
    from media_samples import grey_frames, make_clip, tone

    make_clip(tmp_path / "own.mkv", grey_frames(10), tone(1.0))
    rows = [*bench_extract(folder=tmp_path, minutes=0.1, clip_frames=0, rounds=1)]
    assert rows[0]["name"].startswith("raw extraction of 1 clips")
