"""Time stamps far apart: nothing is made up to fill the gap, the sample says why, the run goes on."""

from importlib.util import find_spec

import pytest
from independent_media import ffmpeg
from small_clips import config, row, status

from harmonize_cli.extraction.pipeline import extract
from harmonize_cli.store.reader import Store

DAY = 86400
DECODERS = ["ffmpeg", *(["pyav"] if find_spec("av") else [])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gaps")
    pictures = ["-f", "lavfi", "-i", "testsrc2=s=32x32:r=5:d=4", "-pix_fmt", "yuv420p"]
    jump = f"if(lt(N\\,10)\\,N/5\\,{DAY}+N/5)/TB"
    for name in ("pictures.mkv", "pictures.mp4"):
        args = ["-vf", f"settb=1/1000,setpts={jump}", "-fps_mode", "passthrough", "-enc_time_base", "1/1000"]
        ffmpeg(*pictures, *args, folder / name)
    for part, offset in (("one", 0), ("two", DAY)):
        ffmpeg("-f", "lavfi", "-i", "sine=d=2:r=16000", "-output_ts_offset", offset, folder / f"{part}.mka")
    lines = f"file '{folder}/one.mka'\nduration {DAY}\nfile '{folder}/two.mka'\n"
    (folder / "list").write_text(lines)
    ffmpeg("-f", "concat", "-safe", 0, "-i", folder / "list", "-c", "copy", folder / "sound.mka")
    for name in ("one.mka", "two.mka", "list"):
        (folder / name).unlink()
    ffmpeg(*pictures, folder / "good.mkv")
    return folder


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_gap_is_not_filled_and_the_run_goes_on(folder, tmp_path, decoder):
    names = ["pictures.mkv", "pictures.mp4", "sound.mka", "good.mkv"]
    assert all((folder / name).stat().st_size < 30000 for name in names)
    rows = [row(folder, name) for name in names] + [row(folder, n, f"begin {n}", 0.0, 1.6) for n in names]
    settings = config(encoders=("raw", "waveform"), decoder=decoder)
    for _ in range(2):
        report = extract(rows, tmp_path / "s", settings)
    assert report.skipped == len(rows)
    size = sum(part.stat().st_size for part in (tmp_path / "s").iterdir())
    assert size < 2_000_000
    store = Store.open(tmp_path / "s")
    for name, kind in (("pictures.mkv", "video"), ("pictures.mp4", "video"), ("sound.mka", "audio")):
        found, reason = status(store, name)[kind]
        assert found == "FAILED"
        assert "time stamps jump by more than 120 s" in reason, (name, reason)
        assert status(store, f"begin {name}")[kind] == ("OK", ""), name
    assert status(store, "good.mkv")["video"] == ("OK", "")


@pytest.mark.parametrize("seconds", [10, 100])
def test_a_gap_that_can_be_is_filled(tmp_path, seconds):
    """Slides: one picture for long, then the next."""
    jump = f"if(lt(N\\,5)\\,N/5\\,{seconds}+N/5)/TB"
    source = ["-f", "lavfi", "-i", "testsrc2=s=32x32:r=5:d=2", "-vf", f"settb=1/1000,setpts={jump}"]
    ffmpeg(*source, "-fps_mode", "passthrough", "-enc_time_base", "1/1000", tmp_path / "slides.mkv")
    for decoder in DECODERS:
        extract(
            [row(tmp_path, "slides.mkv")],
            tmp_path / decoder,
            config("raw.rate=5", encoders=("raw",), decoder=decoder),
        )
        store = Store.open(tmp_path / decoder)
        assert status(store, "slides.mkv")["video"] == ("OK", "")
        assert store.length("video/frames")[0] == (seconds + 2) * 5


def test_more_than_the_bytes_can_hold_is_refused(tmp_path):
    """Many gaps, each short enough."""
    path = tmp_path / "tiny.gif"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=2x2:r=1/100:d=6000", path)
    assert path.stat().st_size < 4000
    for decoder in DECODERS:
        extract([row(tmp_path, "tiny.gif")], tmp_path / decoder, config(encoders=("raw",), decoder=decoder))
        found, reason = status(Store.open(tmp_path / decoder), "tiny.gif")["video"]
        assert found == "FAILED"
        assert "not credible" in reason
