"""The benchmark runs, measures what it says, and gives every figure its unit."""

from pathlib import Path

import bench_store as bench
import pytest


def test_every_reader_reads_the_same_clips(tmp_path: Path) -> None:
    files, rows = bench._write(tmp_path, 70)
    assert [row["unit"] for row in rows] == ["MB/s", "MB/s", "MB"]
    assert 1.0 < rows[2]["ratio"] < 1.05, "a store is a little larger than its bytes"
    read = {name: make(files) for name, make in bench._READERS.items()}
    for i in (0, 1, 64, 69):  # the noise repeats after 64 clips
        whole = read["memmap"](i)
        for name in ("store", "store, verified", "plain h5py"):
            assert (read[name](i) == whole).all()
        assert (read["memmap window"](i) == read["store window"](i)).all()


@pytest.mark.long
def test_figures(tmp_path: Path) -> None:
    rows = bench.bench_store(clips=64, workers=2, folder=tmp_path)
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    for row in rows:
        assert row["value"] > 0
        assert row["ratio"] is None or row["ratio"] > 0
    assert list(tmp_path.iterdir()) == []
