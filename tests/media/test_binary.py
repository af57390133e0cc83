import pytest

from harmonize_cli.errors import BadInput
from harmonize_cli.media import binary


@pytest.fixture(autouse=True)
def _fresh():
    binary.find_ffmpeg.cache_clear()
    yield
    binary.find_ffmpeg.cache_clear()


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("version", "good"),
    [
        ("7.1", True),
        ("n6.0.1-3", True),
        ("4.4.2-0ubuntu0.22.04.1", False),
        ("5.1", False),
        ("N-109542-g1", True),
    ],
)
def test_versions(version, good):
    assert binary.is_new_enough(version) is good


def test_override_wins(monkeypatch, tmp_path):
    program = script(tmp_path / "mine", "echo 'ffmpeg version 9.9 Copyright'")
    monkeypatch.setenv(binary.OVERRIDE, program)
    assert binary.find_ffmpeg() == binary.FFmpeg(program, "9.9", binary.OVERRIDE)


def test_bad_override_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(binary.OVERRIDE, str(tmp_path / "nothing"))
    with pytest.raises(BadInput, match="nothing"):
        binary.find_ffmpeg()


def test_old_system_ffmpeg_is_passed_over(monkeypatch, tmp_path):
    script(tmp_path / "ffmpeg", "echo 'ffmpeg version 4.4.2 Copyright'")
    monkeypatch.delenv(binary.OVERRIDE, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert binary.find_ffmpeg().source == "imageio-ffmpeg"


def test_new_system_ffmpeg_is_taken(monkeypatch, tmp_path):
    program = script(tmp_path / "ffmpeg", "echo 'ffmpeg version 7.1 Copyright'")
    monkeypatch.delenv(binary.OVERRIDE, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert binary.find_ffmpeg() == binary.FFmpeg(program, "7.1", "system")


def test_no_ffmpeg_at_all_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.delenv(binary.OVERRIDE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(binary, "_bundled", lambda: None)
    with pytest.raises(BadInput, match="pip install imageio-ffmpeg"):
        binary.find_ffmpeg()
