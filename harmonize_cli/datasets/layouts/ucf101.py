"""UCF101: `ucfTrainTestlist/trainlist01.txt`, ..., `UCF-101/<Class>/v_<Class>_g01_c01.avi`."""

from collections.abc import Iterator
from pathlib import Path

from harmonize_cli.datasets.layouts import Benchmark, DatasetFolder, Entry, Layout, Need, register


def _needs(split: int) -> tuple[Need, Need]:
    return (
        Need((f"trainlist0{split}.txt",), f"the training list of official split {split}"),
        Need((f"testlist0{split}.txt",), f"the test list of official split {split}"),
    )


def _entries(source: DatasetFolder) -> Iterator[Entry]:
    for part, need in zip(("train", "test"), _needs(source.options.official_split), strict=True):
        for where, line in source.lines(source.require(need)):
            # "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1"; test lists have no number
            label, slash, name = line.split()[0].partition("/")
            stem = Path(name).stem
            if not slash or not stem:
                source.errors.add(where, "", f"expected Class/video.avi, found {line[:60]!r}")
                continue
            group = stem.rpartition("_c")[0] or stem  # clips of one group come from one film
            yield Entry(stem, (stem,), labels=(label,), split=part, group=group, folder=label, where=where)


register(
    Layout(
        "ucf101",
        "13,320 clips of 101 actions; a row is a clip, its split that of the official division chosen",
        _needs(1),
        _entries,
        divisions=3,
        benchmark=Benchmark(
            name="ucf101",
            tasks=("probe", "zeroshot", "finetune"),
            modalities=("video",),
            splits=("test",),
            protocol="vatt",
            metrics=("top-1", "top-5"),
            main_score="top-1",
            reported="mean of three splits",
            lists=tuple(f"{part}list0{n}.txt" for n in (2, 3) for part in ("train", "test")),
            reference="https://www.crcv.ucf.edu/data/UCF101.php",
            citation="Soomro, Zamir, Shah: UCF101 (arXiv 1212.0402)",
        ),
    )
)
