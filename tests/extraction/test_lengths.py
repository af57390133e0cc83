"""How long a file is: what it states where that can be relied on, else what its packets tell."""

import pytest
from independent_media import ffmpeg
from small_clips import config, row, status
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.extraction.pipeline import extract
from harmonize_cli.extraction.windows import cut_in_windows
from harmonize_cli.media.probe import length_of, probe
from harmonize_cli.store.reader import Store

LENGTH = 40.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lengths")
    # a loud beginning: its bit rate tells nothing of the rest
    source = f"aevalsrc='0.9*if(lt(t\\,4)\\,random(0)-0.5\\,0.02*sin(t*500))':s=16000:d={LENGTH}"
    sound = ["-f", "lavfi", "-i", source]
    pictures = ["-f", "lavfi", "-i", f"testsrc2=s=32x32:r=5:d={LENGTH}"]
    ffmpeg(*sound, folder / "a.aac")
    ffmpeg(*sound, "-q:a", 9, "-write_xing", 0, folder / "bare.mp3")
    ffmpeg(*sound, "-q:a", 9, folder / "stated.mp3")
    for name in ("late.mkv", "late.webm"):
        codecs = ["-c:v", "libvpx", "-c:a", "libvorbis"]
        ffmpeg(*pictures, *sound, *codecs, "-output_ts_offset", 1000, folder / name)
    half = ["-f", "lavfi", "-i", f"testsrc2=s=32x32:r=5:d={LENGTH / 2}", "-pix_fmt", "yuv420p"]
    ffmpeg(*half, folder / "half.ts")
    (folder / "twice.ts").write_bytes((folder / "half.ts").read_bytes() * 2)
    (folder / "half.ts").unlink()
    ffmpeg(*pictures, *sound, "-pix_fmt", "yuv420p", "-f", "matroska", "-live", 1, folder / "live.mkv")
    return folder


NAMES = ["a.aac", "bare.mp3", "stated.mp3", "late.mkv", "late.webm", "twice.ts", "live.mkv"]


@pytest.mark.parametrize("name", NAMES)
def test_the_length_is_right(folder, name):
    assert length_of(folder / name) == pytest.approx(LENGTH, abs=0.3)
    assert (probe(folder / name).stated is not None) == (name == "stated.mp3")


@pytest.mark.parametrize("decoder", ["ffmpeg", "pyav"])
def test_intact_files_do_not_fail_whole_or_in_windows(folder, tmp_path, decoder):
    if decoder == "pyav":
        pytest.importorskip("av")
    whole = [row(folder, name) for name in NAMES]
    windows = cut_in_windows(whole, 10.0)
    for name in NAMES:
        mine = [r for r in windows if r.group == name]
        # a packet may stick out at the end
        assert [r.start for r in mine][:4] == [0, 10, 20, 30], name
        assert mine[-1].end == pytest.approx(LENGTH, abs=0.3)
    settings = config("raw.rate=5", encoders=("raw", "waveform"), decoder=decoder)
    report = extract([*whole, *windows], tmp_path / "s", settings)
    store = Store.open(tmp_path / "s")
    assert report.counts.failed <= sum(r.end - r.start < 0.3 for r in windows)
    for name in NAMES:
        found = {kind: s for kind, s in status(store, name).items() if s[0] != "MISSING"}
        assert set(found.values()) == {("OK", "")}, (name, found)


def test_a_stated_length_still_tells_a_file_that_was_cut(folder, tmp_path):
    data = (folder / "stated.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(data[: len(data) // 3])
    extract([row(tmp_path, "cut.mp3")], tmp_path / "s", config(encoders=("waveform",)))
    found, reason = status(Store.open(tmp_path / "s"), "cut.mp3")["audio"]
    assert found == "FAILED"
    assert "% of the segment" in reason


def test_the_check_says_what_is_estimated(folder, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text("id,video,start,end\n" + "".join(f"{n},{n},38,40\n" for n in NAMES))
    found = CliRunner().invoke(
        app, ["extract", str(manifest), "--root", str(folder), "--check", "-e", "waveform"]
    )
    assert found.exit_code == 0, found.output
    assert f"{len(NAMES) - 1} files don't state their length" in found.output
    assert "0 samples will fail" in found.output
