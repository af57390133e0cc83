"""A store seen by a model: embeddings for retrieval, features before the heads for probes."""

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.data.windows import check_inputs, positions
from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.protocols import RetrievalProtocol
from harmonize_cli.files import read_arrays, sha256_json, write_arrays
from harmonize_cli.models.checkpoint import LoadedModel
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.progress import progress
from harmonize_cli.store.reader import Store

FOLDER = "cache"
PART = 512
"""Samples per cached part: what a kill may cost."""
Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Embedded:
    """One pool of samples, embedded.

    Attributes:
        ids: of the samples, [N].
        texts: captions of each sample, [N] tuples.
        present: modality -> bool [N]; a sample without sound, or with a silent track, has no audio.
        vectors: space -> float32 [N, D], mean over windows (of unit vectors for "mean-of-similarities");
            rows of absent modalities are meaningless.
        captions: float32 [M, D], one row per embedded caption, or [0, D].
        caption_of: int64 [M], the sample of each caption.
        classes: class of each sample, [N], where classes decide what is right.
    """

    ids: Sequence[str]
    texts: Sequence[tuple[str, ...]]
    present: Mapping[str, NDArray[np.bool_]]
    vectors: Mapping[str, Floats]
    captions: Floats
    caption_of: NDArray[np.int64]
    classes: Sequence[str] = ()


def embed_pool(
    loaded: LoadedModel,
    store: Store,
    rows: Rows,
    protocol: RetrievalProtocol,
    *,
    batch_size: int = 64,
    cache: bool = True,
) -> Embedded:
    """Embeddings of some samples, averaged over windows as `protocol` says, no token dropped.

    Args:
        rows: samples of the store, [N].
        cache: keep parts under the run folder, keyed by hashes of weights, store and settings.

    Raises:
        BadInput: where the store does not feed the inputs that the run was trained on.
    """
    specs = check_inputs(store, loaded.specs)
    if "text" in specs:
        text = specs["text"]
        most = int(store.length(text.key).max()) if protocol.captions != "first" else 1
        specs["text"] = replace(text, rows=min(text.rows, protocol.text_words), candidates=max(1, most))
    dataset = StoreDataset(store, specs)
    arrays = in_parts(
        rows,
        lambda some: _embed(loaded, dataset, some, windows=protocol.windows),
        folder=loaded.run / FOLDER if cache else None,
        key=_key(loaded, store, rows, specs, what="embeddings", windows=protocol.windows),
        size=PART,
        batch=batch_size,
        desc="embed",
    )
    present = {m: arrays[f"present/{m}"] for m in specs}
    units = protocol.pooling in ("mean-of-similarities", "mean-of-units-then-normalise")
    prefix = "unit/" if units else "raw/"
    vectors = {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}
    captions, caption_of = np.zeros((0, 1), np.float32), np.zeros(0, np.int64)
    if "text" in specs:
        captions, caption_of = _captions(vectors.pop("text_vt"), arrays["real"], protocol)
        present["text"] = np.isin(np.arange(len(rows)), caption_of)
    ids, texts = store.ids, [store.texts(int(i)) for i in rows]
    return Embedded([ids[i] for i in rows], texts, present, vectors, captions, caption_of)


def window_features(
    loaded: LoadedModel,
    store: Store,
    rows: Rows,
    modality: str,
    *,
    windows: int,
    batch_size: int = 64,
    cache: bool = True,
) -> tuple[Floats, Rows]:
    """Pooled features before the heads, one per window: [W, D] and the sample (of the store) of each.

    Samples without the modality have no window, those no longer than a window have one. A caption counts as
    a window of its text.
    """
    known = check_inputs(store, loaded.specs)
    specs = {modality: known[modality]}
    dataset = StoreDataset(store, specs)
    arrays = in_parts(
        rows,
        lambda some: _pool(loaded, dataset, some, modality, windows=windows),
        folder=loaded.run / FOLDER if cache else None,
        key=_key(loaded, store, rows, specs, what="pooled", windows=windows),
        size=PART,
        batch=batch_size,
        desc=f"features ({modality})",
    )
    real = arrays["real"]
    return arrays["pooled"][real], np.repeat(rows, real.sum(axis=1))


def device_of(loaded: LoadedModel) -> torch.device:
    return next(loaded.model.parameters()).device


def _longer(dataset: StoreDataset, rows: Rows) -> NDArray[np.bool_]:
    """[n] samples that are longer than a window: of the others all windows are the same."""
    longer = np.zeros(len(rows), dtype=bool)
    for modality, spec in dataset.specs.items():
        if modality != "text":
            longer |= dataset.store.length(spec.key)[rows] > (spec.rows - 1) * spec.stride + 1
    return longer


@torch.inference_mode()
def _embed(loaded: LoadedModel, dataset: StoreDataset, rows: Rows, *, windows: int) -> Arrays:
    """raw/SPACE, unit/SPACE: means over windows of (unit) embeddings; present/MODALITY, real: masks."""
    total: Arrays = {}
    wanted = positions(windows if _longer(dataset, rows).any() else 1)
    for position in wanted:
        dataset.position = position
        batch = dataset.batch(rows.tolist()).to(device_of(loaded))
        for name, x in loaded.model(batch.inputs).embeddings.items():
            for kind, y in (("raw", x), ("unit", torch.nn.functional.normalize(x, dim=-1))):
                mean = y.float().cpu().numpy() / len(wanted)
                total[f"{kind}/{name}"] = total.get(f"{kind}/{name}", 0) + mean
        total.update({f"present/{m}": p.cpu().numpy() for m, p in batch.present.items()})
        if batch.text_present is not None:
            total["real"] = batch.text_present.cpu().numpy()
    return total


@torch.inference_mode()
def _pool(loaded: LoadedModel, dataset: StoreDataset, rows: Rows, modality: str, *, windows: int) -> Arrays:
    """pooled [n, W, D] and real [n, W]: windows of samples that have the modality, one of a short sample."""
    found, real = [], []
    longer = _longer(dataset, rows)
    wanted = positions(windows if longer.any() else 1)
    for position in wanted:
        dataset.position = position
        batch = dataset.batch(rows.tolist()).to(device_of(loaded))
        z = loaded.model.encode(batch.inputs)[modality].float().cpu()
        if batch.text_present is not None:  # [n, C, D]: candidates stand where windows stand elsewhere
            found, real = list(z.unbind(1)), list(batch.text_present.cpu().unbind(1))
            break
        present = batch.present[modality].cpu()
        real.append(present & torch.from_numpy(longer) if found else present)
        found.append(z)
    pooled, mask = torch.stack(found, 1).numpy(), torch.stack(real, 1).numpy()
    if modality != "text" and len(wanted) < windows:  # equal shapes for all parts
        pooled = np.pad(pooled, ((0, 0), (0, windows - 1), (0, 0)))
        mask = np.pad(mask, ((0, 0), (0, windows - 1)))
    return {"pooled": pooled, "real": mask}


def _captions(x: Floats, real: NDArray[np.bool_], protocol: RetrievalProtocol) -> tuple[Floats, Rows]:
    """Rows of text [M, D] and the sample of each, from [N, C, D], by the captions policy."""
    has = np.flatnonzero(real.any(axis=1)).astype(np.int64)
    if protocol.captions == "all":
        return x[real], np.nonzero(real)[0].astype(np.int64)
    if protocol.captions == "first":
        return x[has, real[has].argmax(axis=1)], has
    mean = np.where(real[..., None], x, 0)[has].sum(axis=1) / real[has].sum(axis=1, keepdims=True)
    return mean.astype(np.float32), has


def _key(
    loaded: LoadedModel,
    store: Store,
    rows: Rows,
    specs: Mapping[str, InputSpec],
    *,
    what: str,
    windows: int,
) -> dict[str, Any]:
    ids = store.ids
    return {
        "what": what,
        "format": 2,
        "weights": loaded.weights_hash,
        "store": store.content_hash,
        "inputs": {m: spec.to_dict() for m, spec in specs.items()},
        "windows": windows,
        # the store's hash is that of a set of samples: merged in another order, row 3 is somebody else
        "ids": [ids[i] for i in rows],
    }


def unit(vectors: Floats) -> Floats:
    """Rows over their length; a zero row stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1), dtype=np.float32)


def in_parts(
    rows: NDArray[np.int64],
    compute: Callable[[NDArray[np.int64]], Arrays],
    *,
    folder: Path | None,
    key: Mapping[str, Any],
    size: int,
    desc: str,
    batch: int | None = None,
) -> Arrays:
    """`compute` over `rows`, `batch` at a time, kept in parts of `size` and joined along the first axis.

    Args:
        compute: takes some of the rows, returns arrays whose first axis follows them.
        folder: where parts are kept; None, or a folder that can't be written, keeps nothing.
        key: everything the arrays depend on besides the rows: names serve stale features, hashes don't.

    Raises:
        BadInput: there are no rows.
    """
    if not len(rows):
        raise BadInput(f"no samples: {desc} needs at least one")
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
                step = batch or size
                arrays = _joined([compute(some[i : i + step]) for i in range(0, len(some), step)])
                if file is not None and not _write(file, arrays):
                    place = None
            parts.append(arrays)
            bar.update(len(some))
    return _joined(parts)


def _joined(parts: Sequence[Arrays]) -> Arrays:
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
