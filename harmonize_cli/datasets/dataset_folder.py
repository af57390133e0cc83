"""A data set on disk: its root, the user's options, and its official lists."""

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from harmonize_cli.config import StageConfig
from harmonize_cli.datasets.fields import MAX_SECONDS
from harmonize_cli.datasets.locate import MediaIndex, find_list
from harmonize_cli.datasets.tables import read_lines, read_table
from harmonize_cli.errors import BadInput, ErrorList

_MAX_JSON = 256 << 20


class LayoutOptions(StageConfig):
    """Choices that data sets offer; each uses those that mean something to it."""

    split: str = ""
    """Splits to take, with commas between them; empty takes all."""
    annotations: Path | None = None
    """Folder of the official lists, where they are not in the root."""
    variant: str = ""
    """msrvtt: 1k-A (default) or full; esc50: esc10 takes its ten classes only; vatex: zh takes
    the Chinese captions; vggsound: vggsounder takes the test labels of VGGSounder."""
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


class DatasetFolder:
    """A data set on disk: its root, the options, and its lists, read with all errors noted."""

    def __init__(self, name: str, media: tuple[str, ...], root: Path, options: LayoutOptions) -> None:
        """media: suffixes of the data set's media files."""
        if not root.is_dir():
            raise BadInput(f"{root}: no such folder; --root is the folder with the data set's files")
        self.root, self.options, self._name, self._media = root, options, name, media
        self.errors = ErrorList(str(root))
        """Wrong lists: the data set is refused."""
        self.problems = ErrorList(str(root))
        """Single files that can't be used: they are left out and reported."""
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
        return self.files(self.root, self._media)

    def find(self, need: Need) -> Path | None:
        """The list that fills a need.

        Raises:
            BadInput: it is required and not there.
        """
        found = find_list(self._folders, need.names)
        if found is None and need.required:
            places = " or ".join(str(folder) for folder in self._folders)
            raise BadInput(
                f"{self._name}: {need.what} is missing; expected {' or '.join(need.names)} in "
                f"{places}, or one folder below (the option annotations names another folder)"
            )
        return found

    def require(self, need: Need) -> Path:
        """The list that fills a required need."""
        found = self.find(need)
        assert found is not None
        return found

    def table(
        self, path: Path, *columns: str, errors: ErrorList | None = None
    ) -> Iterator[tuple[str, dict[str, str]]]:
        """Rows of a CSV list as (file:line, values); rows without one of `columns` go to `errors` (default:
        those that refuse the data set)."""
        errors = self.errors if errors is None else errors

        def check(path: Path, header: list[str]) -> None:
            lacking = [name for name in columns if name not in header]
            if lacking:
                found = ", ".join(name[:40] for name in header[:20])
                raise BadInput(f"{path}:1: {lacking[0]}: this column is missing; found {found}")

        for line, row in read_table(path, frozenset(columns), errors, check):
            lacking = [name for name in columns if name not in row]
            if lacking:
                errors.add(f"{path}:{line}", lacking[0], "is empty")
            else:
                yield f"{path}:{line}", row

    def cells(self, path: Path, *columns: str) -> Iterator[tuple[str, list[str]]]:
        """Cells of a CSV list without a header, as (file:line, one for each of `columns`); lines that begin
        with # are comments, spaces after a comma do not count."""
        for where, line in self.lines(path):
            if line.startswith("#"):
                continue
            try:
                cells = next(csv.reader([line], skipinitialspace=True, strict=True))
            except csv.Error as e:
                self.errors.add(where, "", f"invalid CSV ({e})")
                continue
            if len(cells) == len(columns):
                yield where, [cell.strip() for cell in cells]
            else:
                self.errors.add(where, "", f"expected {', '.join(columns)}; found {len(cells)} cells")

    def lines(self, path: Path) -> Iterator[tuple[str, str]]:
        """Lines of a text list as (file:line, text), without blank ones."""
        with path.open("rb") as f:
            for number, text in read_lines(path, f, self.errors):
                if text.strip():
                    yield f"{path}:{number}", text.strip()

    def json(self, path: Path) -> Any:
        """A JSON list, whole.

        Raises:
            BadInput: invalid JSON, or too large.
        """
        if path.stat().st_size > _MAX_JSON:
            raise BadInput(f"{path}: more than {_MAX_JSON >> 20} MiB of JSON")
        try:
            return json.loads(path.read_bytes())
        except (ValueError, RecursionError) as e:
            raise BadInput(f"{path}: invalid JSON ({e})") from None

    def objects(self, path: Path, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """Objects of a JSON list as (file:[number], object); what is none is an error.

        Raises:
            BadInput: `value` is not a list.
        """
        if not isinstance(value, list):
            raise BadInput(f"{path}: expected a list of objects, found {type(value).__name__}")
        for number, item in enumerate(value):
            where = f"{path}:[{number}]"
            if isinstance(item, dict):
                yield where, item
            else:
                self.errors.add(where, "", f"expected an object, found {type(item).__name__}")

    def number(self, where: str, name: str, text: Any, *, errors: ErrorList | None = None) -> float | None:
        """A time in seconds; a error and None if it is none."""
        try:
            value = float(text)
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if not 0 <= value <= MAX_SECONDS:
            errors = self.errors if errors is None else errors
            errors.add(where, name, f"expected seconds, found {str(text)[:40]!r}")
            return None
        return value
