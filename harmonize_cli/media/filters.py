"""ffmpeg-python filter chains for a request."""

import re
from collections.abc import Iterable
from typing import Any

from harmonize_cli.media.requests import FrameRequest, Request, SoundRequest

# Containers round time stamps (Matroska to 1 ms) and tracks start a little late; a frame that comes up to
# this many seconds after a grid point still counts as shown there.
LATE = 0.005
# Seconds without a frame, or without sound, that are filled in. Time stamps further apart are damaged, or
# forged to fill the disk.
MOST_GAP = 120.0


def frame_filters(
    request: FrameRequest,
    *,
    full_chroma: bool = False,
    lag: str = "0",
    late: float = 0.0,
    every: bool = False,
) -> list[tuple[str, dict[str, Any]]]:
    """Filters as (name, options). `round=up` makes row n the last frame with a time stamp <= n / rate.

    With `every` all frames come, stamped in microseconds.

    Every frame is shown `lag` earlier (an expression of ffmpeg's filter `setpts`) than its time stamp says,
    and `late` seconds later.

    Where the crop is not aligned (see `aligned_width`) the chain does not start, and ffmpeg's message quotes
    that expression. With `full_chroma` every pixel gets a chroma sample of its own before the crop: always
    right, but slower and rounded once more.
    """
    height, width = request.height, request.width
    chain: list[tuple[str, dict[str, Any]]] = [
        # whole ticks of many containers are coarser than LATE
        ("settb", {"expr": "AVTB"}),
        ("setpts", {"expr": _without_jump(f"PTS+{late - LATE:.6f}/TB-{lag}")}),
    ]
    if not every:
        chain.append(("fps", {"fps": str(request.exact_rate), "round": "up"}))
    if request.fit == "crop":
        w, h = _crop_size(request)
        if full_chroma:
            chain.append(("format", {"pix_fmts": "yuv444p"}))
        # exact keeps odd sizes, 1x1 among them
        chain.append(("crop", {"w": w if full_chroma else aligned_width(request), "h": h, "exact": 1}))
    flags = f"{request.scaling}+accurate_rnd+full_chroma_int"
    w, h = str(width), str(height)
    if request.fit == "pad":
        w, h = f"max(1,min({width},round({height}*dar)))", f"max(1,min({height},round({width}/dar)))"
    chain.append(("scale", {"w": w, "h": h, "flags": flags}))
    chain.append(("format", {"pix_fmts": pixel_format(request)}))
    if request.fit == "pad":
        chain.append(("pad", {"w": width, "h": height, "x": "(ow-iw)/2", "y": "(oh-ih)/2", "color": "black"}))
    return chain


def _crop_size(request: FrameRequest) -> tuple[str, str]:
    """Width and height of the largest part with the request's shape, as ffmpeg's `crop` computes them."""
    height, width = request.height, request.width
    # `sar` is 1 where the file does not say
    return f"max(1,min(iw,ih*{width}/{height}/sar))", f"max(1,min(ih,iw*sar*{height}/{width}))"


def aligned_width(request: FrameRequest) -> str:
    """The crop's width, or an error where its edges, or the picture's, lie inside a chroma sample.

    ffmpeg's `crop` would shift the colours there by up to a pixel, and tear samples of two bytes apart.
    """
    aligned = []
    for whole, part, step in zip(("iw", "ih"), _crop_size(request), ("hsub", "vsub"), strict=True):
        # offset and size are rounded to the nearest integer, halves to the even one
        begins, ends = (f"lte(mod({n}+0.5,{step}),1)" for n in (f"({whole}-{part})/2", part))
        aligned.append(f"(gt({part},{whole}-0.5)+{begins}*{ends}*not(mod({whole},{step})))")
    return f"if({'*'.join(aligned)},{_crop_size(request)[0]},0/0)"


def _without_jump(expression: str) -> str:
    """A time stamp for `setpts`. Behind a gap above `MOST_GAP` time stands still: nothing is filled in.

    Where it begins is printed as an error, see `jump_in`.
    """
    gap = f"gt(PTS-PREV_INPTS,{MOST_GAP}/TB)"
    return f"if(ld(0),PREV_OUTPTS,if({gap},st(0,1)*0+0*print(PTS*TB,16)+PREV_OUTPTS,{expression}))"


def jump_in(errors: Iterable[str]) -> str:
    """What to say of a gap that ffmpeg found, or ""."""
    for line in errors:
        if re.fullmatch(r"\d+\.\d{6}", line):
            return jump_to(float(line))
    return ""


def jump_to(seconds: float) -> str:
    """What to say of time stamps that jump to `seconds`."""
    return f"time stamps jump by more than {MOST_GAP:g} s, to {seconds:.2f} s; that gap is not filled"


def sound_filters(request: SoundRequest, *, late: float = 0.0) -> list[tuple[str, dict[str, Any]]]:
    """Resample to mono float; gaps between time stamps are filled so that sample n stays at n / rate.

    Everything is heard `late` seconds later than its time stamp says.
    """
    return [
        ("asetpts", {"expr": _without_jump(f"PTS+round({late:.6f}/TB)" if late else "PTS")}),
        (
            "aresample",
            {"osr": request.sample_rate, "ochl": "mono", "osf": "flt", "async": 1, "rematrix_maxval": 1},
        ),
        ("aformat", {"sample_fmts": "flt", "sample_rates": request.sample_rate, "channel_layouts": "mono"}),
    ]


def filters_for(
    request: Request,
    *,
    full_chroma: bool = False,
    lag: str = "0",
    late: float = 0.0,
    every: bool = False,
) -> list[tuple[str, dict[str, Any]]]:
    """The chain for either kind; options as in `frame_filters`."""
    if isinstance(request, SoundRequest):
        return sound_filters(request, late=late)
    return frame_filters(request, full_chroma=full_chroma, lag=lag, late=late, every=every)


def pixel_format(request: FrameRequest) -> str:
    """ffmpeg's name of the rows' pixel format."""
    return "gray" if request.channels == 1 else "rgb24"
