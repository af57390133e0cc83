"""What a file says about itself, read from ffmpeg's description (imageio-ffmpeg brings no ffprobe)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Track:
    """One picture or sound track. `width` x `height` are the coded pixels, before rotation, of which each is
    `pixel_shape` times as wide as high."""

    index: int
    codec: str
    width: int = 0
    height: int = 0
    rate: float | None = None
    sample_rate: int = 0
    channels: str = ""
    is_cover: bool = False
    pixel_shape: float = 1.0
    start: float | None = None
    """Time stamp (s) of the first frame, where ffmpeg names one: not where that is 0."""


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Container, length in seconds (None where the file does not say), tracks, the time stamp (s) that counts
    as 0, whether a track is to be turned or mirrored for display, and whether the length is a guess."""

    container: str
    duration: float | None
    video: tuple[Track, ...] = field(default=())
    audio: tuple[Track, ...] = field(default=())
    start: float = 0.0
    turned: bool = False
    estimated: bool = False

    @property
    def stated(self) -> float | None:
        """The length in seconds where the file states it, None where it does not or where that is a guess."""
        # where its time stamps don't begin at 0, Matroska's length counts from 0 all the same
        late = self.container == _MATROSKA and self.start > _LATE
        guess = self.estimated or late or self.container in _BY_STAMPS
        return None if guess else self.duration

    @property
    def picture(self) -> Track | None:
        """The track that is decoded: the first that is no cover art."""
        return next((t for t in self.video if not t.is_cover), None)

    @property
    def sound(self) -> Track | None:
        """The track that is decoded: the first."""
        return self.audio[0] if self.audio else None


_MATROSKA = "matroska,webm"
# containers whose length is the difference of two time stamps, which may have jumped in between
_BY_STAMPS = ("mpegts", "mpeg", "ogg")
_LATE = 0.1

# A file's own tags are indented by four blanks or more, so they can't pose as one of these lines.
_INPUT = re.compile(r"\[info\] Input #0, (.+?), from ")
_DURATION = re.compile(r"\[info\]   Duration: (?:(\d+):(\d\d):(\d\d(?:\.\d+)?)|N/A)(?:, start: (-?[\d.]+))?")
_STREAM = re.compile(r"\[info\]   Stream #0:(\d+)(?:\[0x[0-9a-f]+\])?(?:\([^)]*\))?: (Video|Audio): (.*)")
_ESTIMATED = re.compile(r"(?:\[[^\]]*\] )*\[warning\] Estimating duration from bitrate")
_TURNED = re.compile(r"\[info\] +display ?matrix: rotation of ", re.IGNORECASE)


def parse_info(messages: Iterable[str]) -> MediaInfo | None:
    """The description of input 0 among ffmpeg's messages, or None where it could not be opened."""
    container: str | None = None
    duration: float | None = None
    start, turned, estimated = 0.0, False, False
    video: list[Track] = []
    audio: list[Track] = []
    for line in messages:
        if line.startswith(("[info] Stream mapping:", "[info] Output #")):
            break
        if found := _INPUT.match(line):
            container = found[1]
        elif found := _DURATION.match(line):
            if found[1]:
                duration = int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
            start = float(found[4] or 0)
        elif _ESTIMATED.match(line):
            estimated = True
        elif _TURNED.match(line):
            turned = True
        elif found := _STREAM.match(line):
            index, text = int(found[1]), found[3]
            track = _video(index, text) if found[2] == "Video" else _audio(index, text)
            begin = re.findall(r", start (-?[\d.]+)", text)
            track = replace(track, start=float(begin[-1]) if begin else None)
            (video if found[2] == "Video" else audio).append(track)
    if container is None:
        return None
    return MediaInfo(container, duration, tuple(video), tuple(audio), start, turned, estimated)


def _video(index: int, text: str) -> Track:
    size = re.search(r", (\d+)x(\d+)", text)
    rate = re.search(r", ([\d.]+)(k?) fps", text)
    # the container's word comes last and counts
    shape = re.findall(r"[,\[] ?SAR (\d+):(\d+) ", text)
    return Track(
        index,
        codec=re.split(r"[ ,]", text, maxsplit=1)[0],
        width=int(size[1]) if size else 0,
        height=int(size[2]) if size else 0,
        rate=float(rate[1]) * (1000 if rate[2] else 1) if rate else None,
        is_cover="(attached pic)" in text,
        pixel_shape=int(shape[-1][0]) / max(1, int(shape[-1][1])) if shape else 1.0,
    )


def _audio(index: int, text: str) -> Track:
    hz = re.search(r", (\d+) Hz(?:, ([^,]+))?", text)
    return Track(
        index,
        codec=re.split(r"[ ,]", text, maxsplit=1)[0],
        sample_rate=int(hz[1]) if hz else 0,
        channels=(hz[2] or "") if hz else "",
    )
