"""A column is declared once, and read, stored, shown and exported from there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.datasets.manifest import read_manifest
from harmonize_cli.errors import BadInput
from harmonize_cli.store.columns import COLUMNS, Column
from harmonize_cli.store.export import described
from harmonize_cli.store.reader import Store


@pytest.fixture
def language() -> Iterator[None]:
    COLUMNS.add("language", Column(type="name", about="language of the texts"))
    yield
    del COLUMNS._entries["language"]


ROWS = [{"id": "a", "text": "a dog", "language": "en"}, {"id": "b", "text": "ein Hund"}]


def manifest(folder: Path, kind: str) -> Path:
    path = folder / f"m.{kind}"
    if kind == "csv":
        path.write_text("id,text,language\na,a dog,en\nb,ein Hund,\n")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.usefixtures("language")
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_declared_column_goes_all_the_way(tmp_path: Path, kind: str) -> None:
    path = manifest(tmp_path, kind)
    assert [dict(row.more) for row in read_manifest(path)] == [{"language": "en"}, {}]
    run(["extract", str(path), "-o", str(tmp_path / "s.h5"), "-e", "tokens"])
    store = Store.open(tmp_path / "s.h5")
    assert [store.facts(i).get("language") for i in range(2)] == ["en", None]
    assert [described(store, i)["language"] for i in range(2)] == ["en", ""]
    pq = pytest.importorskip("pyarrow.parquet")
    run(["export", "parquet", str(tmp_path / "s.h5"), "-o", str(tmp_path / "p")])
    assert pq.read_table(tmp_path / "p")["language"].to_pylist() == ["en", ""]


def run(args: list[str]) -> None:
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output + repr(done.exception)


@pytest.mark.usefixtures("language")
def test_its_values_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": "a", "text": "x", "language": ["en"]}\n')
    with pytest.raises(BadInput, match=r"m.jsonl:1: language: expected text, found a list"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("m.csv", "id,text,spilt\na,x,train\n", "1: column 'spilt' is unknown; did you mean 'split'?"),
        ("m.csv", "id,vidoe\na,v.mp4\n", "1: column 'vidoe' is unknown; did you mean 'video'?"),
        ("m.csv", "id,text,Split\na,x,train\n", "did you mean 'split'?"),
        (
            "m.jsonl",
            '{"id": "a", "text": "x"}\n{"id": "b", "text": "x", "lable": "dog"}\n',
            "2: column 'lable'",
        ),
    ],
)
def test_a_misspelt_column_is_named(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput) as caught:
        read_manifest(tmp_path / name)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("extra", ["rights", "caption_id", "videos_seen", "labels_raw"])
def test_other_columns_are_ignored(tmp_path: Path, extra: str) -> None:
    (tmp_path / "m.csv").write_text(f"id,text,{extra}\na,x,y\n")
    assert read_manifest(tmp_path / "m.csv")[0].texts == ("x",)


@pytest.mark.parametrize(("row", "labels"), [({"label": 3}, ("3",)), ({"labels": [3, "b"]}, ("3", "b"))])
def test_numbers_are_labels(tmp_path: Path, row: dict[str, Any], labels: tuple[str, ...]) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"id": "a", "text": "x", **row}) + "\n")
    assert read_manifest(tmp_path / "m.jsonl")[0].labels == labels
