"""What `harmonize_cli` exports: cheap to import, and documented by an example that runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from media_samples import grey_frames, make_clip, tone

import harmonize_cli

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_importing_the_package_loads_neither_torch_nor_h5py() -> None:
    code = "import sys, harmonize_cli; sys.exit(bool({'torch', 'h5py', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_exported_name_is_there_and_documented() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in harmonize_cli.__all__:
        assert getattr(harmonize_cli, name).__name__ == name
        assert name in dir(harmonize_cli)
        assert re.search(rf"^\| `{name}\b", text, re.M), name
    with pytest.raises(AttributeError, match="no attribute 'extrakt'"):
        _ = harmonize_cli.extrakt


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["id,video,text,split"]
    for i in range(12):
        make_clip(tmp_path / f"{i}.mkv", grey_frames(20, 32, 32), tone(2, hz=200 + 50 * i))
        lines.append(f"c{i},{i}.mkv,tone number {i},{'test' if i % 3 == 2 else 'train'}")
    (tmp_path / "clips.csv").write_text("\n".join(lines) + "\n")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    names: dict[str, object] = {}
    exec(code, names)
    assert names["frames"].ndim == 4  # type: ignore[attr-defined]
    assert names["file"].exists()  # type: ignore[attr-defined]
    assert names["suspicion"].shape == (12,)  # type: ignore[attr-defined]
