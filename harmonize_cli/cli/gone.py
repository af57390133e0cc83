"""Commands and options of earlier versions, each with what to write instead."""

from typing import Any

GONE = {
    "bench": "benchmarks are run from the repository: make bench, or make bench-train",
}


def new_way(error: Any) -> str | None:
    """What to write instead, if a click UsageError is about something of `GONE`."""
    path: list[str] = []
    ctx = error.ctx
    while ctx is not None and ctx.parent is not None:
        path.insert(0, ctx.info_name)
        ctx = ctx.parent
    missing = getattr(error, "option_name", None)
    if missing is None and error.message.startswith("No such command"):
        missing = error.message.split("'")[1]
    name = " ".join((*path, missing or ""))
    return f"harmonize {name} is gone; {GONE[name]}" if name in GONE else None
