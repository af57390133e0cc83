"""Rules of one's own: a class or a function in one file, by a decorator or from an installed package."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony import RULES, Harmonizer, Rule, make_rule, register_rule

GRAM = torch.tensor([[[4.0, -1.0], [-1.0, 1.0]]])


@pytest.fixture
def cleaned() -> Iterator[None]:
    """Rules registered by a test are gone after it."""
    before = dict(RULES._known)
    yield
    RULES._known = before


class Shortest(Rule):
    """Keeps the shorter gradient, with `strength`; counts what it saw."""

    def __init__(self, strength: float = 1.0) -> None:
        self.strength, self.seen = strength, 0

    def __call__(self, gram: Tensor) -> Tensor:
        shortest = gram.diagonal(dim1=1, dim2=2).argmin(1)
        return self.strength * nn.functional.one_hot(shortest, gram.shape[-1]).to(gram)

    def observe(self, cosine: Tensor) -> None:
        self.seen += len(cosine)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"]


@pytest.mark.usefixtures("cleaned")
def test_a_class_becomes_a_rule_by_the_decorator_with_its_values() -> None:
    register_rule("shortest")(Shortest)
    assert "shortest" in RULES
    assert make_rule("shortest")(GRAM).tolist() == [[0, 1]]
    assert make_rule("shortest:2.5")(GRAM).tolist() == [[0, 2.5]]
    with pytest.raises(BadInput, match="shortest:1:2"):
        make_rule("shortest:1:2")


@pytest.mark.usefixtures("cleaned")
def test_a_function_becomes_a_rule_by_the_decorator() -> None:
    @register_rule("halves")
    def halves(gram: Tensor) -> Tensor:
        return torch.full_like(gram[..., 0], 0.5)

    assert make_rule("halves")(GRAM).tolist() == [[0.5, 0.5]]
    assert make_rule("halves").state_dict() == {}
    with pytest.raises(BadInput, match="takes no value"):
        make_rule("halves:3")


@pytest.mark.usefixtures("cleaned")
@pytest.mark.parametrize("name", ["realign", "shortest", "with:colon", ""])
def test_a_name_is_registered_once(name: str) -> None:
    register_rule("shortest")(Shortest)
    with pytest.raises(ValueError, match="name"):
        register_rule(name)(Shortest)
    assert make_rule("realign")(GRAM).tolist() == [[1.25, 2.0]]


@pytest.mark.usefixtures("cleaned")
@pytest.mark.parametrize("wrong", [nn.Linear, 3, "realign"])
def test_what_is_neither_a_rule_nor_a_function_is_not_registered(wrong: Any) -> None:
    with pytest.raises(TypeError, match="'mine': expected a subclass of Rule"):
        register_rule("mine")(wrong)
    assert "mine" not in RULES


def two_towers() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3)


def harmonized(rule: Any) -> tuple[Harmonizer, list[Tensor]]:
    model, x = two_towers()
    harmonizer = Harmonizer(model, rule=rule, scope="representation")
    with harmonizer.record():
        pooled = model(x)
    harmonizer.backward({"va": pooled.square().sum(), "vt": pooled.sum()}, pooled)
    return harmonizer, [p.grad for p in model.parameters() if p.grad is not None]


def test_functions_lambdas_and_modules_are_taken_as_rules() -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(2))

        def forward(self, gram: Tensor) -> Tensor:
            return 2 * self.logits.softmax(0).expand(len(gram), 2)

    _, plain = harmonized("sum")
    for rule in (lambda gram: torch.ones_like(gram[..., 0]), Learned(), make_rule("sum")):
        torch.testing.assert_close(harmonized(rule)[1], plain)
    state = harmonized(Learned())[0].state_dict()
    torch.testing.assert_close(state["rule"]["logits"], torch.zeros(2))


def test_a_rules_state_goes_into_the_harmonizers_and_back() -> None:
    rule = Shortest()
    harmonizer, _ = harmonized(rule)
    assert rule.seen == 5
    assert harmonizer.state_dict() == {"rule": {"seen": 5}}
    other = Harmonizer(two_towers()[0], rule=Shortest())
    other.load_state_dict(harmonizer.state_dict())
    assert other.state_dict() == {"rule": {"seen": 5}}
    other.load_state_dict({})  # a checkpoint of a run without a harmonizer
    assert other.state_dict() == {"rule": {"seen": 5}}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda gram: torch.ones(3), r"gave \[3\] for Gram matrices \[5, 2, 2\]"),
        (lambda gram: 1.0, "gave float"),
        (lambda gram: torch.full_like(gram[..., 0], torch.nan), "not finite"),
        (Shortest, "Shortest"),
        (3, "3"),
        (None, "None"),
    ],
)
def test_what_is_not_a_rule_is_refused(rule: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        harmonized(rule)


PACKAGE = """
import torch
from harmonize_cli.harmony import Rule, register_rule

class Half(Rule):
    def __init__(self, factor: float = 0.5): self.factor = factor
    def __call__(self, gram): return torch.full_like(gram[..., 0], self.factor)

@register_rule("decorated")
def decorated(gram): return torch.zeros_like(gram[..., 0])
"""

POINTS = """[harmonize.rules]
half = my_rules:Half
decorated = my_rules:decorated
realign = my_rules:Half
gone = my_rules:Nothing
absent = no_such_module_at_all:Nothing
number = my_rules:__name__
"""

ASK = """
import warnings, torch
from harmonize_cli.harmony import RULES, make_rule
gram = torch.eye(2)[None]
print(make_rule("realign")(gram).tolist())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(make_rule("half:0.25")(gram).tolist(), make_rule("decorated")(gram).tolist())
    print(type(make_rule("realign")).__name__, "half" in list(RULES), "gone" in RULES)
print(*sorted(RULES.broken))
for each in caught: print(each.message)
"""


def test_installed_packages_bring_rules_and_broken_ones_are_reported_and_skipped(tmp_path: Path) -> None:
    (tmp_path / "my_rules.py").write_text(PACKAGE)
    about = tmp_path / "my_rules-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-rules\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{ASK}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    first, values, kinds, broken, *reported = done.stdout.splitlines()
    assert first == "[[1.0, 1.0]]"
    assert values == "[[0.25, 0.25]] [[0.0, 0.0]]"
    assert kinds == "Realign True False"
    assert broken == "absent gone number realign"
    assert len(reported) == 4
    for name, line in zip(("realign", "gone", "absent", "number"), reported, strict=True):
        assert f"rule '{name}' of the installed package my-rules is skipped" in line


def test_importing_the_engine_loads_torch_and_nothing_else_of_ours() -> None:
    code = (
        "import torch, sys; before = set(sys.modules); import harmonize_cli.harmony\n"
        "print(*sorted(m for m in set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    loaded = done.stdout.split()
    ours = {name for name in loaded if name.startswith("harmonize_cli")}
    engine = {name for name in ours if name.startswith("harmonize_cli.harmony")}
    assert ours - engine <= {
        "harmonize_cli",
        "harmonize_cli.errors",
        "harmonize_cli.printing",
        "harmonize_cli.ranks",
    }
    others = {name.partition(".")[0] for name in loaded} - {"harmonize_cli", "torch"}
    assert others <= set(sys.stdlib_module_names)
