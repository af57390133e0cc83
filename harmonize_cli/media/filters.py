"""ffmpeg-python filter chains for a request."""

from typing import Any

from harmonize_cli.media.requests import FrameRequest, Request, SoundRequest

# Containers round time stamps (Matroska to 1 ms) and tracks start a little late; a frame that comes up to
# this many seconds after a grid point still counts as shown there.
LATE = 0.005


def frame_filters(request: FrameRequest) -> list[tuple[str, dict[str, Any]]]:
    """Filters as (name, options). `round=up` makes row n the last frame with a time stamp <= n / rate."""
    height, width = request.height, request.width
    chain: list[tuple[str, dict[str, Any]]] = [
        ("setpts", {"expr": f"PTS-{LATE}/TB"}),
        ("fps", {"fps": str(request.exact_rate), "round": "up"}),
    ]
    if request.fit == "crop":
        # `sar` is 1 where the file does not say; exact keeps odd sizes, 1x1 among them
        w, h = f"min(iw,ih*{width}/{height}/sar)", f"min(ih,iw*sar*{height}/{width})"
        chain.append(("crop", {"w": f"max(1,{w})", "h": f"max(1,{h})", "exact": 1}))
    chain.append(("scale", {"w": width, "h": height, "flags": "bicubic+accurate_rnd+full_chroma_int"}))
    chain.append(("format", {"pix_fmts": pixel_format(request)}))
    return chain


def sound_filters(request: SoundRequest) -> list[tuple[str, dict[str, Any]]]:
    """Resample to mono float; gaps between time stamps are filled so that sample n stays at n / rate."""
    return [
        (
            "aresample",
            {"osr": request.sample_rate, "ochl": "mono", "osf": "flt", "async": 1, "rematrix_maxval": 1},
        ),
        ("aformat", {"sample_fmts": "flt", "sample_rates": request.sample_rate, "channel_layouts": "mono"}),
    ]


def filters_for(request: Request) -> list[tuple[str, dict[str, Any]]]:
    """The chain for either kind."""
    return sound_filters(request) if isinstance(request, SoundRequest) else frame_filters(request)


def pixel_format(request: FrameRequest) -> str:
    """ffmpeg's name of the rows' pixel format."""
    return "gray" if request.channels == 1 else "rgb24"
