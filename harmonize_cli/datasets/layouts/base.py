"""What the layouts share: an official list says what there should be, the disk says what there is."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harmonize_cli.config import validate
from harmonize_cli.datasets.dataset_folder import DatasetFolder, LayoutOptions, Need
from harmonize_cli.datasets.fields import FieldError, checked_name, escaped_name, mended_text
from harmonize_cli.datasets.locate import AUDIO, VIDEO
from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.errors import BadInput, ErrorList
from harmonize_cli.registry import Registry

_MISSING_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """What the list says of one sample."""

    id: str
    names: tuple[str, ...] = ()
    """Names without suffix that its file may have, the likeliest first."""
    cut: tuple[bool, ...] = ()
    """Whether a file of that name is the clip itself, so that start and end are behind us; default: none."""
    start: float = 0.0
    end: float | None = None
    texts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    split: str = ""
    fold: int | None = None
    group: str = ""
    folder: str = ""
    """Folder in which the file is preferred, where a name appears twice."""
    where: str = ""
    """`file:line` of the list."""
    path: Path | None = None
    """The file itself, for layouts without a list."""


@dataclass
class Found:
    """Rows of what is there, and how much that is."""

    dataset: str
    rows: list[ManifestRow] = field(default_factory=list)
    expected: int = 0
    missing: list[str] = field(default_factory=list)
    """Ids without a file (the first thousand)."""
    expected_by_split: Counter[str] = field(default_factory=Counter)
    problems: ErrorList = field(default_factory=lambda: ErrorList(""))
    """Caption files and the like that can't be read; their videos are taken without them."""
    left_out: list[str] = field(default_factory=list)
    """Symbolic links that lead out of the root, which are not followed."""

    @property
    def present(self) -> int:
        """Samples whose file is there."""
        return len(self.rows)

    def coverage(self) -> dict[str, Any]:
        """Expected and present samples, in all and by split, as JSON."""
        present = Counter(row.split for row in self.rows)
        splits = {
            name or "(none)": {"expected": count, "present": present[name]}
            for name, count in sorted(self.expected_by_split.items())
        }
        return {
            "dataset": self.dataset,
            "expected": self.expected,
            "present": self.present,
            "splits": splits,
            "missing": self.missing[:20],
            "problems": self.problems.count,
            "first_problems": self.problems.first[:20],
            "links_left_out": len(self.left_out),
            "first_links_left_out": [escaped_name(path) for path in self.left_out[:20]],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A published evaluation on one data set, declared beside its layout."""

    name: str
    tasks: tuple[str, ...]
    """Ways to evaluate, as the commands of `harmonize eval` are called: retrieval, probe, zeroshot, finetune;
    the first one is the usual one."""
    modalities: tuple[str, ...]
    """What a model sees; for retrieval the two that are matched."""
    splits: tuple[str, ...]
    """Values of the column split that are tested; empty: all samples, by the column fold."""
    train_split: str = "train"
    """Value of the column split that classifiers are trained on."""
    protocol: str = ""
    """Name of the protocol (`--protocol`) that published numbers share; empty: the task's default."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of the protocol that differ for this benchmark (`--set`)."""
    metrics: tuple[str, ...]
    main_score: str
    """The one of `metrics` by which models are compared."""
    multi_label: bool = False
    """True: a sample may have several labels."""
    reported: str
    """What numbers in the literature share, in one line."""
    lists: tuple[str, ...] = ()
    """List files beyond the layout's needs."""
    reference: str
    """Address of the data set's page."""
    citation: str

    def __post_init__(self) -> None:
        if self.main_score not in self.metrics:
            raise ValueError(
                f"benchmark {self.name}: main score {self.main_score!r} is not among its metrics"
            )


@dataclass(frozen=True)
class Layout:
    """One data set: the files that it needs and how they become rows."""

    name: str
    about: str
    """One line: what it is, and what a row is."""
    needs: tuple[Need, ...]
    entries: Callable[[DatasetFolder], Iterator[Entry]]
    sound: bool = False
    """True: the files are audio alone."""
    either: bool = False
    """True: audio files serve where there is no video file."""
    divisions: int = 0
    """Official divisions into train and test that its lists give (option `official_split`); 0: none."""
    benchmark: Benchmark | None = None
    """What is measured on it, if it is a benchmark."""

    def open(self, root: Path, options: LayoutOptions) -> DatasetFolder:
        """The data set below `root`, as `entries` takes it."""
        media = AUDIO if self.sound else (*VIDEO, *AUDIO) if self.either else VIDEO
        return DatasetFolder(self.name, media, root, options)

    def find(self, root: Path, **options: Any) -> Found:
        """Rows of all samples whose files are there, and the coverage of the data set below `root`.

        Options: see `LayoutOptions`.

        Raises:
            BadInput: unknown options, lists that are missing or invalid.
        """
        chosen = validate(LayoutOptions, options, source=f"--dataset {self.name}")
        source = self.open(Path(root), chosen)
        found = Found(self.name)
        wanted = {name.strip() for name in chosen.split.split(",")} if chosen.split else None
        seen: set[str] = set()
        for entry in self.entries(source):
            if wanted is not None and entry.split not in wanted:
                continue
            if not _sound_entry(entry, source.errors, seen):
                continue
            if chosen.limit is not None and found.expected >= chosen.limit:
                break
            found.expected += 1
            found.expected_by_split[entry.split] += 1
            row = self._row(entry, source)
            if row is not None:
                found.rows.append(row)
            elif len(found.missing) < _MISSING_KEPT:
                found.missing.append(entry.id)
        source.errors.raise_if_any()
        if not found.expected:
            hint = f" of split {chosen.split!r}" if wanted else ""
            raise BadInput(f"{root}: {self.name}: nothing to extract{hint}; {self.about}")
        found.left_out = source.left_out
        found.problems = source.problems
        return found

    def _row(self, entry: Entry, source: DatasetFolder) -> ManifestRow | None:
        path, start, end = entry.path, entry.start, entry.end
        if path is None and entry.names:
            hit = source.index.find(entry.names, entry.folder)
            if hit is None:
                return None
            position, path = hit
            if entry.cut and entry.cut[position]:
                start, end = 0.0, None
        sound = path is not None and path.suffix.lower() in AUDIO
        return ManifestRow(
            id=entry.id,
            video=None if sound else path,
            start=start,
            end=end,
            audio=path if sound else None,
            texts=tuple(map(mended_text, entry.texts)),
            labels=entry.labels,
            split=entry.split,
            fold=entry.fold,
            group=entry.group or entry.id,
            source=entry.where,
        )


def _sound_entry(entry: Entry, errors: ErrorList, seen: set[str]) -> bool:
    """Whether an entry can be a row; else its error is noted."""
    try:
        for name, value in (("id", entry.id), ("split", entry.split), ("group", entry.group)):
            checked_name(name, value)
        for label in entry.labels:
            checked_name("label", label)
        if not entry.id:
            raise FieldError("id", "is empty")
        if entry.end is not None and entry.end <= entry.start:
            raise FieldError("end", f"{entry.end:g} s is not after the start, {entry.start:g} s")
    except FieldError as e:
        errors.add(entry.where, e.field, str(e))
        return False
    if entry.id in seen:
        errors.add(entry.where, "id", f"{entry.id!r} appears twice")
        return False
    seen.add(entry.id)
    return True


LAYOUTS: Registry[Layout] = Registry(
    "data set", group="harmonize.layouts", package="harmonize_cli.datasets.layouts"
)


def register(layout: Layout) -> Layout:
    """Make a layout known by its name.

    Raises:
        ValueError: there is one of that name.
    """
    LAYOUTS.add(layout.name, layout)
    return layout
