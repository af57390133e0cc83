"""Frames and texts for the big encoders are gathered across clips, so that batches are full."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harmonize_cli.encoders.base import FrameEncoder, TextEncoder
from harmonize_cli.store.schema import Sample

Inputs = dict[str, Any]
"""Feature key -> frames uint8 [N, H, W, C], or a list of texts."""

_BATCHES = 4
# the samples that wait hold their other features, such as raw frames
_MOST_BYTES = 256 << 20


@dataclass(slots=True)
class _Waiting:
    sample: Sample
    inputs: Inputs


class Batcher:
    """Holds samples back until some batches of frames, or of texts, are together; then encodes and releases
    them."""

    def __init__(self, encoders: Sequence[FrameEncoder | TextEncoder]) -> None:
        self._encoders = encoders
        self._waiting: list[_Waiting] = []
        self._count = self._bytes = 0

    def add(self, sample: Sample, inputs: Inputs) -> Iterator[Sample]:
        """Take in a sample and its inputs; yield samples that are complete."""
        self._waiting.append(_Waiting(sample, inputs))
        self._count += max(map(len, inputs.values()), default=0)
        self._bytes += sum(_size(rows) for rows in (*sample.features.values(), *inputs.values()))
        enough = _BATCHES * max((e.batch for e in self._encoders), default=0)
        if self._count >= enough or self._bytes > _MOST_BYTES:
            yield from self.flush()

    def flush(self) -> Iterator[Sample]:
        """Encode what waits."""
        waiting, self._waiting, self._count, self._bytes = self._waiting, [], 0, 0
        for encoder in self._encoders:
            self._encode(encoder, [w for w in waiting if len(w.inputs.get(encoder.spec.key, ()))])
        for item in waiting:
            yield item.sample

    def _encode(self, encoder: FrameEncoder | TextEncoder, items: list[_Waiting]) -> None:
        key = encoder.spec.key
        encode = encoder.encode_frames if isinstance(encoder, FrameEncoder) else encoder.encode_texts
        parts: list[list[npt.NDArray[Any]]] = [[] for _ in items]
        for batch in _batches([len(item.inputs[key]) for item in items], encoder.batch):
            rows = encode(_joined([items[i].inputs[key][a:b] for i, a, b in batch]))
            first = 0
            for i, a, b in batch:
                parts[i].append(np.asarray(rows[first : first + b - a]))
                first += b - a
        for item, rows_of_item in zip(items, parts, strict=True):
            item.sample.features[key] = np.concatenate(rows_of_item)


def _joined(pieces: Sequence[Any]) -> Any:
    if len(pieces) == 1:
        return pieces[0]
    if isinstance(pieces[0], np.ndarray):
        return np.concatenate(pieces)
    return [text for piece in pieces for text in piece]


def _size(rows: Any) -> int:
    return rows.nbytes if isinstance(rows, np.ndarray) else sum(map(len, rows))


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
