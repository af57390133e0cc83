"""An untrusted file as an ffmpeg input: nothing but this file is opened, whatever is written in it."""

import stat
from pathlib import Path
from typing import Any

import ffmpeg

from harmonize_cli.media.errors import MediaError

# Formats of real sound and video. Left out on purpose: playlists and scripts that name other files or hosts
# (hls, dash, concat, imf, ...), pictures and vector graphics (image2, svg_pipe), devices, subtitles.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,kux,mpegts,mpeg,mpegvideo,vob,asf,asf_o,ogg,rm,mxf,gif,dv,nut,"
    "wtv,ivf,h263,h264,hevc,vvc,m4v,obu,av1,mjpeg,yuv4mpegpipe,swf,nsv,amv,wav,w64,rf64,mp3,flac,aac,ac3,eac3,"
    "aiff,au,caf,amr,amrnb,amrwb,ape,wv,tta,opus,loas,dts,truehd,mpc,mpc8,tak,latm,voc"
)
# Bare streams without time stamps: a seek would land where their bit rate makes believe.
UNSEEKABLE = (
    "ac3", "eac3", "dts", "truehd", "loas", "mpegvideo", "m4v", "h263", "h264", "hevc", "vvc", "obu", "av1",
    "mjpeg",
)  # fmt: skip
# Containers whose time stamps may jump: of these ffmpeg counts from the first frame of the tracks in use.
COUNTED_FROM_TRACKS = ("mpegts", "mpeg", "ogg", "nsv", "rm", "dv")
PROTOCOLS = "file,pipe"
# 8192 x 8192: beyond every real video, and small enough that a forged header can't eat the machine
MOST_PIXELS = 1 << 26


def input_node(path: Path, *, start: float = 0.0, length: float | None = None, threads: int = 0) -> Any:
    """The ffmpeg-python input for `path`, seeked to `start` and cut after `length` seconds.

    `file:` in front makes any name safe: a dash, a colon, a percent sign or a newline mean nothing in it.
    """
    options: dict[str, Any] = {
        "protocol_whitelist": PROTOCOLS,
        "format_whitelist": DEMUXERS,
        "max_streams": 64,
        "max_pixels": MOST_PIXELS,
        "threads": threads,
    }
    if start > 0:
        options["ss"] = f"{start:.6f}"
    if length is not None:
        options["t"] = f"{length:.6f}"
    # a Path: ffmpeg-python takes the UTF-8 of a str, which a name of other bytes has not
    return ffmpeg.input(Path(f"file:{path}"), **options)


def check_file(path: Path) -> int:
    """The size in bytes. Refuses what is no readable, non-empty, regular file, in words of our own.

    Raises:
        MediaError: with the reason.
    """
    try:
        state = path.stat()
    except FileNotFoundError:
        raise MediaError("no such file") from None
    except OSError as e:
        raise MediaError(f"can't be read: {e.strerror}") from None
    if not stat.S_ISREG(state.st_mode):
        raise MediaError("is not a regular file")
    if state.st_size == 0:
        raise MediaError("the file is empty (0 bytes)")
    return state.st_size


def is_avi(path: Path) -> bool:
    """Whether the file begins like an AVI file. Those have no time stamps: frames count from their start."""
    try:
        with path.open("rb") as f:
            head = f.read(12)
    except OSError:  # the decoder will say why
        return False
    return head[:4] == b"RIFF" and head[8:11] == b"AVI"
