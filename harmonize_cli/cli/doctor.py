"""`harmonize doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from harmonize_cli.cli.say import answer


def doctor(
    folder: Annotated[Path, typer.Option(help="Folder whose free disk is shown.")] = Path(),
) -> None:
    """Print versions, ffmpeg, devices, cores, memory and free disk, and what is missing with its fix.

    Example: harmonize doctor --folder /data
    """
    from harmonize_cli.extraction.doctor import registered
    from harmonize_cli.media.doctor import examine

    findings = [*examine(folder), *registered()]
    width = max(len(f.name) for f in findings)
    lines = [f"{f.name:<{width}}  {f.value}" for f in findings]
    missing = [f"  {f.name}: {f.fix}" for f in findings if f.fix]
    lines += ["", "missing:" if missing else "nothing is missing", *missing]
    answer([{"name": f.name, "value": f.value, "fix": f.fix} for f in findings], "\n".join(lines))
