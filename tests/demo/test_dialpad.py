"""The embedded data set: disjoint splits, known noise, the same bytes again."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize_cli.config import validate
from harmonize_cli.demo.captions import manifest_lines, truth_lines
from harmonize_cli.demo.make_data import make_data
from harmonize_cli.demo.numbers import SPLITS, digits_of, load_scans, say, split_numbers
from harmonize_cli.demo.picture import render_frames
from harmonize_cli.demo.schedule import plan_files
from harmonize_cli.demo.settings import DialpadSettings
from harmonize_cli.demo.sound import dtmf, render_sound
from harmonize_cli.errors import BadInput

SMALL = DialpadSettings(digits=2, clips=12, val_clips=4, test_clips=4, digit_seconds=0.6)


@given(digits=st.integers(2, 4), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_numbers_are_dealt_once(digits: int, seed: int) -> None:
    parts = split_numbers(digits, seed)
    everything = np.concatenate([parts[split] for split in SPLITS])
    assert sorted(everything) == list(range(10**digits))


def test_scans_are_dealt_once_and_show_their_digit() -> None:
    from sklearn.datasets import load_digits

    target = load_digits().target
    scans = load_scans(seed=3)
    used = np.concatenate([rows for split in SPLITS for rows in scans.rows[split]])
    assert sorted(used) == list(range(len(target)))
    for split in SPLITS:
        for digit, rows in enumerate(scans.rows[split]):
            assert (target[rows] == digit).all()
            assert len(rows) >= 10


def test_words() -> None:
    assert say(71, 3) == "zero seven one"
    assert say(71, 3, 2) == "zero seven one please"
    assert digits_of(71, 3) == (0, 7, 1)


@given(
    misaligned=st.floats(0, 1),
    sound=st.floats(0, 1),
    origin=st.sampled_from(["neighbour", "elsewhere", "both"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_noise_is_as_ordered_and_only_in_training(
    misaligned: float, sound: float, origin: str, seed: int
) -> None:
    made = DialpadSettings(
        clips=200, val_clips=8, test_clips=16, misaligned=misaligned, misaligned_sound=sound,
        misaligned_from=origin, seed=seed,
    )  # fmt: skip
    scans = load_scans(made.seed)
    files = plan_files(made, scans)
    train = [s for f in files if f.split == "train" for s in f.segments]
    assert len(train) == 200
    assert sum(s.caption != s.number for s in train) == round(misaligned * 200)
    assert sum(s.sound != s.number for s in train) == round(sound * 200)
    for file in files:
        for place, segment in enumerate(file.segments):
            assert (segment.caption_from != "") == (segment.caption != segment.number)
            if file.split != "train":
                assert segment.caption == segment.sound == segment.number
            if segment.caption_from == "neighbour":
                near = file.segments[max(0, place - 1) : place + 2]
                assert segment.caption in {other.number for other in near}
            if origin != "both" and segment.caption_from:
                assert segment.caption_from in (origin, "elsewhere")


def test_files_are_long_and_segments_do_not_overlap() -> None:
    made = DialpadSettings()
    files = plan_files(made, load_scans(made.seed))
    for file in files:
        assert 30 <= file.frames / made.frame_rate <= 120
        assert len(file.segments) >= 12
        starts = [segment.start for segment in file.segments]
        ends = [start + made.number_frames for start in starts]
        assert all(end < start for end, start in zip(ends, starts[1:], strict=False))
        assert ends[-1] <= file.frames
    test = [s.number for f in files if f.split == "test" for s in f.segments]
    assert len(set(test)) == len(test) == made.test_clips  # no caption twice in the test pool


def test_tones_carry_the_digit() -> None:
    rate = 8000
    for digit, pair in {0: (941, 1336), 5: (770, 1336), 9: (852, 1477)}.items():
        tone = dtmf(digit, 0.5, rate)
        spectrum = np.abs(np.fft.rfft(tone))
        strongest = sorted(np.argsort(spectrum)[-2:] * rate / len(tone))
        np.testing.assert_allclose(strongest, pair, atol=3)


def test_the_digit_shown_is_in_the_picture() -> None:
    made = SMALL.model_copy(update={"picture_noise": 0.0, "motion": 0.0})
    scans = load_scans(made.seed)
    file = plan_files(made, scans)[0]
    frames = render_frames(file, made, scans.pixels)
    assert frames.shape == (file.frames, 48, 48)
    segment = file.segments[0]
    shown = frames[segment.start, 8:40, 8:40].astype(float)
    fits = [np.corrcoef(shown.ravel(), np.kron(scan, np.ones((4, 4))).ravel())[0, 1] for scan in scans.pixels]
    assert int(np.argmax(fits)) == segment.scans[0]
    assert len(render_sound(file, made)) == file.frames * made.sample_rate // made.frame_rate


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    report = make_data(tmp_path / "a", SMALL, jobs=1)
    make_data(tmp_path / "b", SMALL, jobs=2)
    assert report.clips == 20
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert {p.suffix for p in names} == {".mp4", ".vtt", ".jsonl", ".json"}
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    rows = [json.loads(line) for line in (tmp_path / "a" / "manifest.jsonl").read_text().splitlines()]
    truth = [json.loads(line) for line in (tmp_path / "a" / "truth.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in truth]
    assert not {"shown", "caption_misaligned", "dialled"} & set(rows[0])  # the truth stays apart
    assert make_data(tmp_path / "a", SMALL).made == 0


def test_other_seed_other_data() -> None:
    other = SMALL.model_copy(update={"seed": 1})
    texts = [manifest_lines(plan_files(s, load_scans(s.seed)), s) for s in (SMALL, other)]
    assert texts[0] != texts[1]
    assert truth_lines(plan_files(SMALL, load_scans(0)), SMALL) == truth_lines(
        plan_files(SMALL, load_scans(0)), SMALL
    )


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    make_data(tmp_path / "a", SMALL, jobs=1)
    lost = next((tmp_path / "a" / "videos").glob("*.mp4"))
    before = lost.read_bytes()
    lost.unlink()
    assert make_data(tmp_path / "a", SMALL, jobs=1).made == 1
    assert lost.read_bytes() == before


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    make_data(tmp_path / "a", SMALL, jobs=1)
    with pytest.raises(BadInput, match=r"other settings .differs in: seed"):
        make_data(tmp_path / "a", SMALL.model_copy(update={"seed": 9}))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(BadInput, match="no dialpad data set"):
        make_data(tmp_path / "mine", SMALL)


def test_bad_settings_are_named() -> None:
    with pytest.raises(BadInput, match=r"(?s)digits.*misaligned_from"):
        validate(DialpadSettings, {"digits": 9, "misaligned_from": "mars"}, source="test")
