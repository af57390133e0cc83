"""The check of a reading: one ordinary backward pass with a random weight for every unit and loss, to which
everything that is read by units must add up."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harmonize_cli.harmony._gram import GramSum
from harmonize_cli.harmony._graph import Cotangents, Graph, Upstream, weighted_sum
from harmonize_cli.harmony._kinds import readable
from harmonize_cli.harmony._measure import Layers, Measurement, OpRows, add_up, unit_gradients
from harmonize_cli.harmony._scope import Rows, spread
from harmonize_cli.harmony._sums import ProjectedSink, dense, inner_products, projected
from harmonize_cli.harmony._tape import Op

TOLERANCE = {torch.float64: (1e-8, 1e-10), torch.float32: (1e-3, 1e-5)}
"""Largest difference from the ordinary backward pass: relative to the parameter's longest row, and to the
longest of all, for parameters whose gradient is all but rounding."""
NEAR = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest difference of an operation's cotangents from those that arrived, as vectors."""
LOOSE, LOOSELY_NEAR = (5e-2, 5e-4), 0.08
"""The same in 16-bit types and under autocast."""


@dataclass(slots=True)
class Trial:
    """One ordinary backward pass with random weights [U, K], to which everything read by units must add up.

    arrived: per operation, the cotangents of its outputs. want: gradients by parameter id. loose: 16-bit
    types are among the cotangents.
    """

    weights: Tensor
    arrived: dict[Op, list[Tensor | None]]
    want: dict[int, Tensor | None]
    loose: bool = False

    @classmethod
    def make(cls, up: Upstream, ops: Sequence[Op], units: int, *, parameters: bool = True) -> "Trial":
        """Run it; keeps the graph. parameters: with their gradients."""
        leaves = Graph([]).walk([z.grad_fn for z in up.pooled]).leaves if parameters else {}
        params = [p for p in leaves.values() if isinstance(p, nn.Parameter)]
        draw = torch.Generator().manual_seed(units)
        # far apart, so that even cotangents of 16 bits tell two units from each other
        K = len(up.delta)
        powers = (torch.randperm(units, generator=draw)[:, None] + torch.arange(K)) % 5 - 2
        weights = (2.0**powers * (0.8 + 0.4 * torch.rand(units, K, generator=draw))).to(up.pooled[0].device)
        edges = [edge for op in ops for edge in op.edges]
        queue = iter(up.gradients([*edges, *params], spread(weights, up.samples), keep_graph=True))
        arrived = {op: op.shaped([next(queue) for _ in op.edges]) for op in ops}
        return cls(weights, arrived, {id(p): g for p, g in zip(params, queue, strict=True)})

    def rows(self, given: Mapping[Op, Cotangents]) -> OpRows:
        """Where the units lie in the outputs of the operations; those of which it can't be said are left out.

        None for outputs that no cotangent came to: nothing can be said of them yet, and nothing need be.
        """
        found: OpRows = {}
        # under autocast those in float32 were made from ones in 16 bits
        every = (d for outputs in self.arrived.values() for d in outputs)
        self.loose |= any(d is not None and d.dtype not in TOLERANCE for d in every)
        for op, outputs in self.arrived.items():
            lie: list[Rows | None] = [None] * len(outputs)
            heard = [o for o, d in enumerate(outputs) if d is not None and op in given and bool(d.any())]
            for o in heard:
                lie[o] = self._lie(outputs[o], [of[o] for of in given[op]])  # type: ignore[arg-type]
            if readable(op) and all(lie[o] is not None for o in heard):
                found[op] = lie
        return found

    def _lie(self, arrived: Tensor, given: list[Tensor | None]) -> Rows | None:
        """Where the units lie: there, weighted cotangents are those that arrived; None: the units mix."""
        tolerance = LOOSELY_NEAR if self.loose else NEAR.get(arrived.dtype, LOOSELY_NEAR)
        arrived, units = dense(arrived), len(self.weights)
        given = [None if d is None else dense(d) for d in given]
        for axis, n in enumerate(arrived.shape):
            for outer in (o for o in range(1, n // units + 1) if n and n % (units * o) == 0):
                rows = Rows(axis, outer)
                off = weighted_sum(given, self.weights, rows)
                if off is None:
                    return None
                # unit by unit too: two of many that are swapped hide in the norm of all
                length = rows.split(arrived, units).flatten(1).norm(dim=1)
                error = rows.split(off.sub_(arrived), units).flatten(1).norm(dim=1)
                limit = 3 * tolerance * (length + 0.1 * length.square().mean().sqrt())
                if bool((error <= limit).all() & (error.norm() <= tolerance * length.norm())):
                    return rows
        return None

    def wrong(self, measured: Measurement, *, exact: bool) -> set[int]:
        """Ids of the parameters whose gradients, read by units, are not those of the pass, along a random
        direction each; exact: the Gram matrices are, so they must be those of the units' gradients."""
        layers, quick = measured.layers, measured.layers.quick()
        wanted = {i: g for i, g in self.want.items() if g is not None}
        sizes = {i: _longest(g) for i, g in wanted.items()}
        along = {i: projected(g) for i, g in wanted.items()}
        wrong = self._different(quick, self._added_up(layers, quick, self.weights), along, sizes)
        # two units alone, read in the way of a Gram matrix
        two, ids = sorted({0, len(self.weights) - 1}), {id(p) for p in quick}
        part = torch.tensor(two, device=self.weights.device)
        some = torch.zeros_like(self.weights).index_copy_(0, part, self.weights[part])
        losses = range(self.weights.shape[1])
        single = [[unit_gradients(layers, ids, layers.uses, k, slice(u, u + 1)) for k in losses] for u in two]
        sums, sizes = ProjectedSink(), defaultdict(float)
        for u, rows in zip(two, single, strict=True):
            for k, row in enumerate(rows):
                for i, g in row.items():
                    sums.put(i, self.weights[u, k] * projected(g[0]))
                    sizes[i] += self.weights[u, k].item() * _longest(g[0])
        wrong |= self._different(quick, self._added_up(layers, quick, some, part), sums.own, sizes)
        for u, rows in zip(two, single, strict=True) if exact else ():
            wrong |= self._gram_differs(measured.apart, u, rows)
        return wrong

    @staticmethod
    def _added_up(
        layers: Layers, quick: list[nn.Parameter], weights: Tensor, part: Tensor | None = None
    ) -> dict[int, Tensor]:
        """Projected gradients under weights, by parameter id."""
        sink = ProjectedSink(layers.slow)
        add_up(list(layers.uses), sink, weights, part)
        for p, g in zip(quick, sink.pull_back(quick, keep_graph=True), strict=True):
            if g is not None:
                sink.put(id(p), projected(g))
        return sink.own

    def _gram_differs(
        self, apart: Mapping[tuple[int, ...], GramSum], u: int, rows: list[dict[int, Tensor]]
    ) -> set[int]:
        """Ids of the parameters whose share of unit u's Gram matrix is not that of its gradients."""
        wanted = {
            ids: inner_products([[row.get(i) for i in ids] for row in rows], total.dtype).double().cpu()
            for ids, total in apart.items()
        }
        whole = sum((want.diagonal() for want in wanted.values()), torch.zeros(())).sqrt()
        wrong: set[int] = set()
        for ids, want in wanted.items():
            dtype, length = apart[ids].dtype, want.diagonal().sqrt()
            limit = self._tolerance(dtype)[0] * length.outer(length)
            limit += 10 * torch.finfo(dtype).eps * whole.outer(whole)
            if not bool(((apart[ids].table()[u].double().cpu() - want).abs() <= limit).all()):
                wrong |= set(ids)
        return wrong

    def _tolerance(self, dtype: torch.dtype) -> tuple[float, float]:
        return LOOSE if self.loose else TOLERANCE.get(dtype, LOOSE)

    def _different(
        self,
        params: list[nn.Parameter],
        got: Mapping[int, Tensor],
        want: Mapping[int, Tensor],
        sizes: Mapping[int, float],
    ) -> set[int]:
        """Ids of those whose projections differ; sizes: of what is projected."""
        largest = max(sizes.values(), default=0.0)
        wrong = set()
        for p in params:
            found, expected = got.get(id(p)), want.get(id(p))
            both = found is not None and expected is not None
            error = _largest(found - expected if both else found if expected is None else expected)  # type: ignore[operator]
            tolerance, rounding = self._tolerance(p.dtype)
            if not error <= tolerance * sizes.get(id(p), 0.0) + rounding * largest:
                wrong.add(id(p))
        return wrong


def _largest(g: Tensor | None) -> float:
    return g.abs().max().item() if g is not None and g.numel() else 0.0


def _longest(g: Tensor) -> float:
    """The length of the longest row."""
    g = dense(g)
    return _largest(g if g.dim() < 2 else g.flatten(1).norm(dim=1))
