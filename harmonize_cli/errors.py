"""What a user sees when something is wrong: one message, no traceback.

Exit codes of every command: 0 done, 1 failed, 2 bad usage or bad input, 3 finished with more failures than
`--max-failed` allows.
"""

from collections.abc import Sequence


class HarmonizeError(Exception):
    """A failure with a message for people. `exit_code` becomes the command's."""

    exit_code = 1


class BadInput(HarmonizeError):
    """Bad usage or bad input: names the file, the line or field, what was expected and what to do."""

    exit_code = 2


class TooManyFailed(HarmonizeError):
    """The work is done, but more samples failed than the user allowed."""

    exit_code = 3


def list_faults(head: str, faults: Sequence[str], *, most: int = 20) -> str:
    """One message for many faults, so that a user mends all of them in one go."""
    shown = [f"  {fault}" for fault in faults[:most]]
    if len(faults) > most:
        shown.append(f"  ... and {len(faults) - most} more")
    return "\n".join([head, *shown])


def missing_extra(package: str, extra: str, purpose: str) -> BadInput:
    """The error for an optional dependency that is not installed."""
    return BadInput(f"{purpose} needs the package {package}: pip install 'harmonize-cli[{extra}]'")
