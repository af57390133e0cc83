"""Kinetics 400, 600 and 700: `train.csv`, `val.csv`, ..., clips named `<youtube id>_000010_000020.mp4`."""

from collections.abc import Iterator
from pathlib import Path

from harmonize_cli.datasets.layouts import Benchmark, DatasetFolder, Entry, Layout, Need, register
from harmonize_cli.datasets.locate import VIDEO

_PARTS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}
_LISTS = {
    part: Need(
        tuple(f"{prefix}{name}.csv" for name, to in _PARTS.items() if to == part
              for prefix in ("", "kinetics_", "kinetics400_", "kinetics600_", "kinetics700_")),
        f"the list of the split {part}",
        required=False,
    )
    for part in ("train", "val", "test")
}  # fmt: skip


def _entries(source: DatasetFolder) -> Iterator[Entry]:
    paths = [(part, path) for part, need in _LISTS.items() if (path := source.find(need))]
    if not paths:
        yield from _from_folders(source)
    plain_cut = source.options.plain_names == "cut"
    for part, path in paths:
        for where, row in source.table(path, "youtube_id", "time_start", "time_end"):
            start = source.number(where, "time_start", row["time_start"])
            end = source.number(where, "time_end", row["time_end"])
            if start is None or end is None:
                continue
            video = row["youtube_id"]
            name = f"{video}_{round(start):06d}_{round(end):06d}"
            label = row.get("label", "").replace("_", " ")  # the test lists have none
            labels = (label,) if label else ()
            yield Entry(
                name, (name, video), (True, plain_cut), start, end, labels=labels, split=part, group=video,
                folder=part, where=where,
            )  # fmt: skip


def _from_folders(source: DatasetFolder) -> Iterator[Entry]:
    """`<split>/<class>/<clip>`, as torchvision and many copies have it: the disk is the list."""
    index = source.files(source.root, VIDEO)
    for relative, path in index.all():
        parts = Path(relative).parts
        part = next((_PARTS[name] for name in parts[:-2] if name in _PARTS), "")
        if len(parts) < 2:
            source.errors.add(
                relative, "", "expected SPLIT/CLASS/CLIP, or the official lists train.csv, val.csv"
            )
            continue
        video = path.stem[:11] if len(path.stem) > 11 else path.stem
        label = parts[-2].replace("_", " ")
        yield Entry(
            f"{part}/{path.stem}".lstrip("/"),
            labels=(label,),
            split=part,
            group=video,
            where=relative,
            path=path,
        )


register(
    Layout(
        "kinetics",
        "10 s clips of 400, 600 or 700 actions; a row is a clip. Without lists: SPLIT/CLASS/CLIP.mp4",
        tuple(_LISTS.values()),
        _entries,
        divisions=1,
        benchmark=Benchmark(
            name="kinetics",
            tasks=("finetune", "zeroshot"),
            modalities=("video",),
            splits=("val",),
            metrics=("top-1", "top-5"),
            main_score="top-1",
            reported="top-1 and top-5 on the validation part",
            reference="https://github.com/cvdfoundation/kinetics-dataset",
            citation="Kay et al.: The Kinetics human action video dataset (arXiv 1705.06950)",
        ),
    )
)
