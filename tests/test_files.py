"""Atomic files: complete or not there."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harmonize_cli.errors import BadInput
from harmonize_cli.files import (
    atomic_path,
    read_arrays,
    read_bytes,
    read_json,
    read_log,
    rewind_log,
    sha256_file,
    sha256_json,
    write_array,
    write_arrays,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def fail_half_way() -> None:
        with atomic_path(file) as tmp:
            tmp.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """RLIMIT_FSIZE in a child stands in for a full disk: the write fails with EFBIG."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from harmonize_cli.files import write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try: write_text(Path(sys.argv[1]), 'x' * 1000)\n"
        "except OSError as e: sys.exit(e.errno)\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], check=False)
    assert done.returncode == 27  # EFBIG
    assert list(tmp_path.iterdir()) == []


def test_json_refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1.5})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1.5}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_names_that_are_not_utf8_can_be_written(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": "\udcff", "y": "naïve"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"x": "\udcff", "y": "naïve"}
    write_text(tmp_path / "a.txt", "a\udcff")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == r"a\udcff"


def test_arrays_come_back(tmp_path: Path) -> None:
    for array in (np.arange(6.0).reshape(2, 3).T, np.zeros((0, 4), np.float32), np.array(3, np.int16)):
        write_array(tmp_path / "a.npy", array)
        found = np.load(tmp_path / "a.npy", allow_pickle=False)
        assert found.dtype == array.dtype
        assert np.array_equal(found, array)
    write_arrays(tmp_path / "a.npz", {"x": np.arange(3), "id": np.array(["a", "bc"])}, compressed=True)
    assert read_arrays(tmp_path / "a.npz", hint="")["id"].tolist() == ["a", "bc"]
    with pytest.raises(BadInput, match=r"a\.npz: damaged \(has no array 'y'\); make it again"):
        read_arrays(tmp_path / "a.npz", hint="make it again")["y"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "invalid JSON"), ("NaN", "NaN is not a JSON number"), ("[1e999]", "too large a number"),
        ("[" * 100_000, "nested too deeply"), ("[" * 70 + "]" * 70, "nested deeper than 64 levels"),
        ('{"a": "x"}', "a: Input should be a valid integer"), ("[]", "should be a valid dictionary"),
    ],
)  # fmt: skip
def test_json_that_is_none_of_ours(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadInput, match=told) as caught:
        read_json(tmp_path / "a.json", dict[str, int], hint="make it again")
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}: ")
    assert str(caught.value).endswith("; make it again")


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, told in (
        ("pipe", "not a regular file"),
        ("none", "no such file"),
        (".", "not a regular file"),
    ):
        with pytest.raises(BadInput, match=told):
            read_bytes(tmp_path / place)
    with pytest.raises(BadInput, match="not a regular file"):
        read_bytes(Path("/dev/zero"))
    (tmp_path / "large").write_bytes(bytes(3 << 20))
    with pytest.raises(BadInput, match="3 MiB; at most 1 MiB"):
        read_bytes(tmp_path / "large", most=1 << 20)


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "a") == known
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1}) != sha256_json({"a": 2, "b": 1})


def test_a_log_is_read_and_rewound_without_what_a_kill_cut_off(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert read_log(log) == []
    rewind_log(log, 3)
    assert not log.exists()
    log.write_text('{"step": 1, "loss": 0.1}\n{"step": 2, "loss": null}\n{"step": 3}\n{"step": 4, "lo')
    assert [line["step"] for line in read_log(log)] == [1, 2, 3]
    rewind_log(log, 2)
    assert log.read_text() == '{"step": 1, "loss": 0.1}\n{"step": 2, "loss": null}\n'
