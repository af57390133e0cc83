"""`harmonize store ...`: look at feature stores, check them, rearrange and export them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harmonize_cli.cli.say import say, say_line
from harmonize_cli.errors import BadInput, HarmonizeError

app = typer.Typer(
    help="Look at feature stores, check, merge, split, compare and export them.",
    epilog="Example: harmonize store verify clips.h5 && harmonize store split clips.h5 -o parts --parts 4",
    no_args_is_help=True,
)

StorePath = Annotated[
    Path, typer.Argument(help="Store: a .h5 file or a folder of shards.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="What to write; must not exist.", show_default=False)]
Lzf = Annotated[bool, typer.Option("--lzf", help="Pack rows with lzf: smaller, slower to read.")]


class Duplicates(StrEnum):
    """What to do with an id that several stores have."""

    refuse = "refuse"
    first = "first"
    last = "last"


class Format(StrEnum):
    """Formats of other tools."""

    webdataset = "webdataset"
    parquet = "parquet"


@app.command("ls")
def ls_(store: StorePath, *, json: AsJson = False) -> None:
    """List the shards: samples, size, content.

    Example: harmonize store ls clips/
    """
    from harmonize_cli.store.reader import Store
    from harmonize_cli.store.summary import shard_rows

    rows = shard_rows(Store.open(store))
    if json:
        _print_json(rows)
        return
    for row in rows:
        say_line(f"{row['file']}  {row['samples']:>8} samples  {row['bytes'] / 2**20:>9.1f} MiB")
    total = sum(row["samples"] for row in rows)
    size = sum(row["bytes"] for row in rows)
    say(f"{len(rows)} shard(s), {total} samples, {size / 2**20:.1f} MiB")


@app.command()
def info(
    store: StorePath,
    sample: Annotated[str | None, typer.Argument(help="Id of one sample: all that is known of it.")] = None,
    *,
    json: AsJson = False,
) -> None:
    """Tell what a store holds: features, splits, statuses with reasons, provenance.

    Example: harmonize store info clips.h5; harmonize store info clips.h5 clip-17
    """
    from harmonize_cli.store.export import described
    from harmonize_cli.store.reader import Store
    from harmonize_cli.store.summary import describe_store, summary_lines

    opened = Store.open(store)
    if sample is not None:
        _print_json(described(opened, opened.index(sample)))
    elif json:
        _print_json(describe_store(opened))
    else:
        for line in summary_lines(describe_store(opened)):
            say_line(line)


@app.command()
def verify(
    store: StorePath,
    *,
    most: Annotated[int, typer.Option(help="Problems to print.", min=1)] = 50,
) -> None:
    """Check every byte against the checksums; name what is damaged. Exit code 1 if something is.

    Example: harmonize store verify clips/
    """
    from harmonize_cli.store.verify import verify as run

    count = samples = 0

    def counted() -> None:
        nonlocal samples
        samples += 1
        step()

    with _bar("verify") as step:
        for problem in run(store, on_sample=counted):
            count += 1
            if count <= most:
                say_line(f"damaged: {problem}")
    if count:
        raise HarmonizeError(
            f"{store}: {count} problem(s) in {samples} samples; copy or extract what is damaged again"
        )
    say(f"{store}: {samples} samples are as they were written")


@app.command()
def merge(
    stores: Annotated[list[Path], typer.Argument(help="Stores or shards, two or more.", show_default=False)],
    out: Out,
    *,
    duplicates: Annotated[
        Duplicates, typer.Option(help="For ids that several of them have.")
    ] = Duplicates.refuse,
    shard_samples: Annotated[int, typer.Option(help="Samples of a shard, if OUT is a folder.", min=1)] = 1024,
    lzf: Lzf = False,
) -> None:
    """Join stores that were made with the same encoders.

    Example: harmonize store merge a.h5 b.h5 -o all/
    """
    from harmonize_cli.store.reader import Store
    from harmonize_cli.store.rearrange import merge as run

    opened = [Store.open(path) for path in stores]
    with _bar("merge", sum(map(len, opened))) as step:
        count = run(
            opened, out, duplicates=duplicates.value, shard_samples=shard_samples,
            compression="lzf" if lzf else None, on_sample=step,
        )  # fmt: skip
    say(f"{out}: {count} samples of {len(opened)} store(s)")


@app.command()
def split(
    store: StorePath,
    out: Out,
    *,
    ids: Annotated[
        Path | None, typer.Option(help="File of ids, one a line: into listed.h5 and rest.h5.")
    ] = None,
    parts: Annotated[int | None, typer.Option(help="So many parts of equal size.", min=1)] = None,
    shard_samples: Annotated[
        int | None, typer.Option(help="Write each part as a folder of shards of so many samples.", min=1)
    ] = None,
    lzf: Lzf = False,
) -> None:
    """Divide a store into a folder of stores: by its column split, by a list of ids, or in N parts.

    Example: harmonize store split clips.h5 -o clips-by-split
    """
    from harmonize_cli.store.reader import Store
    from harmonize_cli.store.rearrange import divide, parts_by_ids, parts_by_number, parts_by_split

    if ids is not None and parts is not None:
        raise BadInput("--ids and --parts: give one of them")
    opened = Store.open(store)
    if ids is not None:
        chosen = parts_by_ids(opened, ids)
    else:
        chosen = parts_by_number(opened, parts) if parts else parts_by_split(opened)
    with _bar("split", len(opened)) as step:
        written = divide(
            opened, out, chosen, shard_samples=shard_samples, compression="lzf" if lzf else None,
            on_sample=step,
        )  # fmt: skip
    say(f"{out}: " + ", ".join(f"{name} {count}" for name, count in written.items()))


@app.command()
def diff(
    a: StorePath,
    b: StorePath,
    *,
    json: AsJson = False,
    most: Annotated[int, typer.Option(help="Differing samples to print.", min=1)] = 20,
) -> None:
    """Compare two stores by content, whatever their order and shards. Exit code 1 if they differ.

    Example: harmonize store diff before.h5 after/
    """
    from dataclasses import asdict

    from harmonize_cli.store.diff import diff as run
    from harmonize_cli.store.reader import Store

    one, other = Store.open(a), Store.open(b)
    found = run(one, other)
    if json:
        _print_json(asdict(found))
    else:
        lines = [f"kind: {found.kind}"] if found.kind else []
        lines += [f"only in {a}: {sample}" for sample in found.only_a[:most]]
        lines += [f"only in {b}: {sample}" for sample in found.only_b[:most]]
        lines += [
            f"differs: {sample}: {', '.join(what)}" for sample, what in list(found.changed.items())[:most]
        ]
        for line in lines:
            say_line(line)
        say(
            f"{len(one)} and {len(other)} samples: {len(found.only_a)} only in the first, "
            f"{len(found.only_b)} only in the second, {len(found.changed)} differ"
        )
    if found:
        raise typer.Exit(1)


@app.command()
def export(
    store: StorePath,
    out: Out,
    *,
    to: Annotated[Format, typer.Option("--to", help="Format.", show_default=False)],
    feature: Annotated[
        list[str] | None,
        typer.Option("--feature", "-f", help="Feature to export; may be repeated.", show_default="all"),
    ] = None,
    file_samples: Annotated[
        int | None,
        typer.Option(help="Samples of a file.", min=1, show_default="1000 (tar), 100000 (Parquet)"),
    ] = None,
) -> None:
    """Write a store as WebDataset tar shards or as Parquet.

    Example: harmonize store export clips.h5 --to parquet -f video/open_clip -o clips-parquet
    """
    from harmonize_cli.store.export import to_parquet, to_webdataset
    from harmonize_cli.store.reader import Store

    opened = Store.open(store)
    with _bar("export", len(opened)) as step:
        if to is Format.webdataset:
            count = to_webdataset(
                opened, out, features=feature, shard_samples=file_samples or 1000, on_sample=step
            )
        else:
            count = to_parquet(
                opened, out, features=feature, file_samples=file_samples or 100_000, on_sample=step
            )
    say(f"{out}: {len(opened)} samples in {count} file(s)")


@contextmanager
def _bar(desc: str, total: int | None = None) -> Iterator[Callable[[], object]]:
    """A progress bar over samples: what to call after each."""
    from harmonize_cli.progress import progress

    with progress(range(0), desc=desc, total=total, unit="sample") as bar:
        yield bar.update


def _print_json(value: object) -> None:
    import json

    say(json.dumps(value, indent=2, ensure_ascii=False))
