"""Files that were made to mislead: none may reach another file, the network, or hang the decoder."""

import http.server
import random
import shutil
import threading

import ffmpeg
import pytest
from media_samples import grey_frames, make_clip, tone

from harmonize_cli.media.decode import FileDecode
from harmonize_cli.media.errors import MediaError
from harmonize_cli.media.probe import probe
from harmonize_cli.media.requests import FrameRequest, SoundRequest, Span
from harmonize_cli.media.run import run

REQUESTS = [FrameRequest(10, 8, 8), SoundRequest(8000)]
DEADLINE = 20.0


def decode(path):
    work = FileDecode(path, REQUESTS, Span(), deadline=DEADLINE)
    rows = sum(len(chunk.rows) for chunk in work.chunks())
    return rows, work


@pytest.fixture
def secret(tmp_path):
    """A real video outside; nothing may ever decode it through another file."""
    folder = tmp_path / "outside"
    folder.mkdir()
    return make_clip(
        folder / "secret.mp4", grey_frames(10, 16, 16), tone(1.0), lossless=False, pix_fmt="yuv420p"
    )


@pytest.fixture
def server():
    """A web server that notes every request."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}", seen
        http_server.shutdown()
        thread.join()


def disguises(secret, url):
    return {
        "hls file": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:{secret}\n#EXT-X-ENDLIST\n",
        "hls url": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}/a.ts\n#EXT-X-ENDLIST\n",
        "hls key": f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"\n'
        f"#EXTINF:10,\nfile:{secret}\n#EXT-X-ENDLIST\n",
        "hls concat": f"#EXTM3U\n#EXTINF:10,\nconcat:file:{secret}|file:{secret}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile '{secret}'\n",
        "ffconcat url": f"ffconcat version 1.0\nfile '{url}/a.mp4'\n",
        "svg": f'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="32" height="32">'
        f'<image href="{url}/a.png" width="32" height="32"/></svg>',
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
        f'<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
        f"<BaseURL>{url}/a.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "rtsp sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "subtitles": "WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n",
        "ffmetadata": ";FFMETADATA1\ntitle=x\n",
        "playlist asx": f'<asx version="3.0"><entry><ref href="{url}/a.wmv"/></entry></asx>',
        "ram": f"{url}/a.rm\n",
    }


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".txt"])
def test_what_poses_as_a_video_is_refused(tmp_path, secret, server, suffix):
    url, seen = server
    for name, text in disguises(secret, url).items():
        path = tmp_path / f"{name}{suffix}"
        path.write_text(text)
        rows, work = decode(path)
        assert rows == 0, name
        assert {o.state for o in work.outcome.values()} == {"failed"}, name
        assert all(o.reason for o in work.outcome.values())
        with pytest.raises(MediaError):
            probe(path)
    assert seen == []


def test_pictures_are_no_videos(tmp_path):
    from PIL import Image

    for suffix in ("png", "jpg", "bmp", "tiff"):
        path = tmp_path / f"x.{suffix}"
        Image.new("RGB", (32, 32)).save(path)
        rows, work = decode(path.rename(tmp_path / f"{suffix}.mp4"))
        assert rows == 0
        assert work.outcome["video"].state == "failed"


def test_external_tracks_of_quicktime_are_not_followed(tmp_path, secret):
    """The tracks of a file whose own media are zeros lie in another file, says its `dref`.

    An ffmpeg that is told to follow it gives the other file's frames; ours leaves it at the default.
    """
    data = secret.read_bytes()
    at = data.index(b"mdat")
    end = at - 4 + int.from_bytes(data[at - 4 : at])
    hollow = data[: at + 4] + bytes(end - at - 4) + data[end:]
    path = tmp_path / "dref.mp4"
    where = [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"]
    path.write_bytes(_with_box(hollow, where, bytes(7) + b"\1" + _alias(secret)))
    follow = ffmpeg.input(f"file:{path}", enable_drefs=1, use_absolute_path=1)
    assert len(run(follow["v"].output("pipe:1", format="rawvideo", pix_fmt="gray"))) == 10 * 16 * 16
    work = FileDecode(path, REQUESTS[:1], Span(), deadline=DEADLINE)
    assert list(work.chunks()) == []
    assert work.outcome["video"].state == "failed"


def _with_box(data, where, content):
    """Boxes of an mp4 with `content` in the one that lies at `where`, in every track."""
    out, at = b"", 0
    while at < len(data):
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        inside = data[at + 8 : at + size]
        if kind == where[0]:
            inside = _with_box(inside, where[1:], content) if where[1:] else content
        out += (len(inside) + 8).to_bytes(4) + kind + inside
        at += size
    return out


def _alias(target):
    """An entry of a `dref`: a Macintosh alias record with an absolute path (type 2)."""
    path = str(target).encode()
    path += bytes(len(path) % 2)
    record = bytes(10 + 28 + 12 + 64 + 16 + 4 + 16) + b"\0\2" + len(path).to_bytes(2) + path + b"\xff\xff\0\0"
    return (len(record) + 12).to_bytes(4) + b"alis" + bytes(4) + record


def test_a_device_and_a_pipe_are_refused(tmp_path):
    import os

    fifo = tmp_path / "fifo.mp4"
    os.mkfifo(fifo)
    for path in (fifo, "/dev/zero", "/dev/null"):
        _, work = decode(tmp_path / path)
        assert work.outcome["video"].reason == "is not a regular file"


def test_a_forged_picture_size_does_not_eat_the_memory(tmp_path):
    path = tmp_path / "huge.y4m"
    path.write_bytes(b"YUV4MPEG2 W60000 H60000 F10:1 Ip A1:1 C420\nFRAME\n" + bytes(1000))
    rows, work = decode(path)
    assert rows == 0
    assert work.outcome["video"].state == "failed"


def sources(folder):
    """Small files of several formats."""
    frames, wave = grey_frames(12, 32, 32), tone(1.2)
    yield make_clip(folder / "a.mp4", frames, wave, lossless=False, pix_fmt="yuv420p")
    yield make_clip(folder / "b.mkv", frames, wave)
    yield make_clip(folder / "c.webm", frames, wave, vcodec="libvpx", acodec="libvorbis", pix_fmt="yuv420p")
    yield make_clip(folder / "d.avi", frames, wave, vcodec="mpeg4", acodec="mp3", pix_fmt="yuv420p")
    yield make_clip(folder / "e.ts", frames, wave, lossless=False, pix_fmt="yuv420p")
    yield make_clip(folder / "f.wav", wave=wave, acodec="pcm_s16le")
    yield make_clip(folder / "g.flv", frames, wave, vcodec="flv", acodec="mp3", ar=22050, pix_fmt="yuv420p")
    yield make_clip(folder / "h.ogg", wave=wave, acodec="libvorbis")


def mutate(data, rng):
    """Bits flipped, blocks cut out, doubled, zeroed, or the end cut off."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 3, 10, 50])):
        at = rng.randrange(len(data))
        length = min(len(data) - at, rng.choice([1, 1, 4, 100, 1000]))
        match rng.randrange(5):
            case 0:
                data[at : at + length] = rng.randbytes(length)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                data[at : at + length] = bytes(length)
            case _:
                data[at] ^= 1 << rng.randrange(8)
        if not data:
            return b""
    if rng.random() < 0.2:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


def fuzz(tmp_path, count, seed):
    rng = random.Random(seed)
    folder = tmp_path / "good"
    folder.mkdir()
    good = list(sources(folder))
    states = []
    before = {p.name for p in tmp_path.iterdir()}
    for number in range(count):
        path = tmp_path / f"m{number}{rng.choice(good).suffix}"
        path.write_bytes(mutate(rng.choice(good).read_bytes(), rng))
        rows, work = decode(path)
        path.unlink()
        assert set(work.outcome) == {"video", "audio"}
        for outcome in work.outcome.values():
            assert outcome.state == "ok" or outcome.reason
            assert "killed" not in outcome.reason, f"seed {seed}, file {number}: {outcome.reason}"
        if all(o.state != "ok" for o in work.outcome.values()):
            states.append("failed")
        else:
            states.append("some" if rows else "none")
    assert {p.name for p in tmp_path.iterdir()} == before
    return states


def test_mutated_files_never_crash_or_hang(tmp_path):
    states = fuzz(tmp_path, 20, seed=1)
    assert "some" in states


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_300_mutated_files_never_crash_or_hang(tmp_path):
    states = fuzz(tmp_path, 300, seed=2)
    assert states.count("some") > 100
    assert states.count("failed") > 10


def test_a_name_can_not_become_an_option(tmp_path):
    clip = make_clip(tmp_path / "a.mkv", grey_frames(3, 8, 8))
    for name in (
        "-i",
        "-y",
        "-f lavfi",
        "concat:a|b.mkv",
        "http:",
        "pipe:0",
        "subfile,,start,0,end,9,,:a.mkv",
    ):
        path = tmp_path / name
        if not path.parent.is_dir():
            continue
        shutil.copy(clip, path)
        rows, _ = decode(path)
        assert rows == 3, name
