"""Caption files as they lie beside videos: WebVTT, SubRip, several JSON dialects, plain text."""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from harmonize_cli.datasets.captions import Caption, tidy
from harmonize_cli.datasets.fields import MAX_TEXT
from harmonize_cli.errors import BadInput

TIMED = (".vtt", ".srt", ".json")
CAPTION_SUFFIXES = (*TIMED, ".txt")
MAX_FILE = 64 << 20

_CLOCK = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMES = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}")
_TAG = re.compile(r"<[^<>]{0,200}>|\{\\[^{}]{0,200}\}")


def read_captions(path: Path) -> list[Caption] | list[str]:
    """Captions with times, tidied; or texts without times (plain text: one a line).

    Raises:
        BadInput: naming the file (and line) that is no caption file.
    """
    text = _read(path)
    kind = path.suffix.lower()
    if kind == ".json":
        return _from_json(path, text)
    if kind == ".txt":
        return _plain(text)
    if kind in (".vtt", ".srt"):
        return tidy(_cues(path, text))
    raise BadInput(f"{path}: unknown kind of captions; expected {', '.join(CAPTION_SUFFIXES)}")


def _read(path: Path) -> str:
    if not path.is_file():
        raise BadInput(f"{path}: is not a regular file")
    try:
        with path.open("rb") as f:
            raw = f.read(MAX_FILE + 1)
    except OSError as e:
        raise BadInput(f"{path}: can't be read ({e.strerror})") from e
    if len(raw) > MAX_FILE:
        raise BadInput(f"{path}: a caption file of more than {MAX_FILE >> 20} MiB")
    for codec in ("utf-16",) if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "cp1252"):
        try:
            return raw.decode(codec).replace("\0", "")
        except UnicodeDecodeError:
            continue
    raise BadInput(f"{path}: neither UTF-8 nor Windows text; save the file as UTF-8")


def _cues(path: Path, text: str) -> Iterator[Caption]:
    """Cues of WebVTT and SubRip: blocks with a line of times; headers, notes and styles have none."""
    lines = re.split(r"\r\n|\r|\n", text)
    n = 0
    seen = False
    while n < len(lines):
        times = _TIMES.match(lines[n])
        n += 1
        if not times:
            if "-->" in lines[n - 1]:
                raise BadInput(f"{path}:{n}: expected times such as 00:01:02.500 --> 00:01:04.000")
            continue
        seen = True
        said = []
        while n < len(lines) and lines[n].strip() and not _TIMES.match(lines[n]):
            said.append(_words(lines[n]))
            n += 1
        if n < len(lines) and _TIMES.match(lines[n]) and said and said[-1].strip().isdigit():
            said.pop()  # the number of the next cue, where the blank line before it is missing
        yield Caption(_seconds(times.groups()[:4]), _seconds(times.groups()[4:]), "\n".join(said))
    if not seen and text.strip() and not text.lstrip().startswith("WEBVTT"):
        raise BadInput(f"{path}: no captions with times; expected WebVTT or SubRip")


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = (part or "0" for part in parts)
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}")


def _words(line: str) -> str:
    return html.unescape(_TAG.sub("", line))[:MAX_TEXT]


def _plain(text: str) -> list[str]:
    lines = (" ".join(line.split())[:MAX_TEXT] for line in text.splitlines())
    return [line for line in lines if line]


def _from_json(path: Path, text: str) -> list[Caption] | list[str]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise BadInput(f"{path}: invalid JSON ({e})") from None
    found = captions_of_json(value)
    if found is None:
        raise BadInput(
            f"{path}: no captions in it; expected a list of {{start, end, text}}, an object of the lists "
            'start, end and text, {"segments": [...]}, YouTube\'s json3, or {"caption": "..."}'
        )
    return found


def captions_of_json(value: Any) -> list[Caption] | list[str] | None:
    """Captions from the dialects in use; None if it is none of them.

    Known are HowTo100M's object of lists, lists of objects with start and end (or duration), Whisper's
    `segments`, YouTube's json3 `events`, and captions without times.
    """
    if isinstance(value, list):
        return _from_objects(value)
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("text"), list):
        return _from_lists(value)
    for name in ("segments", "captions", "annotations", "sentences"):
        if isinstance(value.get(name), list):
            return captions_of_json(value[name])
    if isinstance(value.get("events"), list):
        return _from_json3(value["events"])
    return _untimed([value.get(name) for name in ("caption", "text", "title") if value.get(name)][:1])


def _from_lists(value: dict[str, Any]) -> list[Caption] | None:
    lists = [value.get(name) for name in ("start", "end", "text")]
    if not all(isinstance(part, list) for part in lists) or len({len(part) for part in lists if part}) > 1:
        return None
    starts, ends, texts = lists
    rows = zip(starts or [], ends or [], texts or [], strict=False)
    return tidy(_timed([{"start": s, "end": e, "text": t} for s, e, t in rows]) or [])


def _from_objects(items: list[Any]) -> list[Caption] | list[str] | None:
    if all(isinstance(item, str) for item in items):
        return _untimed(items) or []
    timed = _timed(items)
    if timed is not None:
        return tidy(timed)
    return _untimed(
        [item.get("caption", item.get("text")) if isinstance(item, dict) else None for item in items]
    )


def _untimed(texts: list[Any]) -> list[str] | None:
    if not texts or not all(isinstance(text, str) for text in texts):
        return None
    return [line for text in texts for line in _plain(text.replace("\n", " "))]


def _timed(items: list[Any]) -> list[Caption] | None:
    found = []
    for item in items:
        if not isinstance(item, dict):
            return None
        text = item.get("text", item.get("sentence", item.get("caption")))
        start, end = item.get("start"), item.get("end")
        if isinstance(item.get("segment"), list) and len(item["segment"]) == 2:
            start, end = item["segment"]
        if end is None and _is_number(start) and _is_number(item.get("duration")):
            end = start + item["duration"]
        if not (_is_number(start) and _is_number(end)):
            return None
        if isinstance(text, str):
            found.append(Caption(float(start), float(end), _words(text)))
    return found


def _from_json3(events: list[Any]) -> list[Caption] | None:
    found = []
    for event in events:
        if not isinstance(event, dict) or not isinstance(event.get("segs"), list):
            continue
        start, length = event.get("tStartMs"), event.get("dDurationMs")
        if not (_is_number(start) and _is_number(length)):
            continue
        said = [seg.get("utf8", "") for seg in event["segs"] if isinstance(seg, dict)]
        text = "".join(part for part in said if isinstance(part, str))
        found.append(Caption(start / 1000, (start + length) / 1000, _words(text)))
    return tidy(found)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
