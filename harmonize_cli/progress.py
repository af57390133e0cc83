"""Progress bars that are silent when nobody watches."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
QUIET = False
"""Set by --quiet: no bars, no notes on stderr."""


def progress(
    items: Iterable[T] | None = None,
    *,
    desc: str,
    total: int | None = None,
    unit: str = "it",
    initial: int = 0,
) -> "tqdm[T]":
    """A tqdm bar on stderr, off when stderr is not a terminal."""
    return tqdm(  # type: ignore[return-value]  # the stubs ask for an overload per None
        items,
        desc=desc,
        total=total,
        unit=unit,
        initial=initial,
        disable=QUIET or not sys.stderr.isatty(),
        dynamic_ncols=True,
        smoothing=0.1,
    )
