"""Configs: YAML, then --set, then flags; all faults at once."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field

from harmonize_cli.config import StageConfig, dump_yaml, load_config
from harmonize_cli.errors import BadInput


class Optim(StageConfig):
    lr: float = Field(1e-3, gt=0)
    name: str = "adam"


class Example(StageConfig):
    steps: int = Field(10, ge=1)
    optim: Optim = Optim()


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("steps: 5\noptim: {lr: 1e-2, name: sgd}\n")
    config = load_config(Example, file, ["optim.lr=1e-4"], {"steps": 7, "optim.name": None})
    assert config == Example(steps=7, optim=Optim(lr=1e-4, name="sgd"))


def test_scientific_notation_is_a_number() -> None:
    assert load_config(Example, overrides=["optim.lr=1e-4"]).optim.lr == 1e-4
    assert load_config(Example, overrides=["optim.name=1e-4x"]).optim.name == "1e-4x"


def test_all_faults_are_reported_with_field_value_and_what_is_allowed(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("steps: 0\nstepz: 3\noptim: {lr: -1, nme: x}\n")
    with pytest.raises(BadInput) as e:
        load_config(Example, file)
    message = str(e.value)
    assert message.startswith(f"{file}: 4 error(s)")
    for part in (
        "steps: ",
        "(got 0)",
        "stepz: unknown key; known here: steps, optim",
        "optim.lr: ",
        "optim.nme: unknown",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"),
    [("a: [1", "invalid YAML"), ("- 1\n", "expected keys and values"), ("\x00", "invalid YAML")],
)
def test_broken_yaml_names_the_file(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=part) as e:
        load_config(Example, file)
    assert str(file) in str(e.value)


def test_missing_file_and_bad_overrides() -> None:
    with pytest.raises(BadInput, match="no such file"):
        load_config(Example, Path("absent.yaml"))
    with pytest.raises(BadInput, match="expected key=value"):
        load_config(Example, overrides=["steps"])
    with pytest.raises(BadInput, match="invalid YAML"):
        load_config(Example, overrides=["steps=[1"])
    with pytest.raises(BadInput, match="invalid YAML"):
        load_config(Example, overrides=["steps=" + "[" * 5000])
    with pytest.raises(BadInput, match="is a value, not a section"):
        load_config(Example, overrides=["steps=1", "steps.more=1"])


def test_yaml_can_not_run_code(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("steps: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(BadInput, match="invalid YAML"):
        load_config(Example, file)


@given(
    st.integers(1, 10**6),
    st.floats(1e-9, 1e3),
    st.text(st.characters(codec="utf-8", exclude_categories=["C"])),
)
@example(1, 1.0, "0E0")
def test_dump_and_load_are_inverse(steps: int, lr: float, name: str) -> None:
    import tempfile  # hypothesis and function-scoped fixtures don't mix

    config = Example(steps=steps, optim=Optim(lr=lr, name=name))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "c.yaml"
        file.write_text(dump_yaml(config), encoding="utf-8")
        assert load_config(Example, file) == config
