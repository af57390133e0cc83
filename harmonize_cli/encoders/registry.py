"""Encoders by name, as configs and command lines give them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import create_model

from harmonize_cli.config import StageConfig
from harmonize_cli.encoders.base import ENCODERS, Encoder, EncoderEntry
from harmonize_cli.encoders.clip_tokens import CLIP_BPE, ClipTokens, ClipTokensConfig
from harmonize_cli.encoders.tokens import TokensConfig, Vocab
from harmonize_cli.errors import BadInput
from harmonize_cli.registry import usage

if TYPE_CHECKING:

    class EncodersConfig(StageConfig):
        """Settings of every encoder under its name, used by those that are named."""
else:
    EncodersConfig = create_model(
        "EncodersConfig",
        __base__=StageConfig,
        __module__=__name__,
        **{name: (entry.config, entry.config()) for name, entry in ENCODERS.items()},
    )


def entries(names: Iterable[str]) -> list[EncoderEntry]:
    """What is registered for `NAME` or `NAME:ARGUMENT`, for each of `names`."""
    return [ENCODERS.split(name)[0] for name in names]


def check_names(names: Sequence[str]) -> list[str]:
    """What is wrong with a list of encoder names; empty if nothing is."""
    if not names:
        return ["no encoder is named"]
    errors, writes = [], dict[str, str]()
    for text in names:
        name, colon, argument = text.partition(":")
        try:
            entry = ENCODERS.find(name)
            if bool(argument) != bool(entry.argument) or bool(colon) != bool(entry.argument):
                raise BadInput(f"{text}: expected {usage(name, entry)}")
            entry.check(argument)
        except BadInput as e:
            errors.append(str(e))
            continue
        for key in entry.keys:
            if key in writes:
                errors.append(
                    f"{writes[key]} and {text} both write {key}; extract one of them to another store"
                )
                break
            writes[key] = text
    return errors


def build_encoders(names: Sequence[str], config: EncodersConfig, vocab: Vocab | None) -> list[Encoder]:
    """Make the named encoders. `vocab` is for those that need one.

    Raises:
        BadInput: an unknown name, or weights that can't be had.
    """
    errors = check_names(names)
    if errors:
        raise BadInput("encoders: " + "; ".join(errors))
    encoders: list[Encoder] = []
    for text in names:
        name, _, argument = text.partition(":")
        entry = ENCODERS[name]
        # one that a script registered after the config was made has no section in it
        encoders += entry.make(argument, getattr(config, name, None) or entry.config(), vocab)
    return encoders


def vocabulary(
    names: Iterable[str],
    config: EncodersConfig,
    known: Callable[[], Sequence[str] | None],
    texts: Iterable[str],
) -> tuple[str, ...] | None:
    """The words for the encoders that need some, else None.

    They are those of the file that the config names, or the `known` ones of a store that is continued, or
    made from `texts`.
    """
    if not any(entry.needs_vocab for entry in entries(names)):
        return None
    settings: TokensConfig = config.tokens  # type: ignore[attr-defined]  # sections are registered
    if settings.vocab:
        return tuple(Vocab.load(settings.vocab).words)
    words = known()
    return tuple(Vocab.build(texts, settings.vocab_size).words if words is None else words)


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
