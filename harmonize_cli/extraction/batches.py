"""Frames for the big encoders are gathered across clips, so that batches are full."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harmonize_cli.encoders.base import FrameEncoder
from harmonize_cli.store.schema import Sample

_BATCHES = 4


@dataclass(slots=True)
class _Waiting:
    sample: Sample
    frames: dict[str, npt.NDArray[np.uint8]]


class FrameBatcher:
    """Holds samples back until some batches of frames are together; then encodes and releases them."""

    def __init__(self, encoders: Sequence[FrameEncoder]) -> None:
        self._encoders = encoders
        self._waiting: list[_Waiting] = []
        self._count = 0

    def add(self, sample: Sample, frames: dict[str, npt.NDArray[np.uint8]]) -> Iterator[Sample]:
        """Take in a sample and its frames by feature key; yield samples that are complete."""
        self._waiting.append(_Waiting(sample, frames))
        self._count += max((len(f) for f in frames.values()), default=0)
        if not self._encoders or self._count >= _BATCHES * max(e.batch for e in self._encoders):
            yield from self.flush()

    def flush(self) -> Iterator[Sample]:
        """Encode what waits."""
        waiting, self._waiting, self._count = self._waiting, [], 0
        for encoder in self._encoders:
            self._encode(encoder, [w for w in waiting if len(w.frames.get(encoder.spec.key, ()))])
        for item in waiting:
            yield item.sample

    def _encode(self, encoder: FrameEncoder, items: list[_Waiting]) -> None:
        key = encoder.spec.key
        parts: list[list[npt.NDArray[Any]]] = [[] for _ in items]
        for batch in _batches([len(item.frames[key]) for item in items], encoder.batch):
            frames = [items[i].frames[key][a:b] for i, a, b in batch]
            rows = encoder.encode_frames(frames[0] if len(frames) == 1 else np.concatenate(frames))
            first = 0
            for i, a, b in batch:
                parts[i].append(np.asarray(rows[first : first + b - a]))
                first += b - a
        for item, rows_of_item in zip(items, parts, strict=True):
            item.sample.features[key] = np.concatenate(rows_of_item)


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[tuple[int, int, int]]]:
    """(item, start, stop) pieces, `size` rows together except in the last batch."""
    batch: list[tuple[int, int, int]] = []
    room = size
    for item, length in enumerate(lengths):
        start = 0
        while start < length:
            stop = min(length, start + room)
            batch.append((item, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield batch
                batch, room = [], size
    if batch:
        yield batch
