"""One writer at a time: a lock file beside what is written, which says who holds it.

`runs/a` is locked by `runs/.a.lock`, or by `runs/a/.lock` where nothing may be written beside it. The file is
made by a hard link, which is atomic on network file systems too, where file locks are not to be relied on. A
lock whose process is gone is taken over: on this machine at once; of a process on another machine, which
can't be seen from here, once it was not renewed for ten minutes.
"""

import errno
import functools
import inspect
import json
import os
import platform
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from harmonize_cli.errors import BadInput

P = ParamSpec("P")
R = TypeVar("R")
RENEWED = 30.0
"""Seconds between two signs of life."""
LOST = 600.0
"""Seconds without one after which another machine's lock is taken over."""
_HELD: ContextVar[frozenset[Path]] = ContextVar("_HELD", default=frozenset())
_TURN = 60.0
_MOST_BYTES = 1 << 16
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES)


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock. machine: of this start of it, and with these process numbers."""

    host: str
    machine: str
    pid: int
    started: str
    command: str
    since: str

    @staticmethod
    def this() -> "Holder":
        """This process."""
        command = shlex.join(["harmonize", *sys.argv[1:]])[:200]
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        return Holder(platform.node(), _machine(), os.getpid(), _started(os.getpid()), command, since)

    def lives(self) -> bool | None:
        """Whether the process is there; None where that can't be told from here."""
        if self.machine != _machine():
            return None
        return _started(self.pid) == self.started


@contextmanager
def locked(target: Path, share: tuple[int, int] | None = None) -> Iterator[None]:
    """Hold the lock of `target`, a file or folder that is going to be written.

    share: (I, N) for job I of N that write parts of their own; such jobs of one N get along.

    Raises:
        BadInput: another process holds it; it names the process.
        OSError: neither the folder around `target` nor `target` can be written.
    """
    real = target.resolve()
    made = [folder for folder in (real.parent, *real.parent.parents) if not folder.exists()]
    folder, stem = _place(real)
    own = folder / (f"{stem}.lock" if share is None else f"{stem}.{share[0]}-of-{share[1]}.lock")
    text = json.dumps(asdict(Holder.this()))
    _take(own, text, target)
    try:
        for other in _rivals(folder, stem, own, share):
            if (holder := _holder(other)) is not None:
                raise _refusal(target, other, holder)
        done = threading.Event()
        threading.Thread(target=_renew, args=(own, text, done), daemon=True).start()
        try:
            yield
        finally:
            done.set()
    finally:
        with suppress(OSError):
            if own.read_text(encoding="utf-8") == text:
                own.unlink()
        for empty in made:
            with suppress(OSError):
                empty.rmdir()


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """`locked`, unless one of the callers holds the lock of `target` in this way already."""
    real = target.resolve()
    if real in _HELD.get():
        yield
        return
    with locked(target):
        before = _HELD.set(_HELD.get() | {real})
        try:
            yield
        finally:
            _HELD.reset(before)


def one_writer(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: a call holds the lock of its argument `name`, the path that it writes (None: it has none).

    Such calls may be nested: a command takes the lock before it opens what it needs, what it calls has it.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **options: P.kwargs) -> R:
            target = signature.bind(*args, **options).arguments.get(name)
            with nullcontext() if target is None else writing(target):
                return function(*args, **options)

        return call

    return decorate


def is_lock(path: Path) -> bool:
    """Whether a file in a folder is a lock, or one on its way: no content of the folder."""
    return path.name.startswith(".") and re.search(r"\.lock(\.\d+\.tmp|\.old)?$", path.name) is not None


def _place(real: Path) -> tuple[Path, str]:
    """The folder of the locks of a path, and what their names begin with."""
    real.parent.mkdir(parents=True, exist_ok=True)
    inside = real.is_dir() and not os.access(real.parent, os.W_OK)
    return (real, "") if inside else (real.parent, f".{real.name}")


def _take(lock: Path, text: str, target: Path) -> None:
    tmp = lock.with_name(f"{lock.name or '.lock'}.{os.getpid()}.tmp")
    try:
        tmp.write_text(text, encoding="utf-8")
        while not _link(tmp, lock, text):
            if (holder := _holder(lock, now=tmp.stat().st_mtime)) is not None:
                raise _refusal(target, lock, holder)
            _break(lock)
    except OSError as e:  # the user knows of no lock: it is the target that can't be written
        e.filename, e.filename2 = str(target), None
        raise
    finally:
        with suppress(OSError):
            tmp.unlink()


def _link(tmp: Path, lock: Path, text: str) -> bool:
    """Whether the lock could be made."""
    try:
        lock.hardlink_to(tmp)
    except FileExistsError:
        return tmp.stat().st_nlink == 2  # a network file system may report a link as there that it just made
    except OSError as e:
        if e.errno not in _NO_LINKS:
            raise
        try:  # a file system without hard links
            with lock.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return False
    return True


def _holder(lock: Path, now: float | None = None) -> "Holder | str | None":
    """Who holds a lock: a process, or what can be said of it; None if nobody does any more."""
    from pydantic import TypeAdapter, ValidationError  # heavy, and commands name this module

    try:
        age = (time.time() if now is None else now) - lock.stat().st_mtime
        with lock.open("rb") as file:
            holder = TypeAdapter(Holder).validate_json(file.read(_MOST_BYTES), strict=True)
        lives = holder.lives()
    except FileNotFoundError:
        return None
    except ValidationError:
        holder, lives = None, None
    if lives is False or (lives is None and age > LOST):
        return None
    return holder or "an unknown process"


def _break(lock: Path) -> None:
    """Remove a lock whose process is gone. One process at a time looks and removes: a second one that looked
    before would remove the lock of whoever took it meanwhile."""
    turn = lock.with_name(f"{lock.name}.old")
    try:
        turn.open("x").close()
    except FileExistsError:
        with suppress(FileNotFoundError):
            if time.time() - turn.stat().st_mtime > _TURN:  # killed just there
                turn.unlink()
        time.sleep(0.02)
        return
    try:
        if _holder(lock) is None:
            lock.unlink(missing_ok=True)
    finally:
        turn.unlink(missing_ok=True)


def _rivals(folder: Path, stem: str, own: Path, share: tuple[int, int] | None) -> list[Path]:
    """The other locks of the same target that don't get along with this one."""
    pattern = re.compile(re.escape(stem) + r"\.(?:\d+-of-(\d+)\.)?lock")
    found = []
    for path in folder.iterdir():
        match = pattern.fullmatch(path.name)
        if match and path != own and (share is None or match[1] != str(share[1])):
            found.append(path)
    return found


def _renew(lock: Path, text: str, done: threading.Event) -> None:
    while not done.wait(RENEWED):
        with suppress(OSError):
            if lock.read_text(encoding="utf-8") != text:  # lost: this process was stopped for long
                os.kill(os.getpid(), signal.SIGTERM)
                return
            os.utime(lock)


def _refusal(target: Path, lock: Path, holder: "Holder | str") -> BadInput:
    if isinstance(holder, Holder):
        who = f"process {holder.pid} on {holder.host} since {holder.since} ({holder.command})"
    else:
        who = holder
    return BadInput(
        f"{target}: is being written by {who}; wait until it is done, stop it, or name another place. "
        f"If it is gone for sure, remove {lock}"
    )


def _machine() -> str:
    """This start of this machine, and its space of process numbers: containers have their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{platform.node()}/{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # not Linux
        return platform.node()


def _started(pid: int) -> str:
    """When a process began, in the system's ticks: numbers of processes are used again; "" if it is gone."""
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            pass
        return "running"
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *rest = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]
