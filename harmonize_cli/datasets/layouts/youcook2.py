"""YouCook2: the official JSON, or MIL-NCE's table of the validation part; `<youtube id>.mp4`."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from harmonize_cli.datasets.layouts import Benchmark, DatasetFolder, Entry, Layout, Need, register
from harmonize_cli.errors import BadInput

_JSON = Need(
    (
        "youcookii_annotations_trainval.json",
        "youcookii_annotations_train_val.json",
        "youcookii_annotations.json",
    ),
    "the official annotations",
    required=False,
)
_TABLE = Need(
    ("youcook2_val.csv", "validation_youcook.csv"),
    "the annotations (the official JSON, or the table of the validation part)",
)
_PARTS = {"training": "train", "validation": "val", "testing": "test"}


def _entries(source: DatasetFolder) -> Iterator[Entry]:
    official = source.find(_JSON)
    times: Counter[str] = Counter()
    for entry in _from_json(source, official) if official else _from_table(source, source.require(_TABLE)):
        # one step of the validation part was annotated twice, and counts twice
        times[entry.id] += 1
        yield entry if times[entry.id] == 1 else replace(entry, id=f"{entry.id}_{times[entry.id]}")


def _entry(
    source: DatasetFolder, where: str, video: str, times: tuple[object, object], text: str
) -> Entry | None:
    start, end = (
        source.number(where, name, value) for name, value in zip(("start", "end"), times, strict=True)
    )
    if start is None or end is None:
        return None
    name = f"{video}_{start:g}_{end:g}"
    cut = f"{video}_{round(start):06d}_{round(end):06d}"
    return Entry(name, (cut, video), (True, False), start, end, texts=(text,), group=video, where=where)


def _from_table(source: DatasetFolder, path: Path) -> Iterator[Entry]:
    for where, row in source.table(path, "video_id", "start", "end", "text"):
        entry = _entry(source, where, row["video_id"], (row["start"], row["end"]), row["text"])
        if entry:
            yield _with(entry, "val", row.get("task", ""))


def _from_json(source: DatasetFolder, path: Path) -> Iterator[Entry]:
    data = source.json(path)
    database = data.get("database") if isinstance(data, dict) else None
    if not isinstance(database, dict):
        raise BadInput(f'{path}: expected {{"database": {{...}}}}')
    for video, about in database.items():
        where = f"{path}:{video[:40]}"
        segments = about.get("annotations") if isinstance(about, dict) else None
        if not isinstance(segments, list):
            source.errors.add(where, "annotations", "expected a list")
            continue
        for number, item in enumerate(segments):
            here = f"{where}:annotations[{number}]"
            times = item.get("segment") if isinstance(item, dict) else None
            if not isinstance(times, list) or len(times) != 2 or not isinstance(item.get("sentence"), str):
                source.errors.add(here, "segment", "expected [start, end] and a sentence")
                continue
            entry = _entry(source, here, video, (times[0], times[1]), item["sentence"])
            if entry:
                subset = str(about.get("subset", ""))
                yield _with(entry, _PARTS.get(subset, subset), str(about.get("recipe_type", "")))


def _with(entry: Entry, split: str, recipe: str) -> Entry:
    return replace(entry, split=split, labels=(recipe,) if recipe else ())


register(
    Layout(
        "youcook2",
        "cooking videos; a row is an annotated step (3,350 in the validation part), its label the recipe",
        (Need((*_JSON.names, *_TABLE.names), _TABLE.what),),
        _entries,
        divisions=1,
        benchmark=Benchmark(
            name="youcook2",
            tasks=("retrieval",),
            modalities=("video", "text"),
            splits=("val",),
            protocol="vatt",
            metrics=("R@1", "R@5", "R@10", "MedR"),
            main_score="R@10",
            reported="clip level: 3,350 segments in MIL-NCE's list (VATT used 3.1k)",
            reference="http://youcook2.eecs.umich.edu",
            citation="Zhou, Xu, Corso: Automatic learning of procedures from web videos (AAAI 2018)",
        ),
    )
)
