"""The text files of a dialpad data set: manifest, subtitles and the truth that training never sees."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from harmonize_cli.demo.numbers import WORDS, digits_of, say
from harmonize_cli.demo.schedule import FilePlan, Segment
from harmonize_cli.demo.settings import DialpadSettings


def manifest_lines(files: Sequence[FilePlan], settings: DialpadSettings) -> str:
    """JSONL manifest: one row per segment. The labels are the digits shown, in words."""
    return _jsonl(
        {
            "id": segment.id,
            "video": f"videos/{file.name}.mp4",
            "start": segment.start / settings.frame_rate,
            "end": _end(segment, settings),
            "text": _caption(segment, settings),
            "labels": [WORDS[digit] for digit in digits_of(segment.number, settings.digits)],
            "split": file.split,
            "group": file.name,
        }
        for file in files
        for segment in file.segments
    )


def truth_lines(files: Sequence[FilePlan], settings: DialpadSettings) -> str:
    """JSONL: what each segment shows, sounds and says, and so which captions and sounds are wrong."""
    return _jsonl(
        {
            "id": segment.id,
            "split": file.split,
            "shown": f"{segment.number:0{settings.digits}d}",
            "dialled": f"{segment.sound:0{settings.digits}d}",
            "said": f"{segment.caption:0{settings.digits}d}",
            "caption_misaligned": segment.caption != segment.number,
            "caption_from": segment.caption_from or None,
            "sound_misaligned": segment.sound != segment.number,
        }
        for file in files
        for segment in file.segments
    )


def webvtt(file: FilePlan, settings: DialpadSettings) -> str:
    """The captions of one file as WebVTT."""
    cues = [
        f"{segment.id}\n{_clock(segment.start / settings.frame_rate)} --> {_clock(_end(segment, settings))}\n"
        f"{_caption(segment, settings)}\n"
        for segment in file.segments
    ]
    return "WEBVTT\n\n" + "\n".join(cues)


def _caption(segment: Segment, settings: DialpadSettings) -> str:
    return say(segment.caption, settings.digits, segment.ending)


def _end(segment: Segment, settings: DialpadSettings) -> float:
    return (segment.start + settings.number_frames) / settings.frame_rate


def _clock(seconds: float) -> str:
    thousandths = round(seconds * 1000)
    minutes, thousandths = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{thousandths // 1000:02d}.{thousandths % 1000:03d}"


def _jsonl(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
