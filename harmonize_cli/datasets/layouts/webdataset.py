"""WebDataset tar shards: members `key.mp4`, `key.txt`, `key.json`, ... that share a key are one sample.

Members are unpacked under names of our own making, so a tar from a stranger can't write anywhere else.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from harmonize_cli.datasets.caption_files import MAX_FILE, captions_of_json, read_captions
from harmonize_cli.datasets.captions import Caption
from harmonize_cli.datasets.fields import MAX_ID, FieldError, checked_name, escaped_name
from harmonize_cli.datasets.layouts import DatasetFolder, Entry, Layout, register
from harmonize_cli.datasets.layouts.segments import caption_entries
from harmonize_cli.datasets.locate import AUDIO, VIDEO
from harmonize_cli.errors import BadInput
from harmonize_cli.files import atomic_path

_BLOCK = 1 << 20
# with the tar's name before and a caption's number behind, an id may have twice as many characters
_MAX_KEY = MAX_ID // 2
_SIDE = (".txt", ".cls", ".json", ".vtt", ".srt")


@dataclass
class _Member:
    key: str
    media: Path | None = None
    sides: dict[str, bytes] = field(default_factory=dict)


def _entries(source: DatasetFolder) -> Iterator[Entry]:
    shards = list(source.files(source.root, (".tar",)).all())
    if not shards:
        raise BadInput(f"{source.root}: no .tar file in this folder or below")
    root = source.root.resolve()
    target = source.options.unpack or root.with_name(f"{root.name}-unpacked")
    for relative, path in shards:
        seen: set[str] = set()
        for member in _members(path, target / relative.removesuffix(".tar"), source):
            if member.key in seen:
                source.problems.add(f"{path}:{member.key}", "", "left out: its name appears twice")
            else:
                yield from _samples(source, member, relative, path)
            seen.add(member.key)


def _members(path: Path, target: Path, source: DatasetFolder) -> Iterator[_Member]:
    """Samples of one tar, their media files unpacked (those unpacked before are kept)."""
    current: _Member | None = None
    count = 0
    age = path.stat().st_mtime_ns
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                folder, _, name = info.name.rpartition("/")
                stem, dot, suffix = name.partition(".")
                # a sparse member is small, but may claim to unpack to any size
                if not info.isreg() or info.issparse() or not stem or not dot:
                    continue
                key = escaped_name(f"{folder}/{stem}".lstrip("/"))
                if len(key) > _MAX_KEY:
                    source.problems.add(
                        f"{path}:{key[:40]}...", "", f"left out: a name of {len(key)} characters"
                    )
                    continue
                if current is None or current.key != key:
                    if current:
                        yield current
                    current, count = _Member(key), count + 1
                suffix = f".{suffix.lower()}"
                data = tar.extractfile(info)
                assert data is not None  # a regular member has data
                if suffix in (*VIDEO, *AUDIO):
                    unpacked = target / f"{count:08d}{suffix}"
                    if not _is_there(unpacked, info.size, age):
                        _copy(data, unpacked, info.size)
                        os.utime(unpacked, ns=(age, age))
                    if current.media is None or suffix in VIDEO:
                        current.media = unpacked
                elif suffix in _SIDE and info.size <= MAX_FILE:
                    current.sides[suffix] = data.read()
                elif suffix in _SIDE:
                    source.problems.add(f"{path}:{key}", suffix, f"{info.size >> 20} MiB of it; left out")
            _check_end(tar)
    except (tarfile.TarError, EOFError, ValueError, OverflowError, UnicodeError) as e:
        source.problems.add(str(path), "", f"damaged; what comes before is taken ({e})")
    if current:
        yield current


def _check_end(tar: tarfile.TarFile) -> None:
    """tarfile takes a file that ends between two members for a whole one."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError("cut short")


def _is_there(unpacked: Path, size: int, age: int) -> bool:
    """Whether this member was unpacked before, from a tar of the same age: sounds may all be of one size."""
    try:
        found = unpacked.stat()
    except FileNotFoundError:
        return False
    return (found.st_size, found.st_mtime_ns) == (size, age)


def _copy(data: IO[bytes], target: Path, size: int) -> None:
    with atomic_path(target) as tmp, tmp.open("wb") as out:
        left = size
        while left:
            block = data.read(min(left, _BLOCK))
            if not block:
                raise EOFError("cut short")
            out.write(block)
            left -= len(block)


def _samples(source: DatasetFolder, member: _Member, relative: str, path: Path) -> Iterator[Entry]:
    where = f"{path}:{member.key}"
    texts: list[str] = []
    timed: list[Caption] = []
    labels: tuple[str, ...] = ()
    facts = _json(member.sides.get(".json"))
    if facts is None and ".json" in member.sides:
        source.problems.add(where, ".json", "invalid JSON; left out")
    found = captions_of_json(facts) if facts is not None else None
    if found:
        texts += [item for item in found if isinstance(item, str)]
        timed += [item for item in found if isinstance(item, Caption)]
    for suffix in (".vtt", ".srt"):
        if suffix in member.sides and member.media and not timed:
            side = member.media.with_suffix(suffix)
            with atomic_path(side) as tmp:
                tmp.write_bytes(member.sides[suffix])
            try:
                timed = [item for item in read_captions(side) if isinstance(item, Caption)]
            except BadInput as e:
                source.problems.add(where, suffix, str(e))
    if ".txt" in member.sides and not texts:
        texts = [line for line in _text(member.sides[".txt"]).splitlines() if line.strip()]
    if ".cls" in member.sides:
        labels = (_text(member.sides[".cls"]).strip(),)
    elif isinstance(facts, dict):
        label = facts.get("label", facts.get("labels"))
        values = label if isinstance(label, list) else [label]
        labels = tuple(str(value) for value in values if isinstance(value, str | int))
    if member.media is None and not texts:
        return
    labels = tuple(label for label in labels if _is_name(label, where, source))
    base = Entry(
        f"{relative.removesuffix('.tar')}/{member.key}", texts=tuple(texts), labels=labels, where=where,
        group=member.key, path=member.media,
    )  # fmt: skip
    if member.media and (timed or source.options.window is not None):
        yield from caption_entries(base, timed, member.media, source)
    else:
        yield base


def _json(raw: bytes | None) -> Any:
    if raw is None:
        return None
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _is_name(label: str, where: str, source: DatasetFolder) -> bool:
    try:
        checked_name("label", label)
    except FieldError as e:
        source.problems.add(where, "label", f"left out: {e}")
        return False
    return True


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace").replace("\0", "")


register(
    Layout(
        "webdataset",
        "tar shards of key.mp4 with key.txt, key.json, key.vtt, key.cls; a row is a key, or a caption of it",
        (),
        _entries,
    )
)
