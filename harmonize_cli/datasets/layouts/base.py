"""What the layouts share: an official list says what there should be, the disk says what there is."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from harmonize_cli.config import StageConfig, validate
from harmonize_cli.datasets.faults import Faults
from harmonize_cli.datasets.fields import MAX_SECONDS, FieldError, checked_name, escaped_name, mended_text
from harmonize_cli.datasets.locate import AUDIO, VIDEO, MediaIndex, find_list
from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.datasets.tables import read_lines, read_table
from harmonize_cli.errors import BadInput
from harmonize_cli.registry import Registry

_MAX_JSON = 256 << 20
_MISSING_KEPT = 1000


class LayoutOptions(StageConfig):
    """Choices that data sets offer; each uses those that mean something to it."""

    split: str = ""
    """Splits to take, with commas between them; empty takes all."""
    annotations: Path | None = None
    """Folder of the official lists, where they are not in the root."""
    variant: str = ""
    """msrvtt: 1k-A (default) or full; esc50: esc10 takes its ten classes only."""
    official_split: int = Field(default=1, ge=1, le=3)
    """ucf101, hmdb51: which of the three official divisions fills the column split."""
    candidates: int = Field(default=5, ge=1, le=1000)
    """Text candidates of a segment of timed captions: its own and its nearest neighbours."""
    min_seconds: float = Field(default=3.2, ge=0, le=3600)
    """Shorter captions are widened to this length; 3.2 s is VATT's clip."""
    window: float | None = Field(default=None, ge=0.1, le=36000)
    """Cut videos in windows of so many seconds instead of at captions."""
    plain_names: Literal["whole", "cut"] = "whole"
    """Whether a file with nothing but a video's id as its name is the whole video or the clip cut from it.
    Names with times in them are always cut clips."""
    limit: int | None = Field(default=None, ge=1)
    """Take the first so many entries of the list."""
    allow_outside: bool = False
    """Follow symbolic links that lead out of the root."""
    unpack: Path | None = None
    """webdataset: folder to unpack members to; the root's neighbour NAME-unpacked by default."""


@dataclass(frozen=True, slots=True)
class Need:
    """A file that a data set needs: any of these names, in the root or the annotations' folder."""

    names: tuple[str, ...]
    what: str
    required: bool = True


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
    """Folder in which the file is preferred, where a name is there twice."""
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
    problems: Faults = field(default_factory=lambda: Faults(""))
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


class Source:
    """A data set on disk: its root, the options, and its lists, read with all faults noted."""

    def __init__(self, layout: "Layout", root: Path, options: LayoutOptions) -> None:
        if not root.is_dir():
            raise BadInput(f"{root}: no such folder; --root is the folder with the data set's files")
        self.root, self.options, self._layout = root, options, layout
        self.faults = Faults(str(root))
        """Wrong lists: the data set is refused."""
        self.problems = Faults(str(root))
        """Single files that can't be used: they are left out and told."""
        self._folders = [options.annotations, root] if options.annotations else [root]
        self._indices: list[MediaIndex] = []

    def files(self, folder: Path, suffixes: tuple[str, ...]) -> MediaIndex:
        """The files below a folder that end so."""
        found = MediaIndex(folder, suffixes, allow_outside=self.options.allow_outside)
        self._indices.append(found)
        return found

    @property
    def left_out(self) -> list[str]:
        """Links that no index has followed."""
        return sorted({path for index in self._indices for path in index.left_out})

    @cached_property
    def index(self) -> MediaIndex:
        """The data set's media files."""
        layout = self._layout
        kinds = AUDIO if layout.sound else (*VIDEO, *AUDIO) if layout.either else VIDEO
        return self.files(self.root, kinds)

    def find(self, need: Need) -> Path | None:
        """The list that fills a need.

        Raises:
            BadInput: it is required and not there.
        """
        found = find_list(self._folders, need.names)
        if found is None and need.required:
            places = " or ".join(str(folder) for folder in self._folders)
            raise BadInput(
                f"{self._layout.name}: {need.what} is missing; expected {' or '.join(need.names)} in "
                f"{places}, or one folder below (the option annotations names another folder)"
            )
        return found

    def require(self, need: Need) -> Path:
        """The list that fills a required need."""
        found = self.find(need)
        assert found is not None
        return found

    def table(
        self, path: Path, *columns: str, faults: Faults | None = None
    ) -> Iterator[tuple[str, dict[str, str]]]:
        """Rows of a CSV list as (file:line, values); rows without one of `columns` go to `faults` (default:
        those that refuse the data set)."""
        faults = self.faults if faults is None else faults
        for line, row in read_table(path, frozenset(columns), faults, _needs_columns(columns)):
            lacking = [name for name in columns if name not in row]
            if lacking:
                faults.add(f"{path}:{line}", lacking[0], "is empty")
            else:
                yield f"{path}:{line}", row

    def lines(self, path: Path) -> Iterator[tuple[str, str]]:
        """Lines of a text list as (file:line, text), without blank ones."""
        with path.open("rb") as f:
            for number, text in read_lines(path, f, self.faults):
                if text.strip():
                    yield f"{path}:{number}", text.strip()

    def json(self, path: Path) -> Any:
        """A JSON list, whole.

        Raises:
            BadInput: no valid JSON, or too large.
        """
        if path.stat().st_size > _MAX_JSON:
            raise BadInput(f"{path}: more than {_MAX_JSON >> 20} MiB of JSON")
        try:
            return json.loads(path.read_bytes())
        except (ValueError, RecursionError) as e:
            raise BadInput(f"{path}: no valid JSON ({e})") from None

    def number(self, where: str, name: str, text: Any, *, faults: Faults | None = None) -> float | None:
        """A time in seconds; a fault and None if it is none."""
        try:
            value = float(text)
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if not 0 <= value <= MAX_SECONDS:
            faults = self.faults if faults is None else faults
            faults.add(where, name, f"expected seconds, found {str(text)[:40]!r}")
            return None
        return value


def _needs_columns(columns: Iterable[str]) -> Callable[[Path, list[str]], None]:
    def check(path: Path, header: list[str]) -> None:
        lacking = [name for name in columns if name not in header]
        if lacking:
            found = ", ".join(name[:40] for name in header[:20])
            raise BadInput(f"{path}:1: {lacking[0]}: this column is missing; found {found}")

    return check


@dataclass(frozen=True)
class Layout:
    """One data set: the files that it needs and how they become rows."""

    name: str
    about: str
    """One line: what it is, and what a row is."""
    needs: tuple[Need, ...]
    entries: Callable[[Source], Iterator[Entry]]
    sound: bool = False
    """True: the files are audio alone."""
    either: bool = False
    """True: audio files serve where there is no video file."""
    divisions: int = 1
    """Official divisions into train and test that the data set has (option `official_split`)."""
    benchmark: Benchmark | None = None
    """What is measured on it, if it is a benchmark."""

    def rows(self, root: Path, **options: Any) -> list[ManifestRow]:
        """Rows of all samples whose files are there; `find` says what is missing.

        Raises:
            BadInput: unknown options, lists that are missing or faulty.
        """
        return self.find(root, **options).rows

    def find(self, root: Path, **options: Any) -> Found:
        """Rows and coverage of the data set below `root`. Options: see `LayoutOptions`."""
        chosen = validate(LayoutOptions, options, source=f"--dataset {self.name}")
        source = Source(self, Path(root), chosen)
        found = Found(self.name)
        wanted = {name.strip() for name in chosen.split.split(",")} if chosen.split else None
        seen: set[str] = set()
        for entry in self.entries(source):
            if wanted is not None and entry.split not in wanted:
                continue
            if not _sound_entry(entry, source.faults, seen):
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
        source.faults.raise_if_any()
        if not found.expected:
            hint = f" of split {chosen.split!r}" if wanted else ""
            raise BadInput(f"{root}: {self.name}: nothing to extract{hint}; {self.about}")
        found.left_out = source.left_out
        found.problems = source.problems
        return found

    def _row(self, entry: Entry, source: Source) -> ManifestRow | None:
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


def _sound_entry(entry: Entry, faults: Faults, seen: set[str]) -> bool:
    """Whether an entry can be a row; else its fault is noted."""
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
        faults.add(entry.where, e.field, str(e))
        return False
    if entry.id in seen:
        faults.add(entry.where, "id", f"{entry.id!r} is there twice")
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
