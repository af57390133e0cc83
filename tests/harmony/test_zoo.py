"""The promise, on every model of the zoo: `.grad` is exactly sum_i sum_k w[i, k] g[k, i], or BadInput says
why not."""

import copy
from collections.abc import Iterable, Iterator

import pytest
import torch
import zoo_calls
import zoo_layers
import zoo_more
import zoo_operations
import zoo_real
import zoo_routing
import zoo_towers
import zoo_weights
from _pytest.mark import ParameterSet
from torch import default_generator
from zoo import CASES, Case
from zoo_check import Step, assert_says, check, flat_grad, later_step, reference, refusal

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony import Harmonizer

FILES = [zoo_calls, zoo_layers, zoo_more, zoo_operations, zoo_real, zoo_routing, zoo_towers, zoo_weights]
"""They register their cases."""

SCOPES = ["backbone", "shared", "all", "representation"]


def names(cases: Iterable[Case]) -> list[ParameterSet]:
    return [pytest.param(case.name, marks=[pytest.mark.long] * case.long) for case in cases]


def rarely(scopes: Iterable[str], *, but: str) -> list[ParameterSet]:
    """All but one of the scopes in the long run only."""
    return [pytest.param(scope, marks=[pytest.mark.long] * (scope != but)) for scope in scopes]


def scoped() -> Iterator[ParameterSet]:
    """With one pooled vector, backbone and shared are all."""
    for case in CASES.values():
        for scope in SCOPES:
            rare = case.long or (scope in ("backbone", "shared") and not case.several)
            yield pytest.param(case.name, scope, marks=[pytest.mark.long] * rare)


ALL = names(CASES.values())
CONTRASTS = names(case for case in CASES.values() if not case.own_losses)
SCOPED = list(scoped())
AUTOCAST = names(case for case in CASES.values() if case.autocast)


pytestmark = [
    # dynamo looks at its inputs
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    # of speed under autocast
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "scope"), SCOPED)
def test_exact_or_refused(name: str, scope: str) -> None:
    check(Step(name), scope=scope, rule="realign", preset=True)


@pytest.mark.parametrize("scope", rarely(SCOPES, but="all"))
@pytest.mark.parametrize("name", ALL)
def test_the_sum_is_the_plain_gradient_in_single_precision(name: str, scope: str) -> None:
    check(Step(name, torch.float32), scope=scope, rule="sum")


@pytest.mark.parametrize("name", AUTOCAST)
def test_near_under_autocast(name: str) -> None:
    check(Step(name, torch.bfloat16), scope="all", rule="realign")


@pytest.mark.parametrize(
    "name",
    [
        "half of the samples by index",
        "samples 2 and 0 alone pass a layer",
        "as many tokens routed as samples, all of one sample",
        "a layer used once for the batch and once for a part of it",
        "compiled attention",
        "linear on [T, B, D], T == B",
        "attention, sequence first, T == 2 B",
    ],
)
def test_near_under_autocast_with_two_units(name: str) -> None:
    """Of few units the rows are easily mistaken, where 16-bit rounding has to be tolerated."""
    check(Step(name, torch.bfloat16), scope="all", rule="realign", granularity="microbatch:2")


@pytest.mark.parametrize("scope", rarely(SCOPES, but="shared"))
@pytest.mark.parametrize("name", CONTRASTS)
def test_exact_with_three_losses_of_which_a_sample_lacks_one(name: str, scope: str) -> None:
    report = check(Step(name, losses=3, lacking=True), scope=scope, rule="realign")
    if report is not None:
        assert report.cosine.isnan()[1]
        assert report.weights[1].tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", ALL)
def test_exact_at_a_later_step(name: str) -> None:
    """What was seen in the first step may not hold in the second: other orders, routes, branches alive."""
    later_step(Step(name), scope="all", rule="realign")


@pytest.mark.long
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", ALL)
def test_the_sum_is_the_plain_gradient(name: str, scope: str) -> None:
    check(Step(name), scope=scope, rule="sum")


@pytest.mark.long
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", ALL)
def test_exact_in_single_precision(name: str, scope: str) -> None:
    check(Step(name, torch.float32), scope=scope, rule="realign")


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_exact_for_microbatches(name: str) -> None:
    """The gradients of two samples are added before they are compared."""
    check(Step(name), scope="all", rule="realign", granularity="microbatch:2")


@pytest.mark.parametrize("name", CONTRASTS)
def test_exact_for_the_batch(name: str) -> None:
    """The whole gradients are compared: no layer need be refused."""
    check(Step(name), scope="all", rule="realign", granularity="batch")


@pytest.mark.long
@pytest.mark.parametrize("name", CONTRASTS)
def test_exact_where_a_sample_lacks_a_loss(name: str) -> None:
    check(Step(name, lacking=True), scope="all", rule="realign")


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_sketches_leave_the_update_exact(name: str) -> None:
    check(Step(name), scope="all", rule="realign", gram="sketch:2")


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_two_steps_add_up(name: str) -> None:
    step = Step(name)
    rows = []
    with step.default():
        for steps in (1, 2):
            model, encode, make_losses = step.build()
            start = copy.deepcopy(model.state_dict())
            harmonizer = Harmonizer(model, scope="all")
            try:
                for _ in range(steps):
                    model.load_state_dict(start)
                    default_generator.manual_seed(5)
                    with harmonizer.record():
                        pooled = encode()
                    harmonizer.backward(make_losses(pooled), pooled)
            except BadInput as error:
                must, may = refusal(step.case, reference(step), {"scope": "all"})
                assert_says(error, must or may)
                return
            rows.append(torch.cat([flat_grad(p) for p in model.parameters() if p.requires_grad]))
    torch.testing.assert_close(rows[1], 2 * rows[0])


@pytest.mark.parametrize(
    ("name", "scope"),
    [("three modalities through one body", "backbone"), ("three separate towers", "shared")],
)
def test_the_scope_that_is_taken_where_none_is_given(name: str, scope: str) -> None:
    step = Step(name)
    with step.default():
        model, encode, make_losses = step.build()
        harmonizer = Harmonizer(model)
        with harmonizer.record():
            pooled = encode()
        report = harmonizer.backward(make_losses(pooled), pooled)
    assert report.scope == scope
    torch.testing.assert_close(report.gram, reference(step).gram(scope))
