"""Look at a file without decoding it, or little of it."""

import re
from fractions import Fraction
from pathlib import Path

import ffmpeg

from harmonize_cli.media.binary import find_ffmpeg
from harmonize_cli.media.deadline import Deadline
from harmonize_cli.media.errors import MediaError
from harmonize_cli.media.info import MediaInfo, parse_info
from harmonize_cli.media.run import LOG, QUIET, Running, command, reason_from
from harmonize_cli.media.source import check_file, input_node


def probe(path: Path, *, deadline: float | Deadline = 30.0) -> MediaInfo:
    """Container, length and tracks of `path`.

    Raises:
        MediaError: with the reason, if it is no media file that can be opened.
    """
    check_file(path)
    # without an output ffmpeg describes its input and ends with an error, which is what we want
    inputs = ffmpeg.get_args(input_node(path)["v"].output("-", format="null"))
    inputs = inputs[: inputs.index("-map")]
    with Running([find_ffmpeg().path, *QUIET, *LOG, *inputs], deadline=deadline) as running:
        running.stdout.read()
        try:
            running.wait()
        except MediaError:
            info = parse_info(running.messages())
            if info is None:
                raise
            return info
        messages = running.messages()
    raise MediaError(reason_from(messages))


def length_of(path: Path, *, deadline: float = 600.0) -> float | None:
    """Seconds that `path` lasts: as it states, or measured where it does not; None where nothing can be read.

    Raises:
        MediaError: it is no media file that can be opened.
    """
    info = probe(path)
    return info.stated if info.stated is not None else measured_length(path, Deadline(deadline))


def measured_length(path: Path, deadline: Deadline) -> float | None:
    """The end of the last packet, s: all are read, none is decoded. None where there is none."""
    source = input_node(path)
    tracks = ffmpeg.output(source["V:0?"], source["a:0?"], "pipe:1", format="framecrc", c="copy")
    ticks: dict[bytes, Fraction] = {}
    end = Fraction(0)
    try:
        with Running(command(tracks), deadline=deadline) as running:
            for line in running.stdout:
                if line.startswith(b"#tb "):
                    track, base = line[4:].split(b": ")
                    ticks[track] = Fraction(base.decode().strip())
                elif not line.startswith(b"#"):
                    track, dts, pts, length = (field.strip() for field in line.split(b",")[:4])
                    shown = max(int(dts), int(pts))  # a time stamp that is missing is far below 0
                    end = max(end, (shown + int(length)) * ticks[track])
            running.wait()
    except MediaError:
        return None
    return float(end) or None


def first_frame_time(path: Path, deadline: Deadline) -> float:
    """The time stamp of the first frame that comes out of the decoder, s.

    Raises:
        MediaError: none does.
    """
    first = input_node(path)["V:0"].output("pipe:1", format="framecrc", vframes=1, fps_mode="passthrough")
    with Running(command(first), deadline=deadline) as running:
        said = running.stdout.read().decode()
        running.wait()
    base, frame = (re.search(pattern, said, re.M) for pattern in (r"^#tb 0: (\d+/\d+)$", r"^0, +\S+ +(\d+),"))
    if base is None or frame is None:
        raise MediaError("no frame could be decoded")
    return float(int(frame[1]) * Fraction(base[1]))
