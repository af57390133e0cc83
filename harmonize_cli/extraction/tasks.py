"""What is to be written: a new shard, or one that replaces an older one and keeps most of it."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harmonize_cli.errors import BadInput, HarmonizeError
from harmonize_cli.extraction.counts import Counts
from harmonize_cli.extraction.plan import Unit
from harmonize_cli.extraction.unit import UnitRunner
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec, Sample, Status
from harmonize_cli.store.writer import ShardWriter


@dataclass(frozen=True, slots=True)
class ShardTask:
    """The samples of `unit` go to the shard `path`.

    With a `base` shard the new one takes its place: its other samples are kept, or, to `extend` it, every
    sample keeps its features and gets those of this run as well.
    """

    unit: Unit
    path: Path
    base: Path | None = None
    extend: bool = False


def write_shard(runner: UnitRunner, task: ShardTask, each: Callable[[], object] = lambda: None) -> Counts:
    """Do a task; `each` is called after every new sample.

    Raises:
        BadInput: a sample can't be extended.
        HarmonizeError: the shard is there by now.
        OSError: the disk is full.
    """
    if task.base is None and task.path.exists():
        raise HarmonizeError(
            f"{task.path}: another extraction wrote this shard meanwhile; run the same command again: it "
            "keeps the complete shards and does the rest"
        )
    counts = Counts()
    base = Store.open(task.base) if task.base is not None else None
    features = list(runner.features)
    attrs = dict(runner.job.attrs)
    vocab = runner.vocab_words
    if base is not None and task.extend:
        features = [*base.features.values(), *features]
        attrs["extended"] = base.attrs
        vocab = base.vocab or vocab
    compression = runner.job.config.compression
    with (
        ShardWriter(
            task.path,
            features,
            attrs=attrs,
            vocab=vocab,
            compression=None if compression == "none" else compression,
            overwrite=base is not None,
        ) as shard,
        closing(runner.samples(task.unit.groups)) as samples,
    ):
        if base is not None and not task.extend:
            renewed = set(task.unit.ids)
            for i, sample_id in enumerate(base.ids):
                if sample_id not in renewed:
                    shard.add(base.sample(i))
        for made in samples:
            sample = made
            if base is not None:
                sample = _join(base, made, runner.features) if task.extend else _again(base, made)
            shard.add(sample)
            counts.add(sample)
            each()
    if base is not None:
        base.close()
    return counts


def _again(base: Store, sample: Sample) -> Sample:
    """Count how often a sample was tried."""
    if sample.id in base:
        tries = base.facts(base.index(sample.id)).get("attempts", 1)
        sample.facts["attempts"] = tries + 1
    return sample


def _join(base: Store, new: Sample, features: list[FeatureSpec]) -> Sample:
    """The old sample with the new one's features."""
    old = base.sample(base.index(new.id))
    for modality, status in new.status.items():
        before = old.status.get(modality)
        usable = (Status.OK, Status.SILENT)
        if before is not None and (before in usable) != (status in usable):
            change = f"its {modality} was {before.name.lower()} and is {status.name.lower()} now"
            raise BadInput(
                f"{base.path}: {new.id}: {change} "
                f"({new.reason.get(modality) or 'no reason'}); extend needs the files as they were"
            )
    hashes = {sample.facts["content_hash"] for sample in (old, new) if sample.facts.get("content_hash")}
    # stores of before have the hash of the whole file even where it is large
    if len(hashes) > 1 and len({found.startswith("part-") for found in hashes}) == 1:
        raise BadInput(f"{base.path}: {new.id}: its file has changed; extend needs the files as they were")
    facts: dict[str, Any] = {**new.facts, **old.facts}
    keys = {spec.key for spec in features}
    return replace(
        old,
        features={**old.features, **{k: v for k, v in new.features.items() if k in keys}},
        times={**old.times, **{k: v for k, v in new.times.items() if k in keys}},
        status={**new.status, **old.status},
        reason={**new.reason, **old.reason},
        facts=facts,
    )
