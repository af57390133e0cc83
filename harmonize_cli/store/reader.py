"""A store: one shard or a folder of them, read as one list of samples."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput
from harmonize_cli.progress import progress
from harmonize_cli.store.compatibility import check_compatible, shard_paths
from harmonize_cli.store.description import description
from harmonize_cli.store.digest import sample_digest, store_digest
from harmonize_cli.store.jpeg import decode_rows, jpeg_files
from harmonize_cli.store.layout import ShardIndex, index_shard
from harmonize_cli.store.rows import FeatureRows
from harmonize_cli.store.schema import FeatureSpec, Rows, Sample, Status, modalities_of
from harmonize_cli.store.shard import CHANGED, NO_CHECKSUM, Shard
from harmonize_cli.store.texts import TextColumn

_MANY = 200  # shards that take more than two seconds to look at


class Store:
    """Reads a store. Cheap to pickle, safe to fork, to share between threads, and on a read-only file system.

    Samples are numbered 0..N-1 in the order of the shards' names. Offsets and other small columns are kept
    in memory once used; rows are read from disk by the sample.

    With `verifies` a feature of a sample is compared with its digest the first time that it is read by a
    process, so that rows that a disk or a copy has damaged are an error and never data.
    """

    def __init__(self, path: Path, shards: list[ShardIndex], *, verifies: bool = False) -> None:
        self.path = path
        self.verifies = verifies
        self._shards = [Shard(index) for index in shards]
        self._starts = [0, *accumulate(index.samples for index in shards)]
        self.features: dict[str, FeatureSpec] = shards[0].features
        self.attrs: dict[str, Any] = shards[0].attrs
        """Provenance as the writer gave it (of the first shard)."""

    @classmethod
    def open(cls, path: Path | str, *, verifies: bool = False) -> "Store":
        """Open a `.h5` file or a folder of `part-00000.h5`, ...; `verifies` as in the class.

        Raises:
            BadInput: no store, another schema version, damaged, shards of different encoders, an id twice.
        """
        path = Path(path)
        parts = shard_paths(path)
        many = len(parts) > _MANY
        shards = [index_shard(part) for part in (progress(parts, desc="open store") if many else parts)]
        check_compatible(shards)
        store = cls(path, shards, verifies=verifies)
        store._check_ids()
        return store

    def __len__(self) -> int:
        return self._starts[-1]

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self)} samples, {len(self._shards)} shards)"

    def __getstate__(self) -> dict[str, Any]:
        kept = ("path", "verifies", "_shards", "_starts", "features", "attrs")
        return {name: self.__dict__[name] for name in kept}

    @property
    def shards(self) -> list[Path]:
        """The files that the store consists of."""
        return [shard.index.path for shard in self._shards]

    @property
    def shard_sizes(self) -> list[int]:
        """Samples of each shard."""
        return [shard.index.samples for shard in self._shards]

    @cached_property
    def modalities(self) -> list[str]:
        """Modalities that the features belong to, sorted."""
        return modalities_of(list(self.features.values()))

    @cached_property
    def ids(self) -> Sequence[str]:
        """Id of every sample."""
        return self._texts("samples/id")

    @cached_property
    def splits(self) -> Sequence[str]:
        """Split of every sample, "" if unknown."""
        return self._texts("samples/split")

    @cached_property
    def groups(self) -> Sequence[str]:
        """Group of every sample: those of one source, such as a video, have the same."""
        return self._texts("samples/group")

    @cached_property
    def folds(self) -> list[int | None]:
        """Fold of every sample, None if it has none."""
        return [None if fold < 0 else fold for fold in self._numbers("samples/fold").tolist()]

    @cached_property
    def labels(self) -> list[tuple[str, ...]]:
        """Labels of every sample."""
        known: dict[str, tuple[str, ...]] = {"[]": ()}
        found = []
        for shard in self._shards:
            for text in shard.all_texts("samples/labels"):
                labels = known.get(text)
                if labels is None:
                    labels = known[text] = tuple(shard.json("samples/labels", text, list))
                found.append(labels)
        return found

    @cached_property
    def vocab(self) -> list[str] | None:
        """Words that token ids stand for; None if the store has none."""
        shard = self._shards[0]
        if "vocab/bytes" not in shard.index.extents:
            return None
        for name in ("vocab/bytes", "vocab/offsets"):  # no sample's digest covers them
            if not shard.has_checksum(name):
                raise shard.damaged(name, NO_CHECKSUM)
        return list(shard.all_texts("vocab"))

    @cached_property
    def content_hash(self) -> str:
        """Hash of all samples, whatever their order and division into shards; from stored digests, cheap."""
        return store_digest(list(self.features.values()), self.vocab, self.digests())

    def index(self, sample: str) -> int:
        """Number of a sample by its id.

        Raises:
            BadInput: there is none.
        """
        try:
            return self._index[sample]
        except KeyError:
            raise BadInput(f"{self.path}: no sample {sample!r}") from None

    def __contains__(self, sample: object) -> bool:
        return sample in self._index

    def select(self, split: str | None = None) -> NDArray[np.int64]:
        """Numbers of the samples of a split (all for None), ascending.

        Raises:
            BadInput: the store has no such split.
        """
        if split is None:
            return np.arange(len(self))
        found = np.flatnonzero(np.fromiter((name == split for name in self.splits), bool, len(self)))
        if not len(found):
            known = ", ".join(sorted(set(self.splits))) or "none"
            raise BadInput(f"{self.path}: no sample of split {split!r}; splits here: {known}")
        return found

    def texts(self, i: int) -> tuple[str, ...]:
        """Text candidates of sample `i`."""
        return tuple(self._json("samples/texts", i, list))

    def sources(self, i: int) -> str:
        """Path of the video of sample `i` as the manifest had it."""
        shard, j = self._locate(i)
        return shard.text("samples/source", j)

    def facts(self, i: int) -> dict[str, Any]:
        """What else is known of sample `i`."""
        facts: dict[str, Any] = self._json("samples/facts", i, dict)
        return facts

    def span(self, i: int) -> tuple[float, float | None]:
        """Start and end of sample `i` in its source, seconds; an end of None is the end of the file."""
        start, end = float(self._spans[0][i]), float(self._spans[1][i])
        return start, None if np.isnan(end) else end

    def status(self, modality: str) -> NDArray[np.uint8]:
        """`Status` of every sample [N]."""
        if modality not in self.modalities:
            known = ", ".join(self.modalities)
            raise BadInput(f"{self.path}: no modality {modality!r} in this store; it has {known}")
        found = self._status.get(modality)
        if found is None:
            found = self._numbers(f"status/{modality}/status")
            if (found > max(Status)).any():
                raise self._shards[0].damaged(f"status/{modality}/status", "an unknown status")
            self._status[modality] = found
        return found

    def reason(self, modality: str, i: int) -> str:
        """Why the status of sample `i` is what it is; "" if nobody said."""
        self.status(modality)
        shard, j = self._locate(i)
        return shard.text(f"status/{modality}/reason", j)

    def digests(self) -> NDArray[np.uint8]:
        """Digest of every sample [N, 16], made when it was written."""
        return self._numbers("samples/digest")

    def digest(self, i: int) -> str:
        """Hex digest of all that sample `i` holds."""
        shard, j = self._locate(i)
        return shard.rows("samples/digest", j, j + 1).tobytes().hex()

    def feature_digest(self, key: str, i: int) -> str:
        """Hex digest of one feature of sample `i`: its rows and times."""
        self._spec(key)
        shard, j = self._locate(i)
        return shard.rows(f"features/{key}/digest", j, j + 1).tobytes().hex()

    def shard_at(self, i: int) -> Shard:
        """The shard that holds sample `i`."""
        return self._locate(i)[0]

    def length(self, key: str) -> NDArray[np.int64]:
        """Rows of every sample [N]."""
        self._spec(key)
        found = self._lengths.get(key)
        if found is None:
            parts = [np.diff(shard.offsets(f"features/{key}/offsets")) for shard in self._shards]
            found = self._lengths[key] = np.concatenate(parts)
        return found

    def read(self, key: str, i: int) -> NDArray[Any]:
        """All rows [T, *row_shape] of sample `i`; JPEG rows are decoded."""
        rows, j = self._rows_of(key, i)
        first, last = rows.span(j)
        if self.features[key].kind == "jpeg":
            return decode_rows(self.shard_at(i), self.features[key], first, last)
        return rows.read(first, last)

    def read_rows(self, key: str, i: int, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop) of sample `i`.

        Raises:
            IndexError: the sample has fewer.
        """
        rows, j = self._rows_of(key, i)
        first, last = rows.span(j)
        if not 0 <= start <= stop <= last - first:
            raise IndexError(f"rows {start} to {stop} of {key}, which has {last - first} in this sample")
        if self.features[key].kind == "jpeg":
            return decode_rows(self.shard_at(i), self.features[key], first + start, first + stop)
        return rows.read(first + start, first + stop)

    def read_jpeg(self, key: str, i: int) -> list[bytes]:
        """The rows of sample `i` of a "jpeg" feature as they lie in the store."""
        rows, j = self._rows_of(key, i)
        return jpeg_files(self.shard_at(i), key, *rows.span(j))

    def times(self, key: str, i: int) -> NDArray[np.float64]:
        """Time of every row [T] of sample `i`, in seconds of its source; NaN for rows without a time."""
        spec = self._spec(key)
        rows, j = self._rows_of(key, i)
        first, last = rows.span(j)
        if not spec.regular or spec.rate is None:
            return self.shard_at(i).rows(f"features/{key}/times", first, last)
        return self.start_time(key, i) + np.arange(last - first) / spec.rate

    def start_time(self, key: str, i: int) -> float:
        """Time of the first row of sample `i` of a regular feature, in seconds of its source."""
        self._spec(key)
        shard, j = self._locate(i)
        return float(shard.rows(f"features/{key}/start_times", j, j + 1)[0])

    def check(self, i: int, keys: Sequence[str] | None = None) -> None:
        """Compare sample `i`, its description and the features `keys` (None: all), with the digests made when
        it was written.

        Raises:
            BadInput: something differs; it names the shard, the feature and the sample.
        """
        shard, j = self._locate(i)
        for key in self.features if keys is None else keys:
            shard.check_feature(key, j)
        digests = {key: shard.rows(f"features/{key}/digest", j, j + 1).tobytes() for key in self.features}
        if sample_digest(description(self, i), digests) != shard.rows("samples/digest", j, j + 1).tobytes():
            sample = shard.text("samples/id", j)
            raise shard.damaged(
                "samples", f"sample {sample!r}: what is known of it beside its rows {CHANGED}"
            )

    def sample(self, i: int) -> Sample:
        """Sample `i` whole, as a writer takes it, checked: a copy must not make damaged rows look good.

        Raises:
            BadInput: it is not as it was written.
        """
        self.check(i)
        shard, j = self._locate(i)
        rows: dict[str, Rows] = {}
        times: dict[str, NDArray[np.float64] | float] = {}
        for key, spec in self.features.items():
            if not self.length(key)[i]:
                continue
            rows[key] = self.read_jpeg(key, i) if spec.kind == "jpeg" else self.read(key, i)
            if spec.regular:
                times[key] = self.start_time(key, i)
            else:
                times[key] = self.times(key, i)
        start, end = self.span(i)
        return Sample(
            id=shard.text("samples/id", j),
            group=shard.text("samples/group", j),
            split=shard.text("samples/split", j),
            fold=self.folds[i],
            labels=self.labels[i],
            texts=self.texts(i),
            source=self.sources(i),
            start=start,
            end=end,
            features=rows,
            times=times,
            status={m: Status(int(self.status(m)[i])) for m in self.modalities},
            reason={m: text for m in self.modalities if (text := self.reason(m, i))},
            facts=self.facts(i),
        )

    def close(self) -> None:
        """Give back file descriptors; the next read opens them again."""
        for shard in self._shards:
            shard.close()

    @cached_property
    def _index(self) -> dict[str, int]:
        return {sample: i for i, sample in enumerate(self.ids)}

    @cached_property
    def _status(self) -> dict[str, NDArray[np.uint8]]:
        return {}

    @cached_property
    def _lengths(self) -> dict[str, NDArray[np.int64]]:
        return {}

    @cached_property
    def _spans(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self._numbers("samples/start"), self._numbers("samples/end")

    def _spec(self, key: str) -> FeatureSpec:
        try:
            return self.features[key]
        except KeyError:
            known = ", ".join(self.features)
            raise BadInput(f"{self.path}: no feature {key!r} in this store; it has {known}") from None

    def _locate(self, i: int) -> tuple[Shard, int]:
        if not 0 <= i < self._starts[-1]:
            raise IndexError(f"sample {i} of {len(self)}")
        shard = bisect_right(self._starts, i) - 1
        return self._shards[shard], i - self._starts[shard]

    @cached_property
    def _rows(self) -> dict[tuple[str, int], FeatureRows]:
        return {}

    def _rows_of(self, key: str, i: int) -> tuple[FeatureRows, int]:
        """The rows of a feature in the shard of sample `i`, and the sample's number there."""
        if not 0 <= i < self._starts[-1]:
            raise IndexError(f"sample {i} of {len(self)}")
        number = bisect_right(self._starts, i) - 1
        rows = self._rows.get((key, number))
        if rows is None:
            self._spec(key)
            rows = self._rows[key, number] = FeatureRows(self._shards[number], key)
        j = i - self._starts[number]
        if self.verifies and not rows.verified[j]:
            self._shards[number].check_feature(key, j)
            rows.verified[j] = True
        return rows, j

    def _json(self, column: str, i: int, kind: type) -> Any:
        shard, j = self._locate(i)
        return shard.json(column, shard.text(column, j), kind)

    def _texts(self, column: str) -> TextColumn:
        return TextColumn.joined([shard.all_texts(column) for shard in self._shards])

    def _numbers(self, name: str) -> NDArray[Any]:
        return np.concatenate([shard.rows(name) for shard in self._shards])

    def _check_ids(self) -> None:
        # hashes first: a dictionary of all ids takes more memory than all else that is known of them
        hashes = np.fromiter(map(hash, self.ids), np.int64, len(self))
        if len(np.unique(hashes)) == len(self):
            return
        for i, sample in enumerate(self.ids):
            if self._index[sample] != i:
                here, there = self._locate(i)[0], self._locate(self._index[sample])[0]
                raise BadInput(
                    f"{self.path}: sample {sample!r} is in {here.index.path} and {there.index.path}"
                )
