"""`harmonize doctor`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harmonize_cli.cli.registries import REGISTRIES, registry
from harmonize_cli.cli.say import answer
from harmonize_cli.registry import usage

if TYPE_CHECKING:
    from harmonize_cli.media.doctor import Finding


def doctor(
    folder: Annotated[Path, typer.Option(help="Folder whose free disk is shown.")] = Path(),
) -> None:
    """Print versions, ffmpeg, devices, cores, memory and free disk, all that is registered by name, and what
    is missing with its fix.

    Example: harmonize doctor --folder /data
    """
    from harmonize_cli.media.doctor import examine

    findings = [*examine(folder), *registered()]
    width = max(len(f.name) for f in findings)
    lines = [f"{f.name:<{width}}  {f.value}" for f in findings]
    missing = [f"  {f.name}: {f.fix}" for f in findings if f.fix]
    lines += ["", "missing:" if missing else "nothing is missing", *missing]
    answer([{"name": f.name, "value": f.value, "fix": f.fix} for f in findings], "\n".join(lines))


def registered() -> "Iterator[Finding]":
    """One line for each registry, and one for each entry point that could not be loaded."""
    from harmonize_cli.media.doctor import Finding

    for kinds in REGISTRIES:
        try:
            found = registry(kinds)
            yield Finding(kinds, ", ".join(usage(name, entry) for name, entry in found.items()))
        except (ImportError, OSError) as e:
            yield Finding(kinds, f"fail: {e}", "fix this import first")
            continue
        for name, why in found.broken.items():
            yield Finding(f"{kinds}: {name}", "broken", f"{why}; update or remove that package")
