"""The configs that users copy are valid, and say what they claim."""

from pathlib import Path

import pytest

from harmonize_cli.config import load_config
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.optim import learning_rate

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["demo", "grid", "paper"])
def test_example_configs_are_valid(name):
    load_config(PretrainConfig, EXAMPLES / f"{name}.yaml")


def test_the_papers_config_has_the_published_settings():
    config = load_config(PretrainConfig, EXAMPLES / "paper.yaml")
    size = config.model.size("video")
    assert (size.layers, size.width, size.heads, size.feedforward) == (12, 1024, 16, 4096)
    assert (config.batch, config.steps, config.model.drop_token_rate) == (2048, 500_000, 0.5)
    assert learning_rate(10_000, 500_000, config) == pytest.approx(1e-4)
    assert learning_rate(499_999, 500_000, config) == pytest.approx(5e-5)
    assert {t.temperature for t in config.loss.terms} == {0.07}
    assert not config.optim.clip


def test_the_demos_config_is_the_demos():
    from harmonize_cli.config import validate
    from harmonize_cli.demo.config import DemoConfig

    file = load_config(PretrainConfig, EXAMPLES / "demo.yaml")
    assert file == validate(PretrainConfig, DemoConfig().pretrain, source="demo")
