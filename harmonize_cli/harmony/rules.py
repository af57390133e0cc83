"""Rules: from a sample's Gram matrix over the losses to the weights of its gradients.

`rule(gram [B, K, K]) -> weights [B, K]`; the update is sum_i sum_k weights[i, k] g[k, i]. With two losses
a = |g_1|^2, b = <g_1, g_2>, c = |g_2|^2; p, q the two lengths, rho their cosine. A sample with a zero or
non-finite gradient gets weight 1 for all losses.
"""

import math
from collections.abc import Callable
from functools import partial, wraps

import torch
from torch import Tensor

from harmonize_cli.errors import BadInput

Rule = Callable[[Tensor], Tensor]
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


def _guarded(formula: Callable[..., Tensor], degree: int = 0) -> Callable[..., Tensor]:
    """Run `formula` in float64 on usable Grams only, scaled to trace 1.

    degree: the weights go with the gradients' length to this power (0 for all rules but nash).
    """

    @wraps(formula)
    def rule(gram: Tensor, *args: float, **kwargs: float) -> Tensor:
        ok = usable(gram)
        safe = torch.where(ok[:, None, None], gram.double(), torch.eye(gram.shape[-1]).to(gram).double())
        trace = safe.diagonal(dim1=1, dim2=2).sum(1)
        weights = formula(safe / trace[:, None, None], *args, **kwargs) * trace[:, None] ** (degree / 2)
        return torch.where(ok[:, None], weights, 1.0).to(gram.dtype)

    return rule


def _two(formula: Callable[..., tuple[Tensor, Tensor]], degree: int = 0) -> Callable[..., Tensor]:
    """A rule from a formula of (a, b, c)."""

    @wraps(formula)
    def weights(gram: Tensor, *args: float, **kwargs: float) -> Tensor:
        if gram.shape[-1] != 2:
            raise BadInput(
                f"rule {formula.__name__} is for two losses, not {gram.shape[-1]}; use realign or sum"
            )
        a, b, c = gram[:, 0, 0], gram[:, 0, 1], gram[:, 1, 1]
        # rounding must not leave |b| > pq
        limit = (a * c).sqrt()
        return torch.stack(formula(a, b.clamp(-limit, limit), c, *args, **kwargs), dim=1)

    return _guarded(weights, degree)


@_guarded
def sum_(gram: Tensor) -> Tensor:
    """The plain step: (1, 1)."""
    return torch.ones_like(gram[..., 0])


@_guarded
def realign(gram: Tensor) -> Tensor:
    """PCGrad: b < 0: (1 - b/a, 1 - b/c), else (1, 1).

    K > 2: each gradient meets the other original ones in the order of the losses (PCGrad draws a random
    order; a fixed one is reproducible) and loses its projection on those that it conflicts with.
    """
    K = gram.shape[-1]
    pieces = torch.eye(K, dtype=gram.dtype, device=gram.device).repeat(len(gram), 1, 1)
    for k in range(K):  # pieces[:, k] are the coefficients of piece k over the original gradients
        for other in range(K):
            if other != k:
                inner = torch.einsum("bi,bi->b", pieces[:, k], gram[:, :, other])
                pieces[:, k, other] -= inner.clamp(max=0) / gram[:, other, other]
    return pieces.sum(1)


@_two
def gradvac(a: Tensor, b: Tensor, c: Tensor, target: float = 0.0) -> tuple[Tensor, Tensor]:
    """Gradient Vaccine: raise the cosine to `target` r where rho < r; r = 0 is realign.

    beta = 1 + p(r sqrt(1-rho^2) - rho sqrt(1-r^2)) / (q sqrt(1-r^2)); alpha with p and q swapped.
    """
    r = min(max(target, -0.999999), 0.999999)
    p, q = a.sqrt(), c.sqrt()
    rho = b / (p * q)
    step = (r * (1 - rho**2).clamp_min(0).sqrt() - rho * (1 - r * r) ** 0.5) / (1 - r * r) ** 0.5
    step = torch.where(rho < r, step, 0.0)
    return 1 + q / p * step, 1 + p / q * step


@_two
def mgda(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """MGDA: the shortest convex combination; alpha = clip((c-b)/Q, 0, 1), beta = 1 - alpha."""
    Q = a + c - 2 * b
    alpha = torch.where(TINY + 1e-14 * (a + c) < Q, (c - b) / Q.clamp_min(TINY), 0.5).clamp(0, 1)
    return alpha, 1 - alpha


@_two
def imtl_g(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """IMTL-G: equal projections on both unit gradients; (q, p)/(p+q)."""
    p, q = a.sqrt(), c.sqrt()
    return q / (p + q), p / (p + q)


@partial(_two, degree=-1)
def nash(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Nash-MTL: gram w = 1/w; (1/(p sqrt(1+rho)), 1/(q sqrt(1+rho))).

    Opposite gradients have no common direction: 1 + rho is kept above 1e-12.
    """
    p, q = a.sqrt(), c.sqrt()
    root = (1 + b / (p * q)).clamp_min(1e-12).sqrt()
    return 1 / (p * root), 1 / (q * root)


@_two
def aligned(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Aligned-MTL: sqrt(lam_min) gram^(-1/2) 1 = sqrt(lam)(c+s-b, a+s-b)/(s t).

    s = sqrt(D), t = sqrt(a+c+2s), lam the smaller eigenvalue; sqrt(lam)/s = sqrt(1/lam_max) needs no D > 0.
    """
    D = (a * c - b * b).clamp_min(0)
    s = D.sqrt()
    t = (a + c + 2 * s).sqrt()
    largest = (a + c + ((a - c) ** 2 + 4 * b * b).sqrt()) / 2
    scale = 1 / (largest.sqrt() * t)
    return scale * (c + s - b), scale * (a + s - b)


@_two
def cagrad(a: Tensor, b: Tensor, c: Tensor, radius: float = 0.5) -> tuple[Tensor, Tensor]:
    """CAGrad: the worst-served loss, within `radius` r times the mean gradient's length of the mean.

    kappa = r/2 sqrt(a+2b+c), m = (a-c)/2; if kappa^2 Q > m^2:
    w = clip((c-b)/Q - m sqrt(D)/(Q sqrt(kappa^2 Q - m^2)), 0, 1), else w = 0 if m > 0, 1 if m < 0;
    n = sqrt(Q w^2 + 2(b-c)w + c); (1/2 + kappa w/n, 1/2 + kappa(1-w)/n).
    """
    Q, D, m = (a + c - 2 * b).clamp_min(0), (a * c - b * b).clamp_min(0), (a - c) / 2
    kappa = radius / 2 * (a + 2 * b + c).clamp_min(0).sqrt()
    room = kappa**2 * Q - m**2
    inside = (c - b) / Q.clamp_min(TINY) - m * D.sqrt() / (Q * room.clamp_min(0).sqrt()).clamp_min(TINY)
    edge = torch.where(m > 0, 0.0, torch.where(m < 0, 1.0, 0.5)).to(a)
    w = torch.where(room > 0, inside.clamp(0, 1), edge)
    n = (Q * w**2 + 2 * (b - c) * w + c).clamp_min(0).sqrt()
    pull = torch.where(n > 0, kappa / n.clamp_min(TINY), 0.0)
    return 0.5 + pull * w, 0.5 + pull * (1 - w)


@_two
def mmpareto(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """MMPareto: b >= 0: (1.5, 1.5); b < 0: the shortest combination at 1.5 times the sum's length.

    g = (c-b)/Q, lam = sqrt((a+c+2b)Q/(4D)); (3 lam g, 3 lam (1-g)). Where the two are opposite (D = 0)
    there is no such direction: (1.5, 1.5).
    """
    Q, D = a + c - 2 * b, a * c - b * b
    g = (c - b) / Q.clamp_min(TINY)
    lam = ((a + c + 2 * b).clamp_min(0) * Q / (4 * D.clamp_min(TINY))).sqrt()
    conflict = (b < 0) & (1e-12 * a * c < D)
    return torch.where(conflict, 3 * lam * g, 1.5), torch.where(conflict, 3 * lam * (1 - g), 1.5)


class MovingGradVac:
    """GradVac towards a moving average of the cosine, as published: `rule(gram)`, then `observe(cosine)`.

    The only rule with a state; it is the same on all ranks and part of a checkpoint.
    """

    def __init__(self, decay: float = 0.01) -> None:
        self.decay, self.target = decay, 0.0

    def __call__(self, gram: Tensor) -> Tensor:
        """Weights for the present target."""
        weights: Tensor = gradvac(gram, self.target)
        return weights

    def observe(self, cosine: Tensor) -> None:
        """Move the target towards the mean of the defined entries of `cosine` [B]."""
        mean = cosine.nanmean().item()
        if not math.isnan(mean):
            self.target += self.decay * (mean - self.target)

    def state_dict(self) -> dict[str, float]:
        """The target."""
        return {"target": self.target}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a saved target."""
        self.target = float(state["target"])


RULES: dict[str, Callable[..., Tensor]] = {
    "sum": sum_,
    "realign": realign,
    "gradvac": gradvac,
    "mgda": mgda,
    "imtl_g": imtl_g,
    "nash": nash,
    "aligned": aligned,
    "cagrad": cagrad,
    "mmpareto": mmpareto,
}
_WITH_VALUE = {"gradvac": "the wanted cosine, or ema", "cagrad": "the radius"}


def make_rule(name: str) -> Rule:
    """A rule by name: `realign`, `gradvac:0.1`, `gradvac:ema`, `gradvac:ema:0.05`, `cagrad:0.4`, ...

    Raises:
        BadInput: an unknown name, or a value that the rule does not take.
    """
    base, _, value = name.partition(":")
    if base not in RULES:
        raise BadInput(f"rule: {name!r} is unknown; choose one of {', '.join(RULES)}")
    if not value:
        return RULES[base]
    if base not in _WITH_VALUE:
        raise BadInput(f"rule: {base} takes no value (got {name!r})")
    try:
        if base == "gradvac" and value.split(":")[0] == "ema":
            return MovingGradVac(*(float(part) for part in value.split(":")[1:2]))
        return partial(RULES[base], **{"target" if base == "gradvac" else "radius": float(value)})
    except ValueError:
        raise BadInput(f"rule: {name!r}: expected a number ({_WITH_VALUE[base]})") from None
