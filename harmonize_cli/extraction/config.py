"""Settings of `harmonize extract`."""

from typing import Literal

from pydantic import Field, field_validator

from harmonize_cli.encoders.registry import EncodersConfig, check_names
from harmonize_cli.media.decoders import AUTO, DECODERS

Mode = Literal["incremental", "overwrite", "extend", "retry-failed"]


class ExtractConfig(EncodersConfig):
    """What to make of every sample, and how."""

    encoders: tuple[str, ...] = ("raw", "waveform", "tokens")
    """NAME or NAME:ARGUMENT of each, such as raw, logmel, open_clip:MODEL/TAG (`harmonize doctor` lists all);
    all in one pass over the video."""
    shard_samples: int = Field(default=128, ge=1)
    """Samples in a shard: what a crash may cost, and what one worker takes at a time."""
    compression: Literal["none", "lzf"] = "none"
    """lzf: smaller, slower to read."""
    deadline: float = Field(default=600.0, gt=0)
    """Seconds of decoding that one video may take before its decoder is killed and its samples fail; waiting
    for encoders does not count."""
    min_coverage: float = Field(default=0.5, ge=0, le=1)
    """A segment of which a smaller share could be decoded fails; above it the shorter sample is kept."""
    silence_db: float = Field(default=-60.0, le=0)
    """Sound whose loudest sample stays below this level (dB of full scale) has status silent."""
    decoder: str = "ffmpeg"
    """ffmpeg: a child process that can be killed. For files that you trust: pyav, inside the process, faster
    on short files; torchcodec, on the GPU's decoder (NVDEC) if there is one; auto, the fastest that works."""
    threads: int = Field(default=0, ge=0, le=256)
    """Decoder threads of one worker; 0: the cores divided by the workers."""

    @field_validator("encoders")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        errors = check_names(names)
        if errors:
            raise ValueError("; ".join(errors))
        return names

    @field_validator("decoder")
    @classmethod
    def _known_decoder(cls, name: str) -> str:
        if name != AUTO and name not in DECODERS:
            raise ValueError(f"expected {', '.join(DECODERS)} or {AUTO}")
        return name
