"""`harmonize eval retrieval`: from a model and a store to a result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harmonize_cli.evaluation.embed import device_of, embed_pool
from harmonize_cli.evaluation.protocols import RetrievalProtocol
from harmonize_cli.evaluation.results import Result, intervals
from harmonize_cli.evaluation.retrieval import retrieve
from harmonize_cli.evaluation.splits import coverage, rows_of
from harmonize_cli.evaluation.stage import Options, Queries, finish, place, provenance
from harmonize_cli.models.checkpoint import LoadedModel
from harmonize_cli.store.reader import Store
from harmonize_cli.store.windows import check_inputs


def evaluate_retrieval(
    loaded: LoadedModel,
    store: Store,
    protocol: RetrievalProtocol,
    *,
    split: str | None = None,
    options: Options | None = None,
) -> tuple[Result, Path]:
    """Six-direction retrieval on one pool of a store; the result is written where `options` say.

    Raises:
        BadInput: an unknown split, a store that does not fit the run, another result in the way.
    """
    options = options or Options()
    rows, split_name = rows_of(store, split)
    modalities = list(check_inputs(store, loaded.specs))
    result = Result(
        task="retrieval",
        protocol={**protocol.model_dump(mode="json"), "interval": options.as_dict()},
        split=split_name,
        coverage=coverage(store, rows, modalities),
        metrics={},
        chance={},
        **provenance(loaded, store),
    )

    def work() -> tuple[Result, Queries]:
        pool = embed_pool(loaded, store, rows, protocol, batch_size=options.batch_size, cache=options.cache)
        groups = store.groups
        outcome = retrieve(
            pool,
            protocol,
            draws=options.draws,
            seed=options.seed,
            clusters=[groups[i] for i in rows] if options.clusters else None,
            device=str(device_of(loaded)),
        )
        covered = {**result.coverage, "pools": outcome.pools}
        return replace(
            result, coverage=covered, metrics=intervals(outcome.metrics), chance=outcome.chance
        ), outcome.queries

    return finish(result, work, place(loaded, options, result), overwrite=options.overwrite)
