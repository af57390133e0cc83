"""ESC-50 and ESC-10: `meta/esc50.csv` (or `esc10.csv`), `audio/1-100032-A-0.wav`."""

from collections.abc import Iterator
from pathlib import Path

from harmonize_cli.datasets.layouts import Benchmark, DatasetFolder, Entry, Layout, Need, register
from harmonize_cli.errors import BadInput

_TABLE = Need(("esc50.csv", "esc10.csv"), "the table of labels and folds")


def _entries(source: DatasetFolder) -> Iterator[Entry]:
    variant = source.options.variant
    if variant not in ("", "esc50", "esc10"):
        raise BadInput(f"esc50: variant {variant!r}; known are esc50 and esc10")
    for where, row in source.table(source.require(_TABLE), "filename", "fold", "category"):
        if variant == "esc10" and row.get("esc10", "True").lower() != "true":
            continue
        if not row["fold"].isdecimal() or len(row["fold"]) > 3:
            source.errors.add(where, "fold", f"expected a number, found {row['fold'][:20]!r}")
            continue
        stem = Path(row["filename"]).stem
        # takes A, B, ... are cut from one recording
        group = "-".join(stem.split("-")[:2])
        yield Entry(stem, (stem,), labels=(row["category"],), fold=int(row["fold"]), group=group, where=where)


register(
    Layout(
        "esc50",
        "2,000 sounds of 5 s in 50 classes, five fixed folds (variant esc10: 400 in 10 classes); no pictures",
        (_TABLE,),
        _entries,
        divisions=1,
        sound=True,
        benchmark=Benchmark(
            name="esc50",
            tasks=("probe", "zeroshot"),
            modalities=("audio",),
            splits=(),
            protocol="vatt",
            metrics=("top-1", "top-5"),
            main_score="top-1",
            reported="mean of five folds",
            reference="https://github.com/karolpiczak/ESC-50",
            citation="Piczak: ESC, dataset for environmental sound classification (ACM MM 2015)",
        ),
    )
)
