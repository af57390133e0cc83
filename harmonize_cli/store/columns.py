"""What is known of a sample beside its rows, one description per column.

Manifests are read by these descriptions and samples are made, shown and exported from them. A column that is
registered beside the built-in ones is kept in the store's `samples/facts` under its name, so that it needs no
place of its own in the file format, and programs that do not know it still read the store.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harmonize_cli.registry import Registry

ColumnType = Literal["name", "names", "texts", "integer", "seconds", "path"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: `COLUMNS.add("language", Column(type="name", about="language of the texts"))`."""

    type: ColumnType
    """name: a short text; names, texts: a list; integer: from 0; seconds: a time; path: a file."""
    about: str
    default: Any = ""
    """The value where a manifest has none."""
    one: str = ""
    """Of a list: the manifest's column that gives one value alone."""
    numbers: bool = False
    """True: whole numbers are taken as names."""
    field: bool = False
    """True: a field of `Sample`; False: an entry of its `facts`."""

    def parquet(self) -> str:
        """The name of its Arrow type in an export."""
        return {"integer": "int32", "seconds": "float64", "names": "list", "texts": "list"}.get(
            self.type, "string"
        )


COLUMNS: Registry[Column] = Registry("manifest column", group="harmonize.columns")

for _name, _column in {
    "id": Column(type="name", about="required, unique", numbers=True, field=True),
    "group": Column(
        type="name", about="samples of one source; by default the video's path", numbers=True, field=True
    ),
    "split": Column(type="name", about="train, val, test, ...", field=True),
    "fold": Column(type="integer", about="a whole number from 0", default=None, field=True),
    "labels": Column(type="names", one="label", about="classes", default=(), numbers=True, field=True),
    "texts": Column(type="texts", one="text", about="text candidates", default=(), field=True),
    "start": Column(type="seconds", about="of the segment in its file", default=0.0, field=True),
    "end": Column(type="seconds", about="of the segment; none: the file's end", default=None, field=True),
    "video": Column(type="path", about="file with video frames, and the audio unless `audio` is given"),
    "audio": Column(type="path", about="a separate audio file"),
}.items():
    COLUMNS.add(_name, _column)


def manifest_columns() -> frozenset[str]:
    """All names that a manifest may use."""
    return frozenset(name for key, column in COLUMNS.items() for name in (key, column.one) if name)


def declared() -> dict[str, Column]:
    """The columns that were registered beside the built-in ones."""
    return {name: column for name, column in COLUMNS.items() if not column.field and column.type != "path"}


def declared_values(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Their values of one sample, from its facts."""
    return {name: facts.get(name, column.default) for name, column in declared().items()}
