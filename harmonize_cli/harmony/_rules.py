"""Rules in closed form: from a sample's Gram matrix over the losses to the weights of its gradients.

With two losses a = |g_1|^2, b = <g_1, g_2>, c = |g_2|^2; p, q the two lengths, rho their cosine. A sample
with a zero or non-finite gradient gets weight 1 for all losses.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony._rule import Rule, register_rule

TINY = 1e-30


def conflict_cosine(gram: Tensor) -> Tensor:
    """Smallest cosine between two losses' gradients, [B]; NaN where a gradient is zero or not finite."""
    K = gram.shape[-1]
    gram = gram.double()
    norm = gram.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    upper = torch.triu_indices(K, K, offset=1, device=gram.device)
    cosine = gram[:, upper[0], upper[1]] / (norm[:, upper[0]] * norm[:, upper[1]])
    lowest = cosine.amin(1).clamp(-1, 1) if K > 1 else gram.new_full((len(gram),), torch.nan)
    return torch.where(usable(gram), lowest, torch.nan)


def usable(gram: Tensor) -> Tensor:
    """[B] True where every gradient is finite and not zero."""
    return gram.isfinite().all(-1).all(-1) & (gram.diagonal(dim1=1, dim2=2) > 0).all(-1)


class GuardedRule(Rule):
    """Runs `weights` in float64 on usable Gram matrices only, scaled to trace 1."""

    degree: float = 0
    """The weights go with the gradients' length to this power."""

    def __call__(self, gram: Tensor) -> Tensor:
        """Weights [B, K]."""
        ok = usable(gram)
        safe = torch.where(ok[:, None, None], gram.double(), torch.eye(gram.shape[-1]).to(gram).double())
        trace = safe.diagonal(dim1=1, dim2=2).sum(1)
        weights = self.weights(safe / trace[:, None, None]) * trace[:, None] ** (self.degree / 2)
        return torch.where(ok[:, None], weights, 1.0).to(gram.dtype)

    @abstractmethod
    def weights(self, gram: Tensor) -> Tensor:
        """The rule itself."""


class TwoLossRule(GuardedRule):
    """A rule given by a formula of (a, b, c)."""

    def weights(self, gram: Tensor) -> Tensor:
        """The formula's.

        Raises:
            BadInput: more than two losses, or one.
        """
        if gram.shape[-1] != 2:
            raise BadInput(
                f"rule {self.name} is for two losses, not {gram.shape[-1]}; use realign or torchjd:UPGrad"
            )
        a, b, c = gram[:, 0, 0], gram[:, 0, 1], gram[:, 1, 1]
        # rounding must not leave |b| > pq
        limit = (a * c).sqrt()
        return torch.stack(self.formula(a, b.clamp(-limit, limit), c), dim=1)

    @abstractmethod
    def formula(self, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, beta), each [B]."""


@register_rule("sum")
class Sum(GuardedRule):
    """The plain step: (1, 1)."""

    def weights(self, gram: Tensor) -> Tensor:
        """Ones."""
        return torch.ones_like(gram[..., 0])


@register_rule("realign")
class Realign(GuardedRule):
    """PCGrad (arXiv 2001.06782, Algorithm 1): b < 0: (1 - b/a, 1 - b/c), else (1, 1).

    K > 2: each gradient meets the other original ones in the order of the losses (PCGrad draws a random
    order; a fixed one is reproducible) and loses its projection on those that it conflicts with.
    """

    def weights(self, gram: Tensor) -> Tensor:
        """Sums of the pieces' coefficients."""
        K = gram.shape[-1]
        pieces = torch.eye(K, dtype=gram.dtype, device=gram.device).repeat(len(gram), 1, 1)
        for k in range(K):  # pieces[:, k] are the coefficients of piece k over the original gradients
            for other in range(K):
                if other != k:
                    inner = torch.einsum("bi,bi->b", pieces[:, k], gram[:, :, other])
                    pieces[:, k, other] -= inner.clamp(max=0) / gram[:, other, other]
        return pieces.sum(1)


@register_rule("gradvac")
class GradVac(TwoLossRule):
    """Gradient Vaccine (arXiv 2010.05874, Algorithm 1): raise the cosine to `target` r where rho < r.

    beta = 1 + p(r sqrt(1-rho^2) - rho sqrt(1-r^2)) / (q sqrt(1-r^2)); alpha with p and q swapped; r = 0 is
    realign.
    """

    values = "COSINE, gradvac:ema or gradvac:ema:DECAY"

    def __init__(self, target: float = 0.0) -> None:
        if not -1 <= target <= 1:
            raise ValueError(f"the wanted cosine {target} is not within -1 and 1")
        self.target = target

    @classmethod
    def from_text(cls, *values: str) -> "GradVac":
        """`ema` makes a moving target."""
        return MovingGradVac.from_text(*values[1:]) if values[:1] == ("ema",) else super().from_text(*values)

    def formula(self, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        r = min(max(self.target, -0.999999), 0.999999)
        p, q = a.sqrt(), c.sqrt()
        rho = b / (p * q)
        step = (r * (1 - rho**2).clamp_min(0).sqrt() - rho * (1 - r * r) ** 0.5) / (1 - r * r) ** 0.5
        step = torch.where(rho < r, step, 0.0)
        return 1 + q / p * step, 1 + p / q * step


class MovingGradVac(GradVac):
    """GradVac towards a moving average of the cosine, as published: `gradvac:ema:DECAY`."""

    def __init__(self, decay: float = 0.01) -> None:
        super().__init__()
        if not 0 < decay <= 1:
            raise ValueError(f"the decay {decay} is not above 0 and at most 1")
        self.decay = decay

    def observe(self, cosine: Tensor) -> None:
        """Move the target towards the mean of the defined entries of `cosine` [B]."""
        mean = cosine.nanmean().item()
        if not math.isnan(mean):
            self.target += self.decay * (mean - self.target)

    def state_dict(self) -> dict[str, Any]:
        """The target."""
        return {"target": self.target}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved target."""
        self.target = float(state["target"])


@register_rule("mgda")
class MGDA(TwoLossRule):
    """MGDA (arXiv 1810.04650, Algorithm 1): the shortest convex combination.

    alpha = clip((c-b)/Q, 0, 1), beta = 1 - alpha.
    """

    def formula(self, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        Q = a + c - 2 * b
        alpha = torch.where(TINY + 1e-14 * (a + c) < Q, (c - b) / Q.clamp_min(TINY), 0.5).clamp(0, 1)
        return alpha, 1 - alpha


@register_rule("imtl_g")
class IMTLG(TwoLossRule):
    """IMTL-G (Liu et al., "Towards Impartial Multi-Task Learning", ICLR 2021): (q, p)/(p+q).

    Equal projections on both unit gradients.
    """

    def formula(self, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        p, q = a.sqrt(), c.sqrt()
        return q / (p + q), p / (p + q)


@register_rule("nash")
class Nash(TwoLossRule):
    """Nash-MTL (arXiv 2202.01017, Claim 3.1): gram w = 1/w; (1/(p sqrt(1+rho)), 1/(q sqrt(1+rho))).

    Opposite gradients have no common direction: 1 + rho is kept above 1e-12.
    """

    degree = -1

    def formula(self, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        p, q = a.sqrt(), c.sqrt()
        root = (1 + b / (p * q)).clamp_min(1e-12).sqrt()
        return 1 / (p * root), 1 / (q * root)


@register_rule("aligned")
class Aligned(TwoLossRule):
    """Aligned-MTL (arXiv 2305.19000, Algorithm 1): sqrt(lam_min) gram^(-1/2) 1.

    This is sqrt(lam)(c+s-b, a+s-b)/(s t) with s = sqrt(D), t = sqrt(a+c+2s), lam the
    smaller eigenvalue; sqrt(lam)/s = sqrt(1/lam_max) needs no D > 0.
    """

    def formula(self, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        D = (a * c - b * b).clamp_min(0)
        s = D.sqrt()
        t = (a + c + 2 * s).sqrt()
        largest = (a + c + ((a - c) ** 2 + 4 * b * b).sqrt()) / 2
        scale = 1 / (largest.sqrt() * t)
        return scale * (c + s - b), scale * (a + s - b)


@register_rule("cagrad")
class CAGrad(TwoLossRule):
    """CAGrad (arXiv 2110.14048, Algorithm 1): the worst-served loss, near the mean gradient.

    Near: within `radius` r times the mean gradient's length.

    kappa = r/2 sqrt(a+2b+c), m = (a-c)/2; if kappa^2 Q > m^2:
    w = clip((c-b)/Q - m sqrt(D)/(Q sqrt(kappa^2 Q - m^2)), 0, 1), else w = 0 if m > 0, 1 if m < 0;
    n = sqrt(Q w^2 + 2(b-c)w + c); (1/2 + kappa w/n, 1/2 + kappa(1-w)/n).
    """

    values = "RADIUS"

    def __init__(self, radius: float = 0.5) -> None:
        if not 0 <= radius < math.inf:
            raise ValueError(f"the radius {radius} is not a finite number of at least 0")
        self.radius = radius

    def formula(self, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        Q, D, m = (a + c - 2 * b).clamp_min(0), (a * c - b * b).clamp_min(0), (a - c) / 2
        kappa = self.radius / 2 * (a + 2 * b + c).clamp_min(0).sqrt()
        space = kappa**2 * Q - m**2
        inside = (c - b) / Q.clamp_min(TINY) - m * D.sqrt() / (Q * space.clamp_min(0).sqrt()).clamp_min(TINY)
        edge = torch.where(m > 0, 0.0, torch.where(m < 0, 1.0, 0.5)).to(a)
        w = torch.where(space > 0, inside.clamp(0, 1), edge)
        n = (Q * w**2 + 2 * (b - c) * w + c).clamp_min(0).sqrt()
        pull = torch.where(n > 0, kappa / n.clamp_min(TINY), 0.0)
        return 0.5 + pull * w, 0.5 + pull * (1 - w)


@register_rule("mmpareto")
class MMPareto(TwoLossRule):
    """MMPareto (arXiv 2405.17730, Algorithm 1): the shortest combination at 1.5 times the sum's length.

    b >= 0: (1.5, 1.5); b < 0: g = (c-b)/Q, lam = sqrt((a+c+2b)Q/(4D)); (3 lam g, 3 lam (1-g)).
    Where the two are opposite (D = 0) there is no such direction: (1.5, 1.5).
    """

    def formula(self, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        Q, D = a + c - 2 * b, a * c - b * b
        g = (c - b) / Q.clamp_min(TINY)
        lam = ((a + c + 2 * b).clamp_min(0) * Q / (4 * D.clamp_min(TINY))).sqrt()
        conflict = (b < 0) & (1e-12 * a * c < D)
        return torch.where(conflict, 3 * lam * g, 1.5), torch.where(conflict, 3 * lam * (1 - g), 1.5)
