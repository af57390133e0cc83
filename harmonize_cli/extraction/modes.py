"""Modes that build on what is there: trying failed samples again, and adding features."""

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.encoders.base import ENCODERS
from harmonize_cli.errors import BadInput, list_errors
from harmonize_cli.extraction.config import ExtractConfig
from harmonize_cli.extraction.output import Output
from harmonize_cli.extraction.plan import Unit, plan_units
from harmonize_cli.extraction.tasks import ShardTask
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec, Status


def failed_ids(store: Store) -> set[str]:
    """Samples of which some modality failed."""
    failed = [store.status(modality) == Status.FAILED for modality in store.modalities]
    return {sample for i, sample in enumerate(store.ids) if any(column[i] for column in failed)}


def retries(output: Output, rows: Sequence[ManifestRow], share: tuple[int, int] = (0, 1)) -> list[ShardTask]:
    """One task for every shard with failed samples that the manifest names, of this job's share of them."""
    number, jobs = share
    tasks = []
    for path in output.shards():
        # by name: other jobs add shards meanwhile
        if crc32(path.name.encode()) % jobs != number:
            continue
        failed = failed_ids(Store.open(path))
        units = plan_units([row for row in rows if row.id in failed], len(rows) + 1)
        tasks += [ShardTask(unit, path, base=path) for unit in units]
    return tasks


def narrowed(config: ExtractConfig, output: Output) -> tuple[ExtractConfig, Store]:
    """The config with those encoders only that the store lacks, and the store.

    Raises:
        BadInput: there is no store, or nothing to add.
    """
    stores = output.stores()
    if len(stores) != 1:
        raise BadInput(f"{output.out}: nothing complete is there to extend; extract it first")
    have = stores[0].features
    lacking = tuple(name for name in config.encoders if ENCODERS.split(name)[0].keys[0] not in have)
    if not lacking:
        raise BadInput(
            f"{output.out}: has the features of {', '.join(config.encoders)} already; nothing to extend"
        )
    return config.model_copy(update={"encoders": lacking}), stores[0]


def extension(
    store: Store, rows: Sequence[ManifestRow], features: Sequence[FeatureSpec], output: Output
) -> list[ShardTask]:
    """One task for every shard of `store`.

    Raises:
        BadInput: the manifest lacks samples of the store, or has them with other times or texts.
    """
    by_id = {row.id: row for row in rows}
    errors = []
    for i, sample in enumerate(store.ids):
        row = by_id.get(sample)
        if row is None:
            errors.append(f"{sample}: is not in the manifest")
        elif store.span(i) != (row.start, row.end):
            errors.append(
                f"{sample}: is {store.span(i)} in the store, {(row.start, row.end)} in the manifest"
            )
        elif store.texts(i) != row.texts:
            errors.append(f"{sample}: has other texts in the store than in the manifest")
    if errors:
        raise BadInput(
            list_errors(f"{store.path}: extend needs the manifest that the store was made from", errors)
        )
    tasks = []
    first = 0
    for path, size in zip(store.shards, store.shard_sizes, strict=True):
        ids = store.ids[first : first + size]
        first += size
        unit = _one_unit([by_id[sample] for sample in ids])
        if output.is_file:
            tasks.append(ShardTask(unit, path, base=path, extend=True))
            continue
        output.growing.mkdir(exist_ok=True)
        target = output.growing / path.name
        if not _is_done(target, path, features):
            tasks.append(ShardTask(unit, target, base=path, extend=True))
    return tasks


def _one_unit(rows: Sequence[ManifestRow]) -> Unit:
    (unit,) = plan_units(rows, len(rows) + 1)
    return unit


def _is_done(path: Path, base: Path, features: Sequence[FeatureSpec]) -> bool:
    """Whether an interrupted extension left this shard complete; one made with other settings goes, and one
    made of a shard that has changed since."""
    if not path.exists():
        return False
    have = Store.open(path).features
    newer = path.stat().st_mtime_ns >= base.stat().st_mtime_ns
    if newer and all(have.get(spec.key) == spec for spec in features):
        return True
    path.unlink()
    return False
