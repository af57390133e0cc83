"""HowTo100M: `caption.json` or `raw_caption.json` of all videos, or a caption file a video; `<id>.mp4`."""

from collections.abc import Iterator
from pathlib import Path

from harmonize_cli.datasets.caption_files import captions_of_json, read_captions
from harmonize_cli.datasets.captions import Caption
from harmonize_cli.datasets.json_stream import stream_object
from harmonize_cli.datasets.layouts import DatasetFolder, Entry, Layout, Need, register
from harmonize_cli.datasets.layouts.segments import caption_entries
from harmonize_cli.errors import BadInput

_ALL = Need(("caption.json", "raw_caption.json"), "the captions of all videos", required=False)
_VIDEOS = Need(("HowTo100M_v1.csv", "howto100m_videos.csv"), "the table of videos", required=False)
_ONE_EACH = (".json", ".vtt", ".srt", ".csv")


def _entries(source: DatasetFolder) -> Iterator[Entry]:
    labels = _categories(source)
    for where, video, captions in _captions(source):
        hit = source.index.find((video,))
        if hit is None:
            yield Entry(video, (video,), where=where)  # counted as missing, as one
            continue
        base = Entry(video, (video,), labels=labels.get(video, ()), group=video, where=where)
        yield from caption_entries(base, captions, hit[1], source)


def _captions(source: DatasetFolder) -> Iterator[tuple[str, str, list[Caption]]]:
    whole = source.find(_ALL)
    if whole:
        for video, value in stream_object(whole):
            found = captions_of_json(value)
            if found is None:
                source.problems.add(f"{whole}:{video[:40]}", "", "expected lists of start, end and text")
            else:
                yield f"{whole}:{video}", video, [item for item in found if isinstance(item, Caption)]
        return
    folder = source.options.annotations or source.root
    files = source.files(folder, _ONE_EACH)
    count = 0
    for _, path in files.all():
        if path.suffix.lower() == ".csv" and path.name in _VIDEOS.names:
            continue
        count += 1
        try:
            found = _from_csv(source, path) if path.suffix.lower() == ".csv" else read_captions(path)
        except BadInput as e:
            source.problems.add(str(path), "", str(e).removeprefix(f"{path}: "))
            continue
        yield str(path), path.stem.split(".")[0], [item for item in found if isinstance(item, Caption)]
    if not count:
        raise BadInput(
            f"howto100m: no captions; expected caption.json, raw_caption.json or one of <id>.json, <id>.vtt, "
            f"<id>.csv a video in {folder}"
        )


def _from_csv(source: DatasetFolder, path: Path) -> list[Caption]:
    """MIL-NCE's files of one video: start, end, text. Some rows of a million files have no words."""
    found = []
    for where, row in source.table(path, "start", "end", "text", errors=source.problems):
        start, end = (
            source.number(where, name, row[name], errors=source.problems) for name in ("start", "end")
        )
        if start is not None and end is not None and end > start:
            found.append(Caption(start, end, row["text"]))
    return sorted(found, key=lambda caption: (caption.start, caption.end))


def _categories(source: DatasetFolder) -> dict[str, tuple[str, ...]]:
    table = source.find(_VIDEOS)
    found: dict[str, tuple[str, ...]] = {}
    for _, row in source.table(table, "video_id") if table else ():
        names = (row.get("category_1", ""), row.get("category_2", ""), row.get("task_id", ""))
        if source.index.find((row["video_id"],)):
            found[row["video_id"]] = tuple(name for name in names if name)
    return found


register(
    Layout(
        "howto100m",
        "1.2 million narrated videos; a row is a caption with its neighbours as candidates (or a window)",
        (Need((*_ALL.names, "<id>.json", "<id>.vtt", "<id>.csv"), "the captions"), _VIDEOS),
        _entries,
    )
)
