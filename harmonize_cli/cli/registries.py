"""Every registry, once: `harmonize doctor` and the completion of the command line come from here."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from harmonize_cli.registry import usage

REGISTRIES = {
    "data sets": "harmonize_cli.datasets.layouts:LAYOUTS",
    "manifest columns": "harmonize_cli.store.columns:COLUMNS",
    "encoders": "harmonize_cli.encoders.base:ENCODERS",
    "decoders": "harmonize_cli.media.decoders:DECODERS",
    "models": "harmonize_cli.models.base:MODELS",
    "losses": "harmonize_cli.objectives.base:LOSSES",
    "rules": "harmonize_cli.harmony._rule:RULES",
    "loggers": "harmonize_cli.training.loggers:LOGGERS",
    "indicators": "harmonize_cli.curriculum.indicators:INDICATORS",
    "misalignments": "harmonize_cli.curriculum.inject:MISALIGNMENTS",
    "actions": "harmonize_cli.curriculum.plan:ACTIONS",
    "methods": "harmonize_cli.curriculum.methods:METHODS",
    "metrics": "harmonize_cli.evaluation.metrics:METRICS",
    "exporters": "harmonize_cli.cli.exporters:EXPORTERS",
}
"""What the entries are called -> where their registry is. It is imported when it is asked for."""
LISTED = "`harmonize doctor` and TAB list all"


def registry(kinds: str) -> Any:
    """The `Registry` of these, such as "encoders"."""
    module, _, name = REGISTRIES[kinds].partition(":")
    return getattr(import_module(module), name)


def completion(kinds: str, *more: str) -> Callable[[], list[tuple[str, str]]]:
    """Completion from a registry, which is imported when somebody presses TAB."""
    return lambda: [
        *((usage(name, entry), getattr(entry, "about", "")) for name, entry in registry(kinds).items()),
        *((name, "") for name in more),
    ]
