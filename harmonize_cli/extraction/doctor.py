"""What is registered for an extraction, of ours and of installed packages, for `harmonize doctor`."""

from collections.abc import Iterator

from harmonize_cli.datasets.layouts import LAYOUTS
from harmonize_cli.encoders.base import ENCODERS, usage
from harmonize_cli.media.decoders import DECODERS
from harmonize_cli.media.doctor import Finding
from harmonize_cli.store.columns import COLUMNS


def registered() -> Iterator[Finding]:
    """One line for each kind, and one for each entry point that could not be loaded."""
    yield Finding("encoders", ", ".join(usage(name) for name in ENCODERS))
    yield Finding("decoders", ", ".join(DECODERS))
    yield Finding("data sets", ", ".join(LAYOUTS))
    yield Finding("manifest columns", ", ".join(COLUMNS))
    for registry in (ENCODERS, DECODERS, LAYOUTS, COLUMNS):
        for name, why in registry.broken.items():
            yield Finding(f"{registry.kind} {name}", "broken", f"{why}; update or remove that package")
