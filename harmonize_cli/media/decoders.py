"""Decoders by name. A decoder's file registers a `DecoderEntry` in `DECODERS`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from harmonize_cli.media.deadline import Deadline
from harmonize_cli.media.errors import MediaError
from harmonize_cli.media.info import MediaInfo
from harmonize_cli.media.requests import Chunk, Request, Span
from harmonize_cli.registry import Registry

AUTO = "auto"


class Decoder(Protocol):
    """One decode of one file. `info` and `errors` are final once `chunks()` ended."""

    info: MediaInfo | None
    errors: list[str]

    def chunks(self) -> Iterator[Chunk]:
        """Rows of all requests, about in step; raises MediaError after what could be had."""
        ...


class DecoderFactory(Protocol):
    """How to make a decoder; `threads` 0 lets it choose."""

    def __call__(
        self, path: Path, requests: Sequence[Request], span: Span, *, deadline: Deadline, threads: int
    ) -> Decoder: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderEntry:
    """A decoder as it is registered: `DECODERS.add("pyav", DecoderEntry(...))`."""

    load: Callable[[], DecoderFactory]
    """The decoder; raises `BadInput` where it is not installed or does not load."""
    about: str
    """What it is, in a few words."""
    speed: Callable[[], int] = lambda: 0
    """Its rank for `auto` on this machine, the highest is tried first; 0: `auto` does not take it."""


DECODERS: Registry[DecoderEntry] = Registry(
    "decoder", group="harmonize.decoders", package="harmonize_cli.media"
)


def decoder_for(name: str) -> DecoderFactory:
    """The decoder that `name` stands for: one of `DECODERS`, or "auto", see `fastest`.

    Raises:
        BadInput: an unknown name; it is not installed, or does not load.
    """
    return fastest() if name == AUTO else DECODERS.find(name).load()


@cache
def fastest() -> DecoderFactory:
    """The fastest decoder here that gives what ffmpeg gives: torchcodec on a GPU, else PyAV, else ffmpeg."""
    from harmonize_cli.media.trial import gives_the_same, trial_clips

    try:
        with trial_clips() as paths:
            for _, entry in sorted(_ranked(), key=lambda pair: -pair[0]):
                try:
                    decoder = entry.load()
                    if all(gives_the_same(decoder, path) for path in paths):
                        return decoder
                except Exception:  # whatever is wrong with it, it does not work
                    continue
    except MediaError:  # an ffmpeg that can't make the clips
        pass
    return DECODERS["ffmpeg"].load()


def _ranked() -> Iterator[tuple[int, DecoderEntry]]:
    for entry in DECODERS.values():
        try:
            rank = entry.speed()
        except Exception:  # as above
            continue
        if rank:
            yield rank, entry
