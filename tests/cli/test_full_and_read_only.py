"""A full disk, a read-only one: every command says so in a line that names the file, and leaves nothing half.

The file systems are real: small ones in memory, which only root can mount.
"""

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest
from small_run import small_run, small_store

from harmonize_cli.cli.main import main

WRITERS = {
    "store merge": "store merge s.h5 -o DISK/new.h5",
    "store split": "store split s.h5 -o DISK/new --parts 2",
    "webdataset": "export webdataset s.h5 -o DISK/new",
    "parquet": "export parquet s.h5 -o DISK/new",
    "encoder": "export encoder run -o DISK/new",
    "embeddings": "export embeddings run s.h5 -o DISK/new.npy",
    "embeddings, parquet": "export embeddings run s.h5 -o DISK/new.parquet",
    "plan": "curriculum plan scores -o DISK/new --indicator loss_vt",
    "score": "curriculum score run s.h5 -o DISK/new --indicator loss_vt",
    "retrieval": "eval retrieval run s.h5 -o DISK/new.json --split test --draws 10 --no-cache",
    "mteb": "export mteb run s.h5 -o DISK/new --split test --no-cache",
    "table": "eval table run/eval/r.json -o DISK/new.txt",
    "report": "report run -o DISK/new.html",
    "pretrain": "pretrain s.h5 -o DISK/new --config run/config.yaml",
    "extract": "extract m.jsonl -o DISK/new.h5 -e tokens",
    "make-data": "demo make-data DISK/new --set clips=8 --set val_clips=4 --set test_clips=4 --workers 1",
}
LARGE = [
    name for name in WRITERS if name not in ("plan", "table", "extract", "score", "retrieval", "make-data")
]


def mounted(folder: Path, size: str) -> bool:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path_factory.mktemp("disks") / "disk"
    if sys.platform != "linux" or not mounted(folder, "1m"):
        pytest.skip("a small file system can't be mounted here (needs Linux and root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, a run with a result and scores, a manifest."""
    folder = tmp_path_factory.mktemp("place")
    small_run(folder / "run", small_store(folder / "s.h5"))
    (folder / "m.jsonl").write_text('{"id": "a", "text": "one"}\n')
    for words in (
        "eval retrieval run s.h5 -o run/eval/r.json --split test --draws 10",
        "curriculum score run s.h5 -o scores --indicator loss_vt",
    ):
        assert harmonize(folder, words) == (0, "")
    return folder


def harmonize(folder: Path, words: str) -> tuple[int, str]:
    """Exit code and messages of the command, as its entry point gives them."""
    said = io.StringIO()
    argv, here, handlers = (
        sys.argv,
        Path.cwd(),
        [(n, signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGHUP)],
    )
    sys.argv = ["harmonize", *words.split()]
    os.chdir(folder)
    try:
        with redirect_stderr(said), redirect_stdout(io.StringIO()):
            main()
    except SystemExit as e:
        return int(e.code or 0), said.getvalue()
    finally:
        sys.argv = argv
        os.chdir(here)
        for number, handler in handlers:
            signal.signal(number, handler)
    return 0, said.getvalue()


def emptied(disk: Path) -> None:
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def fill(disk: Path, left: int) -> None:
    """Leave room for so many pages."""
    fd = os.open(disk / "ballast", os.O_WRONLY | os.O_CREAT)
    try:
        with suppress(OSError):
            while os.write(fd, bytes(4096)):
                pass
        os.ftruncate(fd, os.fstat(fd).st_size // 4096 * 4096 - left * 4096)
    finally:
        os.close(fd)


@pytest.mark.parametrize(("name", "left"), [*((n, 0) for n in WRITERS), *((n, 3) for n in LARGE)])
def test_a_full_disk(place: Path, disk: Path, name: str, left: int) -> None:
    emptied(disk)
    fill(disk, left)
    code, said = harmonize(place, WRITERS[name].replace("DISK", str(disk)))
    assert code == 1, said
    assert "no room left to write (No space left on device)" in said
    assert f"{disk}/new" in said
    files = {path.name for path in disk.rglob("*") if path.is_file()} - {"ballast"}
    assert not {file for file in files if not file.endswith((".json", ".yaml", ".jsonl", ".vtt"))}
    assert "new.json" not in files


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_disk(place: Path, disk: Path, name: str) -> None:
    emptied(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        code, said = harmonize(place, WRITERS[name].replace("DISK", str(disk)))
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert code == 2, said
    assert f"{disk}/new" in said
    assert "Read-only file system" in said
