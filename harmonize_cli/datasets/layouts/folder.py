"""A plain folder of videos with captions beside them: `cat.mp4` with `cat.vtt`, `cat.en.srt`, `cat.json`."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from harmonize_cli.datasets.caption_files import CAPTION_SUFFIXES, read_captions
from harmonize_cli.datasets.captions import Caption
from harmonize_cli.datasets.fields import escaped_name
from harmonize_cli.datasets.layouts import DatasetFolder, Entry, Layout, register
from harmonize_cli.datasets.layouts.segments import caption_entries
from harmonize_cli.datasets.locate import AUDIO, VIDEO
from harmonize_cli.errors import BadInput

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def _entries(source: DatasetFolder) -> Iterator[Entry]:
    index = source.files(source.root, (*VIDEO, *AUDIO))
    if not len(index):
        raise BadInput(f"{source.root}: no video or sound file in this folder or below")
    captions = _caption_files(source, {_stem(relative) for relative, _ in index.all()})
    for relative, path in index.all():
        if path.suffix.lower() in AUDIO and any(path.with_suffix(suffix).is_file() for suffix in VIDEO):
            continue  # the video's own sound, laid beside it
        split = next((_SPLITS[name] for name in Path(relative).parts[:-1] if name in _SPLITS), "")
        name = escaped_name(relative)
        base = Entry(name, split=split, group=name, where=str(path), path=path)
        yield from _of_video(source, base, path, captions.get(_stem(relative), []))


def _of_video(source: DatasetFolder, base: Entry, path: Path, files: list[Path]) -> Iterator[Entry]:
    texts: list[str] = []
    timed: list[Caption] = []
    for file in files:
        try:
            found = read_captions(file)
        except BadInput as e:
            source.problems.add(str(file), "", str(e).removeprefix(f"{file}: "))
            continue
        texts += [item for item in found if isinstance(item, str)]
        timed = timed or [item for item in found if isinstance(item, Caption)]
    if timed or source.options.window is not None:
        yield from caption_entries(base, timed, path, source)
    else:
        yield replace(base, texts=tuple(texts))


def _stem(relative: str) -> str:
    return os.path.splitext(relative)[0]  # noqa: PTH122


def _caption_files(source: DatasetFolder, videos: set[str]) -> dict[str, list[Path]]:
    """Path of a video without suffix -> its caption files, best first: timed ones, then by name."""
    index = source.files(source.root, CAPTION_SUFFIXES)
    found: dict[str, list[Path]] = {}
    for relative, path in index.all():
        stem = _stem(relative)
        if stem not in videos and "." in Path(stem).name:
            stem = stem.rpartition(".")[0]  # cat.en.vtt
        found.setdefault(stem, []).append(path)
    for files in found.values():
        files.sort(key=lambda path: (CAPTION_SUFFIXES.index(path.suffix.lower()), path.name))
    return found


register(
    Layout(
        "folder",
        "videos (or sounds) in any folders, with captions beside them; a row is a timed caption, or a file",
        (),
        _entries,
    )
)
