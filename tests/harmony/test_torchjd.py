"""TorchJD's weightings as rules: against our closed forms, and against TorchJD on explicit Jacobians."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony import Harmonizer, make_rule

aggregation = pytest.importorskip("torchjd.aggregation")


def jacobians(K: int, B: int = 6, dim: int = 7) -> Tensor:
    """[B, K, dim], of lengths from a thousandth on."""
    draw = torch.Generator().manual_seed(K)
    lengths = torch.logspace(-3, 2, B, dtype=torch.float64)[:, None, None]
    lengths = lengths * torch.exp(0.5 * torch.randn(B, K, 1, generator=draw, dtype=torch.float64))
    return torch.randn(B, K, dim, generator=draw, dtype=torch.float64) * lengths


def gram_of(g: Tensor) -> Tensor:
    return g @ g.transpose(1, 2)


@pytest.mark.parametrize(
    ("theirs", "ours", "factor", "tolerance"),
    [
        ("Sum", "sum", 1, 1e-12),
        ("PCGrad", "realign", 1, 1e-9),
        ("MGDA:0.000001:1000", "mgda", 1, 1e-6),
        ("IMTLG", "imtl_g", 1, 1e-9),
        ("AlignedMTL", "aligned", 0.5, 1e-9),  # theirs prefers the mean of the losses, ours their sum
        ("CAGrad:0.5", "cagrad:0.5", 1, 1e-4),
        ("CAGrad:0.2", "cagrad:0.2", 1, 1e-4),
        ("FairGrad:1", "nash", 1, 1e-5),
        ("UPGrad", "realign", 0.5, 2e-3),  # its solver adds 1e-4 to the diagonal
    ],
)
def test_closed_forms_for_two_losses(theirs: str, ours: str, factor: float, tolerance: float) -> None:
    gram = gram_of(jacobians(2, B=20))
    assert (gram[:, 0, 1] < 0).any()
    assert (gram[:, 0, 1] > 0).any()
    want = factor * make_rule(ours)(gram)
    torch.testing.assert_close(make_rule(f"torchjd:{theirs}")(gram), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("K", [3, 4])
@pytest.mark.parametrize(
    "name", ["UPGrad", "DualProj", "ConFIG", "IMTLG", "AlignedMTL", "MGDA", "CAGrad:0.4", "Mean"]
)
def test_the_update_is_torchjds_own_on_the_jacobian(name: str, K: int) -> None:
    g = jacobians(K)
    weights = make_rule(f"torchjd:{name}")(gram_of(g))
    kind, *numbers = name.split(":")
    aggregator = getattr(aggregation, kind)(*(float(n) for n in numbers))
    for each, w in zip(g, weights, strict=True):
        length = each.norm()
        want = aggregator(each / length) * length  # its thresholds are absolute
        torch.testing.assert_close(w @ each, want, rtol=1e-4, atol=1e-4 * float(want.norm()))


def test_what_the_methods_promise_holds_for_three_losses() -> None:
    g = jacobians(3)
    gram = gram_of(g)
    scale = gram.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
    for name in ("UPGrad", "DualProj"):  # no loss gets worse
        inner = torch.einsum("bkl,bl->bk", gram, make_rule(f"torchjd:{name}")(gram))
        assert (inner > -1e-3 * scale).all()
    config = torch.einsum("bk,bkd->bd", make_rule("torchjd:ConFIG")(gram), g)
    cosines = torch.cosine_similarity(config[:, None], g, dim=2)
    torch.testing.assert_close(cosines, cosines[:, :1].expand(-1, 3))
    for alpha in (0.5, 1, 2):
        w = make_rule(f"torchjd:FairGrad:{alpha}")(gram)
        torch.testing.assert_close((gram @ w[..., None])[..., 0], w ** (-1 / alpha), rtol=1e-3, atol=0)


def test_samples_with_one_gradient_get_weight_one() -> None:
    gram = gram_of(jacobians(3))
    gram[1] = torch.nan
    gram[2, 0, :] = gram[2, :, 0] = 0
    weights = make_rule("torchjd:UPGrad")(gram)
    assert weights.isfinite().all()
    assert (weights[1:3] == 1).all()
    assert make_rule("torchjd:UPGrad")(gram[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchjd", "TorchJD has no ''"),
        ("torchjd:Nothing", "TorchJD has no 'Nothing'"),
        ("torchjd:CAGrad", "missing"),
        ("torchjd:CAGrad:x", "x"),
        ("torchjd:CAGrad:-1", "negative"),
        ("torchjd:UPGrad:1", "none"),
        ("torchjd:FairGrad:-1", "alpha"),
        ("torchjd:FairGrad:inf", "alpha"),
        ("torchjd:GradVac", "gradvac:ema"),
        ("torchjd:NashMTL:2", "FairGrad:1"),
        ("torchjd:Weighting", "abstract"),
        ("torchjd:Constant", "weights"),
    ],
)
def test_what_cannot_be_a_rule_is_refused_at_once(name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make_rule(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchjd:GradDrop", "single coordinates"),
        ("torchjd:TrimmedMean:1", "single coordinates"),
        ("torchjd:Krum:3", "Krum"),
    ],
)
def test_what_does_not_follow_from_the_gram_matrix_is_refused(name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make_rule(name)(gram_of(jacobians(4)))


def test_a_weighting_whose_weights_depend_on_the_losses_scale_is_refused() -> None:
    class Lengths(aggregation.Weighting):  # type: ignore[misc,name-defined]
        def forward(self, gram: Tensor) -> Tensor:
            return gram.diagonal()

    with pytest.raises(BadInput, match=r"Lengths: its weights depend on the scale"):
        make_rule(Lengths())(gram_of(jacobians(2)))
    with pytest.raises(BadInput, match="composition"):
        make_rule(aggregation.SumWeighting() << (lambda matrix: matrix))


def test_random_weightings_draw_anew_in_every_step_and_leave_torchs_generator_alone() -> None:
    gram, rule = gram_of(jacobians(3)), make_rule("torchjd:Random")
    before = torch.get_rng_state()
    first = rule(gram)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(rule(gram), first)
    rule.observe(torch.zeros(6))
    second = rule(gram)
    assert not torch.equal(second, first)
    resumed = make_rule("torchjd:Random")
    resumed.load_state_dict(rule.state_dict())
    assert torch.equal(resumed(gram), second)


def test_an_object_of_torchjd_is_taken_as_a_rule_and_trains() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(3, 2), torch.randn(5, 3)
    preferred = torch.tensor([0.9, 0.05, 0.05], dtype=torch.float64)
    rule = aggregation.UPGradWeighting(pref_vector=preferred)
    harmonizer = Harmonizer(model, rule=rule, scope="representation")
    with harmonizer.record():
        z = model(x)
        losses = {"a": z.square().sum(), "b": -z.sum(), "c": (z[:, 0] - z[:, 1]).sum()}
    report = harmonizer.backward(losses, z)
    for gram, weights in zip(report.gram, report.weights, strict=True):
        trace = gram.double().trace()
        torch.testing.assert_close(weights, rule(gram.double() / trace).float())
    by_aggregator = make_rule(aggregation.UPGrad(pref_vector=preferred))
    torch.testing.assert_close(by_aggregator(report.gram), report.weights)


def test_without_the_package_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['torchjd'] = None\n"
        "from harmonize_cli.errors import BadInput\n"
        "from harmonize_cli.harmony import make_rule\n"
        "make_rule('realign')\n"
        "try: make_rule('torchjd:UPGrad')\n"
        "except BadInput as e: print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert "harmonize-cli[torchjd]" in done.stdout
