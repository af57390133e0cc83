"""VATEX: `vatex_training_v1.0.json`, ... as released, ten captions a clip; `<YouTube id>_000179_000189.mp4`.

Retrieval results divide the 3,000 validation clips in 1,500 for validation and 1,500 for the test (HGR,
arXiv 2003.00392): with `test_list.txt` (ids, one a line) these have the split test. Clips of the released
public test set have the split public.
"""

import re
from collections.abc import Iterator

from harmonize_cli.datasets.layouts import Benchmark, DatasetFolder, Entry, Layout, Need, register
from harmonize_cli.errors import BadInput

_DATA = {
    "train": Need(("vatex_training_v1.0.json",), "the training captions", False),
    "val": Need(("vatex_validation_v1.0.json",), "the validation captions", False),
    "public": Need(("vatex_public_test_english_v1.1.json",), "the captions of the public test set", False),
}
_TEST = Need(("vatex_test_list.txt", "test_list.txt"), "the division of the validation clips", False)
_ANY = Need(tuple(name for need in _DATA.values() for name in need.names), "at least one list of captions")
_NAME = re.compile(r"(.+)_(\d{6})_(\d{6})")
_CAPTIONS = {"": "enCap", "en": "enCap", "zh": "chCap"}


def _entries(source: DatasetFolder) -> Iterator[Entry]:
    variant = source.options.variant
    if variant not in _CAPTIONS:
        raise BadInput(f"vatex: variant {variant!r}; known are en (English captions) and zh (Chinese)")
    source.require(_ANY)
    listed = source.find(_TEST)
    test = {line for _, line in source.lines(listed)} if listed else set()
    for split, need in _DATA.items():
        path = source.find(need)
        for where, item in source.objects(path, source.json(path)) if path else ():
            name, texts = item.get("videoID"), item.get(_CAPTIONS[variant], [])
            parts = _NAME.fullmatch(name) if isinstance(name, str) else None
            if parts is None:
                source.errors.add(where, "videoID", "expected <YouTube id>_000179_000189")
            elif not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                source.errors.add(where, _CAPTIONS[variant], "expected a list of texts")
            else:
                video, start, end = parts[1], float(parts[2]), float(parts[3])
                yield Entry(
                    parts[0], (parts[0], video), (True, source.options.plain_names == "cut"), start, end,
                    texts=tuple(texts), split="test" if split == "val" and parts[0] in test else split,
                    group=video, where=where,
                )  # fmt: skip


register(
    Layout(
        "vatex",
        "35,000 clips of 10 s with ten captions each (variant zh: Chinese ones); a row is a clip",
        (_ANY, _TEST),
        _entries,
        divisions=1,
        benchmark=Benchmark(
            name="vatex",
            tasks=("retrieval",),
            modalities=("video", "text"),
            splits=("test",),
            protocol="vatt",
            settings={"captions": "all"},
            metrics=("R@1", "R@5", "R@10", "MedR"),
            main_score="R@1",
            reported="1,500 of the validation clips (HGR's division), ten captions each",
            lists=("test_list.txt",),
            reference="https://eric-xw.github.io/vatex-website/",
            citation="Wang et al.: VATEX (ICCV 2019); division: Chen et al.: HGR (CVPR 2020)",
        ),
    )
)
