"""A store as Parquet files."""

from harmonize_cli.cli.exporters import EXPORTERS
from harmonize_cli.cli.options import Features, FileSamples, NewOut, StorePath
from harmonize_cli.cli.say import answer
from harmonize_cli.locks import one_writer


@EXPORTERS.register("parquet")
@one_writer("out")
def parquet(
    store: StorePath, *, out: NewOut, feature: Features = None, file_samples: FileSamples = 100_000
) -> None:
    """Write a store as Parquet files.

    Example: harmonize export parquet clips.h5 -o clips-parquet -f video/open_clip
    """
    from harmonize_cli.progress import progress
    from harmonize_cli.store.export import to_parquet
    from harmonize_cli.store.reader import Store

    opened = Store.open(store)
    with progress(range(0), desc="export", total=len(opened), unit="sample") as bar:
        count = to_parquet(opened, out, features=feature, file_samples=file_samples, on_sample=bar.update)
    answer(
        {"samples": len(opened), "files": count, "out": out},
        f"{out}: {len(opened)} samples in {count} file(s)",
    )
