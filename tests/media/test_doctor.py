import json

from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.media import binary, doctor


def test_it_tells_versions_ffmpeg_machine_and_extras():
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    for word in (
        "torchaudio",
        "imageio-ffmpeg",
        "cores",
        "memory",
        "free disk",
        "h264",
        "libx264",
        "extra ray",
    ):
        assert word in result.output
    assert binary.find_ffmpeg().path in result.output


def test_json():
    rows = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).output)
    assert {"name", "value", "fix"} == set(rows[0])


def test_missing_things_come_with_their_fix(monkeypatch, tmp_path):
    monkeypatch.setenv(binary.OVERRIDE, str(tmp_path / "none"))
    binary.find_ffmpeg.cache_clear()
    monkeypatch.setattr(doctor, "EXTRAS", (("no_such_module", "magic", "tests"),))
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    try:
        findings = {f.name: f for f in doctor.examine(tmp_path / "gone")}
    finally:
        binary.find_ffmpeg.cache_clear()
    assert "unset it" in findings["ffmpeg"].fix
    assert "harmonize-cli[magic]" in findings["extra magic"].fix
    assert findings["no-such-package"].value == "not installed"
    assert "--folder" in findings["free disk"].fix
