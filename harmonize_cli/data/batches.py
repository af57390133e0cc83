"""Batches for the model: samples of a store cut into windows, stacked, with masks."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from harmonize_cli.data.windows import captions, cut
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.store.digest import encode_text
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import Status

Augment = Callable[[str, np.ndarray, np.random.Generator], np.ndarray]
"""(kind, rows [T, *row_shape], random state of this sample and epoch) -> rows."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B samples. Absent modalities are zeros, to be masked by `present`, never taken for silence.

    inputs: tensors by modality (see `models.inputs`), "video_mask"/"audio_mask" [B, T] for
    feature sequences; present: [B] bool by modality; text_present: [B, C] bool;
    groups: [B] int64, equal for equal groups; texts: [B, C] int64, equal for equal captions.
    """

    indices: np.ndarray
    ids: list[str]
    inputs: dict[str, Tensor]
    present: dict[str, Tensor]
    text_present: Tensor | None
    groups: Tensor
    texts: Tensor | None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def real(self) -> dict[str, Tensor]:
        """Bool by modality, the rows that are data: [B], and for text [B, C], without padding."""
        return self.present if self.text_present is None else {**self.present, "text": self.text_present}

    def to(self, device: torch.device) -> "Batch":
        """The tensors on `device`; pinned ones are copied without waiting."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        return replace(
            self,
            inputs={k: move(v) for k, v in self.inputs.items()},
            present={k: move(v) for k, v in self.present.items()},
            text_present=None if self.text_present is None else move(self.text_present),
            groups=move(self.groups),
            texts=None if self.texts is None else move(self.texts),
        )

    def split(self, parts: int) -> "list[Batch]":
        """The samples in `parts` equal consecutive parts."""
        size = len(self) // parts

        def part(at: slice) -> Batch:
            return Batch(
                self.indices[at],
                self.ids[at],
                {k: v[at] for k, v in self.inputs.items()},
                {k: v[at] for k, v in self.present.items()},
                None if self.text_present is None else self.text_present[at],
                self.groups[at],
                None if self.texts is None else self.texts[at],
            )

        return [part(slice(k * size, (k + 1) * size)) for k in range(parts)]

    def pin_memory(self) -> "Batch":
        """Called by a `DataLoader` that pins."""
        return replace(
            self,
            inputs={k: v.pin_memory() for k, v in self.inputs.items()},
            present={k: v.pin_memory() for k, v in self.present.items()},
        )


@dataclass(frozen=True, slots=True)
class Draw:
    """A sample to read: where its window and augmentation come from is (seed, epoch, sample id)."""

    index: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Item:
    """One sample, cut."""

    index: int
    arrays: dict[str, np.ndarray]
    real: dict[str, int]
    text_real: np.ndarray | None


class StoreDataset(Dataset[Item]):
    """Samples of a store by `Draw` (random window, augmented) or by index (window at `position`).

    `cache_bytes`: arrays read are kept in memory up to this size; a small store is read once.
    """

    def __init__(
        self,
        store: Store,
        specs: Mapping[str, InputSpec],
        *,
        seed: int = 0,
        position: float = 0.5,
        augment: Augment | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self.store, self.specs, self.seed, self.position = store, dict(specs), seed, position
        self.augment = augment
        self.ok = {
            m: (store.status(m) == int(Status.OK)) & (store.length(spec.key) > 0)
            for m, spec in self.specs.items()
        }
        self._ids = store.ids
        keys = (zlib.crc32(encode_text(group)) for group in store.groups)
        self._groups = np.fromiter(keys, np.int64, len(self._ids))
        self._cached = _Cached(store, cache_bytes)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, draw: "Draw | int") -> Item:
        if isinstance(draw, Draw):
            key = zlib.crc32(encode_text(self._ids[draw.index]))
            rng = np.random.Generator(np.random.Philox(key=[self.seed << 32 | key, draw.epoch]))
            return self._cut(draw.index, float(rng.random()), rng)
        return self._cut(int(draw), self.position, None)

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack items; captions are trimmed to the longest of the batch, which changes no result."""
        indices = np.array([item.index for item in items], dtype=np.int64)
        present = {m: torch.from_numpy(ok[indices]) for m, ok in self.ok.items()}
        inputs: dict[str, Tensor] = {}
        text_present: Tensor | None = None
        texts: Tensor | None = None
        for modality, spec in self.specs.items():
            stacked = np.stack([item.arrays[modality] for item in items])
            if modality == "text":
                real = np.stack([item.text_real for item in items if item.text_real is not None])
                text_present = torch.from_numpy(real & self.ok["text"][indices][:, None])
                texts = torch.from_numpy(_caption_keys(stacked))
                if spec.kind == "tokens":
                    used = np.flatnonzero((stacked != 0).any(axis=(0, 1)))
                    stacked = stacked[..., : used[-1] + 1 if len(used) else 1]
            elif spec.kind == "embedding":
                counts = np.array([item.real[modality] for item in items])
                inputs[f"{modality}_mask"] = torch.from_numpy(np.arange(spec.rows) < counts[:, None])
            inputs[modality] = torch.from_numpy(stacked)
        return Batch(
            indices,
            [self._ids[i] for i in indices],
            inputs,
            present,
            text_present,
            torch.from_numpy(self._groups[indices]),
            texts,
        )

    def batch(self, draws: "Sequence[Draw | int]") -> Batch:
        """Read and collate."""
        return self.collate([self[draw] for draw in draws])

    def batches(self, indices: Sequence[int] | np.ndarray, size: int) -> Iterator[Batch]:
        """Batches of at most `size` samples, in order, windows at `position`."""
        for start in range(0, len(indices), size):
            yield self.batch([int(i) for i in indices[start : start + size]])

    def _cut(self, index: int, position: float, rng: np.random.Generator | None) -> Item:
        arrays: dict[str, np.ndarray] = {}
        real: dict[str, int] = {}
        text_real: np.ndarray | None = None
        for modality, spec in self.specs.items():
            if modality == "text":
                if self.ok["text"][index]:
                    arrays["text"], text_real = captions(self._cached, spec, index)
                else:
                    arrays["text"], text_real = spec.blank(), np.zeros(spec.candidates, bool)
            elif self.ok[modality][index]:
                rows, real[modality] = cut(self._cached, spec, index, position)
                if self.augment and rng is not None:
                    rows = self.augment(spec.kind, rows, rng)
                arrays[modality] = rows
            else:
                arrays[modality], real[modality] = spec.blank(), 0
        return Item(index, arrays, real, text_real)


class _Cached:
    """The part of `Store` that windows read, with whole samples kept in memory up to a budget."""

    def __init__(self, store: Store, budget: int) -> None:
        self.store, self.budget = store, budget
        self._kept: dict[tuple[str, int], np.ndarray] = {}
        self._lengths: dict[str, np.ndarray] = {}

    def length(self, key: str) -> np.ndarray:
        if key not in self._lengths:
            self._lengths[key] = self.store.length(key)
        return self._lengths[key]

    def read(self, key: str, index: int) -> np.ndarray:
        kept = self._kept.get((key, index))
        if kept is None:
            kept = self.store.read(key, index)
            if kept.nbytes <= self.budget:
                self.budget -= kept.nbytes
                self._kept[key, index] = kept
        return kept

    def read_rows(self, key: str, index: int, start: int, stop: int) -> np.ndarray:
        # what will not be kept is read only as far as it is wanted
        size = int(self.length(key)[index]) * self.store.features[key].row_bytes
        if size <= self.budget or (key, index) in self._kept:
            return self.read(key, index)[start:stop]
        return self.store.read_rows(key, index, start, stop)


def _caption_keys(stacked: np.ndarray) -> np.ndarray:
    """[B, C] numbers, equal for equal captions."""
    flat = np.ascontiguousarray(stacked)
    return np.array([[zlib.crc32(row.tobytes()) for row in sample] for sample in flat], dtype=np.int64)
