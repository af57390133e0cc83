"""Things that come in kinds, by name: ours, and those of installed packages (Python entry points).

A kind has one `Registry`; a file that declares one of the kind registers it, and every list (config choices,
help, completion, documentation) comes from the registry.
"""

import difflib
import importlib
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import TypeVar

from harmonize_cli.errors import BadInput

T = TypeVar("T")
Made = TypeVar("Made")


class Registry(Mapping[str, T]):
    """Entries of one kind by name, in the order of their registration.

    `kind` is the word for one of them in messages; `group` is the entry-point group through which installed
    packages add theirs, such as `harmonize.encoders`; `package` is our own package of modules that register,
    one file each, imported on first use.
    """

    def __init__(self, kind: str, *, group: str = "", package: str = "") -> None:
        self.kind, self.group, self.package = kind, group, package
        self.broken: dict[str, str] = {}
        """Entry points that could not be loaded: name -> why. `harmonize doctor` lists them."""
        self._entries: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[Made], Made]:
        """Decorator: make a class, a function or an object known as `name`.

        Raises:
            ValueError: the name is taken, empty, or holds a colon, which separates an argument.
        """

        self._check(name)

        def keep(entry: Made) -> Made:
            self.add(name, entry)  # type: ignore[arg-type]
            return entry

        return keep

    def add(self, name: str, entry: T) -> None:
        """Make `entry` known as `name`; errors as for `register`."""
        self._check(name)
        self._entries[name] = entry

    def _check(self, name: str) -> None:
        if not name or ":" in name:
            raise ValueError(f"{self.kind} {name!r}: expected a name without a colon")
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice; choose another name")

    def find(self, name: str) -> T:
        """The entry called `name`.

        Raises:
            BadInput: there is none; the message lists the known ones and the closest name.
        """
        if name in self:
            return self[name]
        close = difflib.get_close_matches(name, self, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        broken = (
            f"; {name!r} of an installed package is broken: {self.broken[name]}"
            if name in self.broken
            else ""
        )
        raise BadInput(f"{self.kind} {name!r}: unknown{hint}; known: {', '.join(self)}{broken}")

    def split(self, text: str) -> tuple[T, str]:
        """The entry of `NAME` or `NAME:ARGUMENT`, with the argument or "". Errors: as `find`."""
        name, _, argument = text.partition(":")
        return self.find(name), argument

    def __getitem__(self, name: str) -> T:
        self._load()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._entries)

    def __len__(self) -> int:
        self._load()
        return len(self._entries)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        if self.package:
            for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
                importlib.import_module(f"{self.package}.{module.name}")
        for point in entry_points(group=self.group) if self.group else ():
            try:
                entry = point.load()
                if self._entries.get(point.name) is not entry:  # the module may register it by itself
                    self.add(point.name, entry)
            except Exception as e:  # whatever a foreign package raises must not take our entries away
                package = point.dist.name if point.dist is not None else "unknown package"
                self.broken[point.name] = f"{package}: {type(e).__name__}: {e}"
                warnings.warn(
                    f"{self.kind} {point.name!r} of {package} is skipped: {type(e).__name__}: {e}",
                    RuntimeWarning,
                    stacklevel=2,
                )


def usage(name: str, entry: object) -> str:
    """How an entry is named: NAME, or NAME:ARGUMENT for one that declares an `argument`."""
    argument = getattr(entry, "argument", "")
    return f"{name}:{argument}" if argument else name
