"""DiDeMo: `train_data.json`, `val_data.json`, `test_data.json` as released; `<Flickr name>.mp4`."""

from collections.abc import Iterator
from pathlib import Path

from harmonize_cli.datasets.layouts import Benchmark, DatasetFolder, Entry, Layout, Need, register
from harmonize_cli.errors import BadInput

_SPLITS = ("train", "val", "test")
_DATA = {
    split: Need(
        (f"didemo_{split}_data.json", f"{split}_data.json"), f"the moments of the split {split}", False
    )
    for split in _SPLITS
}
_LISTS = {
    split: Need((f"didemo_{split}_list.txt", f"{split}_list.txt"), f"the videos of the split {split}", False)
    for split in _SPLITS
}
_ANY = Need(tuple(name for need in _DATA.values() for name in need.names), "at least one list of moments")


def _entries(source: DatasetFolder) -> Iterator[Entry]:
    source.require(_ANY)
    for split in _SPLITS:
        path, listed = source.find(_DATA[split]), source.find(_LISTS[split])
        if path is None:
            continue
        # a video has several described moments; retrieval takes all of them as one paragraph
        moments: dict[str, list[str]] = {}
        for where, item in source.objects(path, source.json(path)):
            video, text = item.get("video"), item.get("description")
            if isinstance(video, str) and isinstance(text, str) and text.strip():
                moments.setdefault(video, []).append(text.strip())
            else:
                source.errors.add(where, "description", "expected video and description")
        kept = {line for _, line in source.lines(listed)} if listed else None
        if kept is not None and not kept & moments.keys():
            raise BadInput(f"{listed}: names no video of {path}; expected one a line, as the JSON has them")
        for video, texts in moments.items():
            if kept is None or video in kept:
                paragraph = " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in texts)
                # copies carry a second suffix where a container was changed: x.mov.mp4
                names = (Path(video).stem, video)
                yield Entry(Path(video).stem, names, texts=(paragraph, *texts), split=split, where=str(path))


register(
    Layout(
        "didemo",
        "10,000 Flickr videos of 30 s; a row is a video, its first text all its descriptions",
        (_ANY, *_LISTS.values()),
        _entries,
        divisions=1,
        benchmark=Benchmark(
            name="didemo",
            tasks=("retrieval",),
            modalities=("video", "text"),
            splits=("test",),
            protocol="vatt",
            metrics=("R@1", "R@5", "R@10", "MedR"),
            main_score="R@1",
            reported="paragraph to video: all descriptions of a video as one text, 1,004 test videos",
            reference="https://github.com/LisaAnne/LocalizingMoments",
            citation="Hendricks et al.: Localizing moments in video with natural language (ICCV 2017)",
        ),
    )
)
