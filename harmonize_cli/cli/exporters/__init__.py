"""`harmonize export NAME ...`: one file each, a function whose signature is the command's.

It imports what is heavy inside, so that `--help` is fast; a file put here, or an entry point of the group
`harmonize.exporters`, is a command at once.
"""

from collections.abc import Callable
from typing import Any

from harmonize_cli.registry import Registry

EXPORTERS: Registry[Callable[..., Any]] = Registry(
    "exporter", group="harmonize.exporters", package="harmonize_cli.cli.exporters"
)
