"""Full disks, crashes, damaged and foreign files: one clear message, nothing half-written."""

import os
import re
import resource
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from store_builders import FEATURES, FRAMES, make_sample, write_shard

from harmonize_cli.errors import BadInput
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec, Sample
from harmonize_cli.store.writer import ShardWriter

FULL_DISK = """
    import resource, sys
    import numpy as np
    from pathlib import Path
    from harmonize_cli.store.schema import FeatureSpec, Sample
    from harmonize_cli.store.writer import ShardWriter

    limit, path = int(sys.argv[1]), Path(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    spec = FeatureSpec("video/frames", "frames", "raw", "uint8", (64, 64, 3), rate=1.0)
    rows = np.random.default_rng(0).integers(0, 256, (50, 64, 64, 3), dtype=np.uint8)
    try:
        with ShardWriter(path, [spec]) as shard:
            for i in range(40):
                shard.add(Sample(str(i), features={spec.key: rows}, times={spec.key: np.arange(50.0)}))
    except OSError as e:
        print(e.errno, e.strerror, e.filename, sep="|")
    print(sorted(p.name for p in path.parent.iterdir()))
"""


@pytest.mark.parametrize("limit", [1, 700, 5000, 40_000, 1 << 20, 7 << 20, 24_577_000])
def test_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    # a process of its own: HDF5 crashed at the exit of one that had seen a full disk;
    # without coverage, whose own file would not fit either
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(limit), str(tmp_path / "part-00000.h5")],
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert run.stdout.splitlines() == [f"27|File too large|{tmp_path / 'part-00000.h5'}", "[]"]


def test_a_crash_while_writing_leaves_no_shard(tmp_path: Path) -> None:
    script = """
        import os, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from store_builders import FEATURES, make_sample
        from harmonize_cli.store.writer import ShardWriter
        with ShardWriter(Path(sys.argv[1]), FEATURES) as shard:
            shard.add(make_sample("a"))
            os.kill(os.getpid(), 9)
    """
    here = str(Path(__file__).parent)
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "part-00000.h5"), here], check=False
    )
    assert run.returncode == -9
    with pytest.raises(BadInput, match=r"no part-\*.h5 .* 1 unfinished \*.tmp"):
        Store.open(tmp_path)
    write_shard(tmp_path / "part-00000.h5", [make_sample("a")])
    assert Store.open(tmp_path).ids == ["a"]


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with ShardWriter(tmp_path / "s.h5", FEATURES) as shard:
            shard.add(make_sample("a"))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_exists_is_not_changed(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "s.h5", [make_sample("a")])
    before = path.read_bytes()
    with pytest.raises(BadInput, match="exists already"):
        ShardWriter(path, FEATURES)
    assert path.read_bytes() == before
    write_shard(path, [make_sample("b")], overwrite=True)
    assert Store.open(path).ids == ["b"]


def test_no_store(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "empty.h5").touch()
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo.h5")
    for name, complaint in {
        "absent.h5": "no such file",
        "text.h5": "no HDF5 file",
        "empty.h5": "no HDF5 file",
        "other.h5": "no feature store",
        "folder": r"no part-\*.h5 in this folder",
        "fifo.h5": "no regular file",
    }.items():
        with pytest.raises(BadInput, match=complaint) as caught:
            Store.open(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_shards_of_different_kinds_do_not_mix(tmp_path: Path) -> None:
    write_shard(tmp_path / "part-00000.h5", [make_sample("a")], vocab=["x"])
    other = FeatureSpec(**{**FRAMES.__dict__, "preprocessing_hash": "other"})
    path = write_shard(tmp_path / "part-00001.h5", [make_sample("b")], [other, *FEATURES[1:]], vocab=["x"])
    with pytest.raises(
        BadInput, match=r"part-00001.h5: made with other .* preprocessing_hash '' in the first, 'other'"
    ):
        Store.open(tmp_path)
    write_shard(path, [make_sample("b")], vocab=["y"], overwrite=True)
    with pytest.raises(BadInput, match="another vocabulary"):
        Store.open(tmp_path)
    write_shard(path, [make_sample("a")], vocab=["x"], overwrite=True)
    with pytest.raises(BadInput, match=r"sample 'a' is in .*part-0000[01].h5 and .*part-0000[01].h5"):
        Store.open(tmp_path)
    write_shard(path, [make_sample("b")], vocab=["x"], overwrite=True)
    assert Store.open(tmp_path).vocab == ["x"]


def test_a_shard_replaced_under_an_open_store_is_noticed(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "s.h5", [make_sample("a", 1)])
    store = Store.open(path)
    write_shard(path, [make_sample("a", 2, rows=9)], overwrite=True)
    store.close()
    with pytest.raises(BadInput, match="was replaced since"):
        store.read("video/frames", 0)


def test_unknown_names_say_what_there_is(tmp_path: Path) -> None:
    store = Store.open(write_shard(tmp_path / "s.h5", [make_sample("a", 1)]))
    with pytest.raises(BadInput, match="split 'eval'; splits here: train"):
        store.select("eval")
    with pytest.raises(BadInput, match="no modality 'smell' in this store; it has audio, text, video"):
        store.status("smell")
    with pytest.raises(BadInput, match="no feature 'video/x' in this store; it has video/frames"):
        store.read("video/x", 0)
    with pytest.raises(BadInput, match="no sample 'z'"):
        store.index("z")
    with pytest.raises(IndexError):
        store.read("video/frames", 1)
    with pytest.raises(IndexError):
        store.read("video/frames", -1)


def _replace(path: Path, name: str, value: Any, **options: Any) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, data=value, **options)


def _vlen_objects(path: Path) -> None:
    _replace(path, "samples/id/bytes", np.array(["x"], object), dtype=h5py.string_dtype())


def _external_storage(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        name = "features/video/frames/data"
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        file.create_dataset(name, shape, dtype, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _virtual(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        name = "features/video/frames/data"
        layout = h5py.VirtualLayout(file[name].shape, file[name].dtype)
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", file[name].shape)
        del file[name]
        file.create_virtual_dataset(name, layout)


def _link(kind: Callable[[], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file["features/video/frames/data"]
            file["features/video/frames/data"] = kind()

    return damage


def _empty_but_huge(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["features/video/frames/data"]
        file.create_dataset("features/video/frames/data", (1 << 50, 4, 6, 3), "u1", chunks=(64, 4, 6, 3))


def _gzip_bomb(path: Path) -> None:
    _replace(path, "features/video/frames/data", np.zeros((70_000, 4, 6, 3), "u1"), compression="gzip")


def _lzf_that_claims_too_much(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["features/video/frames/data"]
        file.create_dataset(
            "features/video/frames/data", (1 << 40, 4, 6, 3), "u1", chunks=(64, 4, 6, 3), compression="lzf"
        )


def _attribute(name: str, value: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs[name] = value

    return damage


def _only(**attrs: Any) -> Callable[[Path], None]:
    """As another version might write it: no attribute but these."""

    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            for name in list(file.attrs):
                del file.attrs[name]
            file.attrs.update(attrs)

    return damage


def _offsets(values: list[int]) -> Callable[[Path], None]:
    return lambda path: _replace(path, "features/video/frames/offsets", np.array(values, np.int64))


def _missing(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["samples/digest"]


def _with_params(path: Path, params: str) -> str:
    with h5py.File(path) as file:
        return str(file.attrs["features"]).replace('"params":{"size":4}', f'"params":{params}')


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "version": (_attribute("schema_version", 2), "has schema version 2, this program reads 1"),
    "version alone": (
        _only(format="harmonize-store", schema_version=7),
        "schema version 7, .* version of harmonize that made it$",
    ),
    "bare": (_only(), "no feature store; make one"),
    "format alone": (_only(format="harmonize-store"), "no attribute schema_version"),
    "foreign": (_only(format="parquet"), "no feature store"),
    "version text": (_attribute("schema_version", "1"), "has schema version '1'"),
    "version array": (_attribute("schema_version", [1, 1]), "schema_version is neither"),
    "format": (_attribute("format", "parquet"), "no feature store"),
    "json": (_attribute("features", "[{"), "attribute features is damaged"),
    "deep json": (_attribute("features", "[" * 100_000), "attribute features is damaged"),
    "NaN": (_attribute("attrs", '{"a": NaN}'), "attribute attrs is damaged .NaN is not a JSON number"),
    "infinity": (_attribute("attrs", '{"a": 1e999}'), "attribute attrs is damaged .1e999 is too large"),
    "deep params": (
        lambda path: _attribute("features", _with_params(path, '{"a":' * 900 + "1" + "}" * 900))(path),
        "attribute features is damaged .nested deeper than 64 levels",
    ),
    "no feature": (_attribute("features", "[]"), "lists 0 features"),
    "bad feature": (_attribute("features", '[{"key": "a"}]'), "missing or unknown keys"),
    "count": (_attribute("n_samples", 3), "expected .* x 3"),
    "count below": (_attribute("n_samples", -1), "n_samples -1"),
    "vlen": (_vlen_objects, "expected rows of little-endian numbers"),
    "external storage": (_external_storage, "lies in other files"),
    "virtual": (_virtual, "lies in other files"),
    "external link": (_link(lambda: h5py.ExternalLink("/etc/passwd", "/x")), "is a link"),
    "soft link": (_link(lambda: h5py.SoftLink("/samples/fold")), "is a link"),
    "huge": (_empty_but_huge, "more than the file has"),
    "gzip": (_gzip_bomb, "filter other than lzf"),
    "lzf": (_lzf_that_claims_too_much, "more than the file has"),
    "missing": (_missing, "samples/digest is missing"),
    "offsets beyond": (_offsets([0, 4, 8000]), "do not run from 0 to 14"),
    "offsets fall": (_offsets([0, 15, 14]), "do not run from 0 to 14"),
    "offsets below": (_offsets([-3, 4, 14]), "do not run from 0 to 14"),
    "offsets short": (_offsets([0, 14]), "expected <i8 .* x 3"),
    "pack": (lambda p: _replace(p, "samples/fold", np.zeros(2, "i4"), compression="lzf"), "only features"),
    "big endian": (lambda path: _replace(path, "samples/fold", np.zeros(2, ">i4")), "little-endian"),
    "float ids": (lambda path: _replace(path, "samples/id/bytes", np.zeros(2)), r"samples/id/bytes is <f8"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_shards_are_refused(tmp_path: Path, case: str) -> None:
    damage, complaint = HOSTILE[case]
    path = write_shard(tmp_path / "s.h5", [make_sample("a"), make_sample("b")])
    damage(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadInput) as caught:
        Store.open(path).read("video/frames", 1)
    assert str(path) in str(caught.value)
    assert re.search(complaint, str(caught.value)), str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10, "KiB"


def test_a_jpeg_row_that_claims_a_huge_picture_is_refused(tmp_path: Path) -> None:
    from io import BytesIO

    from PIL import Image

    spec = FeatureSpec("video/jpeg", "jpeg", "raw", "uint8", (16, 24, 3), rate=1.0)
    buffer = BytesIO()
    Image.new("RGB", (24, 16)).save(buffer, "JPEG")
    file = bytearray(buffer.getvalue())
    size = file.index(b"\xff\xc0") + 5  # of the frame header: height and width, two bytes each
    file[size : size + 4] = b"\xff\xff\xff\xff"
    sample = Sample("a", features={spec.key: [bytes(file)]}, times={spec.key: np.zeros(1)})
    store = Store.open(write_shard(tmp_path / "s.h5", [sample], [spec]))
    with pytest.raises(BadInput, match=r"s\.h5: features/video/jpeg/data: damaged"):
        store.read(spec.key, 0)


def test_a_shard_collected_while_another_is_opened_does_not_block(tmp_path: Path) -> None:
    """The collector may run at any moment, also while its thread counts the open files."""
    from harmonize_cli.store import shard

    store = Store.open(write_shard(tmp_path / "s.h5", [make_sample("a")]))
    store.read("video/frames", 0)

    def collected() -> None:
        with shard._KEPT_OPEN.lock:
            store.close()

    thread = threading.Thread(target=collected, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


def _use_everything(path: Path) -> None:
    store = Store.open(path)
    for i in range(len(store)):
        store.sample(i)
    assert isinstance(store.content_hash, str)
    store.close()


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.long) for n in range(1, 9))])
def test_cut_or_changed_bytes_never_crash(tmp_path: Path, seed: int) -> None:
    # in a process of its own per hundred files: a crash of the HDF5 library would otherwise end pytest
    whole = write_shard(tmp_path / "s.h5", [make_sample("a"), make_sample("b", 1)], vocab=["x", "y"])
    script = """
        import random, sys, warnings
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from test_store_failures import _use_everything
        from harmonize_cli.errors import BadInput
        path = Path(sys.argv[1])
        good = path.read_bytes()
        rng = random.Random(int(sys.argv[3]))
        refused = 0
        for n in range(200):
            data = bytearray(good)
            if n % 4 == 0:
                del data[rng.randrange(len(data)):]
            else:
                for _ in range(rng.choice([1, 3, 30])):
                    data[rng.randrange(len(data))] = rng.randrange(256)
            mutant = path.with_name("mutant.h5")
            mutant.unlink(missing_ok=True)
            mutant.write_bytes(data)
            try:
                _use_everything(mutant)
            except BadInput as e:
                refused += 1
                assert str(mutant) in str(e)
        print(refused)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(whole), str(Path(__file__).parent), str(seed)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) > 50
    shutil.rmtree(tmp_path)
