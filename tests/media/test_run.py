import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ffmpeg
import numpy as np
import pytest

from harmonize_cli.media.errors import DeadlinePassed, MediaError
from harmonize_cli.media.run import Running, command, error_lines, reason_from, run


def test_fed_frames_come_back():
    frames = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 3), np.uint8)
    node = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="rgb24", s="8x8")
    out = run(node.output("pipe:1", format="rawvideo", pix_fmt="rgb24"), stdin=[f.tobytes() for f in frames])
    assert out == frames.tobytes()


def test_the_reason_is_ffmpegs_own():
    with pytest.raises(MediaError, match="No such file or directory"):
        run(ffmpeg.input("file:/nonexistent/x.mp4").output("pipe:1", format="null"))


def test_deadline_kills_the_whole_group(tmp_path):
    pids = tmp_path / "pids"
    script = (
        "import os,subprocess,sys,time; p=subprocess.Popen(['sleep','100']); "
        f"open({str(pids)!r},'w').write(f'{{os.getpid()}} {{p.pid}}'); time.sleep(100)"
    )
    started = time.monotonic()
    with Running([sys.executable, "-c", script], deadline=1.5) as running:
        running.stdout.read()
        with pytest.raises(DeadlinePassed, match=r"1\.5 s"):
            running.wait()
    assert time.monotonic() - started < 10
    for pid in map(int, pids.read_text().split()):
        assert not alive(pid)


def alive(pid):
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        return text.rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_leaving_early_kills(tmp_path):
    with Running([sys.executable, "-c", "import time; time.sleep(100)"], deadline=60) as running:
        pid = running._process.pid
    assert not alive(pid)


HANGING = """
import sys, threading
import ffmpeg
from harmonize_cli.media.run import Running, command
args = command(ffmpeg.input("file:" + sys.argv[1], format="wav").output("pipe:1", format="null"))
def start():
    global running
    running = Running(args, deadline=100)
thread = threading.Thread(target=start)
thread.start(); thread.join()
print(running._process.pid, flush=True)
running.stdout.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it runs on until its end")
def test_ffmpeg_does_not_outlive_a_killed_parent(tmp_path):
    """It waits for the other end of a named pipe, for ever; the thread that started it is over."""
    os.mkfifo(tmp_path / "fifo")
    script = [sys.executable, "-c", HANGING, tmp_path / "fifo"]
    with subprocess.Popen(script, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.5)
        assert alive(pid)
        parent.kill()
        parent.wait()
        until = time.monotonic() + 10
        while alive(pid) and time.monotonic() < until:
            time.sleep(0.05)
    left = alive(pid)
    if left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def test_a_flood_of_messages_never_blocks():
    flood = "import sys\nfor i in range(200000): print('[error] noise', i, file=sys.stderr)\nprint('done')"
    with Running([sys.executable, "-c", flood], deadline=60) as running:
        assert running.stdout.read() == b"done\n"
        running.wait()
        messages = running.messages()
    # the beginning, which describes the input, and the end
    assert messages[0] == "[error] noise 0"
    assert messages[-2:] == ["[error] noise 199999", ""]
    assert 1000 < len(messages) < 100_000


def test_an_endless_flood_of_messages_does_not_fill_the_disk(monkeypatch):
    monkeypatch.setattr("harmonize_cli.media.run._MOST_LOG", 1 << 20)
    flood = "import sys\nwhile True: print('[error] noise', file=sys.stderr)"
    with (
        Running([sys.executable, "-c", flood], deadline=60) as running,
        pytest.raises(MediaError, match="flood of messages: noise"),
    ):
        running.wait()


def test_return_code_is_an_error():
    with Running([sys.executable, "-c", "raise SystemExit(3)"], deadline=60) as running:
        running.stdout.read()
        with pytest.raises(MediaError, match="code 3"):
            running.wait()


def test_missing_program():
    with pytest.raises(MediaError, match="can't start"):
        Running(["/nonexistent/ffmpeg"], deadline=1)


def test_an_error_of_the_feeder_reaches_the_caller():
    def blocks():
        yield bytes(8 * 8 * 3)
        raise KeyError("the frame maker broke")

    node = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="rgb24", s="8x8")
    with pytest.raises(KeyError, match="frame maker"):
        run(node.output("pipe:1", format="rawvideo"), stdin=blocks())


def test_no_descriptors_are_left_open():
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(MediaError):
            run(ffmpeg.input("file:/nonexistent").output("pipe:1", format="null"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_error_lines_drop_addresses_and_doubles():
    lines = [
        "[h264 @ 0x55d0] [error] bad slice",
        "[h264 @ 0x55d1] [error] bad slice",
        "[info] Input #0",
        "[matroska,webm @ 0x1] [in#0 @ 0x2] [fatal] broken @ 0xabc",
    ]
    assert list(error_lines(lines)) == ["bad slice", "broken"]
    assert reason_from([], 7) == "ffmpeg ended with code 7"
    assert len(reason_from(["[error] " + "x" * 1000])) <= 300


def test_an_output_is_needed():
    with pytest.raises(ValueError, match="output"):
        command()
