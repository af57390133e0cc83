"""Collecting what is wrong with an input, so that a user mends all of it in one go."""

from harmonize_cli.datasets.fields import escaped_name
from harmonize_cli.errors import BadInput

_KEPT = 200
_SHOWN = 30


class Faults:
    """Faults of one file: all counted, the first ones kept, raised together.

    Constant memory: a million bad rows cost no more than a few hundred.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.count = 0
        self.first: list[str] = []

    def add(self, where: str, field: str, what: str) -> None:
        """Note one fault: `where` is `file:line`, `field` the column or "" for the whole row."""
        self.count += 1
        if len(self.first) < _KEPT:
            # a line each, that can be printed and kept: file names may hold anything
            self.first.append(escaped_name(f"{where}: {field}: {what}" if field else f"{where}: {what}"))

    def raise_if_any(self) -> None:
        """Raise one `BadInput` with every fault (the first ones in full) if there are any."""
        if not self.count:
            return
        lines = [f"{self.subject}: {self.count} fault(s)", *(f"  {fault}" for fault in self.first[:_SHOWN])]
        if self.count > _SHOWN:
            lines.append(f"  ... and {self.count - _SHOWN} more")
        raise BadInput("\n".join(lines))
