"""Videos to samples: files decoded, cut and encoded."""

import hashlib
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from harmonize_cli.encoders.base import Encoder, FrameEncoder, SoundEncoder, TextEncoder
from harmonize_cli.encoders.registry import build_encoders
from harmonize_cli.encoders.tokens import Vocab, clean_words
from harmonize_cli.extraction.batches import Batcher, Inputs
from harmonize_cli.extraction.config import ExtractConfig
from harmonize_cli.extraction.plan import FileGroup
from harmonize_cli.extraction.prefetch import prefetch
from harmonize_cli.extraction.samples import (
    FileFacts,
    Judgement,
    judge,
    new_sample,
    sound_error,
    sound_facts,
    span_of,
    sync_facts,
)
from harmonize_cli.media.decode import FileDecode, TrackOutcome
from harmonize_cli.media.decoders import decoder_for
from harmonize_cli.media.requests import Chunk, Kind, Request, SoundRequest, Span
from harmonize_cli.media.rows import release
from harmonize_cli.media.segments import Cutter, MediaSegment
from harmonize_cli.store.schema import FeatureSpec, Sample, Status

_WHOLE_BYTES, _PIECES, _PIECE_BYTES = 16 << 20, 16, 64 << 10
NO_FILE = "the manifest names no file for it"


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker needs to know. Pickled to worker processes."""

    config: ExtractConfig
    words: tuple[str, ...] | None
    root: Path | None
    attrs: dict[str, Any] = field(default_factory=dict)
    threads: int = 0


class UnitRunner:
    """Holds the encoders (models are loaded once a process) and runs units."""

    def __init__(self, job: Job, encoders: Sequence[Encoder] | None = None) -> None:
        """`encoders` are those of the job, where they were made elsewhere."""
        self.job = job
        vocab = Vocab(job.words) if job.words is not None else None
        if encoders is None:
            encoders = build_encoders(job.config.encoders, job.config, vocab)
        self.encoders: list[Encoder] = list(encoders)
        self.features: list[FeatureSpec] = [e.spec for e in self.encoders]
        self._vocab = vocab
        self._frames = [e for e in self.encoders if isinstance(e, FrameEncoder)]
        self._sounds = [e for e in self.encoders if isinstance(e, SoundEncoder)]
        self._texts = [e for e in self.encoders if isinstance(e, TextEncoder)]
        wanted: list[Request] = [*(e.request for e in self._frames), *(e.request for e in self._sounds)]
        self.requests = list(dict.fromkeys(wanted))
        self._decoder = decoder_for(job.config.decoder)

    @property
    def vocab_words(self) -> list[str] | None:
        """The words of the token ids, if there are tokens."""
        return self._vocab.words if self._vocab else None

    def samples(self, groups: Sequence[FileGroup]) -> Generator[Sample, None, None]:
        """All samples of some groups, batched across them."""
        batched: list[FrameEncoder | TextEncoder] = [e for e in self._frames if e.batch]
        batcher = Batcher([*batched, *(e for e in self._texts if e.batch)])
        with closing(prefetch(partial(self._group, group) for group in groups)) as done:
            for sample, inputs in done:
                yield from batcher.add(sample, inputs)
        yield from batcher.flush()

    def _group(self, group: FileGroup) -> Iterator[tuple[Sample, Inputs]]:
        """Samples, and what the batched encoders are to make of them."""
        files = self._files(group)
        if not files:
            for row in group.rows:
                sample = new_sample(row, self.job.root)
                self._no_media(sample)
                yield sample, self._add_texts(sample)
            return
        digest, spent = _digest(group), dict.fromkeys(files, 0.0)
        for stretch in group.stretches():
            spans = [span_of(row) for row in stretch.rows]
            decodes = self._open(files, spans, spent)
            cutter = Cutter(self.requests, spans)
            for segment in _segments(decodes, cutter, self.requests):
                row = stretch.rows[segment.index]
                sample = new_sample(row, self.job.root)
                facts = _file_facts(group, decodes, cutter, digest)
                frames = self._add_media(sample, segment, spans[segment.index], facts)
                yield sample, frames | self._add_texts(sample)
            spent = {path: d.decode.spent for path, d in zip(files, decodes, strict=True)}

    def _files(self, group: FileGroup) -> dict[Path, list[int]]:
        """The file, or the two where the sound lies in one of its own, with the numbers of the requests."""
        files: dict[Kind, Path | None] = {"video": group.video, "audio": group.audio or group.video}
        numbers: dict[Path, list[int]] = {}
        for number, request in enumerate(self.requests):
            path = files[request.kind]
            if path is not None:
                numbers.setdefault(path, []).append(number)
        return numbers

    def _open(
        self, files: Mapping[Path, list[int]], spans: Sequence[Span], spent: Mapping[Path, float]
    ) -> list["_Numbered"]:
        """A decode per file; together they serve all requests."""
        whole = Span(
            min(s.start for s in spans),
            None if any(s.end is None for s in spans) else max(s.end for s in spans if s.end is not None),
        )
        return [
            _Numbered(
                FileDecode(
                    path,
                    [self.requests[n] for n in numbers],
                    whole,
                    deadline=self.job.config.deadline,
                    spent=spent[path],
                    threads=self.job.threads,
                    decoder=self._decoder,
                ),
                numbers,
            )
            for path, numbers in files.items()
        ]

    def _add_media(self, sample: Sample, segment: MediaSegment, span: Span, file: FileFacts) -> Inputs:
        """Sound and raw frames into the sample; frames for the batched encoders are returned."""
        sample.facts.update(
            sync_facts(segment, self.requests, file.durations.get("video")), content_hash=file.digest
        )
        if file.errors:
            sample.facts["decode_errors"] = file.errors
        verdicts: dict[Kind, Judgement] = {}
        for number, request in enumerate(self.requests):
            coverage = self.job.config.min_coverage
            verdict = judge(segment, number, request, span, file, min_coverage=coverage)
            if request.kind not in verdicts or verdict.status > verdicts[request.kind].status:
                verdicts[request.kind] = verdict
        later: Inputs = {}
        if self._frames:
            verdict = verdicts["video"]
            sample.status["video"], reason = verdict.status, verdict.reason
            if reason:
                sample.reason["video"] = reason
            for frame_encoder in self._frames if verdict.status == Status.OK else []:
                number, key = self.requests.index(frame_encoder.request), frame_encoder.spec.key
                sample.times[key] = segment.times[number]
                if frame_encoder.batch:
                    later[key] = segment.rows[number]
                else:
                    sample.features[key] = frame_encoder.encode_frames(segment.rows[number])
        if self._sounds:
            self._add_sound(sample, segment, verdicts["audio"])
        return later

    def _add_sound(self, sample: Sample, segment: MediaSegment, verdict: Judgement) -> None:
        status, reason = verdict.status, verdict.reason
        for number, request in enumerate(self.requests) if status == Status.OK else ():
            if isinstance(request, SoundRequest):
                start = float(segment.times[number][0])
                error = sound_error(segment.rows[number], request.sample_rate, start)
                if error:
                    status, reason = Status.FAILED, error
        if status == Status.OK:
            request = self._sounds[0].request
            peak, facts = sound_facts(segment.rows[self.requests.index(request)], request.sample_rate)
            sample.facts.update(facts)
            if peak < self.job.config.silence_db:
                status, reason = Status.SILENT, f"nothing above {self.job.config.silence_db:g} dB"
            for encoder in self._sounds:
                number, key = self.requests.index(encoder.request), encoder.spec.key
                sample.features[key] = encoder.encode_sound(segment.rows[number])
                sample.times[key] = float(segment.times[number][0])
                release(segment.rows[number])
        sample.status["audio"] = status
        if reason:
            sample.reason["audio"] = reason

    def _add_texts(self, sample: Sample) -> Inputs:
        """Tokens into the sample; texts for the batched encoders are returned."""
        if not self._texts:
            return {}
        if not any(clean_words(text) for text in sample.texts):
            sample.status["text"] = Status.MISSING
            sample.reason["text"] = "no words in the text" if sample.texts else "no text in the manifest"
            return {}
        sample.status["text"] = Status.OK
        for encoder in self._texts:
            if not encoder.batch:
                sample.features[encoder.spec.key] = encoder.encode_texts(sample.texts)
        return {encoder.spec.key: list(sample.texts) for encoder in self._texts if encoder.batch}

    def _no_media(self, sample: Sample) -> None:
        for modality, wanted in (("video", self._frames), ("audio", self._sounds)):
            if wanted:
                sample.status[modality] = Status.MISSING
                sample.reason[modality] = NO_FILE


@dataclass(slots=True)
class _Numbered:
    """A decode and the numbers that its requests have in the unit."""

    decode: FileDecode
    numbers: list[int]
    at: float = 0.0

    def chunks(self) -> Iterator[Chunk]:
        for chunk in self.decode.chunks():
            yield Chunk(self.numbers[chunk.request], chunk.times, chunk.rows)


def _segments(
    decodes: Sequence[_Numbered], cutter: Cutter, requests: Sequence[Request]
) -> Iterator[MediaSegment]:
    """Feed the cutter from all decodes, always from the one that is behind."""
    served = {number for d in decodes for number in d.numbers}
    for number in set(range(len(requests))) - served:
        yield from cutter.close(number)
    streams = [(d, d.chunks()) for d in decodes]
    while streams:
        entry = min(streams, key=lambda pair: pair[0].at)
        chunk = next(entry[1], None)
        if chunk is None:
            streams.remove(entry)
            for number in entry[0].numbers:
                yield from cutter.close(number)
            continue
        entry[0].at = float(chunk.times[-1])
        for number in entry[0].numbers:
            # a track that turned out to be missing must not hold the other one's segments back
            if requests[number].kind in entry[0].decode.outcome:
                yield from cutter.close(number)
        yield from cutter.add(chunk)
    yield from cutter.end()


def _file_facts(group: FileGroup, decodes: Sequence[_Numbered], cutter: Cutter, digest: str) -> FileFacts:
    errors = [e for d in decodes for e in d.decode.errors]
    outcome = {kind: o for d in decodes for kind, o in d.decode.outcome.items()}
    if group.video is None:
        outcome["video"] = TrackOutcome("missing", NO_FILE)
    durations: dict[Kind, float] = {}
    for d in decodes:
        if d.decode.info and d.decode.info.stated:
            durations |= dict.fromkeys(d.decode.outcome, d.decode.info.stated)
    return FileFacts(
        outcome=outcome,
        ends=dict(cutter.last),
        durations=durations,
        digest=digest,
        errors=len(errors),
        first_error=errors[0] if errors else "",
    )


def _digest(group: FileGroup) -> str:
    """Hash of the file's bytes, to find the same video under two names. Empty if it can't be read.

    Of a file above 16 MiB its size and 16 pieces from all over it: to read hours of video for a segment of
    seconds would take longer than the segment. Such a hash begins with "part-".
    """
    path = group.video or group.audio
    try:
        assert path is not None
        if not path.is_file():
            return ""
        with path.open("rb") as f:
            size = os.fstat(f.fileno()).st_size
            if size <= _WHOLE_BYTES:
                return hashlib.file_digest(f, "sha256").hexdigest()[:32]
            digest = hashlib.sha256(str(size).encode())
            for k in range(_PIECES):
                f.seek(k * (size - _PIECE_BYTES) // (_PIECES - 1))
                digest.update(f.read(_PIECE_BYTES))
            return f"part-{digest.hexdigest()[:32]}"
    except OSError:
        return ""
