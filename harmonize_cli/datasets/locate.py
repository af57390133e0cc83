"""Finding a data set's files, in whatever folders a user has put them."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from harmonize_cli.errors import BadInput

VIDEO = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".ts", ".3gp")
AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac")


class MediaIndex:
    """Media files below a folder, by their name without suffix: folders and containers differ from one copy
    of a data set to the next, names do not.

    Symbolic links that lead out of `root` are left out, unless `allow_outside`.
    """

    def __init__(self, root: Path, suffixes: tuple[str, ...] = VIDEO, *, allow_outside: bool = False) -> None:
        if not root.is_dir():
            raise BadInput(f"{root}: no such folder; --root is the folder with the data set's files")
        self.root = Path(os.path.realpath(root))
        self._rank = {suffix: rank for rank, suffix in enumerate(suffixes)}
        self._outside = allow_outside
        self._by_stem: dict[str, list[str]] = {}
        self.left_out: list[str] = []
        """Links to files and folders outside the root, which are not followed."""
        for path in self._walk():
            self._by_stem.setdefault(os.path.splitext(os.path.basename(path))[0], []).append(path)  # noqa: PTH119, PTH122

    def __len__(self) -> int:
        return sum(map(len, self._by_stem.values()))

    def all(self) -> Iterator[tuple[str, Path]]:
        """(path relative to the root, path) of every file, sorted."""
        for path in sorted(path for paths in self._by_stem.values() for path in paths):
            yield path, self.root / path

    def find(self, names: Iterable[str], folder: str = "") -> tuple[int, Path] | None:
        """The first of `names` (without suffix) that is there: its position and the file.

        A file in a folder called `folder` is preferred, then the shorter path, then the suffix listed first.
        """
        for position, name in enumerate(names):
            paths = self._by_stem.get(name)
            if paths:
                best = min(paths, key=lambda path: self._order(path, folder))
                return position, self.root / best
        return None

    def _order(self, path: str, folder: str) -> tuple[bool, int, int, str]:
        found = Path(path)
        outside = bool(folder) and folder not in found.parts[:-1]
        return outside, len(found.parts), self._rank[found.suffix.lower()], path

    def _walk(self) -> Iterator[str]:
        seen = {os.fspath(self.root)}
        for folder, below, files in os.walk(self.root, followlinks=self._outside):
            if self._outside:  # a link to a folder above would lead round in circles
                below[:] = [name for name in below if self._is_new(os.path.join(folder, name), seen)]  # noqa: PTH118
            else:
                links = (path for name in below if os.path.islink(path := os.path.join(folder, name)))  # noqa: PTH114, PTH118
                self.left_out += [path for path in links if not self._inside(path)]
            below.sort()
            for name in files:
                if os.path.splitext(name)[1].lower() not in self._rank:  # noqa: PTH122
                    continue
                path = os.path.join(folder, name)  # noqa: PTH118
                if not self._outside and os.path.islink(path) and not self._inside(path):  # noqa: PTH114
                    self.left_out.append(path)
                    continue
                yield os.path.relpath(path, self.root)

    def _inside(self, path: str) -> bool:
        return os.path.realpath(path).startswith(os.fspath(self.root).rstrip(os.sep) + os.sep)

    @staticmethod
    def _is_new(folder: str, seen: set[str]) -> bool:
        real = os.path.realpath(folder)
        if real in seen:
            return False
        seen.add(real)
        return True


def find_list(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """The first annotation file of `names` that lies in one of `folders` or one folder below them."""
    names = list(names)
    for folder in folders:
        if not folder.is_dir():
            continue
        below = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
        for name in names:
            for place in below:
                if (place / name).is_file():
                    return place / name
    return None
