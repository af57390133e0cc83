"""Lists and archives with what others write into them: named, not fatal."""

import io
import tarfile

import pytest

from harmonize_cli.datasets.layouts import LAYOUTS
from harmonize_cli.datasets.manifest import read_manifest
from harmonize_cli.errors import BadInput


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_another_encoding_is_named(tmp_path, encoding, name):
    text = "id,text\na,one\n" if name.endswith("csv") else '{"id": "a", "text": "one"}\n'
    (tmp_path / name).write_bytes(text.encode(encoding))
    with pytest.raises(BadInput, match=r"encoded as UTF-16 or UTF-32; expected UTF-8"):
        read_manifest(tmp_path / name)


def test_one_bad_member_does_not_refuse_the_archive(tmp_path):
    members = [
        ("good.txt", b"one"),
        (b"b\xffad.txt".decode("utf-8", "surrogateescape"), b"two"),
        ("new\nline.txt", b"three"),
        ("x" * 400 + ".txt", b"four"),
        ("good.txt", b"again"),
        ("label.txt", b"five"),
        ("label.cls", b"no\x01label"),
        ("last.txt", b"six"),
    ]
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    found = LAYOUTS["webdataset"].find(tmp_path / "set")
    assert [row.id for row in found.rows] == ["a/good", "a/b\\udcffad", "a/new\\nline", "a/label", "a/last"]
    assert [row.texts for row in found.rows] == [("one",), ("two",), ("three",), ("five",), ("six",)]
    told = " ".join(found.problems.first)
    assert found.problems.count == 3
    assert "a name of 400 characters" in told
    assert "appears twice" in told
    assert "label" in told
