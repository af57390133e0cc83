"""What a store knows of a sample beside its rows."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harmonize_cli.store.reader import Store


def description(store: "Store", i: int) -> dict[str, Any]:
    """Everything of sample `i` but its rows, as JSON values; the sample's digest covers just this."""
    start, end = store.span(i)
    return {
        "id": store.ids[i],
        "group": store.groups[i],
        "split": store.splits[i],
        "fold": store.folds[i],
        "labels": list(store.labels[i]),
        "texts": list(store.texts(i)),
        "source": store.sources(i),
        "start": start,
        "end": end,
        "facts": store.facts(i),
        "status": {m: int(store.status(m)[i]) for m in store.modalities},
        "reason": {m: store.reason(m, i) for m in store.modalities},
    }
