"""`harmonize config`: what a run would use, and every fault at once."""

from pathlib import Path

import pytest
import yaml


@pytest.mark.parametrize("stage", ["extract", "pretrain"])
def test_shown_config_is_valid_and_every_key_explained(harmonize, tmp_path: Path, stage: str) -> None:
    shown = harmonize("config", "show", stage).stdout
    file = tmp_path / "c.yaml"
    file.write_text(shown)
    assert harmonize("config", "show", stage, "--config", file).stdout == shown
    lines = harmonize("config", "explain", stage).stdout.splitlines()
    keys = {line.split(" = ")[0] for line in lines if not line.startswith(" ")}

    def leaves(values: dict, prefix: str = "") -> set[str]:
        found = set()
        for key, value in values.items():
            found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key}
        return found

    assert leaves(yaml.safe_load(shown)) <= keys


def test_faults_name_every_field(harmonize) -> None:
    done = harmonize("config", "show", "pretrain", "--set", "optim.lr=-1", "--set", "sbeed=3", code=2)
    assert "optim.lr" in done.stderr
    assert "sbeed: unknown key; known here: model" in done.stderr
