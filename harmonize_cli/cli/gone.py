"""Commands and options of earlier versions, each with what to write instead."""

from typing import Any

_SET = "use --set {}=VALUE (harmonize config explain {})"
GONE = {
    "config validate": "harmonize config show STAGE -c FILE checks a file, too",
    "store ls": "harmonize store info STORE lists the shards",
    "store export": "use harmonize export webdataset STORE, or harmonize export parquet STORE",
    "eval export": "use harmonize export mteb RUN STORE",
    "export embeddings --batch": "use --batch-size",
    "pretrain --keep": _SET.format("checkpoint.keep", "pretrain"),
    "pretrain --max-bad-steps": _SET.format("max_bad_steps", "pretrain"),
    "curriculum score --batch": "use --batch-size",
    "curriculum audit --batch": "use --batch-size",
    "curriculum score --jobs": "use --workers",
    "curriculum compare --jobs": "use --workers",
    "curriculum plan --warmup": "use --set phases.0.until=SHARE",
    "curriculum plan --weight": "use --set phases.1.weight=VALUE",
    "curriculum plan --softness": "use --set phases.1.softness=VALUE",
    "curriculum plan --floor": "use --set floor.share=SHARE",
    "curriculum plan --gate": "use --set phases.1.gate.start=SHARE --set phases.1.gate.end=SHARE",
    "curriculum plan --gate-by": "use --set phases.1.gate.by=NAME",
    "demo run --fresh": "use --overwrite",
    "demo run --jobs": "use --workers",
    "demo make-data --jobs": "use --workers",
    **{
        f"demo make-data --{name.replace('_', '-')}": _SET.format(name, "demo-data")
        for name in ("digits", "clips", "seed", "misaligned", "misaligned_from", "misaligned_sound")
    },
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
