"""Which ffmpeg program to run: the user's choice, the system's, or the one that imageio-ffmpeg carries."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harmonize_cli.errors import BadInput

# 6.0: `-fps_mode`, and filters that duplicate the descriptor of `pipe:N` instead of closing it.
OLDEST = (6, 0)
OVERRIDE = "HARMONIZE_FFMPEG"


@dataclass(frozen=True, slots=True)
class FFmpeg:
    """An ffmpeg program. `source` is "HARMONIZE_FFMPEG", "system" or "imageio-ffmpeg"."""

    path: str
    version: str
    source: str


@cache
def find_ffmpeg() -> FFmpeg:
    """The ffmpeg to use: $HARMONIZE_FFMPEG, else the system's if new enough, else imageio-ffmpeg's.

    Raises:
        BadInput: the override does not run, or there is no ffmpeg at all.
    """
    override = os.environ.get(OVERRIDE)
    if override:
        version = read_version(override)
        if version is None:
            raise BadInput(
                f"{OVERRIDE}={override}: is no ffmpeg that runs here; unset it or name a working one"
            )
        return FFmpeg(override, version, OVERRIDE)
    system = shutil.which("ffmpeg")
    if system:
        version = read_version(system)
        if version is not None and is_new_enough(version):
            return FFmpeg(system, version, "system")
    bundled = _bundled()
    if bundled is not None:
        return bundled
    raise BadInput(
        f"no ffmpeg of version {OLDEST[0]}.{OLDEST[1]} or newer: install one, "
        f"or `pip install imageio-ffmpeg`, or set {OVERRIDE} to its path"
    )


def read_version(program: str) -> str | None:
    """The version that `program -version` prints, or None where it does not run."""
    try:
        out = subprocess.run(
            [program, "-version"], capture_output=True, stdin=subprocess.DEVNULL, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.match(rb"ffmpeg version (\S+)", out)
    return found[1].decode(errors="replace") if found else None


def is_new_enough(version: str) -> bool:
    """Whether a version such as "7.1", "n6.0.1-3" or "N-109542-g..." (a development build) will do."""
    found = re.match(r"n?(\d+)\.(\d+)", version)
    if not found:
        return version.startswith("N-")
    return (int(found[1]), int(found[2])) >= OLDEST


def _bundled() -> FFmpeg | None:
    try:
        import imageio_ffmpeg

        path = imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return None
    version = read_version(path) if Path(path).exists() else None
    return FFmpeg(path, version, "imageio-ffmpeg") if version else None
