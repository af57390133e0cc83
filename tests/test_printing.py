"""What strangers wrote reaches the terminal without power over it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.errors import BadInput
from harmonize_cli.printing import printable
from harmonize_cli.store.schema import FeatureSpec, Sample, Status
from harmonize_cli.store.writer import ShardWriter

EVIL = "\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202eevil\u2028\x7f"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("plain text", "plain text"),
        ("naïve 漢字 👩‍🔬 مرحبا", "naïve 漢字 👩‍🔬 مرحبا"),
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[31m", r"\u001b[31m"),
        ("\udcff", r"\udcff"),
        ("\u202e", r"\u202e"),
        ("\x9b\r", r"\u009b\u000d"),
        ("\U000e0000", r"\udb40\udc00"),
    ],
)
def test_escapes(text: str, told: str) -> None:
    assert printable(text) == told


def test_one_line_stays_one() -> None:
    assert printable("a\nb\tc", lines=False) == r"a\u000ab\u0009c"


@given(st.text(st.characters()))
def test_it_can_be_printed_and_json_reads_it_back(text: str) -> None:
    told = printable(json.dumps(text, ensure_ascii=False))
    told.encode("utf-8")
    assert json.loads(told).encode("utf-16", "surrogatepass") == text.encode("utf-16", "surrogatepass")
    assert printable(told) == told


def test_a_foreign_store_has_no_power_over_the_terminal(tmp_path) -> None:
    spec = FeatureSpec("text/tokens", "tokens", f"raw{EVIL}", "int32", (2,))
    for name, text in (("a", "one"), ("b", "two")):
        with ShardWriter(tmp_path / f"{name}.h5", [spec], attrs={"x": EVIL}) as shard:
            shard.add(
                Sample(
                    f"id\n{EVIL}", split=f"s{EVIL}", group=EVIL, labels=(EVIL,), texts=(EVIL, text),
                    source=EVIL,
                    status={"text": Status.FAILED}, reason={"text": f"why\n{EVIL}"}, facts={EVIL: EVIL},
                )
            )  # fmt: skip
    a, b = str(tmp_path / "a.h5"), str(tmp_path / "b.h5")
    for words in (
        ("info", a), ("info", a, f"id\n{EVIL}"), ("info", a, "--json"), ("diff", a, b),
        ("diff", a, b, "--json"), ("verify", a), ("merge", a, b, "-o", str(tmp_path / "m.h5")),
        ("info", a, EVIL),
    ):  # fmt: skip
        done = CliRunner().invoke(app, ["store", *words])
        told = done.output
        if isinstance(done.exception, BadInput):  # as the entry point prints it
            told += printable(str(done.exception))
        told.encode("utf-8")
        assert not set(told) & set(EVIL) - set("[2J]0;owned31mevil"), words
        if "info" in words and len(words) == 2:
            assert "1 x why\\u000a\\u001b[2J" in told
    assert json.loads(CliRunner().invoke(app, ["store", "info", a, "--json"]).output)["attrs"] == {"x": EVIL}
