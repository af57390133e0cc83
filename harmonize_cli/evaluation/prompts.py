"""Class names said in sentences, for classification without training."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from harmonize_cli.errors import BadInput


def read_templates(file: Path | None) -> list[str]:
    """One template a line, with {} where the class name goes; blank lines and lines with # are left out.

    Raises:
        BadInput: naming the file and the line without {}.
    """
    if file is None:
        return ["{}"]
    found = []
    for number, line in enumerate(_lines(file), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if text.count("{}") != 1:
            raise BadInput(f"{file}:{number}: expected {{}} once, where the class name goes: {text[:60]!r}")
        found.append(text)
    if not found:
        raise BadInput(f"{file}: no template; write one a line, such as: a video of {{}}")
    return found


def read_names(file: Path | None, classes: Sequence[str]) -> list[str]:
    """How each class is said: from a CSV file of label,words, or the label with blanks for underscores.

    Raises:
        BadInput: a class that the file lacks.
    """
    if file is None:
        return [name.replace("_", " ") for name in classes]
    said: dict[str, str] = {}
    for number, row in enumerate(csv.reader(_lines(file)), 1):
        if len(row) != 2:
            raise BadInput(f"{file}:{number}: expected label,words, found {len(row)} columns")
        said[row[0].strip()] = row[1].strip()
    missing = [name for name in classes if name not in said]
    if missing:
        raise BadInput(f"{file}: no words for {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
    return [said[name] for name in classes]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"{file}: can't be read as text ({e})") from None
