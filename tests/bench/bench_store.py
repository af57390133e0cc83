"""`make bench-store`: how fast a store is read and written, against flat files of the same bytes."""

import multiprocessing as mp
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
from harness import Row, interleaved, ratio, run, seconds
from harness import row as _row

from harmonize_cli.files import sync_file
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec, Sample
from harmonize_cli.store.writer import ShardWriter

KEY = "video/frames"
_SHAPE = (32, 64, 64, 3)
_ROUNDS = 7


@dataclass(frozen=True)
class Files:
    """The same clips three times: as a store, as a flat file, and what to read of them."""

    store: Path
    flat: Path
    clips: int


def bench_store(*, clips: int = 1500, workers: int = 2, folder: Path | None = None) -> list[Row]:
    """Random clips (32 frames of 64 x 64 RGB) read by `workers` processes that were started before.

    A round is an epoch of training: every clip once, in random order, divided among the workers. The files
    are in the page cache, or dropped from it ("from disk"; a tenth of the clips is how a store larger than
    the memory is read, an epoch lets the system read ahead); a process has them freshly open, or has read
    all of them before ("again", which leaves a memory map with nothing to do but copy). Readers take turns
    within each round, so that a busy machine slows all of them alike.
    """
    with tempfile.TemporaryDirectory(dir=folder) as tmp:
        files, rows = _write(Path(tmp), clips)
        # started before anything is open, as data loaders should be
        with mp.get_context("spawn").Pool(workers, _prepare, (files,)) as pool:
            # from disk first: pages that a process has mapped can't be dropped
            rows += _compare(pool, files, workers, "clips, from disk", ("memmap", "store"), cold=True)
            rows += _compare(
                pool, files, workers, "tenth of clips, from disk", ("memmap", "store"), cold=True, part=10
            )
            rows += _compare(
                pool, files, workers, "clips", ("memmap", "store", "store, verified", "plain h5py")
            )
            rows += _compare(pool, files, workers, "8 frames of clips", ("memmap window", "store window"))
            rows += _compare(pool, files, workers, "clips, again", ("memmap", "store"), again=True)
        rows.append(_row("open the store and find every clip", seconds(lambda: _open(files)) * 1e3, "ms"))
    return rows


def _write(folder: Path, clips: int) -> tuple[Files, list[Row]]:
    noise = np.random.default_rng(0).integers(0, 256, (64, *_SHAPE), dtype=np.uint8)
    times = np.arange(_SHAPE[0]) / 10
    spec = FeatureSpec(KEY, "frames", "raw", "uint8", _SHAPE[1:], rate=10.0)
    files = Files(folder / "part-00000.h5", folder / "flat.bin", clips)
    writers = {
        "flat": lambda: _write_flat(files, noise),
        "store": lambda: _write_store(files, spec, noise, times),
    }
    took = interleaved(writers, rounds=3)  # the last round's files are read
    raw = clips * noise[0].nbytes
    size = files.store.stat().st_size
    return files, [
        _row("write clips, checksums and sync included", raw / median(took["store"]) / 1e6, "MB/s",
             ratio(took["flat"], took["store"])),
        _row("write the same bytes to a flat file", raw / median(took["flat"]) / 1e6, "MB/s", 1.0),
        _row("size of the store", size / 1e6, "MB", size / raw),
    ]  # fmt: skip


def _write_flat(files: Files, noise: np.ndarray) -> None:
    files.flat.unlink(missing_ok=True)
    with files.flat.open("wb") as f:
        for i in range(files.clips):
            f.write(noise[i % len(noise)].data)
    sync_file(files.flat)


def _write_store(files: Files, spec: FeatureSpec, noise: np.ndarray, times: np.ndarray) -> None:
    files.store.unlink(missing_ok=True)
    with ShardWriter(files.store, [spec]) as shard:
        for i in range(files.clips):
            shard.add(Sample(str(i), features={KEY: noise[i % len(noise)]}, times={KEY: times}))


def _compare(
    pool: Any,
    files: Files,
    workers: int,
    what: str,
    readers: tuple[str, ...],
    *,
    again: bool = False,
    cold: bool = False,
    part: int = 1,
) -> list[Row]:
    orders = [
        np.random.default_rng(turn).permutation(files.clips)[: files.clips // part] for turn in range(_ROUNDS)
    ]

    def epoch(reader: str, turns: Iterator[np.ndarray]) -> float:
        order = next(turns)
        if cold:
            _forget(files)
        jobs = [(reader, order[worker::workers].tolist(), again) for worker in range(workers)]
        # as in training, an epoch takes as long as its slowest worker
        return max(pool.starmap(_epoch, jobs, chunksize=1)) / _clip_bytes(reader)

    ways = {reader: partial(epoch, reader, iter(orders)) for reader in readers}
    per_byte = interleaved(ways, rounds=_ROUNDS, clock=lambda way: float(way()))
    return [
        _row(f"random {what}: {reader}", len(orders[0]) / median(per_byte[reader]) / 1e6, "MB/s",
             ratio(per_byte[readers[0]], per_byte[reader]))
        for reader in readers
    ]  # fmt: skip


def _clip_bytes(reader: str) -> int:
    whole = int(np.prod(_SHAPE))
    return whole // 4 if reader.endswith("window") else whole


def _forget(files: Files) -> None:
    """Ask the system to drop the files from its memory (it may not)."""
    for path in (files.store, files.flat):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def _open(files: Files) -> None:
    store = Store.open(files.store)
    store.length(KEY)
    store.close()


# ---- in the worker processes

Read = Callable[[int], object]
_files: list[Files] = []
_opened: dict[str, Read] = {}


def _prepare(files: Files) -> None:
    _files[:] = [files]


def _epoch(reader: str, order: list[int], again: bool) -> float:
    """Seconds that reading the clips of `order` took."""
    if again:
        if reader not in _opened:
            _opened[reader] = _READERS[reader](_files[0])
            for i in range(_files[0].clips):
                _opened[reader](i)
        read = _opened[reader]
    else:
        read = _READERS[reader](_files[0])
    before = time.perf_counter()
    for i in order:
        read(i)
    return time.perf_counter() - before


def _memmap(files: Files) -> Read:
    flat = np.memmap(files.flat, np.uint8, "r", shape=(files.clips, *_SHAPE))
    return lambda i: np.array(flat[i])


def _memmap_window(files: Files) -> Read:
    flat = np.memmap(files.flat, np.uint8, "r", shape=(files.clips, *_SHAPE))
    return lambda i: np.array(flat[i, i % 24 : i % 24 + 8])


def _store(files: Files) -> Read:
    store = Store.open(files.store)
    return lambda i: store.read(KEY, i)


def _store_verified(files: Files) -> Read:
    store = Store.open(files.store, verifies=True)
    return lambda i: store.read(KEY, i)


def _store_window(files: Files) -> Read:
    store = Store.open(files.store)
    return lambda i: store.read_rows(KEY, i, i % 24, i % 24 + 8)


def _plain_h5py(files: Files) -> Read:
    file = h5py.File(files.store, "r", locking=False)
    data, offsets = file[f"features/{KEY}/data"], file[f"features/{KEY}/offsets"][:]
    return lambda i: data[offsets[i] : offsets[i + 1]]


_READERS: dict[str, Callable[[Files], Read]] = {
    "memmap": _memmap,
    "memmap window": _memmap_window,
    "store": _store,
    "store, verified": _store_verified,
    "store window": _store_window,
    "plain h5py": _plain_h5py,
}


if __name__ == "__main__":
    run(bench_store)
