"""Decoders by name."""

from functools import cache

from harmonize_cli.errors import missing_extra
from harmonize_cli.media.decode import DecoderFactory
from harmonize_cli.media.errors import MediaError
from harmonize_cli.media.ffmpeg_decoder import FFmpegDecoder
from harmonize_cli.media.trial import gives_the_same, trial_clips


def decoder_for(name: str) -> DecoderFactory:
    """The decoder that `name` stands for: "ffmpeg", "pyav", "torchcodec", or "auto", see `fastest`.

    Raises:
        BadInput: it is not installed, or does not load.
    """
    if name == "auto":
        return fastest()
    if name == "pyav":
        return _pyav()
    if name == "torchcodec":
        return _torchcodec()
    return FFmpegDecoder


@cache
def fastest() -> DecoderFactory:
    """torchcodec where it decodes on a GPU, else PyAV, else ffmpeg: the first that gives what ffmpeg gives.

    torchcodec on the CPU is no candidate: it scales pictures of full size, which PyAV's filters don't.
    """
    try:
        with trial_clips() as paths:
            for candidate in (_torchcodec_on_gpu, _pyav):
                try:
                    decoder = candidate()
                    if decoder is not None and all(gives_the_same(decoder, p) for p in paths):
                        return decoder
                except Exception:  # whatever is wrong with it, it does not work
                    continue
    except MediaError:  # an ffmpeg that can't make the clip
        pass
    return FFmpegDecoder


def _pyav() -> DecoderFactory:
    try:
        import av  # noqa: F401
    except ImportError:
        raise missing_extra("av", "pyav", "decoder pyav") from None
    from harmonize_cli.media.pyav_decoder import PyAVDecoder

    return PyAVDecoder


def _torchcodec() -> DecoderFactory:
    from harmonize_cli.media.torchcodec_decoder import TorchcodecDecoder, video_decoder

    video_decoder()
    return TorchcodecDecoder


def _torchcodec_on_gpu() -> DecoderFactory | None:
    from harmonize_cli.media.torchcodec_decoder import device

    decoder = _torchcodec()
    return decoder if device() == "cuda" else None
