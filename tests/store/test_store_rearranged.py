"""Verify, merge, divide, compare and export: nothing lost, damage named."""

import json
import tarfile
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import FEATURES, FRAMES, assert_same, make_sample, write_shard

from harmonize_cli.errors import BadInput
from harmonize_cli.store.diff import diff
from harmonize_cli.store.export import to_parquet, to_webdataset
from harmonize_cli.store.layout import index_shard
from harmonize_cli.store.output import new_store
from harmonize_cli.store.reader import Store
from harmonize_cli.store.rearrange import divide, merge, parts_by_ids, parts_by_number, parts_by_split
from harmonize_cli.store.schema import FeatureSpec, Sample, Status
from harmonize_cli.store.summary import describe_store, summary_lines
from harmonize_cli.store.verify import verify


def some(count: int, first: int = 0) -> list[Sample]:
    return [make_sample(f"s{i:03d}", i, rows=2 + i % 5) for i in range(first, first + count)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    failed = make_sample("bad", 8, status={"audio": Status.FAILED}, reason={"audio": "no such codec"})
    del failed.features["audio/waveform"], failed.times["audio/waveform"]
    for k in range(3):
        extra = [failed] if k == 2 else []
        write_shard(
            tmp_path / "store" / f"part-{k:05d}.h5", some(5, 5 * k) + extra, vocab=["", "a"], attrs={"k": 1}
        )
    return Store.open(tmp_path / "store")


def test_a_good_store_has_no_problems(store: Store) -> None:
    counted = []
    assert list(verify(store.path, lambda: counted.append(1))) == []
    assert len(counted) == len(store) == 16


def test_an_empty_store_is_a_store(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "s.h5", [])
    assert list(verify(path)) == []
    empty = Store.open(path)
    assert (len(empty), empty.ids, empty.select().tolist()) == (0, [], [])
    assert summary_lines(describe_store(empty))
    assert merge([empty, empty], tmp_path / "m.h5") == 0
    assert to_webdataset(empty, tmp_path / "tar") == 0
    with pytest.raises(BadInput, match="0 samples can't make 2 parts"):
        parts_by_number(empty, 2)


def _flip(path: Path, name: str, row: int, byte: int = 0) -> None:
    """Damage one byte of a dataset on disk, as a bad disk or copy would."""
    extent = index_shard(path).extents[name]
    assert extent.addresses is not None
    block, within = divmod(row, extent.chunk_rows)
    at = int(extent.addresses[block]) + within * extent.row_bytes + byte
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "row", "told"),
    [
        ("features/video/frames/data", 4, ["features/video/frames/data: sample 's006'"]),
        ("features/audio/waveform/data", 0, ["features/audio/waveform/data: sample 's005'"]),
        ("features/video/frames/times", 0, ["features/video/frames/times: does not", "data: sample 's005'"]),
        ("features/audio/waveform/start_times", 4, ["start_times: does not", "sample 's009'"]),
        ("features/text/tokens/digest", 1, ["digest: does not", "tokens/data: sample 's006'"]),
        ("samples/digest", 2, ["samples/digest: does not", "samples: sample 's007'"]),
        ("samples/fold", 0, ["samples/fold: does not", "samples: sample 's005'"]),
        ("samples/texts/bytes", 3, ["samples/texts/bytes: does not", "samples: sample 's005'"]),
        ("samples/id/bytes", 3, ["samples/id/bytes: does not", "samples: sample 's00"]),
        ("status/video/status", 1, ["status/video/status: does not", "samples: sample 's006'"]),
        ("features/video/frames/offsets", 2, ["offsets: does not", "sample 's00"]),
        ("features/video/frames/offsets", 5, ["offsets: the offsets do not run from 0 to"]),
        ("vocab/bytes", 0, ["vocab/bytes: does not"]),
    ],
)
def test_verify_names_what_is_damaged(store: Store, name: str, row: int, told: list[str]) -> None:
    path = store.shards[1]
    _flip(path, name, row)
    problems = [str(problem).replace("offsets: damaged (", "offsets: ") for problem in verify(store.path)]
    # ids and words are compared across shards too
    whole = str(store.path) if name in ("vocab/bytes", "samples/id/bytes") else str(path)
    assert all(problem.startswith(whole) for problem in problems)
    for text in told:
        assert any(text in problem for problem in problems), problems


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_changed_byte_of_the_rows_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = write_shard(tmp_path_factory.mktemp("flip") / "s.h5", some(3))
    names = [f"features/{spec.key}/data" for spec in FEATURES]
    name = data.draw(st.sampled_from(names))
    extent = index_shard(path).extents[name]
    row = data.draw(st.integers(0, extent.rows - 1))
    _flip(path, name, row, data.draw(st.integers(0, extent.row_bytes - 1)))
    problems = list(verify(path))
    offsets = Store.open(path).length(name.removeprefix("features/").removesuffix("/data")).cumsum()
    sample = f"s{int(np.searchsorted(offsets, row, side='right')):03d}"
    assert [(p.dataset, p.sample) for p in problems] == [(name, sample)]


def test_verify_goes_on_after_a_shard_that_is_cut_short(store: Store) -> None:
    data = store.shards[0].read_bytes()
    store.shards[0].write_bytes(data[: len(data) // 2])
    _flip(store.shards[2], "features/video/frames/data", 0)
    problems = list(verify(store.path))
    assert [p.shard for p in problems] == [store.shards[0], store.shards[2]]
    assert "cut short" in problems[0].what
    with pytest.raises(BadInput, match="no such file or folder"):
        list(verify(store.path / "absent.h5"))


def test_verify_sees_an_id_in_two_shards_and_mixed_kinds(store: Store) -> None:
    write_shard(store.path / "part-00003.h5", some(1), vocab=["", "a"])
    assert [str(p) for p in verify(store.path)] == [
        f"{store.path}: samples/id: sample 's000': is there 2 times"
    ]
    write_shard(store.path / "part-00003.h5", some(1, 99), vocab=["b"], overwrite=True)
    assert "another vocabulary" in str(next(iter(verify(store.path))))


def test_divided_and_merged_again_it_is_the_same_store(store: Store, tmp_path: Path) -> None:
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    parts = divide(store, tmp_path / "parts", parts_by_split(store), on_sample=step)
    assert parts == {"test": 9, "train": 7}
    assert count == 16
    pieces = [Store.open(tmp_path / "parts" / f"{name}.h5") for name in parts]
    assert merge(pieces, tmp_path / "merged", shard_samples=5, compression="lzf") == 16
    merged = Store.open(tmp_path / "merged")
    assert merged.shard_sizes == [5, 5, 5, 1]
    assert merged.content_hash == store.content_hash
    assert not diff(store, merged)
    assert merged.attrs == store.attrs == {"k": 1}
    for i, sample in enumerate(store.ids):
        assert_same(merged.sample(merged.index(sample)), store.sample(i))
    assert list(verify(merged.path)) == []


def test_parts_by_number_and_by_ids(store: Store, tmp_path: Path) -> None:
    assert divide(store, tmp_path / "n", parts_by_number(store, 3), shard_samples=4) == {
        "0": 6,
        "1": 5,
        "2": 5,
    }
    assert Store.open(tmp_path / "n" / "0").shard_sizes == [4, 2]
    (tmp_path / "ids.txt").write_text("s003\n\nbad\n")
    divide(store, tmp_path / "ids", parts_by_ids(store, tmp_path / "ids.txt"))
    assert Store.open(tmp_path / "ids" / "listed.h5").ids == ["s003", "bad"]
    assert len(Store.open(tmp_path / "ids" / "rest.h5")) == 14
    (tmp_path / "ids.txt").write_text("s003\nnobody\n")
    with pytest.raises(BadInput, match=r"ids.txt:2: 'nobody'"):
        parts_by_ids(store, tmp_path / "ids.txt")
    with pytest.raises(BadInput, match="exists already"):
        divide(store, tmp_path / "ids", parts_by_number(store, 2))
    made = [make_sample("a", split=""), make_sample("b", split="none")]
    named = Store.open(write_shard(tmp_path / "none.h5", made))
    assert parts_by_split(named) == {"no-split": [0], "none": [1]}
    write_shard(tmp_path / "odd.h5", [make_sample("a", split="../x")])
    with pytest.raises(BadInput, match="can't be the name of a file"):
        parts_by_split(Store.open(tmp_path / "odd.h5"))


def test_merge_refuses_what_does_not_belong_together(store: Store, tmp_path: Path) -> None:
    twice = Store.open(write_shard(tmp_path / "twice.h5", [make_sample("s001", 77)], vocab=["", "a"]))
    with pytest.raises(BadInput, match=r"sample 's001' is in .*; --duplicates first"):
        merge([store, twice], tmp_path / "m.h5")
    assert merge([store, twice], tmp_path / "first.h5", duplicates="first") == 16
    assert not diff(store, Store.open(tmp_path / "first.h5"))
    assert merge([store, twice], tmp_path / "last.h5", duplicates="last") == 16
    last = Store.open(tmp_path / "last.h5")
    assert_same(last.sample(last.index("s001")), make_sample("s001", 77))
    assert last.attrs == {"merged_from": [{"k": 1}, {}]}
    words = Store.open(write_shard(tmp_path / "words.h5", some(1, 50), vocab=["b"]))
    with pytest.raises(BadInput, match="another vocabulary"):
        merge([store, words], tmp_path / "m.h5")
    other = FeatureSpec(**{**FRAMES.__dict__, "weights_hash": "x"})
    path = write_shard(tmp_path / "other.h5", some(1, 50), [other, *FEATURES[1:]], vocab=["", "a"])
    with pytest.raises(BadInput, match="weights_hash '' in the first, 'x'"):
        merge([store, Store.open(path)], tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()


def test_an_error_on_the_way_leaves_nothing(store: Store, tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyError("mine")

    for out in ("m.h5", "folder"):
        with pytest.raises(KeyError):
            merge([store], tmp_path / "out" / out, on_sample=fail)
    with pytest.raises(KeyError):
        to_webdataset(store, tmp_path / "out" / "tar", on_sample=fail)
    assert not (tmp_path / "out").exists()
    made = [make_sample("a"), make_sample("a")]
    with pytest.raises(BadInput, match=r"sample 'a' is in this shard already.*store verify"):
        _write(tmp_path / "out" / "twice", made)
    assert not (tmp_path / "out").exists()


def _write(out: Path, samples: list[Sample]) -> None:
    with new_store(out, FEATURES) as writer:
        for sample in samples:
            writer.add(sample)


def test_diff_tells_what_differs(store: Store, tmp_path: Path) -> None:
    pixel = make_sample("s001", 1, rows=3)
    pixel.features["video/frames"][0, 0, 0, 0] ^= 1
    made = [
        make_sample("s000", 0, rows=2),
        pixel,
        make_sample("s002", 2, rows=4, split="val", labels=()),
        make_sample("new"),
    ]
    other = Store.open(write_shard(tmp_path / "other.h5", made, vocab=["", "a"]))
    found = diff(store, other)
    assert found.only_b == ["new"]
    assert found.only_a == [sample for sample in store.ids if sample not in ("s000", "s001", "s002")]
    assert found.changed == {"s001": ["video/frames"], "s002": ["split", "labels"]}
    assert found.kind == ""
    kind = Store.open(
        write_shard(tmp_path / "kind.h5", some(1), [FRAMES, FEATURES[1], FEATURES[2]], vocab=["b"])
    )
    assert diff(store, kind).kind == "the vocabularies"


def test_export_to_webdataset(store: Store, tmp_path: Path) -> None:
    assert to_webdataset(store, tmp_path / "tar", shard_samples=6) == 3
    read: dict[str, dict[str, bytes]] = {}
    for path in sorted((tmp_path / "tar").iterdir()):
        with tarfile.open(path) as tar:
            for info in tar:
                key, _, name = info.name.partition(".")
                data = tar.extractfile(info)
                assert data is not None
                read.setdefault(key, {})[name] = data.read()
    assert len(read) == 16
    for i, members in enumerate(read.values()):
        about = json.loads(members["json"])
        assert about["id"] == store.ids[i]
        assert about["rows"] == {key: store.length(key)[i] for key in store.features}
        assert members["txt"].decode() == store.texts(i)[0]
        frames = np.load(BytesIO(members["video_frames.npy"]), allow_pickle=False)
        assert np.array_equal(frames, store.read("video/frames", i))
        assert np.array_equal(
            np.load(BytesIO(members["video_frames.times.npy"])), store.times("video/frames", i)
        )
        assert ("audio_waveform.npy" in members) == (about["status"]["audio"] == "ok")
        assert about["start_times"].get("audio/waveform") in (1.5, None)
    assert about["reason"] == {"audio": "no such codec"}
    with pytest.raises(BadInput, match="no feature 'video/x'; it has"):
        to_webdataset(store, tmp_path / "x", features=["video/x"])


def test_export_to_parquet(store: Store, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    assert to_parquet(store, tmp_path / "pq", file_samples=9) == 2
    rows = [row for path in sorted((tmp_path / "pq").iterdir()) for row in pq.read_table(path).to_pylist()]
    assert [row["id"] for row in rows] == store.ids
    for i, row in enumerate(rows):
        assert np.array_equal(np.array(row["text/tokens"], np.int32), store.read("text/tokens", i))
        frames = np.frombuffer(b"".join(row["video/frames"]), np.uint8).reshape(-1, 4, 6, 3)
        assert np.array_equal(frames, store.read("video/frames", i))
        assert row["video/frames.times"] == store.times("video/frames", i).tolist()
        assert np.array_equal(np.array(row["audio/waveform"], np.float16), store.read("audio/waveform", i))
        assert row["texts"] == list(store.texts(i))
        assert row["fold"] == store.folds[i]
        assert json.loads(row["facts"]) == store.facts(i)
    field = pq.read_schema(tmp_path / "pq" / "part-00000.parquet").field("video/frames")
    assert json.loads(field.metadata[b"harmonize"]) == FRAMES.to_json()


def test_a_file_name_that_is_no_utf8_is_exported_readably(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    made = [make_sample("a", source="clips/\udcff.mp4")]
    store = Store.open(write_shard(tmp_path / "s.h5", made, attrs={"input": "\udcff.csv"}))
    assert store.attrs == {"input": "\udcff.csv"}
    to_parquet(store, tmp_path / "pq")
    assert pq.read_table(tmp_path / "pq")["source"].to_pylist() == [r"clips/\xff.mp4"]
    to_webdataset(store, tmp_path / "tar")
    with tarfile.open(tmp_path / "tar" / "shard-000000.tar") as tar:
        assert json.loads(tar.extractfile("000000000.json").read())["source"] == r"clips/\xff.mp4"


@pytest.mark.parametrize(
    "changes",
    [{"id": "a\udcff"}, {"split": "\udcff"}, {"group": "\udcff"}, {"labels": ("\udcff",)},
     {"texts": ("\udcff",)}, {"facts": {"x": "\udcff"}}],
)  # fmt: skip
def test_texts_that_are_not_utf8_are_not_exported(tmp_path: Path, changes: dict[str, object]) -> None:
    pytest.importorskip("pyarrow.parquet")
    made = [make_sample("good"), make_sample("bad", 1)]
    for name, value in changes.items():
        setattr(made[1], name, value)
    store = Store.open(write_shard(tmp_path / "s.h5", made))
    for export in (to_parquet, to_webdataset):
        with pytest.raises(BadInput, match=f"sample .*: {next(iter(changes))} is not UTF-8"):
            export(store, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    assert merge([store], tmp_path / "m.h5") == 2


def test_jpeg_rows_survive_merge_verify_and_export(tmp_path: Path) -> None:
    from PIL import Image

    spec = FeatureSpec("video/jpeg", "jpeg", "raw", "uint8", (8, 8, 3), rate=1.0)
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(buffer, "JPEG")
    made = [
        Sample(
            str(i),
            features={"video/jpeg": [buffer.getvalue()] * i},
            times={"video/jpeg": np.arange(float(i))},
        )
        for i in range(4)
    ]
    store = Store.open(write_shard(tmp_path / "s.h5", made, [spec]))
    assert merge([store], tmp_path / "m") == 4
    assert Store.open(tmp_path / "m").content_hash == store.content_hash
    assert list(verify(tmp_path / "m")) == []
    _flip(tmp_path / "s.h5", "features/video/jpeg/data", len(buffer.getvalue()) + 3)
    assert [(p.dataset, p.sample) for p in verify(tmp_path / "s.h5")] == [("features/video/jpeg/data", "2")]
    to_webdataset(Store.open(tmp_path / "m"), tmp_path / "tar")
    with tarfile.open(tmp_path / "tar" / "shard-000000.tar") as tar:
        assert tar.extractfile("000000003.video_jpeg.0002.jpg").read() == buffer.getvalue()


def test_summary_tells_counts_reasons_and_provenance(store: Store) -> None:
    summary = describe_store(store)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["modalities"]["audio"] == {
        "ok": 15, "missing": 0, "failed": 1, "silent": 0, "reasons": {"no such codec": 1}
    }  # fmt: skip
    text = "\n".join(summary_lines(summary))
    for part in (
        "16 samples in 3 shard(s)",
        "video/frames: raw, uint8 4x6x3, 10 rows/s, 2..7 rows a sample",
        "audio: 15 ok, 1 failed",
        "1 x no such codec",
        "splits: test 9, train 7",
        "2 words",
    ):
        assert part in text, text


def test_a_store_written_by_a_later_schema_is_told_by_verify(store: Store) -> None:
    with h5py.File(store.shards[0], "r+") as file:
        file.attrs["schema_version"] = 99
    assert "schema version 99" in next(iter(verify(store.path))).what
