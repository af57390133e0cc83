"""A store as WebDataset tar shards."""

from harmonize_cli.cli.exporters import EXPORTERS
from harmonize_cli.cli.options import Features, FileSamples, NewOut, StorePath
from harmonize_cli.cli.say import answer
from harmonize_cli.locks import one_writer


@EXPORTERS.register("webdataset")
@one_writer("out")
def webdataset(
    store: StorePath, *, out: NewOut, feature: Features = None, file_samples: FileSamples = 1000
) -> None:
    """Write a store as WebDataset tar shards.

    Example: harmonize export webdataset clips.h5 -o shards -f video/frames
    """
    from harmonize_cli.progress import progress
    from harmonize_cli.store.export import to_webdataset
    from harmonize_cli.store.reader import Store

    opened = Store.open(store)
    with progress(range(0), desc="export", total=len(opened), unit="sample") as bar:
        count = to_webdataset(opened, out, features=feature, shard_samples=file_samples, on_sample=bar.update)
    answer(
        {"samples": len(opened), "files": count, "out": out},
        f"{out}: {len(opened)} samples in {count} file(s)",
    )
