"""Decoding inside this process with PyAV: the same filters, no child to start for every file.

Faster on many short files. What it can't do is kill a decoder that hangs or crashes, so it is a choice, not
the default: use it for files that you trust.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harmonize_cli.errors import missing_extra
from harmonize_cli.media.deadline import Deadline
from harmonize_cli.media.decoders import DECODERS, DecoderEntry, DecoderFactory
from harmonize_cli.media.errors import DeadlinePassed, MediaError
from harmonize_cli.media.ffmpeg_decoder import MOST_LAG, FFmpegDecoder, seek_point
from harmonize_cli.media.filters import filters_for, pixel_format
from harmonize_cli.media.info import MediaInfo, Track
from harmonize_cli.media.probe import probe
from harmonize_cli.media.pyav_frames import FrameTimes, SampleTimes, mix_levels, upright
from harmonize_cli.media.requests import Chunk, FrameRequest, Request, SoundRequest, Span
from harmonize_cli.media.source import DEMUXERS, MOST_PIXELS, PROTOCOLS, UNSEEKABLE

_BLOCK = 1 << 20
_MOST_ROWS = 256
_MOST_ERRORS = 20
_EXACT = 2**31 - 1
UNKNOWN = "unknown"
# formats of which some files have no length, and PyAV does not tell those that it guessed
_GUESSES = ("mp3", "aac", "amr", "w64", "caf", "voc", "swf", "dts", *UNSEEKABLE)
_GENPTS = 1
# AVFMT_NOTIMESTAMPS, AVFMT_TS_DISCONT: containers without time stamps, or with such as jump
_NO_TIMES = 0x0080 | 0x0200


class PyAVDecoder:
    """Decodes `requests` from `path` within `span`; see `harmonize_cli.media.decode.Decoder`."""

    def __init__(
        self, path: Path, requests: Sequence[Request], span: Span, *, deadline: Deadline, threads: int = 0
    ) -> None:
        import av

        self._av: Any = av
        self._path, self._requests, self._span = path, requests, span
        self._deadline, self._threads = deadline, threads
        self.info: MediaInfo | None = None
        self.errors: list[str] = []

    def chunks(self) -> Iterator[Chunk]:
        """Rows of all requests, about in step.

        Raises:
            MediaError: after the chunks that could be had.
        """
        options = {
            "protocol_whitelist": PROTOCOLS,
            "format_whitelist": DEMUXERS,
            "max_streams": "64",
        }
        try:
            with self._av.open(f"file:{self._path}", options=options, metadata_errors="ignore") as container:
                # no stamps made up where a container has none: they are wrong where frames are reordered
                container.flags &= ~_GENPTS
                self.info = _info(container)
                if container.format.name in _GUESSES:
                    stated = probe(self._path, deadline=self._deadline)
                    self.info = replace(self.info, duration=stated.duration, estimated=stated.estimated)
                if not container.format.flags & _NO_TIMES:
                    yield from self._decode(container)
                    return
        except MediaError:
            raise
        except Exception as e:  # whatever PyAV raises, it fails this file, not the run
            raise MediaError(_words(e)) from e
        child = FFmpegDecoder(
            self._path, self._requests, self._span, deadline=self._deadline, threads=self._threads
        )
        try:
            yield from child.chunks()
        finally:
            self.info, self.errors = child.info, child.errors

    def _decode(self, container: Any) -> Iterator[Chunk]:
        streams = self._streams(container)
        start = float((container.start_time or 0) / self._av.time_base)
        offset = seek_point(self._span, self._requests)
        lag = self._lag(container, streams.get("video"))
        try:
            if container.format.name in UNSEEKABLE:
                offset = 0.0
            if offset:
                container.seek(int((offset + start) * self._av.time_base))
        except self._av.error.FFmpegError:  # it can't
            offset = 0.0
        times = {
            kind: FrameTimes(stream, start + lag, offset) if kind == "video" else SampleTimes(start, offset)
            for kind, stream in streams.items()
        }
        lanes = [_Lane(self._av, n, r, streams[r.kind]) for n, r in enumerate(self._requests)]
        end = self._span.end
        open_kinds = {r.kind for r in self._requests}
        for packet in container.demux(list(streams.values())):
            if self._deadline.left() <= 0:
                raise DeadlinePassed(f"not done after {self._deadline.seconds:g} s")
            kind = packet.stream.type
            if kind not in open_kinds:
                continue
            for frame in self._frames(packet):
                jump = times[kind].set(frame)
                if end is not None and frame.time > end + 1.0:
                    open_kinds.discard(kind)
                    break
                if jump:
                    yield from _finish(lanes)
                    raise MediaError(jump)
                for lane in lanes:
                    if lane.request.kind == kind:
                        yield from lane.push(frame)
            if not open_kinds:
                break
        yield from _finish(lanes)

    def _lag(self, container: Any, stream: Any) -> float:
        """By how much frames come late, as in `FFmpegDecoder`."""
        if stream is None or container.format.name != "avi":
            return 0.0
        times, lag = FrameTimes(stream, 0.0, 0.0), 0.0
        with suppress(self._av.error.FFmpegError, StopIteration):
            frame = next(container.decode(stream))
            times.set(frame)
            lag = float(frame.time) if frame.pts <= MOST_LAG else 0.0
        container.seek(0)
        return lag

    def _frames(self, packet: Any) -> Iterator[Any]:
        try:
            yield from packet.decode()
        except (self._av.error.FFmpegError, ValueError) as e:
            # a broken packet; the rest may be fine
            if len(self.errors) < _MOST_ERRORS:
                self.errors.append(_words(e))

    def _streams(self, container: Any) -> dict[str, Any]:
        assert self.info is not None
        found: dict[str, Any] = {}
        for kind, track in (("video", self.info.picture), ("audio", self.info.sound)):
            if not any(r.kind == kind for r in self._requests):
                continue
            if track is None:
                raise MediaError(f"no {kind} track")
            stream = container.streams[track.index]
            if track.codec == UNKNOWN:
                raise MediaError(f"{kind} track: its codec is not known to this decoder")
            if kind == "video" and stream.width * stream.height > MOST_PIXELS:
                raise MediaError(f"pictures of {stream.width} x {stream.height} pixels are refused")
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = self._threads
            found[kind] = stream
        return found


class _Lane:
    """One request's filter graph, rebuilt where the frames change their shape, and its rows."""

    def __init__(self, av: Any, number: int, request: Request, stream: Any) -> None:
        self._av, self._number, self.request = av, number, request
        aspect = getattr(stream, "sample_aspect_ratio", None)
        self._pixel_shape = f"{aspect.numerator}/{aspect.denominator}" if aspect else "1"
        self._graph: Any = None
        self._shape: tuple[Any, ...] = ()
        self._rows: list[np.ndarray[Any, Any]] = []
        self._times: list[float] = []
        self._bytes = 0

    def push(self, frame: Any) -> Iterator[Chunk]:
        """Feed a decoded frame; yield the chunk that it completes."""
        shape = _shape(frame, self.request)
        if shape != self._shape:
            yield from self._drain(last=True)
            self._shape = shape
            try:
                self._graph = self._build(frame)
            except ValueError:  # its crop is misaligned, as far as anybody can tell
                self._graph = self._build(frame, full_chroma=True)
        self._graph.push(frame)
        yield from self._drain()

    def finish(self) -> Iterator[Chunk]:
        """What is left at the end."""
        yield from self._drain(last=True)
        yield from self._chunk()

    def _build(self, frame: Any, *, full_chroma: bool = False) -> Any:
        graph = self._av.filter.Graph()
        filters: list[tuple[str, Any]] = list(filters_for(self.request, full_chroma=full_chroma))
        if isinstance(self.request, SoundRequest):
            layout = frame.layout.name
            dict(filters)["aresample"].update(mix_levels(_side_data(frame, "DOWNMIX_INFO")))
            source = graph.add_abuffer(
                sample_rate=frame.sample_rate,
                format=frame.format.name,
                layout=layout,
                time_base=frame.time_base,
            )
            sink = graph.add("abuffersink")
        else:
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
            )
            filters = [
                ("setsar", {"sar": self._pixel_shape, "max": _EXACT}),
                *upright(_side_data(frame, "DISPLAYMATRIX")),
                *filters,
            ]
            sink = graph.add("buffersink")
        nodes = [source]
        for name, options in filters:
            if options is None or isinstance(options, str):
                nodes.append(graph.add(name, options))
            else:
                text = ":".join(f"{k}={_escape(str(v))}" for k, v in options.items())
                nodes.append(graph.add(name, text))
        nodes.append(sink)
        graph.link_nodes(*nodes).configure()
        return graph

    def _drain(self, *, last: bool = False) -> Iterator[Chunk]:
        if self._graph is None:
            return
        if last:
            self._graph.push(None)
        with suppress(self._av.error.BlockingIOError, self._av.error.EOFError):
            while True:
                frame = self._graph.pull()
                self._take(frame)
                if self._bytes >= _BLOCK or len(self._rows) >= _MOST_ROWS:
                    yield from self._chunk()

    def _take(self, frame: Any) -> None:
        if isinstance(self.request, FrameRequest):
            rows = frame.to_ndarray(format=pixel_format(self.request)).reshape(self.request.row_shape)
            time_of = frame.pts / float(self.request.exact_rate)
        else:
            rows = frame.to_ndarray().reshape(-1)
            time_of = float(frame.pts * frame.time_base)
        self._rows.append(rows)
        self._times.append(time_of)
        self._bytes += rows.nbytes

    def _chunk(self) -> Iterator[Chunk]:
        if not self._rows:
            return
        rows, times = self._rows, self._times
        self._rows, self._times, self._bytes = [], [], 0
        if isinstance(self.request, FrameRequest):
            yield Chunk(self._number, np.array(times), np.stack(rows))
        else:
            yield Chunk(
                self._number, np.array(times[:1]), np.concatenate(rows).astype(np.float32, copy=False)
            )


def _finish(lanes: Sequence[_Lane]) -> Iterator[Chunk]:
    for lane in lanes:
        yield from lane.finish()


def _shape(frame: Any, request: Request) -> tuple[Any, ...]:
    if isinstance(request, SoundRequest):
        mix = _side_data(frame, "DOWNMIX_INFO")
        return frame.sample_rate, frame.format.name, frame.layout.name, mix
    return frame.width, frame.height, frame.format.name, _side_data(frame, "DISPLAYMATRIX")


def _side_data(frame: Any, name: str) -> bytes | None:
    found = frame.side_data.get(name)
    return None if found is None else bytes(found)


def _escape(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\':,;[]" else c for c in text)


def _info(container: Any) -> MediaInfo:
    from av.stream import Disposition

    video, audio = [], []
    for stream in container.streams.video:
        cover = bool(stream.disposition & Disposition.attached_pic)
        rate = float(stream.average_rate) if stream.average_rate else None
        context = stream.codec_context
        name = context.name if context is not None else UNKNOWN
        video.append(Track(stream.index, name, stream.width, stream.height, rate, is_cover=cover))
    for stream in container.streams.audio:
        context = stream.codec_context
        if context is None:
            audio.append(Track(stream.index, UNKNOWN))
        else:
            layout = context.layout.name
            audio.append(Track(stream.index, context.name, sample_rate=context.sample_rate, channels=layout))
    duration = container.duration / 1e6 if container.duration else None
    start = float((container.start_time or 0) / 1e6)
    return MediaInfo(container.format.name, duration, tuple(video), tuple(audio), start)


def _words(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text)[:300]


def _load() -> DecoderFactory:
    try:
        import av  # noqa: F401
    except ImportError:
        raise missing_extra("av", "pyav", "decoder pyav") from None
    return PyAVDecoder


DECODERS.add(
    "pyav",
    DecoderEntry(
        load=_load, speed=lambda: 1, about="inside the process (extra pyav): for files that you trust"
    ),
)
