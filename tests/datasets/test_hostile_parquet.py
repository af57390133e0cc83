"""A Parquet file from a stranger can't run code, and a damaged one is refused by name."""

import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harmonize_cli.datasets.manifest import read_manifest
from harmonize_cli.errors import BadInput

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


class _Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.target, "w")


def test_a_pickle_in_the_metadata_is_not_opened(tmp_path: Path) -> None:
    # how CVE-2023-47248 ran code: an extension type whose metadata is a pickle
    target = tmp_path / "ran"
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(_Bomb(str(target))),
    }
    schema = pa.schema(
        [pa.field("id", pa.string(), metadata=metadata), pa.field("text", pa.string())],
        metadata={b"pandas": b"not json", b"evil": pickle.dumps(_Bomb(str(target)))},
    )
    table = pa.table({"id": ["a"], "text": ["words"]}).cast(schema)
    pq.write_table(table, tmp_path / "m.parquet")
    script = (
        "import sys, warnings; from pathlib import Path\n"
        "from harmonize_cli.datasets.manifest import read_manifest\n"
        "print(read_manifest(Path(sys.argv[1]))[0].texts)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "m.parquet"], capture_output=True, text=True, check=False
    )
    assert run.stdout.strip() == "('words',)", run.stderr
    assert not target.exists()
    pickle.loads(metadata[b"ARROW:extension:metadata"]).close()
    assert target.exists(), "the bomb does work"


def test_a_row_group_that_unpacks_to_gigabytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"id": [str(i) for i in range(1000)], "text": ["a" * 10_000] * 1000})
    pq.write_table(table, tmp_path / "m.parquet", use_dictionary=False, compression="zstd")
    assert (tmp_path / "m.parquet").stat().st_size < 100_000
    monkeypatch.setattr("harmonize_cli.datasets.tables._MAX_ROW_GROUP_BYTES", 1 << 20)
    with pytest.raises(BadInput, match=r"m.parquet: row group 0 unpacks to 9 MiB"):
        read_manifest(tmp_path / "m.parquet")


MEASURED = """
import resource, sys
from pathlib import Path
from harmonize_cli.datasets.manifest import read_manifest
from harmonize_cli.errors import BadInput
import pyarrow.parquet
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(len(read_manifest(Path(sys.argv[1]))))
except BadInput as e:
    print(str(e)[:300])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def measured(path: Path) -> tuple[str, int]:
    """What reading a manifest says, and the MiB that it took."""
    command = [sys.executable, "-c", MEASURED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *said, memory = done.stdout.splitlines()
    return "\n".join(said), int(memory)


def _same(count: int, text: str, code: Any) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, code)), pa.array([text]))


def test_few_bytes_that_stand_for_gigabytes_take_little_memory(tmp_path: Path) -> None:
    ids = [str(k) for k in range(3000)]
    long = pa.table({"id": ids, "text": _same(3000, "a" * (4 << 20), np.int32)})  # 12 GB
    many = _same(30_000_000, "x" * 100, np.int8)  # 3 GB of text in one row
    one = pa.table(
        {"id": ["a"], "texts": pa.ListArray.from_arrays(pa.array([0, len(many)], pa.int32()), many)}
    )
    wide = _same(600_000, "x" * 90_000, np.int32)  # 54 GB, in rows of three
    three = pa.ListArray.from_arrays(pa.array(np.arange(0, 600_001, 3), pa.int32()), wide)
    some = pa.table({"id": [str(k) for k in range(200_000)], "texts": three})
    deep = pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), three.slice(0, 2))
    odd = pa.table({"id": ["a"], "texts": deep})
    for name, table, told in (
        ("long", long, "text: a text of 4194304 characters"),
        ("one", one, "row group 0 has lists of 30000000 values"),
        ("odd", odd, "texts: expected text, found a list"),
    ):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=1 << 30)
        assert path.stat().st_size < 100_000
        said, memory = measured(path)
        assert told in said
        assert memory < 500, f"{memory} MiB"
    path = tmp_path / "some.parquet"
    pq.write_table(some.slice(0, 2000), path, compression="zstd", dictionary_pagesize_limit=1 << 30)
    # these rows are what they say: they are made one after the other, and share nothing once they are kept
    assert "2000" in measured(path)[0]


def _varint(value: int) -> bytes:
    """A number as Thrift writes it."""
    value *= 2
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _forged(path: Path, column: int, size: int, values: int, body: bytes) -> None:
    """Another page in place of a column's only one; what the footer says stays."""
    chunk = pq.read_metadata(path).row_group(0).column(column)
    room = chunk.total_compressed_size

    def header(stored: int) -> bytes:
        about = b"\x15" + _varint(values) + b"\x15\x00\x15\x06\x15\x06\x00"
        return b"\x15\x00\x15" + _varint(size) + b"\x15" + _varint(stored) + b"\x2c" + about + b"\x00"

    stored = room - len(header(room))
    left = stored - len(body) - 8
    page = header(stored) + body + b"\x50\x2a\x4d\x18" + left.to_bytes(4, "little") + bytes(left)
    data = path.read_bytes()
    at = chunk.data_page_offset
    path.write_bytes(data[:at] + page[:room] + data[at + room :])


def _zstd(text: int) -> bytes:
    """A Zstandard frame that unpacks to a PLAIN text of so many letters."""
    frame = b"\x28\xb5\x2f\xfd\xa0" + (text + 4).to_bytes(4, "little")
    frame += (4 << 3).to_bytes(3, "little") + text.to_bytes(4, "little")
    blocks = [1 << 17] * (text >> 17)
    for n, block in enumerate(blocks):
        frame += (block << 3 | 2 | (n == len(blocks) - 1)).to_bytes(3, "little") + b"a"
    return frame


def test_a_page_is_what_its_header_says_not_the_footer(tmp_path: Path) -> None:
    """70 kB, of which the footer says that they unpack to 70 kB: a page of 1 GB."""
    path = tmp_path / "m.parquet"
    schema = pa.schema([pa.field("id", pa.string(), False), pa.field("text", pa.string(), False)])
    noise = np.random.default_rng(0).integers(97, 122, 70_000, np.uint8).tobytes().decode()
    table = pa.table({"id": ["a"], "text": [noise]}, schema=schema)
    options: Any = {"use_dictionary": False, "compression": "zstd", "write_statistics": False}
    pq.write_table(table, path, **options)
    small = 1 << 20
    _forged(path, 1, small + 4, 1, _zstd(small))
    assert len(pq.read_table(path)["text"][0].as_py()) == small, "the forged page can be read"
    large = 1 << 30
    _forged(path, 1, large + 4, 1, _zstd(large))
    assert pq.read_metadata(path).row_group(0).total_byte_size < 100_000
    said, memory = measured(path)
    assert "row group 0 has a page that unpacks to 1024 MiB" in said
    assert memory < 100, f"{memory} MiB"
    _forged(path, 1, 100, 1 << 26, b"")
    assert measured(path)[1] < 100


def test_headers_of_pages(tmp_path: Path) -> None:
    """Every kind that pyarrow writes, against the footer."""
    from harmonize_cli.datasets.parquet_pages import read_pages

    columns = {"id": [f"i{k}" for k in range(5000)], "texts": [[f"t{k % 7}"] * (k % 4) for k in range(5000)]}
    path = tmp_path / "m.parquet"
    for version in ("1.0", "2.0"):
        for more in ({}, {"use_dictionary": False}, {"compression": "none"}, {"data_page_size": 100}):
            options: Any = {"data_page_version": version, "write_page_index": True, **more}
            pq.write_table(pa.table(columns), path, **options)
            for column in range(2):
                chunk = pq.read_metadata(path).row_group(0).column(column)
                start = chunk.dictionary_page_offset or chunk.data_page_offset
                with path.open("rb") as file:
                    pages = list(read_pages(file, start, chunk.total_compressed_size, chunk.num_values))
                assert sum(page.values for page in pages) == chunk.num_values
                headers = chunk.total_uncompressed_size - sum(page.size for page in pages)
                assert 0 < headers < 200 * len(pages)
    shared = pa.table(
        {"id": [str(k) for k in range(2000)], "text": ["x" * 30_000 + str(k) for k in range(2000)]}
    )
    pq.write_table(shared, path, use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"})
    assert "2000" in measured(path)[0]


def test_headers_that_are_none() -> None:
    from io import BytesIO

    from harmonize_cli.datasets.parquet_pages import read_pages

    rng = random.Random(0)
    good = b"\x15\x00\x15\xc8\x01\x15\x14\x2c\x15\x02\x15\x00\x15\x06\x15\x06\x00\x00" + bytes(10)
    assert [page.size for page in read_pages(BytesIO(good), 0, len(good), 1)] == [100]
    for n in range(20_000):
        data = bytearray(good * 3)
        for _ in range(rng.choice([1, 3, 20])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            for page in read_pages(BytesIO(data[: rng.randrange(len(data))] if n % 5 else data), 0, 99, 9):
                assert page.size >= 0
                assert page.values >= 0
        except ValueError:
            continue


def test_a_row_that_unpacks_to_too_much_is_named(tmp_path: Path) -> None:
    many = _same(20_000, "x" * 90_000, np.int32)
    offsets = pa.array([0, 3, 3, 20_000], pa.int32())
    table = pa.table({"id": ["a", "b", "c"], "texts": pa.ListArray.from_arrays(offsets, many)})
    pq.write_table(table, tmp_path / "m.parquet", dictionary_pagesize_limit=1 << 30)
    with pytest.raises(BadInput, match=r"m\.parquet: row 3 unpacks to 17\d\d MiB; at most 64 MiB are read"):
        read_manifest(tmp_path / "m.parquet")


def test_sizes_of_rows_whatever_their_type() -> None:
    from harmonize_cli.datasets.tables import _row_bytes

    lists = pa.array([["abc"], None, [], ["d" * 10, None]])
    for array in (
        pa.array(["a" * 5000, None, "b"]),
        pa.array(["a" * 5000, None, "b"]).dictionary_encode(),
        pa.array([b"a", None]),
        lists,
        lists.slice(1),
        lists.slice(3, 1),
        pa.array([{"a": "x" * 9000}, None]),
        pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        pa.array([1.5, None]),
        pa.nulls(3),
        pa.array([], pa.string()).dictionary_encode(),
        pa.array([None, None], pa.string()).dictionary_encode(),
    ):
        sizes = _row_bytes(array)
        assert len(sizes) == len(array)
        for size, value in zip(sizes.tolist(), array.to_pylist(), strict=True):
            assert size >= len(str(value)) // 2


@pytest.mark.parametrize(
    "options",
    [
        {"row_group_size": 3000},
        {"dictionary_pagesize_limit": 2000},  # it gives the dictionary up half-way
        {"dictionary_pagesize_limit": 2000, "row_group_size": 3000, "data_page_size": 500},
        {"use_dictionary": False},
    ],
)
def test_values_are_the_same_as_without_dictionaries(tmp_path: Path, options: Any) -> None:
    rows = 10_000
    texts = [[f"t{k % 7}", f"ü{k}"] if k % 5 else [] for k in range(rows)]
    columns = {"id": [f"i{k}" for k in range(rows)], "texts": texts, "start": [k / 8 for k in range(rows)]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet", **options)
    found = read_manifest(tmp_path / "m.parquet")
    assert [row.texts for row in found] == [tuple(item) for item in texts]
    assert [(row.id, row.start) for row in found] == list(zip(columns["id"], columns["start"], strict=True))


def test_odd_types_are_named(tmp_path: Path) -> None:
    for column, told in (
        (pa.array([{"a": 1}]), "text: expected text, found an object"),
        (pa.array([[["x"]]]), "text: expected text, found a list"),
        (pa.array([1.5]), "text: expected text, found a number"),
        (pa.array(["x"]).dictionary_encode(), None),
        (pa.array(["x"], pa.large_string()), None),
    ):
        pq.write_table(pa.table({"id": ["a"], "text": column}), tmp_path / "m.parquet")
        if told is None:
            assert read_manifest(tmp_path / "m.parquet")[0].texts == ("x",)
        else:
            with pytest.raises(BadInput, match=told):
                read_manifest(tmp_path / "m.parquet")


def test_fuzzed_parquet_never_crashes(tmp_path: Path) -> None:
    """100 mutants in a process of their own: a crash of the library would otherwise end pytest."""
    table = pa.table(
        {"id": ["a", "b"], "text": ["x", None], "labels": [["p"], ["q", "r"]], "start": [0.5, None]}
    )
    pq.write_table(table, tmp_path / "good.parquet")
    good = (tmp_path / "good.parquet").read_bytes()
    rng = random.Random(0)
    for n in range(100):
        data = bytearray(good)
        for _ in range(rng.choice([1, 3, 20])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / f"{n}.parquet").write_bytes(data[: rng.randrange(len(data))] if n % 5 == 0 else data)
    script = (
        "import sys; from pathlib import Path\n"
        "from harmonize_cli.datasets.manifest import read_manifest\n"
        "from harmonize_cli.errors import BadInput\n"
        "refused = 0\n"
        "for n in range(100):\n"
        "    try: read_manifest(Path(sys.argv[1]) / f'{n}.parquet')\n"
        "    except BadInput as e: refused += 1; assert f'{n}.parquet' in str(e)\n"
        "print(refused)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) > 20
