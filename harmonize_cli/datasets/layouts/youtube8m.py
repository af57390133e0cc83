"""YouTube-8M: the release's TFRecords (`train*.tfrecord`: ids and labels), and videos that users have got.

The release has pseudo ids of four characters; `youtube8m_ids.csv` (id, youtube_id), or the service's answers
`<id>.js` kept in a folder, lead to the videos' names. No captions: a row is a video, or a window of it.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from harmonize_cli.datasets.layouts import DatasetFolder, Entry, Layout, Need, register
from harmonize_cli.datasets.layouts.segments import caption_entries
from harmonize_cli.datasets.tfrecord import Fields, read_records
from harmonize_cli.errors import BadInput

_VOCABULARY = Need(("vocabulary.csv",), "the names of the labels", required=False)
_IDS = Need(("youtube8m_ids.csv",), "the videos' names on YouTube (columns id, youtube_id)", required=False)
_ANSWER = re.compile(r'i\("([^"]{4,11})","([^"]{11})"\)')
_PARTS = (("train", "train"), ("valid", "val"), ("test", "test"))


def _entries(source: DatasetFolder) -> Iterator[Entry]:
    folder = source.options.annotations or source.root
    records = source.files(folder, (".tfrecord",))
    if not len(records):
        raise BadInput(f"youtube8m: no .tfrecord file in {folder}; expected train0000.tfrecord and the like")
    vocabulary, known = source.find(_VOCABULARY), _names(source, folder)
    labels = (
        {row["Index"]: row["Name"] for _, row in source.table(vocabulary, "Index", "Name")}
        if vocabulary
        else {}
    )
    for relative, path in records.all():
        split = next((part for start, part in _PARTS if Path(relative).name.startswith(start)), "")
        for number, fields in read_records(path):
            where = f"{path}:{number}"
            name = _id(fields)
            if name is None:
                source.errors.add(where, "id", "missing")
                continue
            classes = tuple(
                labels.get(str(k), str(k)) for k in fields.get("labels", ()) if isinstance(k, int)
            )
            youtube = known.get(name, name)
            names = (youtube, name) if youtube != name else (name,)
            entry = Entry(name, names, labels=classes, split=split, group=youtube, where=where)
            hit = source.index.find(names) if source.options.window is not None else None
            yield from caption_entries(entry, (), hit[1], source) if hit else (entry,)


def _id(fields: Fields) -> str | None:
    for name in ("id", "video_id"):
        values = fields.get(name)
        if values and isinstance(values[0], bytes):
            return values[0].decode("utf-8", "replace")
    return None


def _names(source: DatasetFolder, folder: Path) -> dict[str, str]:
    table = source.find(_IDS)
    if table:
        return {row["id"]: row["youtube_id"] for _, row in source.table(table, "id", "youtube_id")}
    found = {}
    for _, path in source.files(folder, (".js",)).all():
        with path.open("rb") as f:
            answer = _ANSWER.search(f.read(4096).decode("utf-8", "replace"))
        if answer:
            found[answer[1]] = answer[2]
    return found


register(
    Layout(
        "youtube8m",
        "8 million videos with labels; a row is a video (or a window of it) of the release's TFRecords",
        (Need(("*.tfrecord",), "the TFRecords of the release"), _VOCABULARY, _IDS),
        _entries,
        divisions=1,
    )
)
