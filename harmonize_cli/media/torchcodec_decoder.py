"""Pictures decoded by torchcodec: on the GPU's decoder (NVDEC) where there is one, else on the CPU.

torchcodec opens whatever its FFmpeg knows, playlists among it, and has no option against that. So our own
ffmpeg looks at every file first and refuses what is not on the list (`media/source.py`). A decoder inside
this process can't be killed: like PyAV, it is for files that you trust.

It decodes pictures only; sound comes from an ffmpeg child. Where it gives up (broken packets, pictures that
change their size), ffmpeg goes on from there. ffmpeg alone decodes what torchcodec shows otherwise: mirrored
pictures (it turns, but does not mirror) and containers whose time stamps need repair.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harmonize_cli.errors import BadInput, missing_extra
from harmonize_cli.media.deadline import Deadline
from harmonize_cli.media.decoders import DECODERS, DecoderEntry, DecoderFactory
from harmonize_cli.media.errors import DeadlinePassed, MediaError
from harmonize_cli.media.ffmpeg_decoder import FFmpegDecoder
from harmonize_cli.media.filters import LATE, MOST_GAP
from harmonize_cli.media.info import MediaInfo, Track
from harmonize_cli.media.probe import probe
from harmonize_cli.media.requests import Chunk, FrameRequest, Request, SoundRequest, Span
from harmonize_cli.media.source import MOST_PIXELS

# decoded pictures held at a time, at their full size
_BLOCK = 32 << 20
_MOST_ROWS = 256
# a scan that ends so much (s) before the track's stated end stopped at a broken packet
_SHORT = 0.5
# containers with a true time stamp for every frame
_TIMED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
# torchcodec's errors, with those of its FFmpeg inside
_GIVES_UP = (RuntimeError, ValueError, IndexError)


class TorchcodecDecoder:
    """Decodes `requests` from `path` within `span`; see `harmonize_cli.media.decode.Decoder`.

    Raises:
        BadInput: torchcodec is not installed, or does not find FFmpeg's shared libraries.
    """

    def __init__(
        self, path: Path, requests: Sequence[Request], span: Span, *, deadline: Deadline, threads: int = 0
    ) -> None:
        self._open = video_decoder()
        self._path, self._requests, self._span = path, requests, span
        self._deadline, self._threads = deadline, threads
        self.info: MediaInfo | None = None
        self.errors: list[str] = []

    def chunks(self) -> Iterator[Chunk]:
        """Rows of all requests, about in step.

        Raises:
            MediaError: after the chunks that could be had.
        """
        self.info = probe(self._path, deadline=self._deadline)
        if self.info.container not in _TIMED or self.info.turned:
            yield from self._ffmpeg(range(len(self._requests)))
            return
        pictures = [n for n, r in enumerate(self._requests) if isinstance(r, FrameRequest)]
        sounds = [n for n, r in enumerate(self._requests) if isinstance(r, SoundRequest)]
        streams: list[Iterator[Chunk]] = []
        if pictures:
            track = self.info.picture
            if track is None:
                raise MediaError("no picture track")
            if track.width * track.height > MOST_PIXELS:
                raise MediaError(f"pictures of {track.width} x {track.height} pixels are refused")
            streams.append(self._pictures(pictures, track, self.info.start))
        if sounds:
            if self.info.sound is None:
                raise MediaError("no sound track")
            streams.append(self._ffmpeg(sounds))
        yield from _in_step(streams)

    def _pictures(self, numbers: Sequence[int], track: Track, start: float) -> Iterator[Chunk]:
        given = dict.fromkeys(numbers, -np.inf)
        try:
            for chunk in self._torchcodec(numbers, track, start):
                given[chunk.request] = float(chunk.times[-1])
                yield chunk
        except _GIVES_UP:
            for chunk in self._ffmpeg(numbers):
                new = chunk.times > given[chunk.request] + 1e-6
                if new.any():
                    yield Chunk(chunk.request, chunk.times[new], chunk.rows[new])

    def _torchcodec(self, numbers: Sequence[int], track: Track, start: float) -> Iterator[Chunk]:
        decoder = self._open(
            f"file:{self._path}",
            stream_index=track.index,
            num_ffmpeg_threads=self._threads,
            device=device(),
            seek_mode="exact",
        )
        facts = decoder.metadata
        bt709 = facts.color_space == "bt709"
        first, end = facts.begin_stream_seconds - start, facts.end_stream_seconds - start
        wanted = min(end, np.inf if self._span.end is None else self._span.end + 1.0)
        grids = {n: self._grid(n, max(first, self._span.start), wanted) for n in numbers}
        size = 3 * facts.width * facts.height
        moments = np.unique(np.concatenate(list(grids.values())))
        step = max(1, min(_BLOCK // max(1, size), _MOST_ROWS))
        for block in (moments[i : i + step] for i in range(0, len(moments), step)):
            if self._deadline.left() <= 0:
                raise DeadlinePassed(f"not done after {self._deadline.seconds:g} s")
            # a frame counts as shown LATE before its time; the last one is shown to the end
            seconds = np.clip(block + LATE, first, end - 1e-6) + start
            found = decoder.get_frames_played_at(seconds.tolist())
            pictures = found.data
            if found.duration_seconds.max() > MOST_GAP:
                raise RuntimeError("time stamps jump")  # ffmpeg tells where
            for n in numbers:
                mine = np.flatnonzero(np.isin(block, grids[n]))
                if len(mine):
                    request = self._requests[n]
                    assert isinstance(request, FrameRequest)
                    yield Chunk(n, block[mine], _rows(pictures[mine], request, track.pixel_shape, bt709))
        stated = facts.duration_seconds_from_header
        if wanted == end and stated is not None and end - first < stated - _SHORT:
            raise RuntimeError("the scan stopped early")

    def _grid(self, number: int, begin: float, end: float) -> npt.NDArray[np.float64]:
        """Times n / rate from `begin` to before `end`, as the filter `fps` rounds them."""
        request = self._requests[number]
        assert isinstance(request, FrameRequest)
        rate = float(request.exact_rate)
        low, high = (np.ceil((t - LATE) * rate - 1e-6) for t in (begin, end))
        return np.arange(max(0, low), max(0, high)) / rate

    def _ffmpeg(self, numbers: Sequence[int]) -> Iterator[Chunk]:
        requests = [self._requests[n] for n in numbers]
        child = FFmpegDecoder(
            self._path, requests, self._span, deadline=self._deadline, threads=self._threads
        )
        try:
            for chunk in child.chunks():
                yield Chunk(numbers[chunk.request], chunk.times, chunk.rows)
        finally:
            self.errors += child.errors


@cache
def video_decoder() -> Any:
    """torchcodec's `VideoDecoder`.

    Raises:
        BadInput: it is not installed, or can't be loaded.
    """
    try:
        from torchcodec.decoders import VideoDecoder
    except ModuleNotFoundError:
        raise missing_extra("torchcodec", "torchcodec", "decoder torchcodec") from None
    except (ImportError, OSError, RuntimeError) as e:
        raise BadInput(
            "decoder torchcodec (extra torchcodec) is installed but can't be loaded: it needs FFmpeg's "
            "shared libraries, version 4 to 8 (the system's package ffmpeg, or conda's), and a build that "
            f"fits torch; its own words: {str(e).strip().splitlines()[0]}"
        ) from e
    return VideoDecoder


@cache
def device() -> str:
    """ "cuda" where torch sees a GPU and torchcodec opens and decodes a file there, else "cpu"."""
    import torch

    from harmonize_cli.media.trial import trial_clip

    if not torch.cuda.is_available():
        return "cpu"
    try:
        with trial_clip() as path:
            decoder = video_decoder()(str(path), device="cuda")
            decoder.get_frames_played_at([0.0])
            return "cpu" if decoder.cpu_fallback else "cuda"
    except (*_GIVES_UP, MediaError):
        return "cpu"


def _rows(pictures: Any, request: FrameRequest, pixel_shape: float, bt709: bool) -> npt.NDArray[np.uint8]:
    """Pictures [N, 3, H, W] uint8 on any device to rows [N, h, w, c], as the filters make them."""
    import torch

    _, _, high, wide = pictures.shape
    if request.fit == "crop":
        w = max(1, min(wide, high * request.width / request.height / pixel_shape))
        h = max(1, min(high, wide * pixel_shape * request.height / request.width))
        x, y = round((wide - w) / 2), round((high - h) / 2)
        pictures = pictures[:, :, y : y + round(h), x : x + round(w)]
    if pictures.is_cuda:  # only the CPU scales uint8
        pictures = pictures.float()
    size = [request.height, request.width]
    if request.fit == "pad":
        shape = wide * pixel_shape / high
        size = [min(size[0], round(size[1] / shape)), min(size[1], round(size[0] * shape))]
    size = [max(1, n) for n in size]
    small = torch.nn.functional.interpolate(pictures, size, mode=request.scaling, antialias=True).float()
    if request.channels == 1:
        weights = (0.2126, 0.7152, 0.0722) if bt709 else (0.299, 0.587, 0.114)
        small = (small * small.new_tensor(weights)[:, None, None]).sum(1, keepdim=True)
    if request.fit == "pad":
        x, y = request.width - size[1], request.height - size[0]
        small = torch.nn.functional.pad(small, (x // 2, x - x // 2, y // 2, y - y // 2))
    rows = small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    found: npt.NDArray[np.uint8] = rows.cpu().numpy()
    return found


def _in_step(streams: Sequence[Iterator[Chunk]]) -> Iterator[Chunk]:
    """Chunks of all streams, always from the one that is behind.

    Each stream's first chunk is fetched before any is given: a track that can't be decoded at all is told
    before rows of the other came, and `FileDecode` tries each on its own. A later error waits until the
    others ended.
    """
    ahead = {n: chunk for n, stream in enumerate(streams) if (chunk := next(stream, None)) is not None}
    error: MediaError | None = None
    while ahead:
        behind = min(ahead, key=lambda n: float(ahead[n].times[0]))
        yield ahead.pop(behind)
        try:
            chunk = next(streams[behind], None)
        except MediaError as e:
            error = error or e
        else:
            if chunk is not None:
                ahead[behind] = chunk
    if error is not None:
        raise error


def _load() -> DecoderFactory:
    video_decoder()
    return TorchcodecDecoder


def _speed() -> int:
    # on the CPU it scales frames of full size, which PyAV's filters don't
    video_decoder()
    return 2 if device() == "cuda" else 0


DECODERS.add(
    "torchcodec",
    DecoderEntry(
        load=_load, speed=_speed, about="the GPU's decoder (extra torchcodec), for files that you trust"
    ),
)
