"""What the commands of `harmonize eval` share: how a run, a store and lists are opened, a result shown."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harmonize_cli.cli.say import answer
from harmonize_cli.errors import BadInput

if TYPE_CHECKING:
    from harmonize_cli.evaluation.results import Result
    from harmonize_cli.evaluation.sources import Source
    from harmonize_cli.store.reader import Store


def open_source(
    run: str,
    store: Path,
    *,
    keys: list[str] | None,
    checkpoint: str,
    device: str,
    fresh: int | None,
    batch_size: int,
    cache: bool,
    verifies: bool,
) -> "tuple[Store, Source]":
    """The store, and the run (or - for the store itself) to evaluate."""
    from harmonize_cli.evaluation.sources import PlainSource, RunSource, untrained
    from harmonize_cli.models.checkpoint import load_model
    from harmonize_cli.store.reader import Store

    opened = Store.open(store, verifies=verifies)
    if run == "-":
        return opened, PlainSource(opened, tuple(keys or ()))
    if keys:
        raise BadInput("--key goes with RUN -: a run reads the features that it was trained on")
    loaded = load_model(Path(run), checkpoint, pick_device(device))
    return opened, RunSource(loaded if fresh is None else untrained(loaded, fresh), batch_size, cache)


def divisions(official: str | None, annotations: Path | None) -> dict[str, dict[str, str]]:
    """Official divisions by name; none where no data set was named."""
    if official is None:
        return {}
    from harmonize_cli.datasets.official import official_divisions

    return official_divisions(official, annotations or Path())


def listed(official: str | None, annotations: Path | None, split: str | None) -> set[str]:
    """Ids that the official lists of a data set name for a split; none where no data set was named."""
    if official is None:
        return set()
    from harmonize_cli.datasets.official import official_ids

    return official_ids(official, annotations or Path(), (split or "test").split(","))


def pick_device(name: str) -> str:
    """The device, checked; torch is imported only here."""
    from harmonize_cli.ranks import pick_device as pick

    return str(pick(name))


def parse_label(text: str) -> 'int | Literal["all"]':
    """--label as the tasks take it."""
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise BadInput(f"--label {text}: expected a number from 0, or all")
    return int(text)


def pair_up(places: list[str], benchmarks: list[str]) -> tuple[list[str], list[tuple[str, Path]]]:
    """Runs among `places`, and benchmarks with their stores: NAME takes every store, NAME=STORE its own."""
    runs = [
        p for p in places if p == "-" or (Path(p) / "checkpoints").is_dir() or (Path(p) / "last").exists()
    ]
    stores = [Path(place) for place in places if place not in runs]
    split = [text.partition("=") for text in benchmarks]
    pairs = [(name, store) for name, _, own in split for store in ([Path(own)] if own else stores)]
    if not runs or len({name for name, _ in pairs}) < len({name for name, _, _ in split}):
        what = "run folder (or -)" if not runs else "store"
        raise BadInput(
            f"{', '.join(places)}: no {what} among these; eval run RUN... STORE... --benchmark NAME"
        )
    return runs, pairs


def show_result(result: "Result", path: Path) -> None:
    """Print a result's table."""
    from harmonize_cli.evaluation.tables import summary
    from harmonize_cli.files import read_json

    answer({**read_json(path, dict[str, Any]), "file": path}, summary(result, path))
