"""`harmonize store ...`: look at feature stores, check and rearrange them."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from harmonize_cli.cli.app import App
from harmonize_cli.cli.options import NewOut, StorePath
from harmonize_cli.cli.say import answer, say_line
from harmonize_cli.errors import BadInput, HarmonizeError
from harmonize_cli.printing import printable

app = App(
    help="Look at feature stores, check, merge, split and compare them.",
    no_args_is_help=True,
)

Lzf = Annotated[bool, typer.Option("--lzf", help="Pack rows with lzf: smaller, slower to read.")]


@app.command()
def info(
    store: StorePath,
    sample: Annotated[str | None, typer.Argument(help="Id of one sample: all that is known of it.")] = None,
) -> None:
    """Print what a store holds: features, splits, statuses with reasons, provenance, shards.

    Example: harmonize store info clips.h5; harmonize store info clips.h5 clip-17
    """
    from harmonize_cli.store.export import described
    from harmonize_cli.store.reader import Store
    from harmonize_cli.store.summary import describe_store, summary_lines

    opened = Store.open(store)
    if sample is not None:
        known = described(opened, opened.index(sample))
        answer(known, json.dumps(known, indent=2, ensure_ascii=False))
        return
    known = describe_store(opened)
    answer(known, "\n".join(printable(line, lines=False) for line in summary_lines(known)))


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

    problems: list[str] = []
    samples = 0

    def counted() -> None:
        nonlocal samples
        samples += 1
        step()

    with _bar("verify") as step:
        for problem in run(store, on_sample=counted):
            problems.append(str(problem))
            if len(problems) <= most:
                say_line(f"damaged: {problem}")
    if problems:
        answer({"samples": samples, "problems": problems})
        raise HarmonizeError(
            f"{store}: {len(problems)} problem(s) in {samples} samples; copy or extract what is damaged again"
        )
    answer({"samples": samples, "problems": []}, f"{store}: {samples} samples are as they were written")


@app.command()
def merge(
    stores: Annotated[list[Path], typer.Argument(help="Stores or shards, two or more.", show_default=False)],
    out: NewOut,
    *,
    duplicates: Annotated[
        Literal["refuse", "first", "last"], typer.Option(help="For ids that several of them have.")
    ] = "refuse",
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
            opened, out, duplicates=duplicates, shard_samples=shard_samples,
            compression="lzf" if lzf else None, on_sample=step,
        )  # fmt: skip
    answer({"samples": count, "out": out}, f"{out}: {count} samples of {len(opened)} store(s)")


@app.command()
def split(
    store: StorePath,
    out: NewOut,
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
    answer(written, f"{out}: " + ", ".join(f"{name} {count}" for name, count in written.items()))


@app.command()
def diff(
    a: StorePath,
    b: StorePath,
    *,
    most: Annotated[int, typer.Option(help="Differing samples to print.", min=1)] = 20,
) -> None:
    """Compare two stores by content, whatever their order and shards. Exit code 1 if they differ.

    Example: harmonize store diff before.h5 after/
    """
    from harmonize_cli.store.diff import diff as run
    from harmonize_cli.store.reader import Store

    one, other = Store.open(a), Store.open(b)
    found = run(one, other)
    lines = [f"kind: {found.kind}"] if found.kind else []
    lines += [f"only in {a}: {sample}" for sample in found.only_a[:most]]
    lines += [f"only in {b}: {sample}" for sample in found.only_b[:most]]
    lines += [f"differs: {sample}: {', '.join(what)}" for sample, what in list(found.changed.items())[:most]]
    for line in lines:
        say_line(line)
    answer(
        found,
        f"{len(one)} and {len(other)} samples: {len(found.only_a)} only in the first, "
        f"{len(found.only_b)} only in the second, {len(found.changed)} differ",
    )
    if found:
        raise typer.Exit(1)


@contextmanager
def _bar(desc: str, total: int | None = None) -> Iterator[Callable[[], object]]:
    """A progress bar over samples: what to call after each."""
    from harmonize_cli.progress import progress

    with progress(range(0), desc=desc, total=total, unit="sample") as bar:
        yield bar.update
