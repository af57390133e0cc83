"""Any decoder's rows against ffmpeg's."""

import numpy as np

from harmonize_cli.media.decode import FileDecode
from harmonize_cli.media.decoders import decoder_for
from harmonize_cli.media.requests import FrameRequest, SoundRequest, Span
from harmonize_cli.media.segments import Cutter

REQUESTS = [FrameRequest(7, 16, 16), FrameRequest(10, 8, 12, 1, "stretch"), SoundRequest(16000)]
WHOLE = Span()
CLIPS = [
    ("a.mkv", {}),
    ("a.mp4", {"lossless": False, "pix_fmt": "yuv420p"}),
    ("a.webm", {"vcodec": "libvpx", "acodec": "libvorbis", "pix_fmt": "yuv420p"}),
    ("a.ts", {"lossless": False, "pix_fmt": "yuv420p", "acodec": "mp2"}),
    ("wide.mp4", {"lossless": False, "pix_fmt": "yuv420p", "aspect": "3:1"}),
    ("ten.mkv", {"pix_fmt": "yuv444p10le"}),
]
"""Names and options of `make_clip` that cover containers, codecs, shapes and depths."""


def decode(path, name, span=WHOLE, requests=REQUESTS):
    work = FileDecode(path, requests, span, deadline=60, decoder=decoder_for(name))
    cutter = Cutter(requests, [span])
    (segment,) = [s for c in work.chunks() for s in cutter.add(c)] + list(cutter.end())
    return segment, work


def differences(path, name, span=WHOLE, requests=REQUESTS, *, rows_at_end=0):
    """Worst mean difference of a frame in levels, and of the sound, after equal times were asserted."""
    (one, first), (two, second) = decode(path, "ffmpeg", span, requests), decode(path, name, span, requests)
    assert {k: o.state for k, o in first.outcome.items()} == {k: o.state for k, o in second.outcome.items()}
    levels = sound = 0.0
    for r, request in enumerate(requests):
        a, b = one.rows[r], two.rows[r]
        n = min(len(a), len(b))
        if request.kind == "video":
            assert abs(len(a) - len(b)) <= rows_at_end
            assert np.allclose(one.times[r][:n], two.times[r][:n])
            gaps = np.abs(a[:n].astype(int) - b[:n]).mean((1, 2, 3))
            levels = max(levels, gaps.max(initial=0))
        else:
            assert abs(len(a) - len(b)) <= 1200
            assert np.allclose(one.times[r], two.times[r], atol=1e-3)
            sound = float(np.abs(a[: n - 200] - b[: n - 200]).max(initial=0))
    return levels, sound
