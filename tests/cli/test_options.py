"""Every command is held to the shared options: name, type, default and help; examples last."""

import importlib
import json
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from small_run import small_run, small_store
from typer.models import OptionInfo
from typer.testing import CliRunner

import harmonize_cli
from harmonize_cli.cli import app as app_module
from harmonize_cli.cli import options
from harmonize_cli.cli.doctor import registered
from harmonize_cli.cli.main import app
from harmonize_cli.cli.registries import LISTED, REGISTRIES, registry
from harmonize_cli.curriculum.scores import write_about


def leaves(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(leaves(typer.main.get_command(app)))
DEFAULTS = {
    "device": "auto",
    "workers": 1,
    "overwrite": False,
    "seed": 0,
    "checkpoint": "last",
}
"""Options by name whose default is the same wherever they are."""


def shared() -> dict[str, set[str]]:
    """Help texts that options.py gives to a long name."""
    found: dict[str, set[str]] = {}
    for kind_name, kind in (vars(options) | app_module.EXTRA).items():
        for info in getattr(kind, "__metadata__", ()):
            if isinstance(info, OptionInfo):
                names = [n for n in (info.default, *(info.param_decls or ())) if isinstance(n, str)]
                long = [n.split("/")[0] for n in names if n.startswith("--")]
                snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in kind_name).strip("_")
                found.setdefault(long[0] if long else f"--{snake.replace('_', '-')}", set()).add(info.help)
    return found


VARIES = ("--out", "--split", "--indicator", "--modality", "--protocol")
"""What belongs there differs from command to command."""
SHARED = shared() | {"--help": {"Show this message and exit."}}


@pytest.mark.parametrize("name", COMMANDS)
def test_shared_options_are_the_same_everywhere(name: str) -> None:
    for option in (p for p in COMMANDS[name].params if p.param_type_name == "option"):
        long = next(text for text in option.opts if text.startswith("--"))
        if long in SHARED and long not in VARIES:
            assert option.help in SHARED[long], f"{name} {long}: {option.help}"
        key = long.removeprefix("--")
        if key in DEFAULTS:
            assert option.default == DEFAULTS[key], f"{name} {long}"
    own = {text for p in COMMANDS[name].params for text in getattr(p, "opts", ())}
    assert {"--json", "--quiet", "-q", "--verbose", "-v"} <= own
    assert not own & {"--jobs", "-j", "--batch", "--fresh", "--force"}, "another name for a shared option"
    assert ("--config" in own) == ("-c" in own)
    assert ("--workers" in own) == ("-w" in own)
    assert ("--out" in own) == ("-o" in own)
    if "--config" in own:
        assert "--set" in own


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_stands_below_the_options(name: str) -> None:
    command = COMMANDS[name]
    assert (command.epilog or "").startswith(f"Example: harmonize {name}"), name
    assert "Example" not in (command.help or "")
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"}).stdout
    assert shown.index("Example: harmonize") > shown.index("--verbose")


def test_choices_are_those_of_the_code() -> None:
    from harmonize_cli.evaluation.protocols import PROBES, PROTOCOLS
    from harmonize_cli.evaluation.tables import FORMATS

    def choices(kind: Any) -> tuple[str, ...]:
        return typing.get_args(typing.get_args(kind)[0])

    assert set(choices(options.Retrieval)) == set(PROTOCOLS)
    assert set(choices(options.Probe)) == set(PROBES)
    assert set(choices(options.FormatOption)) == set(FORMATS)
    shown = CliRunner().invoke(app, ["eval", "retrieval", "--help"], env={"COLUMNS": "200"}).stdout
    assert "vatt|mil-nce|clip" in shown


COMPLETED = {
    ("extract", "dataset"): "data sets",
    ("extract", "encoder"): "encoders",
    ("extract", "decoder"): "decoders",
    ("curriculum score", "indicator"): "indicators",
    ("curriculum audit", "indicator"): "indicators",
    ("curriculum score", "kind"): "misalignments",
    ("curriculum audit", "kind"): "misalignments",
    ("curriculum plan", "action"): "actions",
    ("curriculum compare", "method"): "methods",
}


@pytest.mark.parametrize(("command", "option"), COMPLETED)
def test_names_are_completed_from_the_registries(
    command: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = registry(COMPLETED[command, option])
    first = next(iter(found))
    monkeypatch.setitem(found._entries, "brand-new", found[first])
    parameter = next(p for p in COMMANDS[command].params if p.name == option)
    names = [item.value.partition(":")[0] for item in parameter.shell_complete(None, "")]
    assert {first, "brand-new"} <= set(names)
    assert LISTED in parameter.help


def test_completion_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from harmonize_cli.cli.registries import completion\n"
        f"for kinds in {sorted(set(COMPLETED.values()))!r}: assert completion(kinds)()\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_columns_are_completed_from_the_scores(tmp_path: Path) -> None:
    columns = {"loss_vt": {"noisy": "high", "about": ""}}
    write_about(tmp_path, {"key": "k", "parts": ["part-00000.npz"], "columns": columns})
    for name in ("curriculum plan", "report"):
        parameter = next(p for p in COMMANDS[name].params if p.name == "indicator")
        context = typer.Context(COMMANDS[name])
        assert parameter.shell_complete(context, "") == []
        context.params["scores"] = tmp_path
        assert [item.value for item in parameter.shell_complete(context, "")] == ["loss_vt"]


def test_doctor_lists_every_registry_and_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = {
        name
        for file in Path(harmonize_cli.__file__).parent.rglob("*.py")
        for name in re.findall(r"(?m)^([A-Z]+)\b.* = (?:Registry|_Rules)\(", file.read_text(encoding="utf-8"))
    }
    assert declared == {place.partition(":")[2] for place in REGISTRIES.values()}
    for kinds in REGISTRIES:
        list(registry(kinds))
        monkeypatch.setitem(registry(kinds).broken, "theirs", "their-package: ImportError")
    monkeypatch.setitem(REGISTRIES, "gone", "harmonize_cli.no_such_module:X")
    lines = {finding.name: finding for finding in registered()}
    for kinds in set(REGISTRIES) - {"gone"}:
        assert all(name in lines[kinds].value for name in registry(kinds))
        assert "their-package" in lines[f"{kinds}: theirs"].fix
    assert "no_such_module" in lines["gone"].value


@pytest.mark.parametrize(
    "words",
    [
        "runs {0}",
        "config show pretrain",
        "config explain extract",
        "config explain curriculum",
        "config explain finetune",
    ],
)
def test_what_reads_only_yaml_or_json_imports_no_torch(words: str, tmp_path: Path) -> None:
    small_run(tmp_path / "run", small_store(tmp_path / "s.h5"))
    code = (
        "import sys\n"
        "from harmonize_cli.cli.main import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    arguments = words.format(tmp_path).split()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_json_is_one_document(tmp_path: Path) -> None:
    store = small_store(tmp_path / "s.h5")
    small_run(tmp_path / "run", store)
    for words in (
        ["runs", tmp_path],
        ["store", "info", store],
        ["store", "verify", store],
        ["config", "show", "pretrain"],
        ["config", "explain", "curriculum"],
        ["doctor"],
        ["export", "embeddings", tmp_path / "run", store, "-o", tmp_path / "e.npy"],
    ):
        done = CliRunner().invoke(app, [*map(str, words), "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)


def test_quiet_and_verbose(tmp_path: Path, harmonize: Any) -> None:
    (tmp_path / "m.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n')
    words = ("extract", tmp_path / "m.jsonl", "-e", "tokens", "-o")
    assert harmonize(*words, tmp_path / "a.h5", "-q").stderr == ""
    assert "peak memory" in harmonize(*words, tmp_path / "b.h5", "-v").stderr
    done = subprocess.run(
        [sys.executable, "-m", "harmonize_cli", "store", "info", "absent.h5", "-v"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("stage", typing.get_args(importlib.import_module("harmonize_cli.cli.config").Stage))
def test_every_stage_is_explained(stage: str) -> None:
    keys = json.loads(CliRunner().invoke(app, ["config", "explain", stage, "--json"]).stdout)
    assert len(keys) > 5
