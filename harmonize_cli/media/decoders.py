"""Decoders by name."""

from harmonize_cli.media.decode import DecoderFactory
from harmonize_cli.media.ffmpeg_decoder import FFmpegDecoder


def decoder_for(name: str) -> DecoderFactory:
    """The decoder that `name` stands for; "auto" is the fastest that works here."""
    return FFmpegDecoder
