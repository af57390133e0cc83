"""What can go wrong with one media file. Such an error fails that file's samples, never the run."""

from harmonize_cli.errors import HarmonizeError


class MediaError(HarmonizeError):
    """One file can't be read, decoded or written. `str(error)` is the reason kept with the sample."""


class DeadlinePassed(MediaError):
    """The decoder did not finish in the time given to this file and was killed."""
