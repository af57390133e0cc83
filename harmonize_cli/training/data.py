"""A run's batches: which samples come at which step, a pure function, so that a step number is all a resume
needs; and reading them, here or in worker processes."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from harmonize_cli.data.batches import Batch, Draw, Item, StoreDataset
from harmonize_cli.data.windows import store_name
from harmonize_cli.errors import BadInput, HarmonizeError
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.objectives.config import PAIRS
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import DataConfig, PretrainConfig, ValidationConfig

EpochOrder = Callable[[int], np.ndarray]
"""Epoch -> indices of the samples in the order of that epoch; the same length for every epoch."""


def shuffled(indices: np.ndarray, seed: int) -> EpochOrder:
    """Every sample once an epoch, in an order given by (seed, epoch)."""

    def order(epoch: int) -> np.ndarray:
        rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        return rng.permutation(indices)

    return order


class Schedule:
    """Batches of a run by step; an epoch's last incomplete batch is left out.

    Each step's batch is cut into equal consecutive shares, one per rank: the ranks' rows together are
    what one process would read. `parts`: how many equal parts each share is going to be made in.
    """

    def __init__(
        self, order: EpochOrder, batch: int, *, rank: int = 0, ranks: int = 1, parts: int = 1
    ) -> None:
        samples = len(order(0))
        if batch > samples:
            raise BadInput(
                f"batch: {batch} clips a step, but there are only {samples} to train on; "
                f"choose --set batch={max(2, samples // 4)} or less"
            )
        if batch % ranks:
            raise BadInput(f"batch: {batch} can't be shared by {ranks} processes; make it a multiple")
        if batch // ranks % parts:
            raise BadInput(
                f"accumulate: the {batch // ranks} clips of each of {ranks} processes can't be made in "
                f"{parts} equal parts; change batch or accumulate"
            )
        self.order, self.batch, self.rank, self.ranks = order, batch, rank, ranks
        self.per_epoch = samples // batch
        self._epoch, self._indices = -1, np.empty(0, dtype=np.int64)

    def epoch(self, step: int) -> int:
        """The epoch that `step` (from 0) belongs to."""
        return step // self.per_epoch

    def draws(self, step: int) -> list[Draw]:
        """This rank's part of the batch of `step`."""
        epoch, k = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._indices = epoch, self.order(epoch)
        share = self.batch // self.ranks
        start = k * self.batch + self.rank * share
        return [Draw(int(i), epoch) for i in self._indices[start : start + share]]

    def from_step(self, first: int, last: int) -> Iterator[list[Draw]]:
        """The batches of steps first .. last - 1."""
        return (self.draws(step) for step in range(first, last))


def training_samples(store: Store, config: DataConfig) -> np.ndarray:
    """Indices of the samples to train on.

    Raises:
        BadInput: a split that the store lacks.
    """
    split, splits = config.split, set(store.splits)
    if split is None:
        split = "train" if "train" in splits else None
    elif split not in splits:
        raise no_split("data.split", store, split)
    return np.asarray(store.select(split=split))


def validation_samples(store: Store, config: ValidationConfig) -> np.ndarray:
    """Indices to validate on; none where validation is off or the store has no such split.

    Raises:
        BadInput: a split was asked for that the store lacks.
    """
    if not config.every or (config.split is None and "val" not in store.splits):
        return np.empty(0, np.int64)
    split = config.split or "val"
    if split not in store.splits:
        raise no_split("validation.split", store, split)
    return np.asarray(store.select(split=split))[: config.samples]


def no_split(field: str, store: Store, split: str) -> BadInput:
    """The error for a split that a store lacks."""
    known = ", ".join(sorted({name for name in store.splits if name})) or "none"
    return BadInput(f"{field}: {store_name(store)} has no split {split!r}; it has {known}")


def check_modalities(specs: dict[str, InputSpec], store: Store, config: PretrainConfig) -> None:
    """At least one wanted loss must have both of its modalities.

    Raises:
        BadInput: naming what is missing.
    """
    fed = config.loss.fed_by(specs)
    if not fed:
        needs = " or ".join(f"{name} ({' and '.join(PAIRS[t.on])})" for name, t in config.loss.named.items())
        raise BadInput(
            f"{store_name(store)}: has {', '.join(store.features)}; the losses need {needs}. "
            "Extract the missing modality, or set other losses (loss.terms)"
        )
    if config.harmonize.mode != "none" and len(fed) < 2:
        raise BadInput(
            f"harmonize.mode: {config.harmonize.mode} compares two losses, but {store_name(store)} feeds one "
            f"({', '.join(store.features)}); use --harmonize none"
        )


def batches(
    dataset: StoreDataset, schedule: Schedule, span: tuple[int, int], config: DataConfig, *, pin: bool
) -> Iterator[Batch]:
    """This rank's batches of steps span[0] .. span[1] - 1."""
    if config.workers == 0:
        for draws in schedule.from_step(*span):
            yield dataset.batch(draws)
        return
    # forkserver: the parent's HDF5 handles, threads and CUDA state stay out of the workers
    loader: DataLoader[Batch | HarmonizeError] = DataLoader(
        _Reported(dataset),  # type: ignore[arg-type]  # yields Items, which collate makes a Batch
        batch_sampler=_Plan(schedule, *span),
        collate_fn=_Collate(dataset),
        num_workers=config.workers,
        prefetch_factor=config.prefetch,
        pin_memory=pin,
        multiprocessing_context="forkserver",
        worker_init_fn=_quiet_worker,
    )
    for batch in loader:
        if isinstance(batch, HarmonizeError):
            raise batch
        yield batch


class _Reported(Dataset[Item | HarmonizeError]):
    """A worker hands its error over as it is; raised there, torch would put the worker's traceback in it."""

    def __init__(self, dataset: StoreDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, draw: Draw | int) -> Item | HarmonizeError:
        try:
            return self._dataset[draw]
        except HarmonizeError as e:
            return e


class _Collate:
    """The batch, or the first error among its items."""

    def __init__(self, dataset: StoreDataset) -> None:
        self._dataset = dataset

    def __call__(self, items: list[Item | HarmonizeError]) -> Batch | HarmonizeError:
        good = [item for item in items if isinstance(item, Item)]
        errors = [item for item in items if isinstance(item, HarmonizeError)]
        return errors[0] if errors else self._dataset.collate(good)


class _Plan:
    """The rest of the run as one pass, so that workers and their caches live as long as the run."""

    def __init__(self, schedule: Schedule, first: int, last: int) -> None:
        self._schedule, self._first, self._last = schedule, first, last

    def __iter__(self) -> Iterator[list[object]]:
        return iter(list(draws) for draws in self._schedule.from_step(self._first, self._last))

    def __len__(self) -> int:
        return self._last - self._first


def _quiet_worker(_worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group: workers leave it to the parent to end them."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
