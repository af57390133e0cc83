"""Hundreds of files, each against a plain decode: the same frames and sound at the same times, or a reason.

Frames show a number as a code of blocks (see numbered.py) over moving colours; sound is noise over a tone.
What is expected comes from ffmpeg calls without any filter of ours: all frames as they are, their time
stamps, and all sound.
"""

import random
import re
import subprocess
from fractions import Fraction
from importlib.util import find_spec
from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from decoder_comparison import decode
from independent_media import ffmpeg, psnr, shown
from numbered import numbered_frames

from harmonize_cli.errors import BadInput
from harmonize_cli.media.binary import find_ffmpeg
from harmonize_cli.media.decoders import decoder_for
from harmonize_cli.media.requests import FrameRequest, SoundRequest, Span

REQUESTS = [FrameRequest(10, 24, 32, 3, "stretch"), FrameRequest(29.97, 32, 32), SoundRequest(16000)]
LATE = 0.005
LEAST_PSNR = 25.0  # one wrong block of the code makes 14

X264 = ("libx264", "-preset", "ultrafast", "-crf", "14")
YUV = ("-pix_fmt", "yuv420p")
# name's ending -> (pictures' encoders, sound's encoders)
VIDEO = {
    "mp4": (
        [
            (*X264, *YUV),
            ("libx264", "-preset", "veryfast", "-bf", "3", *YUV),
            (*X264, "-pix_fmt", "yuv444p"),
            (*X264, "-pix_fmt", "yuv420p10le"),
            ("libx265", "-preset", "ultrafast", "-x265-params", "log-level=error", *YUV),
            ("mpeg4", "-q:v", "2", "-bf", "2", *YUV),
            ("libvpx-vp9", "-cpu-used", "8", "-b:v", "2M", *YUV),
        ],
        ["aac", "libmp3lame", "ac3", "alac", "flac", "libopus"],
    ),
    "mov": (
        [(*X264, *YUV), ("prores_ks",), ("mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p"), ("qtrle",)],
        ["pcm_s16le", "pcm_s24be", "aac", "alac"],
    ),
    "mkv": (
        [
            ("ffv1",),
            (*X264, *YUV),
            ("mpeg2video", "-q:v", "2", *YUV),
            ("libvpx", "-b:v", "2M", *YUV),
            ("huffyuv",),
        ],
        ["flac", "pcm_s16le", "libvorbis", "libopus", "ac3", "libmp3lame", "alac", "eac3"],
    ),
    "webm": (
        [("libvpx", "-b:v", "2M", *YUV), ("libvpx-vp9", "-cpu-used", "8", "-b:v", "2M", *YUV)],
        ["libvorbis", "libopus"],
    ),
    "avi": (
        [
            ("mpeg4", "-q:v", "2", *YUV),
            ("mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p"),
            (*X264, *YUV),
            ("ffv1",),
            ("mpeg4", "-q:v", "2", "-bf", "2", *YUV),
        ],
        ["libmp3lame", "pcm_s16le", "ac3"],
    ),
    "ts": (
        [
            (*X264, *YUV),
            ("mpeg2video", "-q:v", "2", *YUV),
            ("libx265", "-preset", "ultrafast", "-x265-params", "log-level=error", *YUV),
        ],
        ["aac", "mp2", "ac3"],
    ),
    "flv": ([("flv", "-q:v", "2", *YUV), (*X264, *YUV)], ["aac", "libmp3lame"]),
    "mpg": ([("mpeg1video", "-q:v", "2", *YUV), ("mpeg2video", "-q:v", "2", *YUV)], ["mp2"]),
    "wmv": ([("wmv2", "-q:v", "2", *YUV), ("msmpeg4", "-q:v", "2", *YUV)], ["wmav2"]),
    "ogv": ([("libtheora", "-q:v", "10", *YUV)], ["libvorbis", "flac"]),
    "mxf": ([("mpeg2video", "-q:v", "2", *YUV)], ["pcm_s16le"]),
    "nut": ([("ffv1",), ("mpeg4", "-q:v", "2", *YUV)], ["pcm_s16le", "libmp3lame"]),
    "3gp": ([("mpeg4", "-q:v", "2", *YUV), (*X264, *YUV)], ["aac"]),
    "y4m": ([YUV], []),
    "gif": ([()], []),
    "h264": ([(*X264, *YUV)], []),
    "m4v": ([("mpeg4", "-q:v", "2", *YUV)], []),
    "ivf": ([("libvpx", "-b:v", "2M", *YUV)], []),
}
# what only takes some rates
RATES = {"mpg": ("24", "25", "30000/1001"), "mxf": ("24", "25", "30000/1001"), "gif": ("10", "25", "50")}
EVERY_RATE = (
    "1",
    "5",
    "10",
    "25/2",
    "15",
    "24000/1001",
    "24",
    "25",
    "30000/1001",
    "30",
    "50",
    "60000/1001",
    "120",
)
SIZES = ((128, 96), (128, 96), (130, 98), (96, 128), (160, 90), (320, 240), (426, 240))
SOUND = {
    "wav": ["pcm_s16le", "pcm_f32le", "pcm_u8", "pcm_s24le", "pcm_alaw", "adpcm_ms", "adpcm_ima_wav"],
    "mp3": ["libmp3lame"],
    "flac": ["flac"],
    "ogg": ["libvorbis", "flac"],
    "opus": ["libopus"],
    "m4a": ["aac", "alac"],
    "aac": ["aac"],
    "ac3": ["ac3"],
    "eac3": ["eac3"],
    "aiff": ["pcm_s16be"],
    "au": ["pcm_mulaw"],
    "caf": ["pcm_s16le", "alac"],
    "amr": ["libopencore_amrnb"],
    "wma": ["wmav2"],
    "w64": ["pcm_s16le"],
    "tta": ["tta"],
    "wv": ["wavpack"],
    "mka": ["flac", "libopus"],
    "voc": ["pcm_u8"],
}


# ---- the files


def coloured(n, size):
    """uint8 [n, H, W, 3]: numbered frames of a size, with colours."""
    wide, high = size
    code = numbered_frames(n)[:, ::8, ::8].astype(np.float32)
    y, x = (np.arange(high) * 12 // high), (np.arange(wide) * 16 // wide)
    code = code[:, y][:, :, x]
    ramp = (
        np.linspace(0, 2, wide)[None, :] + np.linspace(0, 1, high)[:, None] + np.arange(n)[:, None, None] / 9
    )
    colours = 127 + 100 * np.sin(ramp[..., None] * 2 + np.array([0, 2, 4]))
    return (0.7 * code + 0.3 * colours).astype(np.uint8)


def video(path, rng):
    """Write a random film; returns how it was made. Raises CalledProcessError where ffmpeg can't."""
    kind = path.suffix[1:]
    pictures, sounds = VIDEO[kind]
    rate = rng.choice(RATES.get(kind, EVERY_RATE))
    seconds = rng.choice([0.8, 1.5, 2.2]) if rate != "1" else 4
    size = rng.choice(SIZES)
    picture = rng.choice(pictures)
    made = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-r", rate]
    delays = kind in ("mp4", "mov", "mkv", "webm", "ts", "nut") and rng.random() < 0.3
    if delays:
        made += ["-itsoffset", rng.choice(["0.13", "0.7"])]
    made += ["-i", "-"]
    sound = rng.choice([*sounds, None]) if sounds else None
    if sound:
        if delays and rng.random() < 0.3:
            made += ["-itsoffset", "1"]
        length = seconds + rng.choice([0, 0, -0.4, 0.5])
        made += ["-f", "lavfi", "-i", noise(length, *hearing(sound, rng, kind))]
        made += ["-c:a", sound]
    if picture:
        made += ["-c:v", *picture] if picture is not YUV else [*YUV]
    if rng.random() < 0.15 and kind in ("mp4", "mov", "mkv", "avi", "ts", "mpg"):
        made += ["-vf", "setsar=4/3"]
    if rng.random() < 0.15 and kind in ("mkv", "webm", "mp4", "mov", "nut"):
        # a variable rate: every third frame left out, and then some
        made += ["-vf", "select='mod(n,3)*gt(mod(n,11),3)'", "-fps_mode", "vfr"]
    if rng.random() < 0.15 and kind in ("mkv", "ts", "mp4", "mpg"):
        made += ["-output_ts_offset", "7.3"]
    if rng.random() < 0.15 and kind in ("mp4", "mov"):
        made += ["-movflags", rng.choice(["frag_keyframe+empty_moov", "faststart"])]
    count = max(2, ceil(seconds * Fraction(rate)))
    ffmpeg("-y", *made, path, stdin=coloured(count, size).tobytes())
    if kind in ("mp4", "mov") and rng.random() < 0.3:
        turn = rng.choice([("-display_rotation", a) for a in (90, 180, 270)] + [("-display_hflip",)])
        turned = path.with_stem(path.stem + "-turned")
        ffmpeg(*turn, "-i", path, "-c", "copy", turned)
        turned.replace(path)
        made += [*turn]
    return made


def hearing(codec, rng, kind):
    """Sample rate and channels that a codec takes."""
    rate = rng.choice([8000, 16000, 22050, 44100, 48000])
    channels = rng.choice([1, 2, 2, 6])
    if "amrnb" in codec:
        return 8000, 1
    if codec in ("libopus", "ac3", "eac3") or kind in ("mxf", "ts", "mpg"):
        rate = 48000
    if kind == "flv":
        rate = 44100
    if codec in ("libmp3lame", "mp2", "wmav2") or codec.startswith("adpcm") or kind in ("flv", "3gp", "voc"):
        channels = min(channels, 2)
    if codec in ("mp2", "wmav2", "libmp3lame"):
        rate = max(rate, 22050)
    return rate, channels


def noise(length, rate, channels):
    """A source of ffmpeg: noise over a tone, another level in each channel."""
    parts = [f"{0.3 / (c + 1):.3f}*sin(2*PI*{200 + 90 * c}*t)+0.1*(random({c})-0.5)" for c in range(channels)]
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    return f"aevalsrc='{'|'.join(parts)}':s={rate}:c={layout}:d={length}"


def sound(path, rng):
    """Write a random sound; returns how it was made."""
    kind = path.suffix[1:]
    codec = rng.choice(SOUND[kind])
    made = ["-f", "lavfi", "-i", noise(rng.choice([0.5, 1.7, 3]), *hearing(codec, rng, kind)), "-c:a", codec]
    ffmpeg("-y", *made, path)
    return made


def hurt(path, rng):
    """Cut a file off or flip some of its bytes."""
    data = bytearray(path.read_bytes())
    if rng.random() < 0.4:
        del data[int(len(data) * rng.uniform(0.3, 0.98)) :]
        how = "cut off"
    else:
        for _ in range(rng.choice([1, 2, 5, 20])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        how = "flipped"
    path.write_bytes(data)
    return how


# ---- what is in them


class Plain:
    """What plain calls of ffmpeg find: time stamps and whole frames, one by one, and all sound."""

    def __init__(self, path):
        self.path = path
        crc = "-fps_mode", "passthrough", "-enc_time_base", "1:1000000", "-f", "framecrc", "-"
        begin = re.search(rb"Duration: .*start: (-?[\d.]+)", self._run(level="info", to="stderr"))
        self.start = float(begin[1]) if begin else 0.0
        lines = self._try("-map", "0:V:0", *crc)
        self.stamps = (
            np.array([int(x.split(",")[2]) / 1e6 for x in lines if not x.startswith("#")]) - self.start
        )
        size = [x.split()[-1] for x in lines if x.startswith("#dimensions")]
        self.size = tuple(map(int, size[0].split("x"))) if size else (0, 0)
        sar = [x.split()[-1] for x in lines if x.startswith("#sar")]
        top, bottom = map(int, sar[0].split("/")) if sar else (1, 1)
        self.sar = top / bottom if top and bottom else 1.0
        lengths = [int(x.split(",")[3]) / 1e6 for x in lines if not x.startswith("#")]
        # a last frame that is over before it counts as shown
        self.over = (
            self.stamps[-1] - 1e-3 if lengths and 0 < lengths[-1] < LATE else max(self.stamps, default=0)
        )
        steps = np.diff(self.stamps)
        self.rate = 1 / max(1e-3, float(np.median(steps))) if len(steps) else 25.0
        if path.read_bytes()[8:11] == b"AVI" and len(self.stamps) and self.stamps[0] * self.rate < 16.5:
            self.over -= self.stamps[0]  # the decoder's delay: see `_lag`
            self.stamps = self.stamps - self.stamps[0]
        lines = self._try("-map", "0:a:0", "-f", "framecrc", "-")
        packets = [list(map(int, x.split(",")[2:4])) for x in lines if not x.startswith("#")]
        base = [float(Fraction(x.split()[-1])) for x in lines if x.startswith("#tb")]
        self.sound_start = packets[0][0] * base[0] - self.start if packets else None
        # samples up to where time stamps jump: that gap is filled
        self.whole = None
        for (one, length), (two, _) in pairwise(packets):
            if abs(two - one - length) * base[0] > 0.02:
                self.whole = round((one + length - packets[0][0]) * base[0] * 16000)
                break
        mono = ("-ac", 1, "-ar", 16000, "-rematrix_maxval", 1, "-f", "f32le", "-")
        self.sound = np.frombuffer(self._run("-map", "0:a:0", *mono), np.float32)

    def frames(self, numbers):
        """Yield (number, frame [H, W, 3]); of damaged files only what does not depend on threads."""
        for (number, one), (_, two) in zip(self._frames(numbers, 1), self._frames(numbers, 0), strict=False):
            if np.array_equal(one, two):
                yield number, one

    def _frames(self, numbers, threads):
        wide, high = self.size
        args = ("-map", "0:V:0", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
        command = [
            find_ffmpeg().path,
            "-v",
            "quiet",
            "-nostdin",
            "-threads",
            str(threads),
            "-i",
            self.path,
            *args,
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            for number in range(max(numbers, default=-1) + 1):
                data = process.stdout.read(wide * high * 3)
                if len(data) < wide * high * 3:
                    break
                if number in numbers:
                    yield number, np.frombuffer(data, np.uint8).reshape(high, wide, 3)
            process.kill()

    def _run(self, *args, level="quiet", to="stdout"):
        command = [find_ffmpeg().path, "-v", level, "-nostdin", "-copyts", "-i", self.path, *map(str, args)]
        return getattr(subprocess.run(command, capture_output=True, check=False, timeout=120), to)

    def _try(self, *args):
        return self._run(*args).decode().splitlines()


# samples at the end: PyAV's libraries do not cut the last packet of AAC to the length that the container says
PADDING = {"ffmpeg": 400, "pyav": 1024 * 2, "torchcodec": 400}


def differences(path, decoder):
    """What differs between a decoder's rows and the plain decode, and the reasons that it gives."""
    plain = Plain(path)
    segment, work = decode(path, decoder, Span(), REQUESTS)
    found = []
    reasons = [o.reason for o in work.outcome.values() if o.state == "failed"] + work.errors
    if len(plain.stamps) and work.outcome["video"].state == "ok":
        shows = [
            x for n, request in enumerate(REQUESTS[:2]) for x in _times(plain, segment, n, request, found)
        ]
        found += _frames(plain, segment, shows)
    elif len(plain.stamps) and not work.outcome["video"].reason:
        found.append("no reason for lost pictures")
    elif not len(plain.stamps) and len(segment.rows[0]):
        found.append("pictures where there are none")
    if len(plain.sound) and work.outcome["audio"].state == "ok":
        found += _sound(plain, segment, PADDING[decoder])
    elif len(plain.sound) and not work.outcome["audio"].reason:
        found.append("no reason for lost sound")
    return found, reasons


def _times(plain, segment, number, request, found):
    """(frame, request, row) for each row, whose times are checked."""
    rate = float(request.exact_rate)
    have = np.round(segment.times[number] * rate).astype(int)
    # the grid points from the first frame to the last; what comes after is the last frame's length
    first = max(0, ceil(round((plain.stamps[0] - LATE) * rate, 6)))
    due = np.arange(first, int(plain.over * rate + 1e-6) + 1)
    if not np.array_equal(have[: len(due)], due):
        found.append(f"{request.rate}: rows {_ends(have)}, due {_ends(due)}")
    if len(plain.stamps) > 1 and len(have) > len(due) + ceil(2 * rate / plain.rate) + 1:
        found.append(f"{request.rate}: {len(have)} rows, {len(due)} due")
    frames = np.searchsorted(plain.stamps, have / rate + LATE + 1e-6, "right") - 1
    # at the very edge of what counts as late either of two frames is right
    edge = np.abs(plain.stamps[:, None] - have / rate - LATE).min(0) < 2e-5
    return [(int(frame), number, row) for row, frame in enumerate(frames) if not edge[row]]


def _frames(plain, segment, shows):
    wanted = {}
    for frame, number, row in shows:
        wanted.setdefault(frame, {}).setdefault(number, []).append(row)
    quality = {}
    for frame, pixels in plain.frames(wanted):
        for number, rows in wanted[frame].items():
            true = _shown(pixels, REQUESTS[number], plain.sar)
            quality |= {(number, row): psnr(true, segment.rows[number][row]) for row in rows}
    bad = sorted(place for place, value in quality.items() if value < LEAST_PSNR)
    if bad:
        least = min(quality.values())
        yield f"{len(bad)} of {len(quality)} rows differ, {bad[0]} first, down to {least:.1f} dB"


def _shown(pixels, request, sar):
    if request.fit == "crop" and sar != 1:
        high, wide, _ = pixels.shape
        w = max(1.0, min(wide, high * request.width / request.height / sar))
        h = max(1.0, min(high, wide * sar * request.height / request.width))
        x, y = round((wide - w) / 2), round((high - h) / 2)
        pixels = pixels[y : y + round(h), x : x + round(w)]
        request = FrameRequest(request.rate, request.height, request.width, 3, "stretch")
    return shown(pixels[None], request)[0]


def _ends(numbers):
    return f"{numbers[0]}..{numbers[-1]} ({len(numbers)})" if len(numbers) else "none"


def _sound(plain, segment, padding):
    ours, true = segment.rows[2], plain.sound
    start = float(segment.times[2][0]) if len(segment.times[2]) else 0.0
    found = []
    if abs(start - max(plain.sound_start, 0)) > 0.002:
        found.append(f"sound begins at {start:.4f}, {plain.sound_start:.4f} is true")
    skip = round((start - plain.sound_start) * 16000)
    true = true[max(0, skip) :]
    if plain.whole is None and not -400 <= len(ours) - len(true) <= padding:
        found.append(f"{len(ours)} samples of sound, {len(true)} are true")
    n = min(len(ours), len(true), (plain.whole or len(true)) - max(0, skip)) - 50
    if n > 0:
        blocks = [(a, min(n, a + 1600)) for a in range(0, n, 1600)]
        gaps = [float(np.abs(ours[a:b] - true[a:b]).mean()) for a, b in blocks]
        if max(gaps) > 0.004:
            found.append(
                f"sound differs in {sum(g > 0.004 for g in gaps)} of {len(gaps)} blocks, by {max(gaps):.3f}"
            )
    return found


# ---- the tests


def decoders():
    names = ["ffmpeg"]
    if find_spec("av"):
        names.append("pyav")
    try:
        decoder_for("torchcodec")
        names.append("torchcodec")
    except BadInput:
        pass
    return names


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("decoder", decoders())
def test_real_clips(shared_data, decoder):
    folder = shared_data("clips")
    files = sorted(p for p in folder.glob("*/*") if p.suffix not in (".csv", ".jpg", ".md"))
    bad = {}
    for path in files:
        found, reasons = differences(path, decoder)
        if found:
            bad[path.name] = found, reasons
    assert not bad, "\n".join(f"{name}: {found}; reasons {reasons}" for name, (found, reasons) in bad.items())


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(8))
def test_made_files(tmp_path, seed):
    """45 files: films and sounds. A third is damaged, and may differ where a reason says so."""
    rng = random.Random(seed)
    bad, made = [], 0
    while made < 45:
        is_film = rng.random() < 0.8
        kind = rng.choice(list(VIDEO if is_film else SOUND))
        path = tmp_path / f"{seed}-{made}.{kind}"
        try:
            how = (video if is_film else sound)(path, rng)
        except subprocess.CalledProcessError as e:
            print("not made:", path.name, re.sub(r"\s+", " ", e.stderr.decode())[:200])
            path.unlink(missing_ok=True)
            continue
        damage = hurt(path, rng) if rng.random() < 0.35 else ""
        made += 1
        said = []
        for decoder in decoders():
            for _ in range(3 if damage else 1):  # what becomes of damage may depend on the threads' luck
                found, reasons = differences(path, decoder)
                if not found:
                    break
            # PyAV conceals damaged pictures without a word: see docs/datasets.md
            said += reasons
            if found and not (damage and said):
                bad.append(
                    f"{path.name} {decoder} {damage}: {found}; reasons {reasons}; {' '.join(map(str, how))}"
                )
    assert not bad, "\n".join(bad)
