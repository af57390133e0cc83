"""Any samples in, the same samples out: in whatever shards they lie."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import FEATURES, FRAMES, assert_same, make_sample, write_shard

from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec, Sample, Status

NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ODD_FILE_NAME = "clips/\udcff\n'x'.mp4"  # Python's name for a file whose name is no UTF-8


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = {m: draw(st.integers(0, 9)) for m in ("video", "audio", "text")}
    status, reason = {}, {}
    for modality, n in rows.items():
        if draw(st.booleans()):
            status[modality] = Status.SILENT if n else draw(st.sampled_from([Status.FAILED, Status.MISSING]))
            reason[modality] = draw(TEXT)
    wave = np.frombuffer(rng.bytes(2 * rows["audio"]), np.float16)  # NaN and infinities too
    return Sample(
        id=draw(NAMES),
        group=draw(TEXT),
        split=draw(TEXT),
        fold=draw(st.none() | st.integers(0, 2**31 - 1)),
        labels=tuple(draw(st.lists(TEXT, max_size=3))),
        texts=tuple(draw(st.lists(TEXT, max_size=3))),
        source=draw(TEXT | st.just(ODD_FILE_NAME)),
        start=draw(st.floats(0, 1e6)),
        end=draw(st.none() | st.floats(0, 1e6)),
        features={
            "video/frames": rng.integers(0, 256, (rows["video"], 4, 6, 3), dtype=np.uint8),
            "audio/waveform": wave,
            "text/tokens": rng.integers(-(2**31), 2**31, (rows["text"], 5), dtype=np.int32),
        },
        times={"video/frames": rng.random(rows["video"]), "audio/waveform": draw(st.floats(0, 1e6))},
        status=status,
        reason=reason,
        facts=draw(st.dictionaries(TEXT, JSON, max_size=3)),
    )


@settings(max_examples=25, deadline=None)
@given(
    st.lists(samples(), max_size=8, unique_by=lambda s: s.id),
    st.integers(1, 3),
    st.sampled_from([None, "lzf"]),
)
def test_any_samples_come_back(made: list[Sample], shards: int, compression: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = write_shard(Path(folder) / "whole.h5", made, compression=compression)
        for k in range(shards):
            part = Path(folder) / "parts" / f"part-{k:05d}.h5"
            write_shard(part, made[k::shards], compression=compression)
        one, many = Store.open(whole), Store.open(whole.parent / "parts")
        assert one.ids == [s.id for s in made]
        assert sorted(many.ids) == sorted(one.ids)
        assert one.content_hash == many.content_hash, "division and order of shards are no content"
        for store in (one, many):
            for expected in made:
                i = store.index(expected.id)
                found = store.sample(i)
                assert_same(found, expected)
                for key in store.features:
                    assert store.length(key)[i] == len(expected.features[key])
        one.close()
        many.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=6), st.data())
def test_any_row_range_is_a_slice_of_the_whole(lengths: list[int], data: st.DataObject) -> None:
    # rows of 72 bytes and chunks of 64 KiB to 1 MiB: samples straddle chunks in every way
    with tempfile.TemporaryDirectory() as folder:
        spec = FeatureSpec("video/frames", "frames", "raw", "uint8", (32, 32, 3), rate=1.0)
        clips = [np.full((n, 32, 32, 3), i, np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None]
                 for i, n in enumerate(lengths)]  # fmt: skip
        path = write_shard(
            Path(folder) / "s.h5",
            (Sample(str(i), features={"video/frames": c}, times={"video/frames": np.arange(len(c))})
             for i, c in enumerate(clips)),
            [spec],
        )  # fmt: skip
        store = Store.open(path)
        i = data.draw(st.integers(0, len(clips) - 1))
        start = data.draw(st.integers(0, len(clips[i])))
        stop = data.draw(st.integers(start, len(clips[i])))
        assert np.array_equal(store.read_rows("video/frames", i, start, stop), clips[i][start:stop])
        with pytest.raises(IndexError):
            store.read_rows("video/frames", i, start, len(clips[i]) + 1)
        store.close()


def test_times_of_regular_features_follow_from_the_start(tmp_path: Path) -> None:
    store = Store.open(write_shard(tmp_path / "s.h5", [make_sample("a", rows=3)]))
    assert np.allclose(store.times("audio/waveform", 0), 1.5 + np.arange(30) / 100)
    assert np.allclose(store.times("video/frames", 0), [1.5, 1.6, 1.7])
    assert np.isnan(store.times("text/tokens", 0)).all()


def test_jpeg_rows_come_back_as_bytes_and_decoded(tmp_path: Path) -> None:
    from io import BytesIO

    from PIL import Image

    spec = FeatureSpec("video/jpeg", "jpeg", "raw", "uint8", (16, 24, 3), rate=1.0)
    files = []
    for value in (0, 100, 255):
        buffer = BytesIO()
        Image.new("RGB", (24, 16), (value, value, value)).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    made = [
        Sample("a", features={"video/jpeg": files[:2]}, times={"video/jpeg": np.array([0.0, 1.0])}),
        Sample("b"),
        Sample("c", features={"video/jpeg": files[2:]}, times={"video/jpeg": np.array([5.0])}),
    ]
    store = Store.open(write_shard(tmp_path / "s.h5", made, [spec]))
    assert store.read_jpeg("video/jpeg", 0) == files[:2]
    assert store.length("video/jpeg").tolist() == [2, 0, 1]
    decoded = store.read("video/jpeg", 0)
    assert decoded.shape == (2, 16, 24, 3)
    assert abs(int(decoded[1].mean()) - 100) <= 1
    assert store.read_rows("video/jpeg", 2, 0, 1).min() >= 254
    assert store.times("video/jpeg", 2).tolist() == [5.0]
    for i, expected in enumerate(made):
        assert_same(store.sample(i), expected)


def test_selection_labels_and_status(tmp_path: Path) -> None:
    silent = make_sample("s", 3, status={"audio": Status.SILENT}, reason={"audio": "-91 dB"})
    failed = make_sample("f", 5, reason={"video": "no frames"}, status={"video": Status.FAILED})
    del failed.features["video/frames"], failed.times["video/frames"]
    store = Store.open(write_shard(tmp_path / "s.h5", [make_sample("a", 0), silent, failed]))
    assert store.select().tolist() == [0, 1, 2]
    assert store.select("train").tolist() == [1, 2]
    assert store.splits == ["test", "train", "train"]
    assert store.folds == [None, 3, 1]
    assert store.groups == ["video-0", "video-0", "video-2"]
    assert store.labels == [("dog",)] * 3
    assert store.status("audio").tolist() == [Status.OK, Status.SILENT, Status.OK]
    assert store.status("video").tolist() == [Status.OK, Status.OK, Status.FAILED]
    assert store.reason("audio", 1) == "-91 dB"
    assert store.reason("video", 2) == "no frames"
    assert store.span(0) == (1.5, 2.25)
    assert store.features == {spec.key: spec for spec in FEATURES}
    assert "a" in store
    assert "b" not in store


def test_content_hash_sees_every_change(tmp_path: Path) -> None:
    def hash_of(**changes: object) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.h5"
        return Store.open(write_shard(path, [make_sample("a"), make_sample("b", **changes)])).content_hash

    one_pixel = make_sample("b").features
    one_pixel["video/frames"][3, 0, 0, 0] ^= 1
    later = make_sample("b").times | {"audio/waveform": 1.6}
    variants = [
        {}, {"split": "val"}, {"fold": 7}, {"labels": ()}, {"texts": ("x",)}, {"source": "y"}, {"end": None},
        {"facts": {}}, {"reason": {"audio": "x"}}, {"features": one_pixel}, {"times": later}, {"group": "z"},
    ]  # fmt: skip
    assert len({hash_of(**changes) for changes in variants}) == len(variants)
    assert hash_of() == hash_of()


def test_same_samples_make_the_same_bytes(tmp_path: Path) -> None:
    made = [make_sample(str(i), i) for i in range(5)]
    a, b = (write_shard(tmp_path / name, made).read_bytes() for name in ("a.h5", "b.h5"))
    assert a == b


def test_rows_are_chunked_by_sample(tmp_path: Path) -> None:
    import h5py

    spec = FeatureSpec("video/frames", "frames", "raw", "uint8", (64, 64, 3), rate=1.0)
    made = [
        Sample(str(i), features={"video/frames": np.zeros((32, 64, 64, 3), np.uint8)},
               times={"video/frames": np.arange(32.0)})
        for i in range(30)
    ]  # fmt: skip
    path = write_shard(tmp_path / "s.h5", made, [spec])
    with h5py.File(path) as file:
        assert file["features/video/frames/data"].chunks == (32, 64, 64, 3)
        assert file["features/video/frames/data"].compression is None
    # no more than the rows and a little: a tenth of a percent and 64 KiB
    assert path.stat().st_size < 30 * 32 * 64 * 64 * 3 * 1.001 + 65536


def test_writer_memory_is_constant(tmp_path: Path) -> None:
    import tracemalloc

    clip = np.zeros((16, 48, 48, 3), np.uint8)
    spec = FeatureSpec("video/frames", "frames", "raw", "uint8", (48, 48, 3), rate=1.0)
    peaks = []
    for count in (100, 800):
        tracemalloc.start()
        made = (
            Sample(str(i), features={"video/frames": clip}, times={"video/frames": np.arange(16.0)})
            for i in range(count)
        )
        write_shard(tmp_path / f"{count}.h5", made, [spec])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (1 << 20), "eight times the samples need no more memory"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"features": {"video/frames": np.zeros((2, 4, 6, 3), np.float32)}}, "dtype float32, expected uint8"),
        ({"features": {"video/frames": np.zeros((2, 4, 6), np.uint8)}}, r"shape \(2, 4, 6\)"),
        ({"features": {"video/other": np.zeros(2)}}, "unknown feature video/other"),
        ({"times": {"video/frames": np.arange(3.0), "audio/waveform": 0.0}}, "times of shape"),
        ({"times": {"video/frames": np.arange(7.0)}}, "no start time"),
        ({"times": {"video/frames": np.full(7, np.nan), "audio/waveform": 0.0}}, "not finite"),
        ({"status": {"video": Status.FAILED}}, "failed, but it has rows"),
        ({"features": {}, "times": {}, "status": {"video": Status.OK}}, "ok, but video/frames has no rows"),
        ({"status": {"smell": Status.OK}}, "status of smell"),
        ({"facts": {"x": float("nan")}}, "JSON"),
        ({"facts": {"x": object()}}, "no JSON value"),
        ({"texts": ("\ud800",)}, "surrogates"),
        ({"fold": -1}, "fold -1"),
        ({"start": float("inf")}, "not finite"),
        ({"id": ""}, "id"),
    ],
)  # fmt: skip
def test_refused_sample_leaves_no_trace(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    from harmonize_cli.store.writer import ShardWriter

    with ShardWriter(tmp_path / "s.h5", FEATURES) as shard:
        shard.add(make_sample("a", 1))
        with pytest.raises(ValueError, match=complaint):
            shard.add(make_sample("bad", **changes))
        with pytest.raises(ValueError, match="in this shard already"):
            shard.add(make_sample("a", 2))
        shard.add(make_sample("b", 2))
    store = Store.open(tmp_path / "s.h5")
    assert store.ids == ["a", "b"]
    assert_same(store.sample(1), make_sample("b", 2))


@pytest.mark.parametrize(
    "changes",
    [
        {"key": "frames"}, {"key": "video/../x"}, {"key": "video/a/b"}, {"dtype": "object"}, {"dtype": "S4"},
        {"row_shape": (0,)}, {"row_shape": (1 << 24, 1 << 24)}, {"rate": -1.0}, {"kind": "video"},
        {"rate": None, "regular": True},
    ],
)  # fmt: skip
def test_impossible_features_are_refused(changes: dict[str, object]) -> None:
    values = {**FRAMES.to_json(), **changes}
    values["row_shape"] = list(values["row_shape"])
    with pytest.raises(ValueError, match="feature"):
        FeatureSpec.from_json(values)
