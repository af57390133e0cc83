"""One writer at a time: the second one's error names the first; a lock of a dead process is taken over."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from harmonize_cli import locks
from harmonize_cli.errors import BadInput
from harmonize_cli.locks import Holder, is_lock, locked, one_writer

HOLD = """
    import sys, time
    from pathlib import Path
    from harmonize_cli.locks import locked
    with locked(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(120)
"""


def hold(target: Path) -> subprocess.Popen[str]:
    """Another process that holds a lock."""
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(target)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_is_first_and_a_killed_holder_does_not_count(tmp_path: Path) -> None:
    target = tmp_path / "new" / "s.h5"
    other = hold(target)
    with pytest.raises(BadInput, match=rf"s\.h5: is being written by process {other.pid} on ") as caught:
        locked(target).__enter__()
    assert str(target.with_name(".s.h5.lock")) in str(caught.value)
    with locked(target.with_name("other.h5")):
        pass
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert [path.name for path in target.parent.iterdir()] == [".s.h5.lock"]
    with locked(target):
        assert is_lock(target.with_name(".s.h5.lock"))
        with pytest.raises(BadInput, match=f"process {os.getpid()} "):
            locked(target).__enter__()
    assert list(target.parent.iterdir()) == []


def test_folders_made_for_a_lock_alone_go_with_it(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b" / "c"):
        pass
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b").mkdir()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_jobs_of_one_division_get_along_and_no_others(tmp_path: Path) -> None:
    target = tmp_path / "s"
    with locked(target, (0, 2)), locked(target, (1, 2)):
        for share in ((0, 2), (1, 3), None):
            with pytest.raises(BadInput, match="is being written by process"):
                locked(target, share).__enter__()
        with locked(tmp_path / "s2"), locked(tmp_path / "s.x", (0, 3)):  # names that look alike
            pass
    with locked(target), pytest.raises(BadInput, match="is being written"):
        locked(target, (0, 2)).__enter__()
    with locked(target):
        pass
    assert list(tmp_path.iterdir()) == []


def forged(tmp_path: Path, age: float, **changes: Any) -> Path:
    """The lock of `s` as some other process left it."""
    lock = tmp_path / ".s.lock"
    lock.write_text(json.dumps(asdict(replace(Holder.this(), **changes))))
    os.utime(lock, (time.time() - age, time.time() - age))
    return lock


def test_locks_of_processes_that_are_gone(tmp_path: Path) -> None:
    for changes in ({"pid": 2**22 + 1}, {"started": "1"}):  # a process number that was used again
        forged(tmp_path, 0, **changes)
        with locked(tmp_path / "s"):
            pass
    elsewhere = {"host": "node17", "machine": "node17/x/1"}
    forged(tmp_path, locks.LOST - 60, **elsewhere)
    with pytest.raises(BadInput, match=r"on node17 .* If it is gone for sure, remove .*\.s\.lock"):
        locked(tmp_path / "s").__enter__()
    forged(tmp_path, locks.LOST + 60, **elsewhere)
    with locked(tmp_path / "s"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff" * 99, b"[" * 70_000])
def test_a_lock_that_says_nothing_counts_until_it_is_old(tmp_path: Path, content: bytes) -> None:
    lock = tmp_path / ".s.lock"
    lock.write_bytes(content)
    with pytest.raises(BadInput, match="an unknown process"):
        locked(tmp_path / "s").__enter__()
    os.utime(lock, (1e9, 1e9))
    with locked(tmp_path / "s"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_holder_renews_its_lock_and_ends_when_it_lost_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(locks, "RENEWED", 0.02)
    asked = []
    before = signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    try:
        with locked(tmp_path / "s"):
            lock = tmp_path / ".s.lock"
            os.utime(lock, (1e9, 1e9))
            _until(lambda: lock.stat().st_mtime > 2e9 or lock.stat().st_mtime > time.time() - 60)
            assert not asked
            forged(tmp_path, 0, pid=1)
            _until(lambda: bool(asked))
        assert lock.exists()  # the other one's
    finally:
        signal.signal(signal.SIGTERM, before)


def _until(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_folder_whose_surroundings_are_read_only_holds_its_lock(tmp_path: Path, monkeypatch: Any) -> None:
    """A mounted volume, for one. (`os.access` stands in for it: tests may run as root, who may all.)"""
    target = tmp_path / "s"
    target.mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and real(path, mode))
    with locked(target), locked(tmp_path / "other"):
        assert [path.name for path in target.iterdir()] == [".lock"]
        assert all(map(is_lock, target.iterdir()))
        with pytest.raises(BadInput, match="is being written"):
            locked(target).__enter__()
    assert list(target.iterdir()) == []


def test_many_at_once_one_wins(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from harmonize_cli.errors import BadInput
        from harmonize_cli.locks import locked
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            with locked(Path(sys.argv[1])):
                print("won", flush=True)
                sys.stdin.readline()
        except BadInput as e:
            print("refused" if "is being written" in str(e) else e, flush=True)
    """
    forged(tmp_path, 0, pid=2**22 + 1)  # all of them find a lock to take over
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "s")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for _ in range(6)]
    assert [process.stdout.readline() for process in running] == ["ready\n"] * 6
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = sorted(process.stdout.readline() for process in running)
    assert said == ["refused\n"] * 5 + ["won\n"]
    for process in running:
        process.communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_function_that_writes_a_path(tmp_path: Path) -> None:
    @one_writer("out")
    def write(number: int, out: Path, *, more: int = 0) -> int:
        """What it does."""
        with pytest.raises(BadInput):
            locked(out).__enter__()
        return number + more

    assert write(1, tmp_path / "x", more=2) == 3
    assert write(1, out=tmp_path / "x") == 1
    assert write.__doc__ == "What it does."
