"""Where the rows come from: a manifest, or a data set as it lies on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonize_cli.datasets.layouts import LAYOUTS
from harmonize_cli.datasets.manifest import ManifestRow, read_manifest
from harmonize_cli.errors import BadInput, ErrorList
from harmonize_cli.extraction.windows import cut_in_windows
from harmonize_cli.store.summary import problem_lines


@dataclass(frozen=True, slots=True)
class Inputs:
    """Rows, the folder that their paths are shown relative to, and what is known of the whole set."""

    rows: list[ManifestRow]
    root: Path
    name: str
    coverage: dict[str, Any]
    """Of a data set: expected and present samples by split."""
    problems: int = 0
    """Of a data set: files of it that can't be used, and links that are not followed."""

    def problem_lines(self) -> list[str]:
        """What can't be used, for people: counts, and the first ones by name."""
        return problem_lines(self.coverage)


def from_manifest(
    path: Path,
    *,
    root: Path | None = None,
    window: float | None = None,
    allow_outside: bool = False,
    errors: ErrorList | None = None,
) -> Inputs:
    """Rows of a manifest, long ones cut in windows of `window` seconds; `errors` as for `read_manifest`."""
    rows = read_manifest(path, root=root, allow_outside=allow_outside, errors=errors)
    if window is not None:
        rows = cut_in_windows(rows, window)
    return Inputs(rows, root or path.parent, path.name, {})


def from_dataset(
    name: str,
    root: Path | None,
    options: Sequence[str] = (),
    *,
    window: float | None = None,
    allow_outside: bool = False,
) -> Inputs:
    """Rows of the data set `name` below `root`; `options` are key=value of its `LayoutOptions`.

    Raises:
        BadInput: an unknown data set or option, a list that is missing or faulty.
    """
    layout = LAYOUTS.find(name)
    if root is None:
        raise BadInput(f"--dataset {name}: needs --root, the folder in which its files lie")
    chosen: dict[str, Any] = {}
    for text in options:
        key, sep, value = text.partition("=")
        if not sep:
            raise BadInput(f"--data {text}: expected key=value, for example --data split=test")
        chosen[key] = value
    if window is not None:
        chosen["window"] = window
    if allow_outside:
        chosen["allow_outside"] = True
    found = layout.find(root, **chosen)
    problems = found.problems.count + len(found.left_out)
    return Inputs(found.rows, root, name, found.coverage(), problems)
