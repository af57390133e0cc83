"""VGGSound: `vggsound.csv` as released (YouTube id, start, label, train/test; no header), clips of 10 s.

Variant vggsounder: the test clips that `vggsounder.csv` (VGGSounder, arXiv 2508.08237) labels anew, with all
labels that it gives them.
"""

from collections.abc import Iterator
from dataclasses import replace

from harmonize_cli.datasets.layouts import Benchmark, DatasetFolder, Entry, Layout, Need, register
from harmonize_cli.datasets.layouts.audioset import clip_names
from harmonize_cli.errors import BadInput

_TABLE = Need(("vggsound.csv",), "the list of clips")
_SOUNDER = Need(("vggsounder.csv", "vggsounder+background-music.csv"), "several labels a test clip", False)
_SECONDS = 10.0


def _entries(source: DatasetFolder) -> Iterator[Entry]:
    variant = source.options.variant
    if variant not in ("", "vggsound", "vggsounder"):
        raise BadInput(f"vggsound: variant {variant!r}; known are vggsound and vggsounder")
    several: dict[str, list[str]] = {}
    if variant == "vggsounder":
        for _, row in source.table(source.require(replace(_SOUNDER, required=True)), "video_id", "label"):
            several.setdefault(row["video_id"], []).append(row["label"])
    clips: dict[str, Entry] = {}
    for where, cells in source.cells(source.require(_TABLE), "YouTube id", "start", "label", "split"):
        video, begin, label, split = cells
        start = source.number(where, "start", begin)
        if start is None:
            continue
        name = f"{video}_{round(start):06d}"
        known = clips.get(name)
        if known:
            clips[name] = replace(known, labels=tuple(dict.fromkeys((*known.labels, label))))
            continue
        if split not in ("train", "test"):
            source.errors.add(where, "split", f"expected train or test, found {split[:20]!r}")
            continue
        names = clip_names(video, start, start + _SECONDS)
        cut = (*(True for _ in names), source.options.plain_names == "cut")
        clips[name] = Entry(
            name, (*names, video), cut, start, start + _SECONDS, labels=(label,), split=split, group=video,
            where=where,
        )  # fmt: skip
    for name, entry in clips.items():
        if entry.split == "train" or not several:
            yield entry
        elif name in several:
            yield replace(entry, labels=tuple(dict.fromkeys(several[name])))


register(
    Layout(
        "vggsound",
        "200,000 clips of 10 s in 309 classes of sounds whose source is seen; a row is a clip",
        (_TABLE, _SOUNDER),
        _entries,
        either=True,
        divisions=1,
        benchmark=Benchmark(
            name="vggsound",
            tasks=("probe", "zeroshot", "finetune"),
            modalities=("audio", "video"),
            splits=("test",),
            metrics=("mAP", "AUC", "top-1", "top-5"),
            main_score="mAP",
            multi_label=True,
            reported="mean average precision over 309 classes of the test list; also top-1",
            reference="https://www.robots.ox.ac.uk/~vgg/data/vggsound/",
            citation="Chen, Xie, Vedaldi, Zisserman: VGGSound (ICASSP 2020)",
        ),
    )
)
