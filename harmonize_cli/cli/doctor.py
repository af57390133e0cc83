"""`harmonize doctor`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harmonize_cli.cli.say import answer

if TYPE_CHECKING:
    from harmonize_cli.media.doctor import Finding
    from harmonize_cli.registry import Registry


def doctor(
    folder: Annotated[Path, typer.Option(help="Folder whose free disk is shown.")] = Path(),
) -> None:
    """Print versions, ffmpeg, devices, cores, memory and free disk, and what is missing with its fix.

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
    """One line for each kind, ours and those of installed packages, and one for each entry point that could
    not be loaded."""
    from harmonize_cli.cli.exporters import EXPORTERS
    from harmonize_cli.curriculum.indicators import INDICATORS
    from harmonize_cli.curriculum.plan import ACTIONS
    from harmonize_cli.datasets.layouts import LAYOUTS
    from harmonize_cli.encoders.base import ENCODERS, usage
    from harmonize_cli.evaluation.metrics import METRICS
    from harmonize_cli.harmony import RULES
    from harmonize_cli.media.decoders import DECODERS
    from harmonize_cli.media.doctor import Finding
    from harmonize_cli.models.base import MODELS
    from harmonize_cli.objectives.base import LOSSES
    from harmonize_cli.store.columns import COLUMNS
    from harmonize_cli.training.loggers import LOGGERS

    kinds: dict[str, Registry[Any]] = {
        "decoders": DECODERS, "data sets": LAYOUTS, "manifest columns": COLUMNS, "losses": LOSSES,
        "models": MODELS, "indicators": INDICATORS, "plan actions": ACTIONS, "metrics": METRICS,
        "exporters": EXPORTERS, "loggers": LOGGERS,
    }  # fmt: skip
    yield Finding("encoders", ", ".join(usage(name) for name in ENCODERS))
    yield Finding("rules", ", ".join(RULES))
    for kind, registry in kinds.items():
        yield Finding(kind, ", ".join(registry))
    for registry in (ENCODERS, *kinds.values()):
        for name, why in registry.broken.items():
            yield Finding(f"{registry.kind} {name}", "broken", f"{why}; update or remove that package")
