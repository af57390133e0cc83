"""`harmonize eval retrieval`: from a model and a store to a result."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from harmonize_cli.evaluation.protocols import RetrievalProtocol
from harmonize_cli.evaluation.results import Result, intervals
from harmonize_cli.evaluation.retrieval import retrieve
from harmonize_cli.evaluation.sources import Source
from harmonize_cli.evaluation.splits import coverage, listed_rows
from harmonize_cli.evaluation.stage import Options, Queries, finish, place, provenance
from harmonize_cli.files import sha256_json
from harmonize_cli.store.reader import Store


def evaluate_retrieval(
    source: Source,
    store: Store,
    protocol: RetrievalProtocol,
    *,
    split: str | None = None,
    expected: Collection[str] = (),
    options: Options | None = None,
) -> tuple[Result, Path]:
    """Six-direction retrieval on one pool of a store; the result is written where `options` say.

    Args:
        split: see `rows_of`.
        expected: ids of an official list: other samples stay out, missing ones lower the coverage.

    Raises:
        BadInput: an unknown split, a store that does not fit the run, another result in the way.
    """
    options = options or Options()
    rows, split_name = listed_rows(store, split, frozenset(expected))
    modalities = source.modalities(store)
    result = Result(
        task="retrieval",
        protocol={
            **protocol.model_dump(mode="json"),
            **({"list": sha256_json(sorted(expected))} if expected else {}),
            "interval": options.as_dict(),
        },
        split=split_name,
        coverage=coverage(store, rows, modalities, expected),
        metrics={},
        chance={},
        **provenance(source, store),
    )

    def work() -> tuple[Result, Queries]:
        pool = source.pool(store, rows, protocol)
        groups = store.groups
        outcome = retrieve(
            pool,
            protocol,
            draws=options.draws,
            seed=options.seed,
            clusters=[groups[i] for i in rows] if options.clusters else None,
            device=source.device,
        )
        covered = {**result.coverage, "pools": outcome.pools}
        return replace(
            result, coverage=covered, metrics=intervals(outcome.metrics), chance=outcome.chance
        ), outcome.queries

    return finish(result, work, place(source, options, result), overwrite=options.overwrite)
