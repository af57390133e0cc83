"""Granularity `batch`: two (or K) full gradients, summed over ranks, compared once. Works for any layer."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from harmonize_cli.harmony._cut import Plain
from harmonize_cli.harmony._graph import Graph, Upstream
from harmonize_cli.harmony._measure import representation_gram
from harmonize_cli.harmony._scope import Scope, spread
from harmonize_cli.harmony._sums import inner_products, wide
from harmonize_cli.ranks import sum_tensors

Grads = list[Tensor | None]


class WholeBatch:
    """The gradients of each loss over all ranks' samples, added up chunk by chunk."""

    def __init__(self, named: Mapping[str, nn.Parameter]) -> None:
        self.params = list(named.values())
        self.rows: list[Grads] = []
        self.heads: list[Grads] = []
        self._leaves: list[set[int]] = []

    def add(self, up: Upstream) -> None:
        """Add a chunk's gradients; frees its graph."""
        K = len(up.delta)
        self.rows = self.rows or [[None] * len(self.params) for _ in range(K)]
        self._leaves = self._leaves or [set(Graph([]).walk([z.grad_fn]).leaves) for z in up.pooled]
        for k in range(K):
            one = torch.zeros(1, K, device=up.pooled[0].device)
            one[0, k] = 1
            later = any(d is not None for of in up.delta[k + 1 :] for d in of)
            found = up.gradients(self.params, spread(one, up.samples), keep_graph=later, only=k)
            self.rows[k] = _sums(self.rows[k], found)

    def gram(
        self, up: Upstream, plain: Plain, scope: Scope, names: Mapping[int, Sequence[str]]
    ) -> tuple[str, Tensor]:
        """The scope's name and [1, K, K], after all chunks. up: the whole batch; plain: the heads'
        gradients."""
        of_heads = {id(p): grads for p, grads in plain}
        none: Grads = [None] * len(up.delta)
        heads = [[of_heads.get(id(p), none)[k] for p in self.params] for k in range(len(up.delta))]
        ids = [id(p) for p in self.params]
        if scope.name == "all":
            self.rows, heads = [_sums(*both) for both in zip(self.rows, heads, strict=True)], []
            name, inside = "all", set(ids)
        elif scope.name == "representation":
            name, inside = "representation", set[int]()
        else:
            name, inside = scope.choose(self._leaves, up.losses_at(), names)
        self._sum_over_ranks(heads)
        if name == "representation":
            gram = representation_gram(up, 1)
            (summed,) = sum_tensors([gram], [gram])
            assert summed is not None
            return name, summed
        rows = [[g for i, g in zip(ids, row, strict=True) if i in inside] for row in self.rows]
        return name, inner_products(rows, wide(self.params[0].dtype))[None].to(self.params[0].device)

    def update(self, weights: Tensor) -> None:
        """Add sum_k weights[0, k] g_k, and the heads' plain gradients, to `.grad`."""
        alphas = weights[0].tolist()
        for i, p in enumerate(self.params):
            for row, alpha in [*zip(self.rows, alphas, strict=True), *((head, 1.0) for head in self.heads)]:
                g, row[i] = row[i], None
                if g is not None:
                    # gradients of different parameters may be one tensor, so none is scaled in place
                    p.grad = g * alpha if p.grad is None else p.grad.add_(g, alpha=alpha)

    def _sum_over_ranks(self, heads: list[Grads]) -> None:
        n, K = len(self.params), len(self.rows)
        flat = [g for row in [*self.rows, *heads] for g in row]
        flat = sum_tensors(flat, [p.detach() for p in self.params] * (K + len(heads)))
        rows = [flat[k * n : (k + 1) * n] for k in range(K + len(heads))]
        self.rows, self.heads = rows[:K], rows[K:]


def _sums(one: Grads, two: Grads) -> Grads:
    """Gradients of different parameters may be one tensor, so none is added to in place."""
    return [a if b is None else b if a is None else a + b for a, b in zip(one, two, strict=True)]
