"""`harmonize doctor`."""

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    folder: Annotated[Path, typer.Option(help="Folder whose free disk is shown.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Print versions, ffmpeg, devices, cores, memory and free disk, and what is missing with its fix.

    Example: harmonize doctor --folder /data
    """
    from harmonize_cli.media.doctor import examine

    findings = examine(folder)
    if as_json:
        import json

        rows = [{"name": f.name, "value": f.value, "fix": f.fix} for f in findings]
        typer.echo(json.dumps(rows, indent=2))
        return
    width = max(len(f.name) for f in findings)
    for finding in findings:
        typer.echo(f"{finding.name:<{width}}  {finding.value}")
    missing = [f for f in findings if f.fix]
    typer.echo("\nnothing is missing" if not missing else "\nmissing:")
    for finding in missing:
        typer.echo(f"  {finding.name}: {finding.fix}")
