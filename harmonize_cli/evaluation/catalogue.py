"""`harmonize eval list`: benchmarks, how to run each, the files it needs and what is missing here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harmonize_cli.datasets.layouts import LAYOUTS, Benchmark, Layout
from harmonize_cli.datasets.locate import find_list
from harmonize_cli.errors import BadInput


def find_benchmark(name: str) -> tuple[Layout, Benchmark]:
    """A benchmark and the layout that declares it.

    Raises:
        BadInput: no such data set, or one on which nothing is measured.
    """
    layout = LAYOUTS.find(name)
    if layout.benchmark is None:
        known = ", ".join(benchmark.name for _, benchmark in benchmarks())
        raise BadInput(f"--benchmark {name}: nothing is measured on this data set; benchmarks are {known}")
    return layout, layout.benchmark


def benchmarks() -> list[tuple[Layout, Benchmark]]:
    """All that the layouts declare."""
    return [(layout, layout.benchmark) for layout in LAYOUTS.values() if layout.benchmark is not None]


def command(layout: Layout, benchmark: Benchmark) -> str:
    """What to type, after `harmonize extract --dataset NAME`."""
    lists = " --annotations DIR" if layout.divisions > 1 else ""
    return f"harmonize eval run RUN STORE --benchmark {benchmark.name}{lists}"


@dataclass(frozen=True, slots=True)
class Availability:
    """A benchmark and what of it is on this machine.

    Attributes:
        lists: list files, each with the place found or None: the required ones, or all where none is.
        media: media files of listed samples found and expected; None where there is nothing to count by.
    """

    layout: Layout
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


def availability(folders: Sequence[Path]) -> list[Availability]:
    """Look for every benchmark in some folders; a folder of its name below one comes first.

    Raises:
        BadInput: a folder that is missing.
    """
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise BadInput(f"{missing[0]}: no such folder")
    found = []
    for layout, benchmark in benchmarks():
        own = [f / benchmark.name for f in folders if (f / benchmark.name).is_dir()]
        places = [*own, *folders]
        required = [need for need in layout.needs if need.required]
        needs = required or layout.needs
        lists = [(_some(need.names), find_list(places, need.names)) for need in needs]
        lists += [(name, find_list(places, (name,))) for name in benchmark.lists]
        found_lists = [place for _, place in lists if place is not None]
        # a data set that needs no list may be its folder alone; other folders may be other data sets
        enough = len(found_lists) == len(lists) if required else bool(found_lists or own)
        media, problem = None, ""
        if places and enough:
            try:
                where = found_lists[0].parent if found_lists else places[0]
                all_of_it = layout.find(places[0], annotations=where)
                media = all_of_it.present, all_of_it.expected
            except Exception as e:  # an invalid list of one benchmark must not hide the others
                problem = str(e).splitlines()[0]
        found.append(Availability(layout, benchmark, tuple(lists), media, problem))
    return found


def _some(names: Sequence[str]) -> str:
    """The names that a list goes by, the first few of many."""
    return " or ".join(names if len(names) <= 4 else [*names[:3], "..."])


def show(found: Sequence[Availability]) -> str:
    """One block per benchmark, for the terminal."""
    blocks = []
    for one in found:
        benchmark = one.benchmark
        lines = [
            f"{benchmark.name}: {', '.join(benchmark.tasks)} ({'-'.join(benchmark.modalities)}), "
            f"{benchmark.main_score}; {benchmark.reported}",
            f"  state  {one.state}",
            f"  run    harmonize extract --dataset {benchmark.name} --root DIR -o STORE; "
            f"{command(one.layout, benchmark)}",
            f"  see    {benchmark.citation}, {benchmark.reference}",
        ]
        lines += [f"  list   {name}: {place or 'missing'}" for name, place in one.lists]
        blocks.append("\n".join(lines))
    return "\n".join(blocks)
