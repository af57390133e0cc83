"""`harmonize doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from harmonize_cli.cli.say import say


def doctor(
    folder: Annotated[Path, typer.Option(help="Folder whose free disk is shown.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Print versions, ffmpeg, devices, cores, memory and free disk, and what is missing with its fix.

    Example: harmonize doctor --folder /data
    """
    from harmonize_cli.extraction.doctor import registered
    from harmonize_cli.media.doctor import examine

    findings = [*examine(folder), *registered()]
    if as_json:
        import json

        rows = [{"name": f.name, "value": f.value, "fix": f.fix} for f in findings]
        say(json.dumps(rows, indent=2))
        return
    width = max(len(f.name) for f in findings)
    for finding in findings:
        say(f"{finding.name:<{width}}  {finding.value}")
    missing = [f for f in findings if f.fix]
    say("\nnothing is missing" if not missing else "\nmissing:")
    for finding in missing:
        say(f"  {finding.name}: {finding.fix}")
