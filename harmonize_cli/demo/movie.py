"""One planned file to an mp4: H.264 and AAC, the same bytes each time."""

import tempfile
from pathlib import Path

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from harmonize_cli.demo.picture import render_frames
from harmonize_cli.demo.schedule import FilePlan
from harmonize_cli.demo.settings import DialpadSettings
from harmonize_cli.demo.sound import render_sound
from harmonize_cli.files import atomic_path
from harmonize_cli.media.run import run

_KEYFRAMES_EVERY = 2.0  # seconds; a segment can be cut out without decoding the whole file


def make_movie(file: FilePlan, settings: DialpadSettings, pixels: NDArray[np.float32], path: Path) -> None:
    """Render and encode one file.

    Raises:
        MediaError: ffmpeg failed, with its own words.
    """
    frames = render_frames(file, settings, pixels)
    sound = render_sound(file, settings)
    with tempfile.TemporaryDirectory(prefix="harmonize-dialpad-") as folder, atomic_path(path) as target:
        samples = Path(folder) / "sound.s16"
        samples.write_bytes(sound.tobytes())
        picture_in = ffmpeg.input(
            "pipe:0",
            format="rawvideo",
            pix_fmt="gray",
            video_size=(settings.frame_size, settings.frame_size),
            framerate=settings.frame_rate,
        )
        sound_in = ffmpeg.input(str(samples), format="s16le", ar=settings.sample_rate, ac=1)
        output = ffmpeg.output(
            picture_in,
            sound_in,
            f"file:{target}",
            format="mp4",
            vcodec="libx264",
            preset="veryfast",
            crf=20,
            pix_fmt="yuv420p",
            g=round(_KEYFRAMES_EVERY * settings.frame_rate),
            # one thread and no encoder name in the file: the same frames give the same bytes
            threads=1,
            acodec="aac",
            audio_bitrate="48k",
            fflags="+bitexact",
            movflags="+faststart",
            **{"flags:v": "+bitexact", "flags:a": "+bitexact", "map_metadata": -1},
        )
        run(output, stdin=(frame.data for frame in frames))
