"""Writing a store as a whole: one file, or a folder of shards that appears complete or not at all."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harmonize_cli.errors import BadInput
from harmonize_cli.files import naming, sync_file, sync_folder
from harmonize_cli.locks import writing
from harmonize_cli.store.schema import FeatureSpec, Sample
from harmonize_cli.store.writer import ShardWriter


class StoreWriter:
    """Takes samples; starts a new shard after every `shard_samples` of them."""

    def __init__(
        self,
        out: Path,
        features: Sequence[FeatureSpec],
        *,
        attrs: Mapping[str, Any],
        vocab: Sequence[str] | None,
        shard_samples: int | None,
        compression: str | None = None,
    ) -> None:
        self._out, self._limit = out, shard_samples
        self._features, self._attrs = features, attrs
        self._vocab, self._compression = vocab, compression
        self._shard: ShardWriter | None = None
        self._shards = 0
        self.samples = 0

    def add(self, sample: Sample) -> None:
        """Append one sample."""
        if self._shard is not None and self._limit is not None and len(self._shard) >= self._limit:
            self.finish()
        if self._shard is None:
            self._start()
        assert self._shard is not None
        try:
            self._shard.add(sample)
        except ValueError as e:  # the samples come from stores: one that is refused here is damaged there
            raise BadInput(f"{self._out}: {e}; check its store with `harmonize store verify`") from e
        self.samples += 1

    def finish(self, error: BaseException | None = None) -> None:
        """Close the shard at hand; after an error it is dropped."""
        shard, self._shard = self._shard, None
        if shard is not None:
            shard.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
        elif not self._shards and error is None:  # a store of no samples is still a store
            self._start()
            self.finish()

    def _start(self) -> None:
        path = self._out if self._limit is None else self._out / f"part-{self._shards:05d}.h5"
        shard = ShardWriter(
            path, self._features, attrs=self._attrs, vocab=self._vocab, compression=self._compression
        )
        self._shard = shard.__enter__()
        self._shards += 1


@contextmanager
def new_store(
    out: Path,
    features: Sequence[FeatureSpec],
    *,
    attrs: Mapping[str, Any] | None = None,
    vocab: Sequence[str] | None = None,
    shard_samples: int = 1024,
    compression: str | None = None,
) -> Iterator[StoreWriter]:
    """Write the store `out`: one shard if it is called `*.h5`, else a folder of shards.

    Raises:
        BadInput: `out` exists.
    """
    single = out.suffix == ".h5"
    with new_folder(out) if not single else _itself(out) as target:
        writer = StoreWriter(
            target,
            features,
            attrs=attrs or {},
            vocab=vocab,
            shard_samples=None if single else shard_samples,
            compression=compression,
        )
        try:
            yield writer
        except BaseException as e:
            writer.finish(e)
            raise
        writer.finish()


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, renamed to `out` at the end; after an error nothing is left.

    Raises:
        BadInput: `out` exists.
    """
    with writing(out):
        if out.exists():
            raise BadInput(f"{out}: exists already, and is never overwritten; name another")
        tmp = out.with_name(f"{out.name}.{os.getpid()}.tmp")
        try:
            with naming(out):
                tmp.mkdir(parents=True)
                yield tmp
                for path in tmp.iterdir():
                    sync_file(path)
                sync_folder(tmp)
                tmp.rename(out)
            sync_folder(out.parent)
        except BaseException:
            with suppress(OSError):
                shutil.rmtree(tmp)
            raise


@contextmanager
def _itself(out: Path) -> Iterator[Path]:
    with writing(out):
        yield out
