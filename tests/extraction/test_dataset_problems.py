"""Parts of a data set that can't be used are reported with count and names, and count for --max-failed."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from media_samples import make_clip, tone
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.errors import TooManyFailed
from harmonize_cli.store.reader import Store

SMALL = ["-e", "waveform", "-e", "tokens"]


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "tone.wav", wave=tone(0.5), acodec="pcm_s16le")


def test_a_folder_with_captions_and_links_that_can_not_be_used(tmp_path: Path, sound: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for k in range(3):
        (root / f"{k}.wav").write_bytes(sound.read_bytes())
    (root / "0.srt").write_text("no times at all")
    (root / "1.json").write_text("{")
    (root / "out.wav").symlink_to(sound)
    (tmp_path / "elsewhere").mkdir()
    (root / "more").symlink_to(tmp_path / "elsewhere")
    (root / "inside.wav").symlink_to(root / "2.wav")
    words = ("extract", "--dataset", "folder", "--root", root, "-o", tmp_path / "s.h5", *SMALL)
    done = run(*words)
    assert done.exit_code == 0, done.output
    info = run("store", "info", tmp_path / "s.h5").stdout
    for told in (done.stderr, info):
        assert "2 problem(s) in the data set's files:" in told
        assert "0.srt: no captions with times" in told
        assert "1.json: invalid JSON" in told
        assert "2 link(s) out of the data set's folder, not followed:" in told
        assert f"{root}/more" in told
        assert f"{root}/out.wav" in told
        assert "inside.wav" not in told
    assert len(Store.open(tmp_path / "s.h5")) == 4
    for more in (("--max-failed", "3"), ("--max-failed", "3", "--check")):
        found = run(*words, *more).exception
        assert isinstance(found, TooManyFailed)
        assert "there are 4 problems in the data set" in str(found)
    assert run(*words, "--max-failed", "4").exit_code == 0
    assert run(*words, "--allow-outside", "--max-failed", "2", "--mode", "overwrite").exit_code == 0


def test_a_tar_that_is_cut_short(tmp_path: Path, sound: Path) -> None:
    root = tmp_path / "tars"
    root.mkdir()
    with tarfile.open(root / "0.tar", "w") as tar:
        for k in range(3):
            for name, data in ((f"{k}.wav", sound.read_bytes()), (f"{k}.json", b"{" if k == 0 else b"{}")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    raw = (root / "0.tar").read_bytes()
    (root / "0.tar").write_bytes(raw[: len(raw) // 2])
    words = ("extract", "--dataset", "webdataset", "--root", root, "-o", tmp_path / "s.h5", *SMALL)
    done = run(*words)
    assert done.exit_code == 0, done.output
    for told in (done.stderr, run("store", "info", tmp_path / "s.h5").stdout):
        assert "2 problem(s) in the data set's files:" in told
        assert "0.tar: damaged; what comes before is taken" in told
        assert "0.tar:0: .json: invalid JSON" in told
    assert isinstance(run(*words, "--max-failed", "0").exception, TooManyFailed)


def test_a_store_from_a_stranger_may_say_anything_of_its_coverage(tmp_path: Path) -> None:
    from harmonize_cli.store.summary import problem_lines

    for coverage in (None, 3, [], {"problems": "x"}, {"problems": -1}, {"problems": 2, "first_problems": 3}):
        assert all(isinstance(line, str) for line in problem_lines(json.loads(json.dumps(coverage))))
    many = {"problems": 100, "first_problems": [f"p{k}" for k in range(50)]}
    lines = problem_lines(many)
    assert (len(lines), lines[-1]) == (22, "  ... and 80 more")
