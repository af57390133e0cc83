"""The made files of test_sweep.py: containers, codecs, rates, sizes and damage, drawn at random."""

from fractions import Fraction
from math import ceil

import numpy as np
from independent_media import ffmpeg
from numbered import numbered_frames

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
