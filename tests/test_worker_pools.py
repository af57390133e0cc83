"""Workers: results as they come, errors as they are, and none of them outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from harmonize_cli.errors import BadInput, HarmonizeError
from harmonize_cli.files import atomic_path
from harmonize_cli.processes import in_processes


def _square(number: int) -> int:
    return number * number


def _refuse(number: int) -> int:
    raise BadInput(f"no {number}")


def _die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def _write_slowly(folder: Path, number: int) -> int:
    with atomic_path(folder / str(number)) as tmp:
        tmp.write_text("half")
        time.sleep(60)
    return number


def test_results_and_errors_come_back() -> None:
    assert sorted(in_processes(_square, range(7), 2, killed="")) == [0, 1, 4, 9, 16, 25, 36]
    assert list(in_processes(_square, [], 2, killed="")) == []
    with pytest.raises(BadInput, match="no 3"):
        list(in_processes(_refuse, [3], 2, killed=""))
    with pytest.raises(HarmonizeError, match="was killed, perhaps for want of memory; go on so"):
        list(in_processes(_die, [3], 1, killed="go on so"))


PARENT = """
    import sys
    from functools import partial
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from test_worker_pools import _write_slowly
    from harmonize_cli.processes import in_processes
    if __name__ == "__main__":
        list(in_processes(partial(_write_slowly, Path(sys.argv[1])), range(4), 2, killed=""))
"""


def marked(mark: str) -> list[int]:
    """Processes that have the mark in their environment: all that descend from one that has."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            ended = "\nState:\tZ" in (folder / "status").read_text()
            if folder.name.isdecimal() and not ended and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def until(condition, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path: Path, number: int) -> None:
    mark = f"mark-{uuid4()}"
    script = tmp_path / "parent.py"
    script.write_text("\n".join(line[4:] for line in PARENT.splitlines()))
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, str(script), str(work), str(Path(__file__).parent)]
    parent = subprocess.Popen(command, env={**os.environ, "MARK": mark}, stderr=subprocess.DEVNULL)
    assert until(lambda: len(list(work.glob("*.tmp"))) == 2)
    assert len(marked(mark)) >= 3
    parent.send_signal(number)
    parent.wait(30)
    assert until(lambda: not marked(mark), 20)
    if number == signal.SIGINT:  # they had the time to clean up
        assert list(work.iterdir()) == []


def test_leaving_early_ends_the_workers(tmp_path: Path) -> None:
    found = in_processes(partial(_first_quick, tmp_path), range(4), 2, killed="")
    assert next(found) == 0
    before = time.monotonic()
    found.close()
    assert time.monotonic() - before < 30  # they would sleep for a minute
    assert not list(tmp_path.iterdir())


def _first_quick(folder: Path, number: int) -> int:
    return number if number == 0 else _write_slowly(folder, number)
