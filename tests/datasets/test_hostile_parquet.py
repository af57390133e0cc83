"""A Parquet file from a stranger can't run code, and a damaged one is refused by name."""

import pickle
import random
import subprocess
import sys
from pathlib import Path

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
