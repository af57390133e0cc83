"""A damaged row never becomes a good one: whatever copies or uses rows compares them with their digests."""

import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from store_builders import make_sample, write_shard

from harmonize_cli.errors import BadInput
from harmonize_cli.extraction.output import Output
from harmonize_cli.store.export import to_parquet, to_webdataset
from harmonize_cli.store.layout import index_shard
from harmonize_cli.store.reader import Store
from harmonize_cli.store.rearrange import divide, merge, parts_by_number
from harmonize_cli.store.verify import verify

Copy = Callable[[Path, Path], object]


def flip(path: Path, name: str, at: int) -> None:
    """Damage one byte of a dataset on disk, as a bad disk or copy would."""
    extent = index_shard(path).extents[name]
    assert extent.addresses is not None
    data = bytearray(path.read_bytes())
    data[int(extent.addresses[0]) + at] ^= 1
    path.write_bytes(data)


def _gather(store: Path, out: Path) -> None:
    parts = out.with_name("out.h5.parts")
    parts.mkdir()
    shutil.copy(store, parts / "part-00000.h5")
    # one part alone would become the file as it is, and still be damaged by its digests
    write_shard(parts / "part-00001.h5", [make_sample("z", 2)], vocab=["x", "y"])
    Output(out.with_name("out.h5"), "incremental").finish()


COPIES: dict[str, Copy] = {
    "merge": lambda store, out: merge([Store.open(store)], out),
    "split": lambda store, out: divide(
        Store.open(store), out, parts_by_number(Store.open(store), 2), shard_samples=1
    ),
    "gather": _gather,
    "webdataset": lambda store, out: to_webdataset(Store.open(store), out),
    "parquet": lambda store, out: to_parquet(Store.open(store), out),
}


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("features/video/frames/data", 4 * 6 * 3 * 8),  # a pixel of the second sample
        ("features/audio/waveform/start_times", 9),
        ("features/video/frames/times", 8 * 8),
        ("samples/texts/bytes", 30),
        ("samples/start", 9),
        ("status/video/status", 1),
    ],
)
def test_a_copy_of_a_damaged_sample_is_refused(tmp_path: Path, copy: str, name: str, at: int) -> None:
    store = write_shard(tmp_path / "s.h5", [make_sample("a"), make_sample("b", 1)], vocab=["x", "y"])
    COPIES[copy](store, tmp_path / "good" / "out" if copy != "gather" else _new(tmp_path / "good") / "out")
    flip(store, name, at)
    with pytest.raises(BadInput, match=r"\.h5") as caught:
        COPIES[copy](store, _new(tmp_path / "bad") / "out")
    assert "as it was written" in str(caught.value) or "ok, but" in str(caught.value)
    assert not (tmp_path / "bad" / "out").exists()
    assert not (tmp_path / "bad" / "out.h5").exists()


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", ["vocab/bytes", "vocab/offsets"])
def test_a_damaged_vocabulary_is_not_copied(tmp_path: Path, name: str) -> None:
    store = write_shard(tmp_path / "s.h5", [make_sample("a")], vocab=["x", "yy", "z"])
    flip(store, name, 0 if name.endswith("bytes") else 8)
    with pytest.raises(BadInput, match="vocab"):
        merge([Store.open(store)], tmp_path / "m.h5")


@pytest.mark.parametrize("name", ["features", "attrs"])
def test_a_changed_attribute_is_noticed(tmp_path: Path, name: str) -> None:
    store = write_shard(tmp_path / "s.h5", [make_sample("a")], attrs={"rate": 10.0})
    with h5py.File(store, "r+") as file:
        file.attrs[name] = file.attrs[name].replace("10.0", "11.0")
    assert re.search(f"attribute {name} is not as it was written", str(next(verify(store))))
    with pytest.raises(BadInput, match=f"attribute {name}"):
        merge([Store.open(store)], tmp_path / "m.h5")


def test_a_shard_of_an_earlier_version_has_no_checksum_of_its_attributes(tmp_path: Path) -> None:
    store = write_shard(tmp_path / "s.h5", [make_sample("a")])
    with h5py.File(store, "r+") as file:
        kept = file.attrs["checksums"]
        file.attrs["checksums"] = re.sub(r'"@[a-z]+":"[0-9a-f]+",', "", kept)
        assert file.attrs["checksums"] != kept
    assert list(verify(store)) == []


def test_reading_notices_damage_where_it_is_asked_for(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "s.h5", [make_sample("a"), make_sample("b", 1)])
    flip(path, "features/video/frames/data", 4 * 6 * 3 * 8)
    assert Store.open(path).read("video/frames", 1).any()
    store = pickle.loads(pickle.dumps(Store.open(path, verifies=True)))
    store.read("video/frames", 0)
    for read in (store.read, lambda key, i: store.read_rows(key, i, 5, 6)):  # a row that is whole
        with pytest.raises(BadInput, match=r"s\.h5: features/video/frames/data: damaged \(sample 'b'"):
            read("video/frames", 1)
    store.read("audio/waveform", 1)


def test_each_sample_is_compared_once(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "s.h5", [make_sample("a"), make_sample("b", 1)])
    store = Store.open(path, verifies=True)
    store.read("video/frames", 0)
    # behind the reader's back: a second comparison would see it
    with path.open("r+b") as file:
        file.seek(int(index_shard(path).extents["features/video/frames/data"].addresses[0]))  # type: ignore[index]
        file.write(b"\0\0\0\0")
    store.read("video/frames", 0)
