"""Rules of TorchJD (torchjd.org, arXiv 2406.16232) for any number of losses: `torchjd:UPGrad` and so on.

Its weightings take one Gram matrix, so they are looped over the samples, in float64 and at trace 1: their own
thresholds are made for gradients of about that length.
"""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harmonize_cli.errors import BadInput, missing_extra
from harmonize_cli.harmony._rule import register_rule
from harmonize_cli.harmony._rules import GuardedRule

SCALE = 4.0


@register_rule("torchjd")
class TorchJDRule(GuardedRule):
    """A TorchJD `Weighting` that reads Gram matrices, or an `Aggregator` that depends on them alone (ConFIG).

    An aggregator gets a root of the Gram matrix for a Jacobian, and its result is taken apart into weights.
    Random weightings draw anew in every step, the same numbers on all ranks and after a resume.

    Raises:
        BadInput: TorchJD isn't installed; the weighting keeps a state between matrices, which would mean
            nothing in the order of a batch's samples; or (at the first Gram matrix) its weights do not follow
            from the Gram matrix, such as those of aggregators that look at single coordinates.
    """

    values = "NAME or torchjd:NAME:NUMBER, such as torchjd:UPGrad, torchjd:ConFIG, torchjd:FairGrad:1"

    def __init__(self, weighting: Any) -> None:
        aggregation = _import_torchjd()
        self.name = f"torchjd:{type(weighting).__name__.removesuffix('Weighting')}"
        _refuse_a_state(self.name, weighting)
        if hasattr(weighting, "fn"):
            raise BadInput(f"rule {self.name}: a composition; give the weighting of Gram matrices inside it")
        # aggregators that need the Gram matrix only have their weighting inside
        self.weighting = getattr(weighting, "gramian_weighting", weighting)
        self.aggregates = isinstance(self.weighting, aggregation.Aggregator)
        if isinstance(self.weighting, aggregation.FairGradWeighting):
            if not 0 <= self.weighting.alpha < torch.inf:
                raise BadInput(f"rule {self.name}: alpha {self.weighting.alpha} is not a number from 0 on")
            self.degree = -2 * self.weighting.alpha / (1 + self.weighting.alpha)  # gram w = w^(-1/alpha)
        self.steps = 0
        self.checked: set[int] = set()

    @classmethod
    def from_text(cls, *values: str) -> "TorchJDRule":
        """`UPGrad`, `FairGrad:1`, ...: a class of `torchjd.aggregation`, and its numbers in their order."""
        aggregation = _import_torchjd()
        name, *numbers = values or ("",)
        kind = next((k for n in (f"{name}Weighting", name) if (k := vars(aggregation).get(n))), None)
        if not name or not inspect.isclass(kind):
            raise ValueError(f"TorchJD has no {name!r}")
        _refuse_a_state(f"torchjd:{name}", kind)
        parameters = inspect.signature(kind).parameters.values()
        taken = [p.name for p in parameters if re.search(r"\b(float|int)\b", str(p.annotation))]
        if len(numbers) > len(taken):
            raise ValueError(f"{name} takes as numbers: {', '.join(taken) or 'none'}")
        given = zip(taken, numbers, strict=False)
        try:
            return cls(kind(**{key: int(n) if n.isdecimal() else float(n) for key, n in given}))
        except ImportError as e:  # of the solvers that some of them need
            raise BadInput(f"rule torchjd:{name}: {e}") from None

    def weights(self, gram: Tensor) -> Tensor:
        """[B, K], sample by sample.

        Raises:
            BadInput: see the class; or the weighting can't be had for this number of losses.
        """
        K = gram.shape[-1]
        if K not in self.checked:
            self._check(K)
            self.checked.add(K)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.steps)
            return torch.stack([self._one(each) for each in gram]) if len(gram) else gram[..., 0]

    def observe(self, cosine: Tensor) -> None:
        """The next step draws anew."""
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """How many steps have drawn."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after so many steps."""
        self.steps = int(state["steps"])

    def _one(self, gram: Tensor, turn: Tensor | None = None) -> Tensor:
        """Weights [K] from gram [K, K]; `turn` [K, K] shows an aggregator the Jacobian in another basis."""
        try:
            if not self.aggregates:
                weights: Tensor = self.weighting(gram)
                return weights
            values, vectors = torch.linalg.eigh(gram)
            jacobian = vectors * values.clamp_min(0).sqrt()  # its Gram matrix is `gram`
            if turn is not None:
                jacobian = jacobian @ turn
            weights = torch.linalg.pinv(jacobian).T @ self.weighting(jacobian)
        except (ValueError, TypeError, RuntimeError, AssertionError) as e:
            raise BadInput(f"rule {self.name}: {e} (with {len(gram)} losses)") from e
        return weights

    def _check(self, losses: int) -> None:
        """Show it a Gram matrix at another scale, and an aggregator a Jacobian in another basis."""
        draw = torch.Generator().manual_seed(0)
        rows = torch.randn(losses, losses + 2, generator=draw, dtype=torch.float64)
        gram = rows @ rows.T / rows.square().sum()
        turn = torch.linalg.qr(torch.randn(losses, losses, generator=draw, dtype=torch.float64)).Q
        found = []
        with torch.random.fork_rng(devices=[]):
            for scale, basis in ((1.0, None), (SCALE, None), (1.0, turn)):
                torch.default_generator.manual_seed(0)
                found.append(self._one(gram * scale, basis) * scale ** (-self.degree / 2))
        if not torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-6):
            raise BadInput(f"rule {self.name}: its weights depend on the scale of the losses; choose another")
        if not torch.allclose(found[0], found[2], rtol=1e-3, atol=1e-6):
            raise BadInput(
                f"rule {self.name}: it looks at single coordinates of the gradients, which can't be had from "
                "inner products; choose another"
            )


def _refuse_a_state(name: str, weighting: Any) -> None:
    if hasattr(weighting, "reset"):
        raise BadInput(
            f"rule {name}: it keeps a state from one Gram matrix to the next, but a batch's samples have no "
            "order; use gradvac:ema for GradVac, torchjd:FairGrad:1 for Nash-MTL"
        )


def _import_torchjd() -> Any:
    try:
        import torchjd.aggregation
    except ImportError:
        raise missing_extra("torchjd", "torchjd", "a rule of TorchJD") from None
    return torchjd.aggregation
