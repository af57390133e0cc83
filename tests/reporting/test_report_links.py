"""A report shows what lies in the run folders, and nothing that a link in them leads to."""

import os
import shutil
from pathlib import Path

import pytest
from small_run import small_run, small_store

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.protocols import PROTOCOLS
from harmonize_cli.evaluation.retrieval import RetrievalTask
from harmonize_cli.evaluation.sources import RunSource
from harmonize_cli.evaluation.task import Options, evaluate
from harmonize_cli.models.checkpoint import load_model
from harmonize_cli.reporting.collect import read_runs
from harmonize_cli.reporting.page import write_page
from harmonize_cli.store.reader import Store

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63606060"
    "600000000500017a5eab3f0000000049454e44ae426082"
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a result."""
    folder = tmp_path_factory.mktemp("good")
    run = small_run(folder / "run", small_store(folder / "s.h5"))
    options = Options(draws=10, out=run / "eval" / "r.json")
    store = Store.open(folder / "s.h5")
    evaluate(RetrievalTask(RunSource(load_model(run)), store, PROTOCOLS["vatt"], split="test"), options)
    return run


@pytest.fixture
def run(good: Path, tmp_path: Path) -> Path:
    """A copy of it, with files beside it that are none of its."""
    shutil.copytree(good, tmp_path / "a" / "run", symlinks=True)
    for place in (tmp_path / "a" / "secret", tmp_path / "a" / "outside", tmp_path / "outside"):
        place.write_bytes(PIXEL + b"secret")
    return tmp_path / "a" / "run"


def report(run: Path) -> str:
    page = run.parent / "page.html"
    write_page(page, read_runs([run]), [], None)
    return page.read_text()


@pytest.mark.parametrize(
    "name", ["eval/r.confusion.png", "eval/other.json", "audit/audit.json", "metrics.jsonl", "config.yaml"]
)
@pytest.mark.parametrize("target", ["secret", "/dev/zero", "/etc/passwd", "../../outside"])
def test_links_out_of_the_folder(run: Path, name: str, target: str) -> None:
    place = run / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(run.parent / target if target == "secret" else target)
    if not place.exists():
        pytest.skip(f"{target} is not there from {name}")
    with pytest.raises(
        BadInput, match=r"is a link that leads out of .*; put the file itself there"
    ) as caught:
        report(run)
    assert str(place) in str(caught.value)


def test_a_whole_folder_that_is_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "audit.json").write_text("{}")
    (run / "audit").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="leads out of"):
        report(run)


def test_what_is_no_file(run: Path) -> None:
    os.mkfifo(run / "eval" / "r.confusion.png")
    with pytest.raises(BadInput, match="not a regular file"):
        report(run)


def test_pictures_are_png_and_of_bounded_size(run: Path) -> None:
    picture = run / "eval" / "r.confusion.png"
    picture.write_bytes(b"<svg>")
    with pytest.raises(BadInput, match="not a PNG"):
        report(run)
    with picture.open("wb") as file:
        file.write(PIXEL)
        file.truncate(40 << 20)
    with pytest.raises(BadInput, match="40 MiB; at most 16"):
        report(run)


def test_links_inside_the_folder_and_to_it_are_fine(run: Path, tmp_path: Path) -> None:
    (run / "eval" / "kept.png").write_bytes(PIXEL)
    (run / "eval" / "r.confusion.png").symlink_to("kept.png")
    (tmp_path / "link").symlink_to(run)
    assert "iVBORw0KGgo" in report(tmp_path / "link")
