"""`make bench-extract`: extraction against ffmpeg alone, against a call per segment, and open_clip."""

import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
from harness import Row, interleaved, ratio, row, run

from harmonize_cli.config import load_config
from harmonize_cli.datasets.manifest import ManifestRow
from harmonize_cli.encoders.open_clip import ClipFrames, ClipModel, OpenClipConfig
from harmonize_cli.extraction.batches import Batcher
from harmonize_cli.extraction.config import ExtractConfig
from harmonize_cli.extraction.pipeline import extract
from harmonize_cli.media.filters import filters_for
from harmonize_cli.media.requests import FrameRequest, SoundRequest
from harmonize_cli.media.run import command
from harmonize_cli.media.run import run as run_ffmpeg
from harmonize_cli.media.source import input_node
from harmonize_cli.progress import progress
from harmonize_cli.store.schema import Sample

FRAMES = FrameRequest(10, 112, 112)
SOUND = SoundRequest(16_000)
_SETTINGS = ["raw.size=112", "raw.rate=10", "waveform.sample_rate=16000"]
_SEGMENT = 3.0


def bench_extract(
    *,
    folder: Path | None = None,
    clips: int = 100,
    minutes: float = 5.0,
    clip_frames: int = 256,
    rounds: int = 3,
    decoder: str = "ffmpeg",
) -> Iterator[Row]:
    """Extraction against ffmpeg alone with the same filters, and against one call per segment; open_clip.

    `folder` holds videos to use instead of synthetic ones; `clip_frames` 0 leaves open_clip out.
    """
    with tempfile.TemporaryDirectory(prefix="harmonize-bench-") as scratch_name:
        scratch = Path(scratch_name)
        files = sorted(p for p in folder.iterdir() if p.is_file())[:clips] if folder else []
        files = files or [
            _make(scratch / f"clip{i}.mp4", 3.0, 160, i) for i in progress(range(clips), desc="clips")
        ]
        long = _make(scratch / "long.mp4", 60 * minutes, 320, 7)
        config = load_config(
            ExtractConfig, None, [*_SETTINGS, f"decoder={decoder}"], {"encoders": ("raw", "waveform")}
        )
        count = iter(range(1_000_000))

        def ours(rows: Sequence[ManifestRow]) -> Callable[[], object]:
            return lambda: extract(rows, scratch / f"store{next(count)}", config)

        short_rows = [ManifestRow(id=f"{i}", video=path, group=f"{i}") for i, path in enumerate(files)]
        spans = [(k * _SEGMENT, (k + 1) * _SEGMENT) for k in range(int(60 * minutes / _SEGMENT))]
        long_rows = [ManifestRow(id=f"{a}", video=long, start=a, end=b, group="l") for a, b in spans]
        few = spans[5::10] or spans  # evenly spread: a call that decodes all that comes before is slow
        yield _compare(
            f"raw extraction of {len(files)} clips, against ffmpeg -f null",
            *(ours(short_rows), lambda: [*map(_null, files)]),
            work=len(files), unit="clips/s", target=0.85, rounds=rounds,
        )  # fmt: skip
        yield _compare(
            f"raw extraction of one file of {minutes:g} min, against ffmpeg -f null",
            *(ours(long_rows), lambda: _null(long)),
            work=60 * minutes, unit="s/s", target=0.85, rounds=rounds,
        )  # fmt: skip
        yield _compare(
            f"{len(spans)} segments of that file, against a call each that seeks",
            *(ours(long_rows), lambda: [_one_segment(long, a, b) for a, b in spans]),
            work=len(spans), unit="clips/s", target=5.0, rounds=max(1, rounds // 3),
        )  # fmt: skip
        yield _compare(
            f"{len(spans)} segments of that file, against a call each that decodes up to it",
            *(ours(long_rows), lambda: [_one_segment(long, a, b, seek=False) for a, b in few]),
            work=len(spans), plain_work=len(few), unit="clips/s", target=5.0, rounds=1,
        )  # fmt: skip
    if clip_frames:
        yield _bench_open_clip(clip_frames, rounds)


def _make(path: Path, seconds: float, size: int, seed: int) -> Path:
    """H.264 and AAC at 25 frames a second: a moving pattern with noise, a tone."""
    video = ffmpeg.input(f"testsrc2=size={size}x{size}:rate=25:duration={seconds}", f="lavfi")
    video = video.filter("noise", alls=3, allf="t", all_seed=seed)
    audio = ffmpeg.input(f"sine=frequency={300 + seed}:sample_rate=16000:duration={seconds}", f="lavfi")
    options = {"preset": "veryfast", "pix_fmt": "yuv420p", "acodec": "aac"}
    run_ffmpeg(ffmpeg.output(video, audio, f"file:{path}", **options), deadline=3600)
    return path


def _filtered(path: Path, start: float = 0.0, length: float | None = None) -> list[Any]:
    source = input_node(path, start=start, length=length)
    nodes = []
    for node, request in ((source["V:0"], FRAMES), (source["a:0"], SOUND)):
        for name, options in filters_for(request):
            node = node.filter(name, **options)  # noqa: PLW2901
        nodes.append(node)
    return nodes


def _null(path: Path) -> bytes:
    return _call(command(ffmpeg.output(*_filtered(path), "-", format="null")))


def _one_segment(path: Path, start: float, end: float, *, seek: bool = True) -> np.ndarray[Any, Any]:
    """What most scripts do: decode one segment, take its video frames and its audio.

    `seek` puts -ss before the input (from the last key frame on), else behind it (from the file's start on).
    """
    cut = {} if seek else {"ss": start, "t": end - start}
    video, audio = _filtered(path, start, end - start) if seek else _filtered(path)
    with tempfile.NamedTemporaryFile(suffix=".f32") as wave:
        outputs = [
            video.output("pipe:1", format="rawvideo", pix_fmt="rgb24", **cut),
            audio.output(f"file:{wave.name}", format="f32le", **cut).overwrite_output(),
        ]
        raw = _call(command(*outputs))
        np.fromfile(wave.name, np.float32)
    return np.frombuffer(raw, np.uint8).reshape(-1, *FRAMES.row_shape)


def _call(args: Sequence[str]) -> bytes:
    done = subprocess.run(
        args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    return done.stdout


def _compare(
    name: str,
    ours: Callable[[], object],
    plain: Callable[[], object],
    *,
    work: float,
    plain_work: float | None = None,
    unit: str,
    target: float,
    rounds: int,
) -> Row:
    """Medians of both, interleaved. Rates are work per second; `plain_work`: the plain way did a part."""
    times = interleaved({"ours": ours, "plain": plain}, rounds=rounds)
    mine = work / statistics.median(times["ours"])
    other = (plain_work or work) / statistics.median(times["plain"])
    share = work / (plain_work or work)
    return row(
        name, mine, unit, share / ratio(times["ours"], times["plain"]),
        target=target, plain=other, seconds=times,
    )  # fmt: skip


def _bench_open_clip(frames: int, rounds: int) -> Row:
    """Clips of uneven length through the batching of extraction, against full batches of ready tensors."""
    import torch

    model = ClipModel("ViT-B-32/random", OpenClipConfig(batch=32))
    encoder = ClipFrames(model)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (frames, *encoder.request.row_shape), np.uint8)
    cuts = np.sort(rng.choice(np.arange(1, frames), min(frames // 8, frames - 1), replace=False))
    pieces = np.split(images, cuts)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
    ready = ((pixels - model.mean.cpu()) / model.std.cpu()).to(model.dtype).contiguous()

    def ours() -> None:
        batcher = Batcher([encoder])
        for number, piece in enumerate(pieces):
            for _ in batcher.add(Sample(id=str(number)), {encoder.spec.key: piece}):
                pass
        for _ in batcher.flush():
            pass

    def plain() -> None:
        with torch.inference_mode():
            for first in range(0, frames, encoder.batch):
                batch = ready[first : first + encoder.batch].to(model.device)
                model.model.encode_image(batch).float().cpu()

    ours()  # the first calls of a model are slower than the rest
    plain()
    name = f"open_clip ViT-B-32 on {model.device.type}, {frames} frames, against ready batches"
    return _compare(name, ours, plain, work=frames, unit="frames/s", target=0.9, rounds=rounds)


if __name__ == "__main__":
    run(bench_extract)
