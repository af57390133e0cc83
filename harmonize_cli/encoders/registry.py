"""Encoders by name."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harmonize_cli.config import StageConfig
from harmonize_cli.encoders.base import Encoder
from harmonize_cli.encoders.clip_tokens import CLIP_BPE, ClipTokens, ClipTokensConfig
from harmonize_cli.encoders.frames import FramesConfig, RawFrames
from harmonize_cli.encoders.open_clip import ClipFrames, ClipModel, ClipTexts, OpenClipConfig, split_name
from harmonize_cli.encoders.sound import LogMel, MelConfig, Mfcc, MfccConfig, Waveform, WaveformConfig
from harmonize_cli.encoders.speech import SpeechConfig, SpeechFeatures
from harmonize_cli.encoders.tokens import Tokens, TokensConfig, Vocab
from harmonize_cli.errors import BadInput

PLAIN = ("raw", "waveform", "logmel", "mfcc", "tokens", "clip_tokens")
OPEN_CLIP = "open_clip:"
SPEECH = "torchaudio:"


class EncodersConfig(StageConfig):
    """Settings of every encoder, used by those that are named."""

    raw: FramesConfig = FramesConfig()
    waveform: WaveformConfig = WaveformConfig()
    logmel: MelConfig = MelConfig()
    mfcc: MfccConfig = MfccConfig()
    tokens: TokensConfig = TokensConfig()
    clip_tokens: ClipTokensConfig = ClipTokensConfig()
    open_clip: OpenClipConfig = OpenClipConfig()
    torchaudio: SpeechConfig = SpeechConfig()


def check_names(names: Sequence[str]) -> list[str]:
    """What is wrong with a list of encoder names; empty if nothing is."""
    errors = []
    for name in names:
        if name.startswith(OPEN_CLIP):
            try:
                split_name(name.removeprefix(OPEN_CLIP))
            except BadInput as e:
                errors.append(str(e))
        elif name not in PLAIN and not name.startswith(SPEECH):
            known = f"{', '.join(PLAIN)}, {OPEN_CLIP}MODEL/TAG, {SPEECH}PIPELINE"
            errors.append(f"{name!r}: no such encoder; known: {known}")
    if len(set(names)) != len(names):
        errors.append("an encoder is named twice")
    if sum(name.startswith(OPEN_CLIP) for name in names) > 1:
        errors.append("one open_clip model a store; extract another one to a store of its own")
    if sum(name.startswith(SPEECH) for name in names) > 1:
        errors.append("one torchaudio pipeline a store; extract another one to a store of its own")
    return errors if names else ["no encoder is named"]


def build_encoders(names: Sequence[str], config: EncodersConfig, vocab: Vocab | None) -> list[Encoder]:
    """Make the named encoders. `vocab` is needed for `tokens`.

    Raises:
        BadInput: an unknown name, or weights that can't be had.
    """
    errors = check_names(names)
    if errors:
        raise BadInput("encoders: " + "; ".join(errors))
    encoders: list[Encoder] = []
    for name in names:
        if name == "raw":
            encoders.append(RawFrames(config.raw))
        elif name == "waveform":
            encoders.append(Waveform(config.waveform))
        elif name == "logmel":
            encoders.append(LogMel(config.logmel))
        elif name == "mfcc":
            encoders.append(Mfcc(config.mfcc))
        elif name == "tokens":
            if vocab is None:
                raise ValueError("tokens need a vocabulary")
            encoders.append(Tokens(config.tokens, vocab))
        elif name == "clip_tokens":
            encoders.append(ClipTokens(config.clip_tokens))
        elif name.startswith(SPEECH):
            encoders.append(SpeechFeatures(name.removeprefix(SPEECH), config.torchaudio))
        else:
            model = ClipModel(name.removeprefix(OPEN_CLIP), config.open_clip)
            encoders += [ClipFrames(model), ClipTexts(model)]
    return encoders


def make_vocab(config: TokensConfig, texts: Iterable[str]) -> Vocab:
    """The vocabulary that the config names, or one made from `texts`."""
    return Vocab.load(config.vocab) if config.vocab else Vocab.build(texts, config.vocab_size)


def text_tokeniser(encoder: str, vocab: Path) -> Callable[[str, int], npt.NDArray[np.int32]]:
    """(text, length) to ids int32 [length], as the text feature of `encoder` has them.

    Raises:
        BadInput: word tokens without the vocabulary `vocab`.
    """
    if encoder == CLIP_BPE:
        return ClipTokens(ClipTokensConfig()).encode
    if not vocab.is_file():
        raise BadInput(f"{vocab}: missing; prompts need a run that was trained on tokens")
    return Vocab.load(vocab).encode
