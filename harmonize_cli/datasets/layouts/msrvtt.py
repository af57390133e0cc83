"""MSR-VTT: the 1k-A test table (JSFusion's) and the videos' JSON with 20 captions each; `video0.mp4`, ..."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harmonize_cli.datasets.layouts import Benchmark, DatasetFolder, Entry, Layout, Need, register
from harmonize_cli.errors import BadInput

_TEST = Need(
    ("msrvtt_1ka_test.csv", "MSRVTT_JSFUSION_test.csv", "msrvtt_test.csv", "msrvtt_jsfusion_test.csv"),
    "the 1k-A test table",
)
_TRAIN = Need(("MSRVTT_train.9k.csv", "MSRVTT_train.7k.csv"), "the training list", required=False)
_JSON = Need(
    ("MSRVTT_data.json", "msrvtt_data.json", "train_val_videodatainfo.json", "videodatainfo.json"),
    "the captions of the training videos",
    required=False,
)
_JSON_TEST = Need(("test_videodatainfo.json",), "the captions of the full test part", required=False)


def _entries(source: DatasetFolder) -> Iterator[Entry]:
    variant = source.options.variant or "1k-A"
    if variant not in ("1k-A", "full"):
        raise BadInput(f"msrvtt: variant {variant!r}; known are 1k-A and full")
    if variant == "full":
        yield from _full(source)
        return
    tested = set()
    for where, row in source.table(source.require(_TEST), "video_id", "sentence"):
        tested.add(row["video_id"])
        yield _entry(row["video_id"], (row["sentence"],), "test", where)
    listed = source.find(_TRAIN)
    chosen = {row["video_id"] for _, row in source.table(listed, "video_id")} if listed else None
    captions = source.find(_JSON)
    if captions is None:
        return
    # 1k-A has no validation part: all else trains, 9,000 videos, or the 7,010 of the older list
    for video, _, texts, where in _videos(source, captions):
        if video not in tested and (chosen is None or video in chosen):
            yield _entry(video, texts, "train", where)


def _full(source: DatasetFolder) -> Iterator[Entry]:
    for path in (source.require(Need(_JSON.names, _JSON.what)), source.find(_JSON_TEST)):
        if path:
            for video, split, texts, where in _videos(source, path):
                yield _entry(video, texts, {"validate": "val"}.get(split, split), where)


def _entry(video: str, texts: tuple[str, ...], split: str, where: str) -> Entry:
    return Entry(video, (video,), texts=texts, split=split, where=where)


def _videos(source: DatasetFolder, path: Path) -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    data = source.json(path)
    videos, sentences = _lists(data)
    if videos is None or sentences is None:
        raise BadInput(f'{path}: expected {{"videos": [...], "sentences": [...]}}')
    texts: dict[str, list[str]] = {}
    for item in sentences:
        if (
            isinstance(item, dict)
            and isinstance(item.get("video_id"), str)
            and isinstance(item.get("caption"), str)
        ):
            texts.setdefault(item["video_id"], []).append(item["caption"])
        else:
            source.errors.add(
                str(path), "sentences", f"expected video_id and caption, found {str(item)[:60]}"
            )
    for number, item in enumerate(videos):
        where = f"{path}:videos[{number}]"
        if not isinstance(item, dict) or not isinstance(item.get("video_id"), str):
            source.errors.add(where, "video_id", "is missing")
            continue
        yield item["video_id"], str(item.get("split", "")), tuple(texts.get(item["video_id"], ())), where


def _lists(data: Any) -> tuple[list[Any] | None, list[Any] | None]:
    if not isinstance(data, dict):
        return None, None
    found = [data.get(name) for name in ("videos", "sentences")]
    return tuple(part if isinstance(part, list) else None for part in found)  # type: ignore[return-value]


register(
    Layout(
        "msrvtt",
        "10,000 clips; variant 1k-A (default): 1,000 test clips with one caption each, all else for training",
        (_TEST, _TRAIN, _JSON, _JSON_TEST),
        _entries,
        divisions=1,
        benchmark=Benchmark(
            name="msrvtt",
            tasks=("retrieval",),
            modalities=("video", "text"),
            splits=("test",),
            protocol="vatt",
            metrics=("R@1", "R@5", "R@10", "MedR"),
            main_score="R@10",
            reported="1k-A: 1,000 pairs; R@10 and MedR",
            reference="https://doi.org/10.1109/CVPR.2016.571",
            citation="Xu, Mei, Yao, Rui: MSR-VTT (CVPR 2016); 1k-A: Yu, Kim, Kim: JSFusion (ECCV 2018)",
        ),
    )
)
