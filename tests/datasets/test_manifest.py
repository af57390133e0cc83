"""Manifests: what is read, and that every fault is named at once with its file, line and field."""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize_cli.datasets.manifest import ManifestRow, read_manifest
from harmonize_cli.errors import BadInput


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("v.mp4", "w x.mp4", "-dash.mp4", "ünï\n'q\".mp4", "a.wav"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.mp4").mkdir()
    return tmp_path


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def jsonl(path: Path, *rows: Any) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def faults(path: Path, **options: Any) -> list[str]:
    """The faults that reading gives, without the file's name."""
    with pytest.raises(BadInput) as caught:
        read_manifest(path, **options)
    text = str(caught.value)
    assert str(path) in text
    return [line.replace(str(path), "").strip(" :") for line in text.splitlines()]


def read_or_refuse(path: Path) -> list[ManifestRow] | None:
    """The rows, or None after a refusal that names the file; anything else is a crash."""
    try:
        return read_manifest(path)
    except BadInput as e:
        if str(path) not in str(e):
            raise AssertionError(f"a refusal without the file's name: {e}") from e
        return None


ROWS = [
    {"id": "a", "video": "v.mp4", "start": 1, "end": 2.5, "text": 'a, "b"\nc', "label": "dog",
     "split": "train", "fold": 3, "group": "g"},
    {"id": "b", "audio": "a.wav", "texts": ["x", "ÿ"], "labels": ["dog", "cat"]},
    {"id": "c", "text": "words alone"},
    {"id": "d", "video": "ünï\n'q\".mp4", "audio": "a.wav"},
    {"id": "e", "video": "-dash.mp4"},
]  # fmt: skip
COLUMNS = [
    "id",
    "video",
    "start",
    "end",
    "audio",
    "text",
    "texts",
    "label",
    "labels",
    "split",
    "fold",
    "group",
]


def expected(root: Path, path: Path, lines: list[int]) -> list[ManifestRow]:
    odd = "ünï\n'q\".mp4"
    at = [f"{path}:{line}" for line in lines]
    return [
        ManifestRow("a", root / "v.mp4", 1.0, 2.5, None, ('a, "b"\nc',), ("dog",), "train", 3, "g", at[0]),
        ManifestRow(
            "b", None, 0.0, None, root / "a.wav", ("x", "ÿ"), ("dog", "cat"), "", None, "a.wav", at[1]
        ),
        ManifestRow("c", None, 0.0, None, None, ("words alone",), (), "", None, "c", at[2]),
        ManifestRow("d", root / odd, 0.0, None, root / "a.wav", (), (), "", None, odd, at[3]),
        ManifestRow("e", root / "-dash.mp4", 0.0, None, None, (), (), "", None, "-dash.mp4", at[4]),
    ]


def test_jsonl(root: Path) -> None:
    path = jsonl(root / "m.jsonl", *ROWS)
    assert read_manifest(path) == expected(root, path, [1, 2, 3, 4, 5])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_csv(root: Path, end: str, bom: bytes) -> None:
    import csv
    import io

    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator=end)
    writer.writeheader()
    for row in ROWS:
        writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()})
    path = write(root / "m.csv", bom + out.getvalue().encode())
    assert read_manifest(path) == expected(root, path, [2, 4, 5, 6, 8]), "lines as an editor counts them"
    assert read_manifest(write(root / "m.tsv", bom + b"id\ttext\na\t1, 2\n"))[0].texts == ("1, 2",)


def test_parquet(root: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    columns = {name: [row.get(name) for row in ROWS] for name in COLUMNS} | {"extra": [1] * 5}
    pq.write_table(pa.table(columns), root / "m.parquet")
    assert read_manifest(root / "m.parquet") == expected(root, root / "m.parquet", [1, 2, 3, 4, 5])
    assert faults(write(root / "bad.parquet", b"PAR1 nonsense PAR1"))[0].startswith(
        "not a readable Parquet file"
    )
    pq.write_table(pa.table({"name": ["a"]}), root / "n.parquet")
    assert "id: this column is missing; found name" in faults(root / "n.parquet")[0]
    pq.write_table(pa.table({"id": ["a"], "text": [b"\xff"]}), root / "b.parquet")
    assert faults(root / "b.parquet")[1] == "1: text: expected text, found bytes"


def test_parquet_without_the_extra_says_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert "pip install 'harmonize-cli[parquet]'" in faults(write(root / "m.parquet", b""))[0]


def test_all_faults_at_once_each_with_line_and_field(root: Path) -> None:
    path = jsonl(
        root / "m.jsonl",
        {"video": "v.mp4"},
        {"id": "a", "video": "absent.mp4", "start": 3, "end": 2, "fold": "x"},
        {"id": "ok", "video": "v.mp4"},
        {"id": "ok", "video": "v.mp4"},
        {"id": "b", "video": 7, "start": "soon", "labels": "dog", "text": ["x"]},
        {"id": "c"},
        [1],
        {"id": "d", "video": "folder.mp4", "text": "x", "texts": ["y"]},
    )
    assert sorted(faults(path)) == sorted(
        [
            "13 error(s)",
            "1: id: missing; every row needs an id of its own",
            "2: end: 2 s is not after the start, 3 s",
            "2: video: no such file: 'absent.mp4'",
            "2: fold: expected a whole number from 0, found 'x'",
            "4: id: 'ok' is already on line 3",
            "5: video: expected a path, found a number",
            "5: start: expected seconds, found 'soon'",
            "5: text: expected text, found a list",
            '5: labels: expected a JSON list such as ["a", "b"], found \'dog\'',
            "6: video: missing; a row needs one of video, audio, text, texts",
            "7: expected an object {...}, found list",
            "8: texts: give text or texts, not both",
            "8: video: 'folder.mp4' is not a regular file",
        ]
    )


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"id": ""}, "id: is blank"),
        ({"id": "a\nb"}, "id: holds a control character (U+000A)"),
        ({"id": "a\u2028"}, "id: holds a control character (U+2028)"),
        ({"id": "x" * 513}, "id: 513 characters; at most 512"),
        ({"id": True}, "id: expected text, found true/false"),
        ({"id": 10**40}, "id: a number of more than 30 digits"),
        ({"id": "\ud800"}, "id: holds a control character (U+D800)"),
        ({"start": -1}, "start: -1 is negative"),
        ({"start": True}, "start: expected seconds, found true/false"),
        ({"end": 1e8}, "are these milliseconds?"),
        ({"end": "1e999"}, "end: '1e999' is not a time"),
        ({"start": 10**400}, "start: expected seconds"),
        ({"end": 0}, "end: 0 s is not after the start, 0 s"),
        ({"video": "../v.mp4"}, "leads out of"),
        ({"video": "/etc/hostname"}, "leads out of"),
        ({"video": "v.mp4\0.txt"}, "NUL"),
        ({"video": "http://example.org/v.mp4"}, "is a URL"),
        ({"video": "concat:v.mp4|v.mp4"}, "no such file"),
        ({"video": "x" * 5000}, "path longer than"),
        ({"video": ""}, "video: is empty"),
        ({"video": "\ud800"}, "half a character"),
        ({"audio": "nope.wav"}, "audio: no such file: 'nope.wav'"),
        ({"text": "\ud800"}, "text: holds half a character"),
        ({"texts": [1]}, "texts: expected text, found a number"),
        ({"texts": {"a": 1}}, "texts: expected a list of texts, found an object"),
        ({"text": "x" * 200_000}, "text: a text of 200000 characters"),
        ({"labels": ["a\tb"]}, "labels: holds a control character"),
        ({"fold": -1}, "fold: expected a whole number from 0, found -1"),
        ({"fold": 1.5}, "fold: expected a whole number"),
        ({"split": ["train"]}, "split: expected text, found a list"),
        ({"group": 1.5}, "group: expected text, found a number"),
    ],
)
def test_a_bad_field_is_named(root: Path, row: dict[str, Any], complaint: str) -> None:
    text = "\n".join(faults(jsonl(root / "m.jsonl", {"id": "a", "video": "v.mp4", **row})))
    assert complaint in text
    assert text.startswith("1 error(s)\n1: ")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("m.csv", "", "no rows; expected a table"),
        ("m.csv", "id,video\n", "no rows; expected a table"),
        ("m.jsonl", "\n\n", "no rows"),
        ("m.csv", "name,path\na,v.mp4\n", "1: id: this column is missing; found name, path"),
        ("m.csv", "id,path\na,v.mp4\n", "1: video: one of the columns video, audio, text, texts is needed"),
        ("m.csv", "id,video,id\na,v.mp4,b\n", "1: column id appears twice"),
        ("m.csv", "id,video\na\n", "2: 1 fields, the header has 2"),
        ("m.csv", 'id,text\na,"never closed\n' + "x\n" * 50, "never closed"),
        ("m.csv", 'id,text\na,"x"y\n', "invalid CSV"),
        ("m.csv", b"id,text\na,\xff\n", "2: not UTF-8 (byte 3)"),
        ("m.csv", "id,text\na,nan\n" + "x" * (5 << 20), "3: line longer than 4 MiB"),
        ("m.csv", "a," * 2000 + "id\n", "2001 columns"),
        ("m.csv", "id,video,start,end\na,v.mp4,nan,inf\n", "2: end: 'inf' is not a time"),
        ("m.jsonl", '{"id": "a", "start": NaN}\n', "1: invalid JSON (NaN is not a JSON number)"),
        ("m.jsonl", "[" * 100_000 + "\n", "1: invalid JSON"),
        ("m.jsonl", '{"id": ' + "9" * 10_000 + "}\n", "1: invalid JSON"),
        ("m.jsonl", '{"id": "a"\n', "1: invalid JSON"),
        ("m.xlsx", "x", "unknown kind of table; expected a name ending in .csv"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named(root: Path, name: str, content: str | bytes, complaint: str) -> None:
    assert complaint in "\n".join(faults(write(root / name, content)))


def test_absent_and_unreadable_files(root: Path) -> None:
    assert faults(root / "absent.csv") == ["no such file"]
    (root / "folder.csv").mkdir()
    assert faults(root / "folder.csv") == ["is not a regular file"]
    os.mkfifo(root / "fifo.mp4")
    assert "is not a regular file" in faults(jsonl(root / "m.jsonl", {"id": "a", "video": "fifo.mp4"}))[1]


def test_symlinks_may_not_lead_out_of_the_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "v.mp4").write_bytes(b"x")
    (root / "link.mp4").symlink_to(outside / "v.mp4")
    (root / "folder").symlink_to(outside)
    (root / "inside.mp4").symlink_to("v.mp4")
    (root / "loop.mp4").symlink_to("loop.mp4")
    for name in ("link.mp4", "folder/v.mp4", "folder/../outside/v.mp4"):
        assert "leads out of" in faults(jsonl(root / "m.jsonl", {"id": "a", "video": name}))[1]
    assert len(faults(jsonl(root / "m.jsonl", {"id": "a", "video": "loop.mp4"}))) == 2
    rows = [{"id": "a", "video": "link.mp4"}, {"id": "b", "video": str(outside / "v.mp4")}]
    allowed = read_manifest(jsonl(root / "m.jsonl", *rows), allow_outside=True)
    assert [row.video for row in allowed] == [outside / "v.mp4"] * 2
    inside = read_manifest(jsonl(root / "m.jsonl", {"id": "a", "video": "inside.mp4"}))
    assert inside[0].video == root / "v.mp4"


def test_another_root(root: Path) -> None:
    (root / "lists").mkdir()
    path = jsonl(root / "lists" / "m.jsonl", {"id": "a", "video": "v.mp4"})
    assert "no such file" in faults(path)[1]
    row = read_manifest(path, root=root)[0]
    assert (row.video, row.group) == (root / "v.mp4", "v.mp4")


def test_numbers_are_fine_as_ids_and_extra_columns_are_ignored(root: Path) -> None:
    row = read_manifest(
        jsonl(root / "m.jsonl", {"id": 12, "text": "x", "group": 3, "rights": None, "n": [1]})
    )[0]
    assert (row.id, row.group) == ("12", "3")


def test_many_faults_are_counted_and_some_shown(root: Path) -> None:
    found = faults(jsonl(root / "m.jsonl", *[{"id": "a\n", "text": "x"}] * 5000))
    assert found[0] == "5000 error(s)"
    assert found[-1] == "... and 4970 more"
    assert len(found) == 32


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fixed_dictionaries(
    {"id": st.text(min_size=1, max_size=9) | st.integers()},
    optional={
        "text": st.text(max_size=9) | st.none(), "start": st.floats() | st.integers(),
        "end": st.floats() | st.text(),
        "labels": st.lists(st.text(max_size=3)) | st.text(), "fold": st.integers() | st.booleans(),
        "video": st.text(max_size=9), "split": st.text(max_size=4),
    },
), min_size=1, max_size=4))  # fmt: skip
def test_any_values_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    path = jsonl(tmp_path_factory.mktemp("any") / "m.jsonl", *rows)
    found = read_or_refuse(path)
    if found is not None:
        assert [row.id for row in found] == [str(row["id"]) for row in rows]
        assert all(row.end is None or row.end > row.start >= 0 for row in found)


@pytest.mark.parametrize("seed", range(6))
def test_fuzzed_manifests_never_crash(root: Path, seed: int) -> None:
    """50 mutants each; a mutant is read or refused with its name, in bounded time."""
    rng = random.Random(seed)
    kinds = ["m.csv", "m.jsonl"]
    good = {
        "m.csv": b'id,video,start,end,texts,fold\na,v.mp4,0,1,"[""x""]",1\n"b",w x.mp4,1.5,2,[],\n' * 3,
        "m.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in ROWS),
    }
    for n in range(50):
        name = kinds[n % 2]
        data = bytearray(good[name])
        for _ in range(rng.choice([1, 2, 8, 40])):
            at = rng.randrange(len(data)) if data else 0
            what = rng.randrange(4)
            if what == 0:
                data[at : at + rng.randrange(1, 9)] = b""
            elif what == 1:
                data[at:at] = rng.choice(
                    [b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"[", b"{", b"../", b"1e400", b"\\ud800"]
                )
            elif data:
                data[at] = rng.randrange(256)
        path = write(root / f"{seed}-{n}-{name}", bytes(data))
        rows = read_or_refuse(path)
        assert rows is None or all(row.video is None or row.video.parent == root for row in rows)


def test_cost_per_row_is_constant(root: Path) -> None:
    def seconds_for(count: int) -> float:
        lines = [f"{i},v.mp4,{i % 100},{i % 100 + 1},some words\n" for i in range(count)]
        path = write(root / f"{count}.csv", "id,video,start,end,text\n" + "".join(lines))
        before = time.process_time()
        assert len(read_manifest(path)) == count
        return time.process_time() - before

    seconds_for(1000)
    small, large = seconds_for(2000), seconds_for(40_000)
    assert large < 20 * small * 2.5, "not quadratic"
