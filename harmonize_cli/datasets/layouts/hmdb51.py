"""HMDB51: `<class>_test_split1.txt` as released, or one table of all splits; `<class>/<name>.avi`."""

from collections.abc import Iterator
from pathlib import Path

from harmonize_cli.datasets.layouts import Benchmark, DatasetFolder, Entry, Layout, Need, register

_TABLE = Need(("hmdb51_splits.csv", "hmdb51.csv"), "the table of splits", required=False)
_RELEASED = Need(
    ("brush_hair_test_split1.txt",),
    "the table of splits (or the release's folder testTrainMulti_7030_splits)",
)
_PARTS = {"0": "unused", "1": "train", "2": "test"}


def _entries(source: DatasetFolder) -> Iterator[Entry]:
    table = source.find(_TABLE)
    listed = _from_table(source, table) if table else _from_release(source, source.require(_RELEASED).parent)
    for where, name, label, part in listed:
        stem = Path(name).stem
        if part not in _PARTS:
            source.errors.add(
                where, "split", f"expected 0 (unused), 1 (train) or 2 (test), found {part[:20]!r}"
            )
        else:
            yield Entry(stem, (stem,), labels=(label,), split=_PARTS[part], folder=label, where=where)


def _from_table(source: DatasetFolder, path: Path) -> Iterator[tuple[str, str, str, str]]:
    column = f"split{source.options.official_split}"
    for where, row in source.table(path, "video_id", "label", column):
        yield where, row["video_id"], row["label"].removesuffix("_test"), row[column]


def _from_release(source: DatasetFolder, folder: Path) -> Iterator[tuple[str, str, str, str]]:
    ending = f"_test_split{source.options.official_split}.txt"
    for path in sorted(folder.glob(f"*{ending}")):
        for where, line in source.lines(path):
            name, _, part = line.rpartition(" ")
            yield where, name.strip(), path.name.removesuffix(ending), part


register(
    Layout(
        "hmdb51",
        "6,766 clips of 51 actions; a row is a clip, its split (train, test, unused) the division's",
        (Need((*_TABLE.names, *_RELEASED.names), _RELEASED.what),),
        _entries,
        divisions=3,
        benchmark=Benchmark(
            name="hmdb51",
            tasks=("probe", "zeroshot", "finetune"),
            modalities=("video",),
            splits=("test",),
            protocol="vatt",
            metrics=("top-1", "top-5"),
            main_score="top-1",
            reported="mean of three splits",
            reference="https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/",
            citation="Kuehne, Jhuang, Garrote, Poggio, Serre: HMDB (ICCV 2011)",
        ),
    )
)
