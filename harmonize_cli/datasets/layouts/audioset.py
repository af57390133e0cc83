"""AudioSet: `balanced_train_segments.csv`, `unbalanced_train_segments.csv`, `eval_segments.csv` as released.

Clips go by many names: `<id>_30.000.mp4`, `<id>_30000_40000.mp4`, `<id>_000030.mp4`, `Y<id>.wav`, `<id>.mp4`.
"""

from collections.abc import Iterator
from pathlib import Path

from harmonize_cli.datasets.layouts import Benchmark, DatasetFolder, Entry, Layout, Need, register

_LISTS = {
    "train": Need(("unbalanced_train_segments.csv",), "the unbalanced training list", required=False),
    "balanced": Need(("balanced_train_segments.csv",), "the balanced training list", required=False),
    "eval": Need(("eval_segments.csv",), "the evaluation list", required=False),
}
_CLASSES = Need(
    ("class_labels_indices.csv", "audioset_class_labels_indices.csv"),
    "the names of the labels",
    required=False,
)
_ANY = Need(tuple(name for need in _LISTS.values() for name in need.names), "at least one list of segments")


def _entries(source: DatasetFolder) -> Iterator[Entry]:
    source.require(_ANY)
    classes = source.find(_CLASSES)
    names: dict[str, str] = {}
    if classes:
        names = {row["mid"]: row["display_name"] for _, row in source.table(classes, "mid", "display_name")}
    for split, need in _LISTS.items():
        path = source.find(need)
        if path:
            yield from _segments(source, path, split, names)


def _segments(source: DatasetFolder, path: Path, split: str, names: dict[str, str]) -> Iterator[Entry]:
    columns = ("YTID", "start_seconds", "end_seconds", "positive_labels")
    for where, (video, begin, stop, mids) in source.cells(path, *columns):
        if video == "YTID":
            continue
        start = source.number(where, "start_seconds", begin)
        end = source.number(where, "end_seconds", stop)
        if start is None or end is None:
            continue
        labels = tuple(names.get(mid.strip(), mid.strip()) for mid in mids.split(",") if mid.strip())
        clips = clip_names(video, start, end)
        cut = (*(True for _ in clips), source.options.plain_names == "cut")
        yield Entry(
            f"{video}_{round(start * 1000)}", (*clips, video), cut, start, end, labels=labels, split=split,
            group=video, where=where,
        )  # fmt: skip


def clip_names(video: str, start: float, end: float) -> tuple[str, ...]:
    """Names that download tools give to the clip of a YouTube video from `start` to `end` seconds."""
    a, b = round(start * 1000), round(end * 1000)
    return (
        f"{video}_{start:.3f}_{end:.3f}", f"{video}_{start:.3f}", f"{video}_{a}_{b}", f"{video}_{a}",
        f"{video}_{round(start):06d}_{round(end):06d}", f"{video}_{round(start):06d}",
        f"{video}_{start:g}_{end:g}", f"{video}_{start:g}", f"Y{video}",
    )  # fmt: skip


register(
    Layout(
        "audioset",
        "2 million 10 s clips with labels and no text; a row is a clip (video, or sound alone)",
        (_ANY, _CLASSES),
        _entries,
        divisions=1,
        either=True,
        benchmark=Benchmark(
            name="audioset",
            tasks=("probe",),
            modalities=("audio",),
            train_split="balanced",
            splits=("eval",),
            metrics=("mAP", "AUC"),
            main_score="mAP",
            multi_label=True,
            reported="mean average precision over 527 classes; a clip has several labels",
            reference="https://research.google.com/audioset/",
            citation="Gemmeke et al.: Audio Set (ICASSP 2017)",
        ),
    )
)
