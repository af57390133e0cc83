"""Stage configs: a pydantic model per stage, filled from YAML, `--set a.b=c` and flags, in this order.

All errors are reported at once, each with its field, value and what is allowed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from harmonize_cli.errors import BadInput, list_errors
from harmonize_cli.files import read_bytes

_MOST_YAML = 4 << 20


class StageConfig(BaseModel):
    """Base of every stage's config: unknown keys are errors, values are frozen once validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


ConfigT = TypeVar("ConfigT", bound=StageConfig)


def load_config(
    kind: type[ConfigT],
    file: Path | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    *,
    first: bool = False,
) -> ConfigT:
    """Merge `file` (YAML), `overrides` (`a.b=value`, value as YAML) and `flags` (dotted key -> value).

    A flag of None is unset. first: the flags are what `overrides` change, not the other way round.

    Raises:
        BadInput: naming the file and every invalid field.
    """
    values: dict[str, Any] = read_yaml(file) if file else {}
    set_flags = {key: value for key, value in (flags or {}).items() if value is not None}
    if first:
        values |= set_flags
        set_flags = {}
    for text in overrides:
        key, sep, raw = text.partition("=")
        if not sep or not key:
            raise BadInput(f"--set {text}: expected key=value, for example --set optim.lr=1e-4")
        try:
            _put(values, key, yaml.load(raw, Loader=_Loader))
        except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as e:
            raise BadInput(f"--set {text[:200]}: the value is invalid YAML ({e})") from e
    for key, value in set_flags.items():
        _put(values, key, value)
    return validate(kind, values, source=str(file) if file else "config")


def validate(kind: type[ConfigT], values: Mapping[str, Any], *, source: str) -> ConfigT:
    """Build a `kind` from plain values, all errors in one `BadInput` that names `source`."""
    try:
        return kind.model_validate(values)
    except ValidationError as e:
        errors = [_fault(kind, error) for error in e.errors()]
        raise BadInput(list_errors(f"{source}: {len(errors)} error(s)", errors)) from None


def dump_yaml(config: StageConfig, *, exclude_defaults: bool = False) -> str:
    """The resolved config as YAML, in the order of its fields; on request without what is default."""
    values = config.model_dump(mode="json", exclude_defaults=exclude_defaults)
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def describe(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted key, default (as YAML) and meaning of every field of a config, sections opened; N: of a list."""
    for name, field in kind.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        # a section that comes in kinds (a model, a loss) is annotated with their base class
        items = default if isinstance(default, list | tuple) else [default]
        found: list[Any] = [type(item) for item in items if isinstance(item, BaseModel)]
        inside = dict.fromkeys(found or [field.annotation, *get_args(field.annotation)])
        sections = [k for k in inside if isinstance(k, type) and issubclass(k, BaseModel)]
        if not isinstance(default, BaseModel):  # what a section is by default, its fields say
            text = yaml.safe_dump(_plain(default), default_flow_style=True).removesuffix("...\n").strip()
            text = "(required)" if field.is_required() else text
            yield f"{prefix}{name}", text, " ".join((field.description or "").split())
        below = f"{prefix}{name}.N." if get_origin(field.annotation) in (list, tuple) else f"{prefix}{name}."
        for section in sections:
            yield from describe(section, below)


def _plain(value: Any) -> Any:
    """Tuples as lists, and sections as plain values: YAML has only these."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-4 as a string; people who set learning rates mean the number."""


class _Dumper(yaml.SafeDumper):
    """Puts quotes around a text that `_Loader` would take for a number."""


for _side in (_Loader, _Dumper):
    _side.yaml_implicit_resolvers = {k: list(v) for k, v in _side.yaml_implicit_resolvers.items()}
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
        list("-+0123456789."),
    )


def read_yaml(file: Path) -> dict[str, Any]:
    """Keys and values of a YAML file of plain values; an empty one has none.

    Raises:
        BadInput: missing, unreadable or another content.
    """
    try:
        values = yaml.load(read_bytes(file, most=_MOST_YAML).decode("utf-8"), Loader=_Loader)
    except UnicodeDecodeError as e:
        raise BadInput(f"{file}: not UTF-8 ({e})") from e
    except RecursionError:
        raise BadInput(f"{file}: invalid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError) as e:  # a date such as 2024-99-99 is a ValueError
        raise BadInput(f"{file}: invalid YAML: {e}") from e
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise BadInput(f"{file}: expected keys and values at the top level, found {type(values).__name__}")
    return values


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Sections on the way are made where they are missing; in a list that is there, a part is a place."""
    *parents, leaf = dotted.split(".")
    section: Any = values
    for part in parents:
        if isinstance(section, list):
            section = section[_place(section, part, dotted)]
        else:
            section = section.setdefault(part, {})
        if not isinstance(section, dict | list):
            raise BadInput(f"{dotted}: {part} is a value, not a section")
    section[_place(section, leaf, dotted) if isinstance(section, list) else leaf] = value


def _place(section: list[Any], part: str, dotted: str) -> int:
    if not part.isdecimal() or int(part) >= len(section):
        raise BadInput(f"{dotted}: {part}: expected a place in a list of {len(section)}, from 0")
    return int(part)


def _fault(kind: type[BaseModel], error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "(whole)"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        siblings = _fields_at(kind, error["loc"][:-1])
        message = "unknown key" + (f"; known here: {', '.join(siblings)}" if siblings else "")
        return f"{where}: {message}"
    got = error.get("input")
    shown = f" (got {got!r})" if isinstance(got, str | int | float | bool) or got is None else ""
    return f"{where}: {message}{shown}"


def _fields_at(kind: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    for part in loc:
        field = kind.model_fields.get(part) if isinstance(part, str) else None
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        kind = annotation
    return list(kind.model_fields)
