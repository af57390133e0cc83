"""`harmonize extract`: plan the units, leave out what is there, run the rest, count."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.encoders.registry import vocabulary
from harmonize_cli.errors import BadInput
from harmonize_cli.extraction.config import ExtractConfig, Mode
from harmonize_cli.extraction.counts import Counts, ExtractReport
from harmonize_cli.extraction.free_space import named_when_full
from harmonize_cli.extraction.modes import extension, failed_ids, narrowed, retries
from harmonize_cli.extraction.output import Output
from harmonize_cli.extraction.plan import plan_units
from harmonize_cli.extraction.tasks import ShardTask, write_shard
from harmonize_cli.extraction.unit import Job, UnitRunner
from harmonize_cli.locks import locked
from harmonize_cli.processes import in_processes
from harmonize_cli.progress import progress

GO_ON = "run the same command again to go on from the shards that are complete, perhaps with fewer --workers"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run, as opposed to what to make: none of it changes the content of the store."""

    workers: int = 1
    mode: Mode = "incremental"
    share: tuple[int, int] = (0, 1)
    root: Path | None = None
    attrs: dict[str, Any] | None = None
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None


def extract(
    rows: Sequence[ManifestRow], out: Path, config: ExtractConfig, options: RunOptions | None = None
) -> ExtractReport:
    """Extract `rows` to the store `out`: a folder of shards, or one file if it ends in `.h5`.

    Complete shards that are there are kept and their samples skipped. Failing videos never stop the run.
    Mode retry-failed makes samples with a failed modality once more; extend adds features of encoders that
    the store lacks; overwrite starts anew.

    Raises:
        BadInput: `out` was made with other encoders or settings, or is no store; a mode for one job alone;
            another process extracts to `out`.
        HarmonizeError: the disk is full; it names the samples that are missing. What is complete stays, and
            the same command goes on from there.
    """
    options = options or RunOptions()
    if options.share[1] > 1 and options.mode in ("overwrite", "extend"):
        raise BadInput(
            f"--mode {options.mode}: is for one job alone (--workers), jobs of --shard would collide"
        )
    with locked(out, None if options.share == (0, 1) else options.share):
        return _extract(rows, out, config, options)


def _extract(
    rows: Sequence[ManifestRow], out: Path, config: ExtractConfig, options: RunOptions
) -> ExtractReport:
    started = time.monotonic()
    output = Output(out, options.mode)
    if options.mode == "extend":
        config, base = narrowed(config, output)
    train = [row for row in rows if row.split == "train"] or rows
    words = vocabulary(config.encoders, config, output.vocab, (t for row in train for t in row.texts))
    job = Job(config, words, options.root, options.attrs or {}, _threads(config, options.workers))
    cluster = None
    if options.engine == "ray":
        from harmonize_cli.extraction.ray_engine import RayCluster

        cluster = RayCluster(options.ray_address)
        cluster.start_encoders(job)
    runner = cluster.runner() if cluster else UnitRunner(job)
    mine = [
        u for u in plan_units(rows, config.shard_samples) if u.index % options.share[1] == options.share[0]
    ]
    if options.mode == "extend":
        tasks = extension(base, rows, runner.features, output)
    else:
        output.start()
        output.check(runner.features)
        tasks = retries(output, rows, options.share) if options.mode == "retry-failed" else []
        done = output.done_ids()
        tasks += [ShardTask(left, output.part(u.index)) for u in mine if (left := u.without(done))]
    expected = sum(len(unit.ids) for unit in mine)
    renewed = {sample for task in tasks for sample in task.unit.ids}
    todo = len(renewed)
    before = {sample for store in output.stores() for sample in failed_ids(store)}
    mine_ids = {sample for unit in mine for sample in unit.ids}
    failed_before = len((before & mine_ids) - renewed)
    counts = Counts()
    bar: tqdm[Any] = progress(desc="extract", total=expected, unit="clip", initial=max(0, expected - todo))
    with bar, named_when_full(tasks):
        if cluster is None and (options.workers <= 1 or len(tasks) <= 1):
            for task in tasks:
                counts.merge(write_shard(runner, task, bar.update))
        else:
            workers = options.workers
            write = partial(_write_in_worker, job)
            done_tasks = (
                cluster.run(tasks, workers) if cluster else in_processes(write, tasks, workers, killed=GO_ON)
            )
            for found in done_tasks:
                counts.merge(found)
                bar.update(found.samples)
                bar.set_postfix(failed=counts.failed)
    if options.mode == "extend":
        output.swap()
    if options.share[1] == 1:
        output.finish(None if config.compression == "none" else config.compression)
    return ExtractReport(
        out, counts, max(0, expected - todo), time.monotonic() - started, expected, failed_before
    )


def _threads(config: ExtractConfig, workers: int) -> int:
    if config.threads or workers <= 1:
        return config.threads
    return max(1, len(os.sched_getaffinity(0)) // workers)


_runner: UnitRunner | None = None


def _write_in_worker(job: Job, task: ShardTask) -> Counts:
    global _runner  # noqa: PLW0603  # a worker process loads its models once
    if _runner is None:
        _runner = UnitRunner(job)
    return write_shard(_runner, task)
