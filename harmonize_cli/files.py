"""Files of ours: written whole or not at all, and read right or refused with their name."""

import errno
import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harmonize_cli.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk."""
MOST_BYTES = 1 << 30
_DEPTH = 64


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it is fsynced and renamed over `path`.

    On an exception the temporary file is removed and `path` is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            yield tmp
            sync_file(tmp)
            tmp.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            tmp.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError out of this block names `path`, where it names no file: a write on a full disk does not."""
    try:
        yield
    except OSError as e:
        if e.filename is None and e.errno is not None:
            e.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically. Names of files that are none have escapes in it, which JSON reads
    back."""
    with atomic_path(path) as tmp:
        tmp.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused: JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_array(path: Path, array: "NDArray[Any]") -> None:
    """Write a .npy file, atomically."""
    import numpy as np

    with atomic_path(path) as tmp, tmp.open("wb") as file:
        # numpy's own way to a file tells nothing of a full disk but that there was less room than it wanted
        array = np.asarray(array, order="C")
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.reshape(-1).view(np.uint8).data)


def write_arrays(path: Path, arrays: Mapping[str, Any], *, compressed: bool = False) -> None:
    """Write a .npz file, atomically."""
    import numpy as np

    buffer = io.BytesIO()  # a zip file that fails half-way complains when it is dropped
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    with atomic_path(path) as tmp:
        tmp.write_bytes(buffer.getbuffer())


def read_bytes(path: Path, *, most: int = MOST_BYTES) -> bytes:
    """A file's content.

    Raises:
        BadInput: it is missing, no regular file (a device could be read for ever), too large or unreadable.
    """
    try:
        # without waiting: to open a named pipe would, for a writer
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise BadInput(f"{path}: is not a regular file")
            if found.st_size > most:
                raise BadInput(f"{path}: {found.st_size >> 20} MiB; at most {most >> 20} MiB are read")
            with os.fdopen(fd, "rb", closefd=False) as file:
                return file.read(most)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except OSError as e:
        raise BadInput(f"{path}: can't be read ({e.strerror})") from e


def inside(folder: Path, path: Path) -> Path:
    """`path`, if it leads to something in `folder`: what a link shows of the rest of a machine is nobody's.

    Raises:
        BadInput: it leads out.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadInput(f"{path}: is a link that leads out of {folder}; put the file itself there")
    return path


def read_json(path: Path, kind: "type[T]", *, most: int = MOST_BYTES, hint: str = "") -> "T":
    """A JSON file that holds a `kind`: what pydantic can check, such as `dict[str, int]` or a dataclass.

    Raises:
        BadInput: as `read_bytes`; invalid JSON; another content. `hint` says what to do.
    """
    advice = f"; {hint}" if hint else ""
    try:
        value = parse_json(read_bytes(path, most=most))
    except BadInput as e:
        raise BadInput(f"{e}{advice}") from e.__cause__
    except ValueError as e:
        raise BadInput(f"{path}: invalid JSON ({e}){advice}") from None
    return shaped(kind, value, f"{path}", advice=advice)


def parse_json(text: str | bytes) -> Any:
    """A JSON value of finite numbers, nested no deeper than a program of ours writes it.

    Raises:
        ValueError: it is none.
    """
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return value
    raise ValueError(f"nested deeper than {_DEPTH} levels")


def shaped(kind: "type[T]", value: Any, where: str, *, advice: str = "") -> "T":
    """`value` as a `kind`.

    Raises:
        BadInput: it is none; it names the field and what was expected.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as e:
        first = e.errors()[0]
        field = "".join(f"{part}: " for part in first["loc"])
        raise BadInput(f"{where}: {field}{first['msg']}{advice}") from None


class Arrays(dict[str, "NDArray[Any]"]):
    """Arrays of a .npz file by name; to ask for one that is missing is an error for people."""

    def __init__(self, path: Path, hint: str) -> None:
        super().__init__()
        self.path, self.hint = path, hint

    def __missing__(self, name: str) -> "NDArray[Any]":
        raise self.damaged(f"has no array {name!r}")

    def damaged(self, what: str) -> BadInput:
        """The error for a file whose content can't be right."""
        return BadInput(f"{self.path}: damaged ({what}); {self.hint}")

    def columns(self, *whole: str) -> "Arrays":
        """Itself, once all arrays were found to be columns of one length; those of `whole` hold integers."""
        lengths = {array.shape for array in self.values()}
        if len(lengths) > 1 or any(len(shape) != 1 for shape in lengths):
            raise self.damaged("its columns differ in length")
        for name, array in self.items():
            if array.dtype.kind not in ("iu" if name in whole else "biufU"):
                raise self.damaged(f"{name} holds {array.dtype}")
        return self


def read_arrays(path: Path, *, hint: str) -> Arrays:
    """The arrays of a .npz file.

    Raises:
        BadInput: missing or damaged. `hint` says what to do.
    """
    import numpy as np

    found = Arrays(path, hint)
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as file:
            if sum(item.file_size for item in file.zip.infolist()) > MOST_BYTES:
                raise found.damaged("it unpacks to more than any of ours")
            found.update({name: np.asarray(file[name]) for name in file.files})
    except BadInput as e:
        raise e if hint in str(e) else BadInput(f"{e}; {hint}") from e.__cause__
    except Exception as e:  # whatever zipfile, zlib and numpy find wrong with bytes
        raise found.damaged(f"{type(e).__name__}: {e}") from e
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def read_log(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a JSONL log (of no file none): a kill may have cut the last off.

    Raises:
        BadInput: a line is not an object with a step, which is a whole number.
    """
    lines = read_bytes(path).splitlines(keepends=True) if path.exists() else []
    found = []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        try:
            value = parse_json(line)
        except ValueError as e:
            raise BadInput(f"{path}:{number}: invalid JSON ({e}); remove this line") from None
        if not isinstance(value, dict) or type(value.get("step")) is not int:
            raise BadInput(f"{path}:{number}: expected an object with a whole number step; remove this line")
        found.append(value)
    return found


def rewind_log(path: Path, step: int) -> None:
    """Drop what a log says of later steps than `step`, and a cut-off line: those steps are made again."""
    if path.exists():
        kept = [line for line in read_log(path) if line["step"] <= step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut; file systems may refuse."""
    with suppress(OSError):
        sync_file(folder)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a value's canonical JSON: the same settings give the same hash."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
