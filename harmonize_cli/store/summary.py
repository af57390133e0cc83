"""What a store holds, as plain values and as lines for people."""

from collections import Counter
from typing import Any

import numpy as np

from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import Status

_REASONS = 10
_PROBLEMS = 20


def shard_rows(store: Store) -> list[dict[str, Any]]:
    """File, samples and size of every shard."""
    return [
        {"file": str(path), "samples": count, "bytes": path.stat().st_size}
        for path, count in zip(store.shards, store.shard_sizes, strict=True)
    ]


def describe_store(store: Store) -> dict[str, Any]:
    """Features, counts and provenance of a store."""
    rows = shard_rows(store)
    return {
        "path": str(store.path),
        "samples": len(store),
        "shards": len(rows),
        "shard_files": rows,
        "bytes": sum(row["bytes"] for row in rows),
        "content_hash": store.content_hash,
        "features": {key: _feature(store, key) for key in store.features},
        "modalities": {modality: _modality(store, modality) for modality in store.modalities},
        "splits": dict(sorted(Counter(store.splits).items())),
        "folds": {
            str(fold): n for fold, n in sorted(Counter(f for f in store.folds if f is not None).items())
        },
        "labels": len({label for labels in store.labels for label in labels}),
        "groups": len(set(store.groups)),
        "vocabulary": len(store.vocab) if store.vocab is not None else None,
        "attrs": store.attrs,
    }


def _feature(store: Store, key: str) -> dict[str, Any]:
    spec, lengths = store.features[key], store.length(key)
    filled = lengths[lengths > 0]
    return {
        **spec.to_json(),
        "rows": int(lengths.sum()),
        "rows_per_sample": [int(filled.min()), float(np.median(filled)), int(filled.max())]
        if len(filled)
        else None,
    }


def _modality(store: Store, modality: str) -> dict[str, Any]:
    status = store.status(modality)
    counts = {s.name.lower(): int((status == s).sum()) for s in Status}
    bad = np.flatnonzero(status != Status.OK).tolist()
    reasons = Counter(store.reason(modality, i) for i in bad)
    reasons.pop("", None)
    return {**counts, "reasons": dict(reasons.most_common(_REASONS))}


def problem_lines(coverage: Any) -> list[str]:
    """What the data set's coverage says of files that were not used: counts, and the first ones by name.

    coverage: as an extraction keeps it in the store's attributes; a stranger's may hold anything.
    """
    lines = []
    for count, first, what in (
        ("problems", "first_problems", "problem(s) in the data set's files"),
        ("links_left_out", "first_links_left_out", "link(s) out of the data set's folder, not followed"),
    ):
        found = coverage.get(count) if isinstance(coverage, dict) else None
        if isinstance(found, int) and found > 0:
            names = coverage.get(first)
            shown = [str(name) for name in names] if isinstance(names, list) else []
            lines += [f"{found} {what}:", *(f"  {name}" for name in shown[:_PROBLEMS])]
            if found > len(shown[:_PROBLEMS]):
                lines.append(f"  ... and {found - len(shown[:_PROBLEMS])} more")
    return lines


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """The description of `describe_store` for a terminal."""
    lines = [
        f"{summary['path']}: {summary['samples']} samples in {summary['shards']} shard(s), "
        f"{summary['bytes'] / 2**20:.1f} MiB, content {summary['content_hash'][:16]}"
    ]
    for key, feature in summary["features"].items():
        shape = "x".join(map(str, feature["row_shape"])) or "scalar"
        rate = f", {feature['rate']:g} rows/s" if feature["rate"] else ""
        rows = feature["rows_per_sample"]
        per_sample = f", {rows[0]}..{rows[2]} rows a sample (median {rows[1]:g})" if rows else ", no rows"
        lines.append(f"  {key}: {feature['encoder']}, {feature['dtype']} {shape}{rate}{per_sample}")
    for modality, counts in summary["modalities"].items():
        told = ", ".join(
            f"{counts[s.name.lower()]} {s.name.lower()}" for s in Status if counts[s.name.lower()]
        )
        lines.append(f"  {modality}: {told or 'no samples'}")
        lines += [f"    {n} x {reason}" for reason, n in counts["reasons"].items()]
    for name in ("splits", "folds"):
        if any(summary[name]):
            told = ", ".join(f"{key or '(none)'} {n}" for key, n in summary[name].items())
            lines.append(f"  {name}: {told}")
    words = f", {summary['vocabulary']} words" if summary["vocabulary"] is not None else ""
    lines.append(f"  {summary['labels']} labels, {summary['groups']} groups{words}")
    lines += [f"  {line}" for line in problem_lines(summary["attrs"].get("coverage"))]
    if summary["shards"] > 1:
        lines += [
            f"  {row['file']}: {row['samples']} samples, {row['bytes'] / 2**20:.1f} MiB"
            for row in summary["shard_files"]
        ]
    return lines
