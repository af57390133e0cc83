"""Granularity `batch`: two (or K) full gradients, summed over ranks, compared once. Works for any layer."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony.cut import Cut
from harmonize_cli.harmony.representation import representation_gram
from harmonize_cli.harmony.scope import Scope
from harmonize_cli.ranks import sum_tensors

Grads = list[Tensor | None]


class WholeBatch:
    """The gradients of each loss over all ranks' samples. `gram` is [1, K, K].

    parts: the batch's encoder graphs where it was encoded in chunks, each with its share of `cut`.
    """

    def __init__(
        self,
        cut: Cut,
        scope: Scope,
        named: Mapping[str, nn.Parameter],
        parts: Iterable[Cut] | None = None,
    ) -> None:
        self.params = list(named.values())
        rows: list[Grads] = [[None] * len(self.params) for _ in cut.losses]
        inside: list[int] = []
        for part in [cut] if parts is None else parts:
            inside = inside or _inside(part, scope, named)
            rows = [_sum(row, self._upstream(part, k)) for k, row in enumerate(rows)]
            del part  # its graph, before the next one is made
        heads: list[Grads] = [self._downstream(cut, k) for k in range(len(cut.losses))]
        if scope.name == "all":
            rows = [_sum(row, head) for row, head in zip(rows, heads, strict=True)]
            heads = []
        flat = [g for row in [*rows, *heads] for g in row]
        like = [p.detach() for p in self.params] * (len(rows) + len(heads))
        flat = sum_tensors(flat, like)
        n = len(self.params)
        self.rows = [flat[k * n : (k + 1) * n] for k in range(len(rows))]
        self.heads = [flat[k * n : (k + 1) * n] for k in range(len(rows), len(rows) + len(heads))]
        if scope.name == "representation":
            gram = representation_gram(cut, 1)
            (summed,) = sum_tensors([gram], [gram])
            assert summed is not None
            self.gram = summed
        else:
            self.gram = self._gram(inside)

    def update(self, weights: Tensor) -> None:
        """Add sum_k weights[0, k] g_k, and the heads' plain gradients, to `.grad`."""
        alphas = weights[0].tolist()
        for i, p in enumerate(self.params):
            for row, alpha in [*zip(self.rows, alphas, strict=True), *((head, 1.0) for head in self.heads)]:
                g, row[i] = row[i], None
                if g is not None:
                    # gradients of different parameters may be one tensor, so none is scaled in place
                    p.grad = g * alpha if p.grad is None else p.grad.add_(g, alpha=alpha)

    def _gram(self, inside: list[int]) -> Tensor:
        K = len(self.rows)
        wide = torch.float64 if self.params[0].dtype == torch.float64 else torch.float32
        gram = torch.zeros(1, K, K, dtype=wide, device=self.params[0].device)
        for i in inside:
            for j in range(K):
                for k in range(j + 1):
                    one, two = self.rows[j][i], self.rows[k][i]
                    if one is not None and two is not None:
                        value = torch.dot(one.flatten().to(wide), two.flatten().to(wide))
                        gram[0, j, k] += value
                        if j != k:
                            gram[0, k, j] += value
        return gram

    def _upstream(self, cut: Cut, k: int) -> Grads:
        pairs = [(z, d) for z, d in zip(cut.pooled, cut.delta[k], strict=True) if d is not None]
        if not pairs:
            return [None] * len(self.params)
        later = any(d is not None for of in cut.delta[k + 1 :] for d in of)
        outputs, cotangents = [z for z, _ in pairs], [d for _, d in pairs]
        grads = torch.autograd.grad(outputs, self.params, cotangents, retain_graph=later, allow_unused=True)
        return list(grads)

    def _downstream(self, cut: Cut, k: int) -> Grads:
        plain = {id(p): grads[k] for p, grads in cut.plain}
        return [plain.get(id(p)) for p in self.params]


def _inside(cut: Cut, scope: Scope, named: Mapping[str, nn.Parameter]) -> list[int]:
    """Indices of the parameters in scope; `backbone`: those that every pooled vector depends on."""
    if scope.name == "all":
        return list(range(len(named)))
    if scope.name == "representation":
        return []
    if scope.patterns:
        chosen = [i for i, name in enumerate(named) if scope.covers(name)]
    else:
        shared = set.intersection(*cut.leaves)
        chosen = [i for i, p in enumerate(named.values()) if id(p) in shared]
    if not chosen:
        raise BadInput(
            f"scope: no parameter for scope {scope.name!r}; use representation, all or module paths"
        )
    return chosen


def _sum(total: Grads, more: Grads) -> Grads:
    # gradients of different parameters may be one tensor, so none is added to in place
    return [a if b is None else b if a is None else a + b for a, b in zip(total, more, strict=True)]
