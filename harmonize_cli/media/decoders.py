"""Decoders by name."""

import importlib.util

from harmonize_cli.errors import missing_extra
from harmonize_cli.media.decode import DecoderFactory
from harmonize_cli.media.ffmpeg_decoder import FFmpegDecoder


def decoder_for(name: str) -> DecoderFactory:
    """The decoder that `name` stands for: "ffmpeg", "pyav", or "auto", the fastest that is installed.

    Raises:
        BadInput: it is not installed.
    """
    there = importlib.util.find_spec("av") is not None
    if name == "ffmpeg" or (name == "auto" and not there):
        return FFmpegDecoder
    if not there:
        raise missing_extra("av", "pyav", "decoder pyav")
    from harmonize_cli.media.pyav_decoder import PyAVDecoder

    return PyAVDecoder
