"""`harmonize eval list`: benchmarks, what each asks of a model, the files it needs and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Need(Protocol):
    """A file that a data set needs (see `datasets.layouts`)."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def what(self) -> str: ...
    @property
    def required(self) -> bool: ...


class Layout(Protocol):
    """A data set on disk (see `datasets.layouts`)."""

    @property
    def needs(self) -> Sequence[Need]: ...


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A published evaluation.

    Attributes:
        name: of the data set's layout.
        task: what is measured.
        command: how, after `harmonize extract --dataset NAME`.
        more: list files beyond the layout's first division.
        reported: protocol facts that numbers in the literature share.
    """

    name: str
    task: str
    command: str
    reported: str
    more: tuple[str, ...] = ()


BENCHMARKS = (
    Benchmark(
        "msrvtt",
        "zero-shot retrieval",
        "harmonize eval retrieval RUN STORE --split test --protocol vatt",
        "1k-A: 1,000 pairs; R@10 and MedR",
    ),
    Benchmark(
        "youcook2",
        "zero-shot retrieval",
        "harmonize eval retrieval RUN STORE --split val --protocol vatt",
        "clip level: 3,350 segments in MIL-NCE's list (VATT used 3.1k)",
    ),
    Benchmark(
        "ucf101",
        "linear probe (video)",
        "harmonize eval probe RUN STORE --official ucf101 --annotations DIR --protocol vatt",
        "mean of three splits",
        tuple(f"{part}list0{n}.txt" for n in (2, 3) for part in ("train", "test")),
    ),
    Benchmark(
        "hmdb51",
        "linear probe (video)",
        "harmonize eval probe RUN STORE --official hmdb51 --annotations DIR --protocol vatt",
        "mean of three splits",
    ),
    Benchmark(
        "esc50",
        "linear probe (audio)",
        "harmonize eval probe RUN STORE --modality audio --protocol vatt",
        "mean of five folds",
    ),
    Benchmark(
        "kinetics",
        "fine-tuning, zero-shot classification",
        "harmonize eval finetune RUN STORE -o OUT --test val",
        "top-1 and top-5 on the validation part",
    ),
    Benchmark(
        "audiocaps",
        "zero-shot retrieval (audio-text)",
        "harmonize eval retrieval RUN STORE --split test --set captions=all",
        "five captions per test clip",
    ),
)


@dataclass(frozen=True, slots=True)
class Availability:
    """A benchmark and what of it is on this machine.

    Attributes:
        lists: list files, each with the place found or None: the required ones, or all where none is.
        media: media files of listed samples found and expected; None where there is nothing to count by.
    """

    benchmark: Benchmark
    lists: tuple[tuple[str, Path | None], ...]
    media: tuple[int, int] | None
    problem: str = ""

    @property
    def state(self) -> str:
        """ "ready", or what is missing."""
        if self.problem:
            return self.problem
        if self.media is None:
            return f"missing {', '.join(name for name, place in self.lists if place is None)}"
        present, expected = self.media
        if not present:
            return "lists found, no media files" if expected else "no media files"
        return "ready" if present == expected else f"{present} of {expected} media files"


def availability(
    layouts: Mapping[str, Layout],
    folders: Sequence[Path],
    find_list: Callable[[list[Path], tuple[str, ...]], Path | None],
    count: Callable[[str, Path, Path], tuple[int, int]],
) -> list[Availability]:
    """Look for every benchmark.

    Args:
        folders: places to look in; a folder of the benchmark's name below one comes first.
        find_list: finds a list file of one of some names in folders.
        count: (layout, root, annotations) -> media files present and expected; errors are told, not raised.
    """
    found = []
    for benchmark in BENCHMARKS:
        own = [f / benchmark.name for f in folders if (f / benchmark.name).is_dir()]
        places = [*own, *folders]
        required = [need for need in layouts[benchmark.name].needs if need.required]
        needs = required or layouts[benchmark.name].needs
        lists = [(_some(need.names), find_list(places, need.names)) for need in needs]
        lists += [(name, find_list(places, (name,))) for name in benchmark.more]
        found_lists = [place for _, place in lists if place is not None]
        # a data set that needs no list may be its folder alone; other folders may be other data sets
        enough = len(found_lists) == len(lists) if required else bool(found_lists or own)
        media, problem = None, ""
        if places and enough:
            try:
                where = found_lists[0].parent if found_lists else places[0]
                media = count(benchmark.name, places[0], where)
            except Exception as e:  # a faulty list of one benchmark must not hide the others
                problem = str(e).splitlines()[0]
        found.append(Availability(benchmark, tuple(lists), media, problem))
    return found


def _some(names: Sequence[str]) -> str:
    """The names that a list goes by, the first few of many."""
    return " or ".join(names if len(names) <= 4 else [*names[:3], "..."])


def show(found: Sequence[Availability]) -> str:
    """One block per benchmark, for the terminal."""
    blocks = []
    for one in found:
        lines = [
            f"{one.benchmark.name}: {one.benchmark.task} ({one.benchmark.reported})",
            f"  state  {one.state}",
            f"  run    harmonize extract --dataset {one.benchmark.name} --root DIR -o STORE; "
            f"{one.benchmark.command}",
        ]
        lines += [f"  list   {name}: {place or 'missing'}" for name, place in one.lists]
        blocks.append("\n".join(lines))
    return "\n".join(blocks)
