"""Official divisions of a data set as id -> part, from the lists alone: no video needs to be there."""

from collections.abc import Sequence
from pathlib import Path

from harmonize_cli.config import validate
from harmonize_cli.datasets.layouts import LAYOUTS, LayoutOptions
from harmonize_cli.errors import BadInput


def official_divisions(dataset: str, annotations: Path) -> dict[str, dict[str, str]]:
    """Name of each division ("split 1", ...) -> sample id -> "train", "test", ...

    Data sets without several divisions give one, of the column split.

    Raises:
        BadInput: an unknown data set, lists that are missing or invalid.
    """
    layout = LAYOUTS.find(dataset)
    if not layout.divisions:
        raise BadInput(f"--official {dataset}: this data set has no official split")
    found: dict[str, dict[str, str]] = {}
    for number in range(1, layout.divisions + 1):
        options = validate(LayoutOptions, {"official_split": number}, source=f"--official {dataset}")
        source = layout.open(annotations, options)
        name = f"split {number}" if layout.divisions > 1 else "official"
        found[name] = {entry.id: entry.split for entry in layout.entries(source)}
        source.errors.raise_if_any()
    return found


def official_ids(dataset: str, annotations: Path, parts: Sequence[str]) -> set[str]:
    """Ids that the official lists name for some parts of the data set.

    Raises:
        BadInput: as `official_divisions`, or the lists have no such part.
    """
    divisions = official_divisions(dataset, annotations).values()
    found = [item for division in divisions for item in division.items()]
    ids = {i for i, part in found if part in parts}
    if not ids:
        known = ", ".join(sorted({part for _, part in found}))
        raise BadInput(f"--split {','.join(parts)}: the lists of {dataset} have {known}")
    return ids
