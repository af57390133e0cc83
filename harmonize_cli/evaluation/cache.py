"""Computed arrays kept by the hash of all that they depend on, in parts, so that a kill costs one part."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from harmonize_cli.errors import BadInput
from harmonize_cli.files import read_arrays, sha256_json, write_arrays
from harmonize_cli.progress import progress

Arrays = dict[str, NDArray[Any]]
FOLDER = "cache"


def in_parts(
    rows: NDArray[np.int64],
    compute: Callable[[NDArray[np.int64]], Arrays],
    *,
    folder: Path | None,
    key: Mapping[str, Any],
    size: int,
    desc: str,
) -> Arrays:
    """`compute` over `rows` in parts of `size`, joined along the first axis.

    Args:
        compute: takes some of the rows, returns arrays whose first axis follows them.
        folder: where parts are kept; None, or a folder that can't be written, keeps nothing.
        key: everything the arrays depend on besides the rows: names serve stale features, hashes don't.
    """
    digest = sha256_json({**key, "rows": rows.tolist(), "size": size})
    place = None if folder is None else folder / digest[:32]
    parts = []
    bar: tqdm[Any] = progress(desc=desc, total=len(rows), unit="clip")
    with bar:
        for number, start in enumerate(range(0, len(rows), size)):
            some = rows[start : start + size]
            file = None if place is None else place / f"part-{number:05d}.npz"
            arrays = None if file is None else _read(file)
            if arrays is None:
                arrays = compute(some)
                if file is not None and not _write(file, arrays):
                    place = None
            parts.append(arrays)
            bar.update(len(some))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _read(file: Path) -> Arrays | None:
    try:
        return dict(read_arrays(file, hint=""))
    except BadInput:
        return None  # missing, or damaged from outside: computed again and replaced


def _write(file: Path, arrays: Arrays) -> bool:
    try:
        write_arrays(file, arrays)
    except PermissionError:
        return False
    except OSError as e:
        if e.errno == errno.EROFS:  # read-only file system: a run shared by somebody else
            return False
        raise
    return True
