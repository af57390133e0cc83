"""What a data set is like once it is extracted: coverage, silence, drift, duplicates, lengths."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from harmonize_cli.encoders.tokens import clean_words
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import Status

_EXAMPLES = 10
_LATE = 0.1  # s; sound and pictures further apart can be seen


def quality_of(store: Store) -> dict[str, Any]:
    """Everything of the report as JSON values; see the keys of the returned dict.

    Drift is how much later the sound ends than the pictures, seconds; start offset how much later it starts.
    Duplicate videos are samples of equal files and equal times under different names, duplicate captions
    samples of different groups with the same words.
    """
    facts = [store.facts(i) for i in range(len(store))]
    return {
        "store": store.path.name,
        "store_hash": store.content_hash,
        "samples": len(store),
        "coverage": store.attrs.get("coverage") or {"expected": len(store), "present": len(store)},
        "splits": dict(sorted(Counter(store.splits).items())),
        "status": {m: _statuses(store, m) for m in store.modalities},
        "reasons": _reasons(store),
        "silence": _silence(store, facts),
        "drift": _gaps([f["drift"] for f in facts if "drift" in f]),
        "start_offset": _gaps([f["start_offset"] for f in facts if "start_offset" in f]),
        "decode_errors": sum(1 for f in facts if f.get("decode_errors")),
        "duplicate_captions": _same_captions(store),
        "duplicate_videos": _same_videos(store, facts),
        "length": _lengths(store),
    }


def _statuses(store: Store, modality: str) -> dict[str, int]:
    found = Counter(store.status(modality).tolist())
    return {status.name.lower(): found[int(status)] for status in Status}


def _reasons(store: Store) -> dict[str, list[dict[str, Any]]]:
    out = {}
    for modality in store.modalities:
        status = store.status(modality)
        found = Counter(store.reason(modality, i) for i in np.flatnonzero(status == Status.FAILED).tolist())
        out[modality] = [{"reason": text, "samples": n} for text, n in found.most_common(_EXAMPLES)]
    return out


def _silence(store: Store, facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    shares = np.array([f["silent_share"] for f in facts if "silent_share" in f])
    if not len(shares):
        return {"samples": 0}
    silent = int((store.status("audio") == Status.SILENT).sum())
    counts, edges = np.histogram(shares, np.linspace(0, 1, 11))
    return {
        "samples": len(shares),
        "silent": silent,
        "share_silent": silent / len(shares),
        "mean_silent_share": float(shares.mean()),
        "histogram": {"edges": edges.round(3).tolist(), "counts": counts.tolist()},
    }


def _gaps(values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {"samples": 0}
    gaps = np.array(values)
    limit = max(0.2, float(np.quantile(np.abs(gaps), 0.99)))
    counts, edges = np.histogram(gaps.clip(-limit, limit), np.linspace(-limit, limit, 21))
    return {
        "samples": len(gaps),
        "median": float(np.median(gaps)),
        "p95_abs": float(np.quantile(np.abs(gaps), 0.95)),
        "max_abs": float(np.abs(gaps).max()),
        "share_over_0.1_s": float((np.abs(gaps) > _LATE).mean()),
        "histogram": {"edges": edges.round(4).tolist(), "counts": counts.tolist()},
    }


def _same_captions(store: Store) -> dict[str, Any]:
    """A text counts as a duplicate when samples of more than one group have it, not within one video."""
    groups, samples = defaultdict(set), Counter[str]()
    for i in range(len(store)):
        for text in {" ".join(clean_words(t)) for t in store.texts(i)[:1]} - {""}:
            groups[text].add(store.groups[i])
            samples[text] += 1
    shared = {text: samples[text] for text, found in groups.items() if len(found) > 1}
    top = sorted(shared.items(), key=lambda pair: (-pair[1], pair[0]))[:_EXAMPLES]
    return {
        "texts": len(shared),
        "samples": sum(shared.values()),
        "top": [{"text": text, "samples": n} for text, n in top],
    }


def _same_videos(store: Store, facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found = defaultdict(list)
    for i, known in enumerate(facts):
        if known.get("content_hash"):
            found[known["content_hash"], store.span(i)].append(i)
    sets = [
        [store.ids[i] for i in same] for same in found.values() if len({store.sources(i) for i in same}) > 1
    ]
    return {"sets": len(sets), "samples": sum(map(len, sets)), "examples": sets[:_EXAMPLES]}


def _lengths(store: Store) -> dict[str, Any]:
    lengths = np.array([length for i in range(len(store)) if (length := _length(store, i)) > 0])
    if not len(lengths):
        return {"samples": 0}
    counts, edges = np.histogram(lengths, 20)
    return {
        "samples": len(lengths),
        "seconds": float(lengths.sum()),
        "median": float(np.median(lengths)),
        "shortest": float(lengths.min()),
        "longest": float(lengths.max()),
        "histogram": {"edges": edges.round(3).tolist(), "counts": counts.tolist()},
    }


def _length(store: Store, i: int) -> float:
    """Seconds of the segment; of a whole file the longest of its features."""
    start, end = store.span(i)
    if end is not None:
        return end - start
    seconds = [
        int(store.length(key)[i]) / spec.rate
        for key, spec in store.features.items()
        if spec.rate and math.isfinite(spec.rate)
    ]
    return max(seconds, default=0.0)
