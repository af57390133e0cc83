"""`harmonize curriculum score`: every sample of a store through every indicator.

Samples are dealt to batches at random (a function of the seed), because the samples of a batch are each
other's negatives: in the store's order neighbouring segments of one video would be. Parts of some batches are
scored by several processes; a part that exists is not scored again.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from harmonize_cli.curriculum.score_parts import (
    PartsTask,
    ScoreSettings,
    batch_size,
    part_name,
    score_parts,
)
from harmonize_cli.curriculum.scorer import losses_of, pick_indicators
from harmonize_cli.curriculum.scores import ABOUT, part_key, read_about, write_about
from harmonize_cli.data.windows import check_inputs
from harmonize_cli.errors import BadInput
from harmonize_cli.files import sha256_json
from harmonize_cli.locks import one_writer
from harmonize_cli.models.checkpoint import load_model
from harmonize_cli.progress import progress
from harmonize_cli.store.reader import Store


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """samples scored in all; `scored` of them now, in `seconds`."""

    samples: int
    scored: int
    seconds: float
    columns: list[str]


@one_writer("out")
def score(run: Path, store_path: Path, out: Path, settings: ScoreSettings, *, jobs: int = 1) -> ScoreReport:
    """Score a store into the folder `out`.

    Raises:
        BadInput: no run, no store, inputs that do not fit, or `out` holds other scores or is being written.
    """
    started = time.perf_counter()
    loaded = load_model(run, settings.checkpoint)
    store = Store.open(store_path)
    specs = check_inputs(store, loaded.specs)
    indicators = pick_indicators(settings.indicators, losses_of(loaded, specs))
    rows = store.select(settings.split)
    batch = batch_size(loaded, settings.batch, len(rows))
    settings = replace(settings, batch=batch, part=-(-settings.part // batch) * batch)
    names = [indicator.name for indicator in indicators]
    key = sha256_json([loaded.weights_hash, store.content_hash, names, settings.split, batch, settings.seed])
    parts = -(-len(rows) // settings.part)
    added = _claim(out, key, parts)
    missing = [k for k in range(parts) if not (out / part_name(k)).exists()]
    sizes = [min(settings.part, len(rows) - k * settings.part) for k in range(parts)]
    there = sum(sizes) - sum(sizes[k] for k in missing)
    task = PartsTask(run, store_path, out, settings, key)
    bar: tqdm[object] = progress(desc="score", total=len(rows), initial=there, unit="clip")
    with bar:
        for count in score_parts(task, missing, jobs):
            bar.update(count)
    write_about(
        out,
        {
            "key": key,
            "run": str(run),
            "checkpoint": loaded.checkpoint.name,
            "step": loaded.step,
            "weights_hash": loaded.weights_hash,
            "store": str(store_path),
            "store_hash": store.content_hash,
            "split": settings.split,
            "batch": batch,
            "seed": settings.seed,
            "samples": len(rows),
            "parts": [part_name(k) for k in range(parts)],
            "columns": {i.name: {"noisy": i.noisy, "about": i.about} for i in indicators},
            **({"added": added} if added else {}),
        },
    )
    return ScoreReport(len(rows), len(rows) - there, time.perf_counter() - started, names)


def _claim(out: Path, key: str, parts: int) -> dict[str, Any]:
    """Make `out` ours; returns what was added to the same scores before."""
    if (out / ABOUT).exists():
        about = read_about(out)
        if about["key"] != key:
            raise BadInput(f"{out}: holds scores of another run, store or settings; choose another folder")
        return dict(about.get("added", {}))
    known = {part_name(k) for k in range(parts)}
    for part in sorted(out.glob("part-*.npz")):
        if part.name not in known or part_key(part) != key:
            raise BadInput(
                f"{part}: belongs to scores of another run, store or settings; choose another folder"
            )
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out}: is a file; scores need a folder")
    out.mkdir(parents=True, exist_ok=True)
    return {}
