"""AudioCaps: `train.csv`, `val.csv`, `test.csv` of AudioSet clips with captions (five in val and test)."""

from collections.abc import Iterator
from dataclasses import replace

from harmonize_cli.datasets.layouts import Benchmark, DatasetFolder, Entry, Layout, Need, register
from harmonize_cli.datasets.layouts.audioset import clip_names

_LISTS = {
    part: Need((f"audiocaps_{part}.csv", f"{part}.csv"), f"the list of the split {part}", required=False)
    for part in ("train", "val", "test")
}
_ANY = Need(tuple(name for need in _LISTS.values() for name in need.names), "at least one list of captions")
_SECONDS = 10.0


def _entries(source: DatasetFolder) -> Iterator[Entry]:
    source.require(_ANY)
    plain_cut = source.options.plain_names == "cut"
    for split, need in _LISTS.items():
        path = source.find(need)
        clips: dict[str, Entry] = {}
        for where, row in source.table(path, "youtube_id", "start_time", "caption") if path else ():
            start = source.number(where, "start_time", row["start_time"])
            if start is None:
                continue
            video, end = row["youtube_id"], start + _SECONDS
            name = f"{video}_{round(start * 1000)}"
            known = clips.get(name)
            if known:
                clips[name] = replace(known, texts=(*known.texts, row["caption"]))
                continue
            names = clip_names(video, start, end)
            cut = (*(True for _ in names), plain_cut)
            clips[name] = Entry(
                name, (*names, video), cut, start, end, texts=(row["caption"],), split=split, group=video,
                where=where,
            )  # fmt: skip
        yield from clips.values()


register(
    Layout(
        "audiocaps",
        "about 51,000 AudioSet clips of 10 s with captions of their sound; a row is a clip",
        (_ANY,),
        _entries,
        divisions=1,
        either=True,
        benchmark=Benchmark(
            name="audiocaps",
            tasks=("retrieval",),
            modalities=("audio", "text"),
            splits=("test",),
            protocol="vatt",
            settings={"captions": "all"},
            metrics=("R@1", "R@5", "R@10", "MedR"),
            main_score="R@1",
            reported="five captions per test clip",
            reference="https://audiocaps.github.io",
            citation="Kim, Kim, Lee, Kim: AudioCaps (NAACL 2019)",
        ),
    )
)
