"""Numbers, scans and who may use which: train, val and test share neither numbers nor handwriting."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = ("train", "val", "test")
_NUMBER_SHARE = {"train": 0.64, "val": 0.12, "test": 0.24}
_SCAN_SHARE = {"train": 0.7, "val": 0.1, "test": 0.2}
_ENDINGS = ("", "", "please", "now", "right here")


@dataclass(frozen=True)
class Scans:
    """Handwritten digits: `pixels` float32 [N, 8, 8] in 0..1, and for each split and digit its rows."""

    pixels: NDArray[np.float32]
    rows: dict[str, tuple[NDArray[np.int64], ...]]


def load_scans(seed: int) -> Scans:
    """scikit-learn's bundled 1,797 scans, each digit's rows dealt to the splits without overlap."""
    from sklearn.datasets import load_digits

    data = load_digits()
    rng = np.random.default_rng([seed, 1])
    rows: dict[str, list[NDArray[np.int64]]] = {split: [] for split in SPLITS}
    for digit in range(10):
        found = rng.permutation(np.flatnonzero(data.target == digit))
        for split, part in zip(SPLITS, _deal(found, _SCAN_SHARE), strict=True):
            rows[split].append(part)
    pixels = (data.images / 16.0).astype(np.float32)
    return Scans(pixels, {split: tuple(parts) for split, parts in rows.items()})


def split_numbers(digits: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """All numbers of `digits` digits (leading zeros count), dealt to the splits without overlap."""
    numbers = np.random.default_rng([seed, 2]).permutation(10**digits)
    return dict(zip(SPLITS, _deal(numbers, _NUMBER_SHARE), strict=True))


def digits_of(number: int, digits: int) -> tuple[int, ...]:
    """371 -> (3, 7, 1)."""
    return tuple(int(figure) for figure in f"{number:0{digits}d}")


def say(number: int, digits: int, ending: int = 0) -> str:
    """371 -> "three seven one", with one of the endings that narrators put behind it."""
    words = [WORDS[d] for d in digits_of(number, digits)]
    return " ".join([*words, *_ENDINGS[ending % len(_ENDINGS)].split()])


def endings() -> int:
    """How many endings `say` knows."""
    return len(_ENDINGS)


def _deal(items: NDArray[np.int64], shares: dict[str, float]) -> list[NDArray[np.int64]]:
    train = round(len(items) * shares["train"])
    val = round(len(items) * shares["val"])
    return [items[:train], items[train : train + val], items[train + val :]]
