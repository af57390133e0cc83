"""Timed captions, the files that they come in, and the segments that they make."""

import json
import random
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize_cli.datasets.caption_files import read_captions
from harmonize_cli.datasets.captions import Caption, CaptionSegment, caption_segments, tidy, window_segments
from harmonize_cli.datasets.json_stream import stream_object
from harmonize_cli.errors import BadInput

CAPTIONS = [
    Caption(0.5, 2.0, "first we cut"),
    Caption(2.0, 3.25, "the onion"),
    Caption(61.0, 3723.5, "and fry it"),
]
VTT = """\ufeffWEBVTT - a title
Kind: captions

NOTE nobody says this

STYLE
::cue { color: red }

1
00:00.500 --> 00:02.000 align:start position:0%
<v Anna>first <c.loud>we</c> cut

00:02.000 --> 00:03.250
the&nbsp;onion

00:01:01.000 --> 01:02:03.500
and
fry   it
"""
SRT = """1
00:00:00,500 --> 00:00:02,000
<i>first</i> we cut

2
00:00:02,000 --> 00:00:03,250
{\\an8}the onion
3
00:01:01,000 --> 01:02:03,500
and
fry it
"""
JSONS = {
    "lists": {name: [getattr(c, name) for c in CAPTIONS] for name in ("start", "end", "text")},
    "objects": [{"start": c.start, "end": c.end, "text": c.text} for c in CAPTIONS],
    "durations": [{"start": c.start, "duration": c.end - c.start, "text": c.text} for c in CAPTIONS],
    "whisper": {"segments": [{"id": 0, "start": c.start, "end": c.end, "text": c.text} for c in CAPTIONS]},
    "activitynet": {"annotations": [{"segment": [c.start, c.end], "sentence": c.text} for c in CAPTIONS]},
    "json3": {"events": [{"tStartMs": 0, "wpWinPosId": 1}] + [
        {"tStartMs": int(c.start * 1000), "dDurationMs": int((c.end - c.start) * 1000),
         "segs": [{"utf8": word + " "} for word in c.text.split()]} for c in CAPTIONS]},
}  # fmt: skip


@pytest.mark.parametrize("text", [VTT, VTT.replace("\n", "\r\n"), VTT.replace("\n", "\r")])
def test_webvtt(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.vtt"
    path.write_bytes(text.encode())
    assert read_captions(path) == CAPTIONS


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_subrip(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "a.SRT"
    path.write_bytes(SRT.replace("onion", "onïon").encode(codec))
    assert read_captions(path) == [CAPTIONS[0], Caption(2.0, 3.25, "the onïon"), CAPTIONS[2]]


@pytest.mark.parametrize("dialect", JSONS)
def test_json_with_times(tmp_path: Path, dialect: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(JSONS[dialect]))
    assert read_captions(path) == CAPTIONS


def test_captions_without_times(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" a dog \n\nbarks\tloud\n")
    assert read_captions(tmp_path / "a.txt") == ["a dog", "barks loud"]
    for value in (
        {"caption": "a dog", "width": 3},
        ["a dog"],
        [{"caption": "a dog"}],
        {"captions": ["a dog"]},
    ):
        (tmp_path / "a.json").write_text(json.dumps(value))
        assert read_captions(tmp_path / "a.json") == ["a dog"]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.vtt", "WEBVTT\n\n00:01 --> 00:02\nx\n", "a.vtt:3: expected times such as"),
        ("a.srt", "just words\n", "no captions with times"),
        ("a.json", "{", "invalid JSON"),
        ("a.json", "[" * 100_000, "invalid JSON"),
        ("a.json", "3", "no captions in it"),
        ("a.json", '{"start": [1]}', "no captions in it"),
        ("a.json", '{"start": [1], "end": [2, 3], "text": ["x"]}', "no captions in it"),
        ("a.ass", "x", "unknown kind of captions"),
    ],
)
def test_bad_caption_files_are_named(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(BadInput, match=complaint) as caught:
        read_captions(path)
    assert str(path) in str(caught.value)


def test_rolling_captions_lose_their_repeats() -> None:
    # how automatic captions of web video come: every cue shows the line before it again
    rolling = [
        Caption(0, 2, "so today\n"),
        Caption(2, 2.01, "so today"),
        Caption(2.01, 4, "so today\nwe make bread"),
        Caption(4, 4.01, "we make bread"),
        Caption(4.01, 6, "we make bread\nwe make bread"),
        Caption(9, 10, "we make bread"),
    ]
    assert tidy(rolling) == [
        Caption(0, 2, "so today"),
        Caption(2.01, 4, "we make bread"),
        Caption(4.01, 6, "we make bread"),
        Caption(9, 10, "we make bread"),
    ]


times = st.floats(0, 200, allow_nan=False)
captions = st.lists(
    st.tuples(times, st.floats(0.01, 30)).map(lambda t: (t[0], t[0] + t[1])), max_size=30
).map(lambda spans: tidy(Caption(a, b, f"text {k}") for k, (a, b) in enumerate(spans)))


@settings(deadline=None)
@given(captions, st.integers(1, 8), st.floats(0, 10))
def test_segments_have_the_nearest_captions(said: list[Caption], count: int, shortest: float) -> None:
    segments = caption_segments(said, candidates=count, min_seconds=shortest)
    assert len(segments) == len(said)
    for own, segment in zip(said, segments, strict=True):
        assert segment.texts[0] == own.text
        assert len(segment.texts) == min(count, len(said)) == len(set(segment.texts))
        distance = {c.text: abs(c.middle - own.middle) for c in said}
        chosen = sorted(distance[text] for text in segment.texts)
        assert chosen == sorted(distance.values())[: len(chosen)], "a slow sort over all finds none nearer"
        assert segment.end - segment.start >= min(shortest, own.end - own.start) - 1e-9
        assert segment.end - segment.start >= shortest - 1e-6
        assert 0 <= segment.start <= own.start
        assert segment.end >= own.end - 1e-9


@settings(deadline=None)
@given(captions, st.floats(0.5, 300), st.floats(0.2, 50), st.integers(1, 6))
def test_windows_tile_the_video(said: list[Caption], length: float, seconds: float, count: int) -> None:
    windows = window_segments(length, seconds, said, candidates=count)
    assert windows[0].start == 0
    for a, b in pairwise(windows):
        assert b.start == pytest.approx(a.end)
    assert abs(windows[-1].end - length) <= seconds / 2 + 1e-6
    by_text = {c.text: c for c in said}
    for window in windows:
        assert len(window.texts) <= count
        for text in window.texts:
            assert by_text[text].start < window.end
            assert by_text[text].end > window.start
        middle = (window.start + window.end) / 2
        if any(c.start <= middle < c.end and c.end - c.start < 1e-3 for c in said):
            assert window.texts


def test_many_captions_cost_little() -> None:
    same = [Caption(1.0, 2.0, str(k)) for k in range(20_000)]  # all at once: the worst case for neighbours
    before = time.process_time()
    assert len(caption_segments(same)) == len(same)
    assert time.process_time() - before < 5
    assert caption_segments([]) == []
    assert window_segments(3.0, 2.0) == [CaptionSegment(0, 2.0, ()), CaptionSegment(2.0, 3.0, ())]
    with pytest.raises(ValueError, match="windows of"):
        window_segments(1e7, 0.2)


@given(st.dictionaries(st.text(max_size=5), st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
), max_size=6), st.sampled_from([None, 1]), st.integers(1, 40))  # fmt: skip
@settings(deadline=None)
def test_a_streamed_object_is_what_json_reads(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, object], indent: int | None, block: int
) -> None:
    path = tmp_path_factory.mktemp("stream") / "a.json"
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harmonize_cli.datasets.json_stream._BLOCK", block)  # ends of blocks everywhere
        assert dict(stream_object(path)) == value


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a"}', '{"a": 1', '{"a": 1 "b": 2}', "{1: 2}", '{"a": tru}']
)
def test_a_damaged_object_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"a.json: character \d+"):
        list(stream_object(path))


@pytest.mark.parametrize("seed", range(4))
def test_fuzzed_caption_files_never_crash(tmp_path: Path, seed: int) -> None:
    """75 mutants each: read or refused with their names."""
    rng = random.Random(seed)
    good = [(".vtt", VTT), (".srt", SRT)] + [(".json", json.dumps(value)) for value in JSONS.values()]
    inserts = [
        b"-->",
        b"99999:99:99.999",
        b"<",
        b"[",
        b"{",
        b"\0",
        b"\xff",
        b"1e999",
        b"\\ud800",
        b'"',
        b"\n\n",
        b"-1",
    ]
    for n in range(75):
        suffix, text = good[n % len(good)]
        data = bytearray(text.encode())
        for _ in range(rng.choice([1, 3, 10, 60])):
            at = rng.randrange(len(data)) if data else 0
            what = rng.randrange(3)
            if what == 0:
                data[at : at + rng.randrange(1, 30)] = b""
            elif what == 1:
                data[at:at] = rng.choice(inserts)
            elif data:
                data[at] = rng.randrange(256)
        path = tmp_path / f"{n}{suffix}"
        path.write_bytes(data)
        refusal = ""
        found: list[Caption] | list[str] = []
        try:
            found = read_captions(path)
        except BadInput as e:
            refusal = str(e)
        assert not refusal or str(path) in refusal
        timed = [item for item in found if isinstance(item, Caption)]
        assert all(0 <= c.start < c.end and c.text for c in timed)
        caption_segments(timed)
