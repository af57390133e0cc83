"""A full disk, in words."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from harmonize_cli.errors import HarmonizeError, list_errors
from harmonize_cli.extraction.tasks import ShardTask
from harmonize_cli.files import FULL


@contextmanager
def named_when_full(tasks: Sequence[ShardTask]) -> Iterator[None]:
    """Around the work on `tasks`: where the disk gets full, name the samples that are not in the store.

    Raises:
        HarmonizeError: in the place of the OSError of a full disk; others pass.
    """
    try:
        yield
    except OSError as e:
        if e.errno not in FULL:
            raise
        # a shard that exists is complete, unless it is the old one that was to be replaced
        missing = [
            sample
            for task in tasks
            if task.path == task.base or not task.path.exists()
            for sample in task.unit.ids
        ]
        # the store's files have their names; what has none are the rows of long clips on their way there
        full = e.filename or tempfile.gettempdir()
        head = (
            f"{full}: no room left to write ({e.strerror}); free some and run the same command again: it "
            f"goes on from the complete shards. Still to do, {len(missing)} samples:"
        )
        raise HarmonizeError(list_errors(head, missing, most=10)) from e
