"""The step: losses in, harmonized gradients out.

    record -> cut -> [chunk: cotangents -> uses -> Gram] -> decide -> update

A chunk is a part of the batch with its graph above the pooled vectors; the direct step has one, a cached step
(`_cached`) several, encoded anew one after the other.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.autograd.graph import GradientEdge

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony._cut import ADVICE, Cut, Pooled, defined_samples, listed, make_cut
from harmonize_cli.harmony._gram import parse_gram
from harmonize_cli.harmony._graph import Chunks, Graph, Upstream, pull, upstream
from harmonize_cli.harmony._kinds import READERS
from harmonize_cli.harmony._measure import (
    Layers,
    add_up,
    gram_of,
    read_heads,
    representation_gram,
    update,
)
from harmonize_cli.harmony._policy import Control, Decision, Gate, Policy
from harmonize_cli.harmony._reading import Reader
from harmonize_cli.harmony._report import HarmonyReport
from harmonize_cli.harmony._rule import Weigh, make_rule
from harmonize_cli.harmony._scope import Granularity, Scope, any_in_unit, spread
from harmonize_cli.harmony._sums import Sink, add_grad
from harmonize_cli.harmony._tape import Op, Tape
from harmonize_cli.harmony._whole import WholeBatch
from harmonize_cli.harmony._wrapped import Wrapped, explained, outside_autocast
from harmonize_cli.ranks import gather, own_rows, sum_gradients


class Harmonizer:
    """Per-sample gradient harmonization of a model trained under several losses.

    In a training loop, in place of `(loss_va + loss_vt).backward()`:

        with harmonizer.record():
            pooled = model.encode(batch)      # anything; operations on parameters are recorded as they run
            losses = {"va": ..., "vt": ...}   # scalars made from `pooled`
        report = harmonizer.backward(losses, pooled, step=step)
        optimizer.step()

    Upstream of `pooled` the gradient is exactly sum_i sum_k w[i, k] g[k, i] over samples i and losses k;
    downstream (heads) it is the plain one, without the rows of gated samples. `pooled` are batch-first, [B,
    ...] or [B * n, ...] with the n rows of a sample next to each other; inside the model samples may lie on
    any axis. Scope `representation` and granularity `batch` work without `record()`.

    What is read: every operation that a trainable parameter enters, in modules or functional calls.
    Parameters used in ways that can't be told apart by samples (packed sequences, custom autograd functions,
    scripted modules) get their gradients from ordinary backward passes, and `report.slow` names those of them
    whose Gram matrices had to be made so. Refused with `BadInput`: batch statistics in the encoder (BatchNorm
    in training), reentrant checkpoints, FSDP outside scope `representation`, a parameter on both sides of
    `pooled`.

    Args:
        modules: the model, or several by name.
        rule: a name for `make_rule`, a `Rule`, or any function gram [B, K, K] -> weights [B, K].
        scope: see `Scope`. granularity: `sample`, `microbatch:N`, `batch`. gram: `exact` or `sketch:K`.
        gate: curriculum; control: `random`, `shuffled` or `norm` (see `Policy`). seed: of their draws.
        check: on the first step, and when operations or shapes change, compare with an ordinary backward
            pass; parameters that differ are left to ordinary passes. Without it no comparison is made.
    """

    def __init__(
        self,
        modules: nn.Module | Mapping[str, nn.Module],
        *,
        rule: str | Weigh = "realign",
        scope: str | Iterable[str] = "auto",
        gate: Gate | None = None,
        granularity: str = "sample",
        gram: str = "exact",
        control: Control | None = None,
        seed: int = 0,
        check: bool = True,
    ) -> None:
        self.modules = {"": modules} if isinstance(modules, nn.Module) else dict(modules)
        self.scope = Scope.parse(scope)
        self.granularity = Granularity.parse(granularity)
        self.policy = Policy(make_rule(rule), gate, control, seed)
        self.in_scope: list[str] = []
        """Paths of the parameters compared in the last step."""
        self.names: dict[int, list[str]] = {}
        self._named()
        self.reader = Reader(self.names, check, parse_gram(gram, seed))
        self._tape = Tape(self.modules, READERS)
        self._mask: list[Tensor] = []
        self._recorded = False
        self._chosen = self.scope.name
        if self.granularity.whole and gate is not None:
            raise BadInput("granularity: a gate chooses among samples or microbatches, not within `batch`")
        self._wrapped = Wrapped(self.modules)
        self._wrapped.prepare(self.modules, by_layers=self.needs_layers or self.granularity.whole)

    @property
    def needs_layers(self) -> bool:
        """Whether the Gram is taken parameter by parameter."""
        return not self.granularity.whole and self.scope.name != "representation"

    @property
    def check_seconds(self) -> float:
        """What the checks have taken so far."""
        return self.reader.seconds

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record the forward pass made inside: encoder, and heads too for scope `all`."""
        with ExitStack() as stack:
            stack.enter_context(self._wrapped.no_sync())
            if self.needs_layers:
                stack.enter_context(self._tape.record())
            elif self.granularity.whole and "torch._dynamo" in sys.modules:
                import torch._functorch.config as compiler

                # a compiled graph is passed once for each loss, so it may not reuse its inputs' memory
                stack.enter_context(compiler.patch(donated_buffer=False))
            yield
        self._recorded = True

    def through_gate(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The heads' outputs as the losses must see them: a gate takes losses away from a sample here.

        embeddings: [B, ...] (or a multiple of B rows) each. Without a gate they come back as they are.
        """
        if self.policy.gate is None:
            return dict(embeddings)
        # aliases: gradients from other embeddings do not pass through
        masked = {name: e.view_as(e) for name, e in embeddings.items()}
        self._mask = [e for e in masked.values() if e.requires_grad]
        return masked

    def parameters(self) -> list[nn.Parameter]:
        """Trainable parameters of the modules."""
        return list(self._named().values())

    def backward(
        self,
        losses: Mapping[str, Tensor],
        pooled: Pooled,
        *,
        step: int = 0,
        valid: Mapping[str, Tensor] | None = None,
        scaler: GradScaler | None = None,
        reduce: bool = True,
    ) -> HarmonyReport:
        """Accumulate the harmonized gradient into `.grad` of every parameter and free the graph.

        Args:
            losses: scalars by name; under torch.distributed this rank's shares, which add up to the losses.
            pooled: the vectors that the losses were made from, [B, ...] (or a multiple of B rows) each.
            step: for the gate's schedule and the controls' draws.
            valid: per loss [B] bool, False for samples that lack the pair: conflict undefined, weight 1.
            scaler: for fp16: the losses are scaled here, `.grad` stays scaled for `scaler.step`.
            reduce: sum the gradients over ranks; False in all but the last of accumulated steps.

        Raises:
            BadInput: the model can't be harmonized this way; the message says what to do.
        """
        with explained(), outside_autocast():
            self._need_record()
            scale = 1.0
            if scaler is not None and scaler.is_enabled():
                losses = {name: scaler.scale(loss) for name, loss in losses.items()}
                scale = scaler.get_scale()
            cut = self.cut(losses, pooled)
            return self.run(cut, step=step, valid=valid, scale=scale, reduce=reduce)

    def grams(
        self, losses: Mapping[str, Tensor], pooled: Pooled, scopes: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """Only measure: per scope [U, K, K] of this rank, without touching `.grad`; frees the graph.

        scopes: the harmonizer's own by default.
        """
        if self.granularity.whole:
            raise BadInput("granularity: batch is measured by `backward` alone")
        with explained(), outside_autocast():
            self._mask = []
            wanted = [Scope.parse(scope) for scope in scopes] or [self.scope]
            cut = self.cut(losses, pooled, read_heads=any(scope.name == "all" for scope in wanted))
            units = self.granularity.units(cut.up.samples)
            layered = [scope for scope in wanted if scope.name != "representation"]
            found: dict[str, Tensor] = {}
            if len(layered) < len(wanted):
                found["representation"] = representation_gram(cut.up, units)
            if layered:
                heads = read_heads(cut.pulled.at_heads, units)
                choose = partial(self._choose, cut.up, layered)
                measured = self.reader.measure(cut.up, units, choose)
                for scope, gram in zip(layered, measured.grams, strict=True):
                    found[scope.name] = gram
                    if heads is not None and scope.name == "all":
                        found[scope.name] = gram + self._gram_of(heads, cut)
            return {scope.name: found[scope.name] for scope in wanted}

    def covers(self, losses: Mapping[str, Tensor], pooled: Pooled) -> tuple[str, list[str]]:
        """The scope's name and the paths of the parameters upstream that it covers; keeps the graph.

        No parameter is covered by scope `representation`. Tensors on the meta device will do.
        """
        up = upstream(listed(pooled), [], [])
        if self.scope.name == "representation":
            return self.scope.name, []
        roots = ([(loss, None)] if loss.requires_grad else [] for loss in losses.values())
        up.delta = [pull(root, up.pooled, keep_graph=True) for root in roots]
        leaves = [set(Graph([]).walk([z.grad_fn]).leaves) for z in up.pooled]
        name, inside = self.scope.choose(leaves, up.losses_at(), self.names)
        return name, sorted(self.names[i][0] for i in inside)

    def cut(self, losses: Mapping[str, Tensor], pooled: Pooled, *, read_heads: bool | None = None) -> Cut:
        """The graph of the last forward pass, cut at `pooled`; read_heads: as scope `all` does by default."""
        self._named()
        mask, self._mask = self._mask, []
        gated = self.policy.gate is not None and read_heads is None
        if read_heads is None:
            read_heads = self.needs_layers and self.scope.name == "all"
        up = upstream(listed(pooled), *self.take())
        found = make_cut(losses, up, mask, self.reader.heads if read_heads else None)
        found.refuse_unknown(self.names, self._wrapped)
        if gated and not mask and any(p.dim() > 0 for p, _ in found.pulled.plain):
            raise BadInput("a gate has to know the heads' outputs: " + ADVICE)
        return found

    def take(self) -> tuple[list[Op], list[GradientEdge]]:
        """The recorded operations of the last forward pass, and outputs of those that mix samples."""
        couplings = self._tape.couplings
        return self._tape.take(), couplings

    def run(
        self,
        cut: Cut,
        chunks: Chunks | None = None,
        *,
        step: int,
        valid: Mapping[str, Tensor] | None,
        scale: float = 1.0,
        reduce: bool = True,
    ) -> HarmonyReport:
        """A step over the chunks of a cut, one by default; passed twice where a decision has to know all."""
        began = time.perf_counter()
        samples, direct = cut.up.samples, chunks is None
        chunks = chunks or (lambda record: [(slice(0, samples), cut.up)])
        units = self.granularity.units(samples)
        defined = any_in_unit(defined_samples(valid, cut), units)
        if self.granularity.whole:
            gram, decision = self._whole(cut, chunks, defined, step, scale)
            return self._report(cut, gram, decision, began)
        kept: Layers | None = None
        heads, updated = None, False
        if self.needs_layers:
            heads = read_heads(cut.pulled.at_heads, units)
            updated = not direct and self.policy.one_by_one
            grams = []
            for own, layers, gram in self._measured(cut, chunks, heads, keep_graph=direct and bool(cut.down)):
                grams.append(gram / scale**2)
                if updated:
                    decision = self.policy.decide(grams[-1].cpu(), defined[own].cpu(), step, cut.losses)
                    update(*layers, decision.weights.to(gram))
                kept = layers[0] if direct else None
            gram = torch.cat(grams)
        else:
            self._chosen = "representation"
            gram = representation_gram(cut.up, units) / scale**2
        decision = self._decide(gram, defined, step, cut.losses)
        weights = decision.weights.to(gram)
        if decision.rejecting and cut.down is not None:
            kept = None  # it was read from cotangents that are replaced now
            taking_part = spread(decision.taking_part, samples).to(cut.up.pooled[0].device)
            cut.pulled = cut.down.pull_without(taking_part)
            cut.up.delta = cut.pulled.delta
            heads = read_heads(cut.pulled.at_heads, units)
            weights = decision.open_weights().to(gram)
        if kept is not None:
            update(kept, cut.up, weights)
        elif not updated:
            for own, up in chunks(False):
                up.backward(spread(weights, samples)[own])
        add_up(heads.uses if heads is not None else [], Sink(), weights)
        for p, grads in cut.pulled.plain:
            for grad in grads:
                add_grad(p, grad)
        if reduce:
            # FSDP sums its own
            sum_gradients(p for name, p in self._named().items() if not self._wrapped.owns(name))
        return self._report(cut, gram, decision, began)

    def _whole(
        self, cut: Cut, chunks: Chunks, defined: Tensor, step: int, scale: float
    ) -> tuple[Tensor, Decision]:
        whole = WholeBatch(self._named())
        for _, up in chunks(False):
            whole.add(up)
        self._chosen, gram = whole.gram(cut.up, cut.pulled.plain, self.scope, self.names)
        gram = gram / scale**2
        everywhere = gather(defined).any()[None]
        decision = self.policy.decide(gram.cpu(), everywhere.cpu(), step, cut.losses)
        whole.update(decision.weights)
        return gram, decision

    def _measured(
        self, cut: Cut, chunks: Chunks, heads: Layers | None, *, keep_graph: bool
    ) -> Iterator[tuple[slice, tuple[Layers, Upstream], Tensor]]:
        """Per chunk: its units, what its update needs, and its Gram matrices [U, K, K], heads included."""
        of_heads = None if heads is None else self._gram_of(heads, cut)
        choose = partial(self._choose, cut.up, [self.scope])
        for samples, up in chunks(True):
            count = self.granularity.units(up.samples)
            start = samples.start // self.granularity.share
            own = slice(start, start + count)
            found = self.reader.measure(up, count, choose, keep_graph=keep_graph)
            self.in_scope = sorted(self.names[i][0] for i in found.inside[0])
            if heads is not None:
                self.in_scope += sorted(self.names[i][0] for i in heads.parameters)
            gram = found.grams[0]
            yield own, (found.layers, up), gram if of_heads is None else gram + of_heads[own]

    def _choose(self, up: Upstream, scopes: list[Scope], leaves: list[set[int]]) -> list[set[int]]:
        """The parameters in each scope, by id, for those that every pooled vector depends on."""
        found = [scope.choose(leaves, up.losses_at(), self.names) for scope in scopes]
        self._chosen = found[0][0]
        return [ids for _, ids in found]

    def _gram_of(self, heads: Layers, cut: Cut) -> Tensor:
        units = self.granularity.units(cut.up.samples)
        return gram_of(heads, heads.parameters, units, cut.up.delta, self.reader.sketch)

    def _decide(self, gram: Tensor, defined: Tensor, step: int, losses: list[str]) -> Decision:
        """Decide on the units of all ranks (a few numbers each, on the CPU), return this rank's."""
        all_ranks = self.policy.decide(gather(gram).cpu(), gather(defined).cpu(), step, losses)
        return replace(
            all_ranks,
            weights=own_rows(all_ranks.weights),
            taking_part=own_rows(all_ranks.taking_part),
            kept=own_rows(all_ranks.kept),
            cosine=own_rows(all_ranks.cosine),
        )

    def _report(self, cut: Cut, gram: Tensor, decision: Decision, began: float) -> HarmonyReport:
        """End of a step: let a rule with a state see it, and say what happened."""
        self.policy.rule.observe(decision.everywhere)
        samples = cut.up.samples
        return HarmonyReport(
            losses=tuple(cut.losses),
            gram=spread(gram, samples),
            cosine=spread(decision.cosine, samples),
            weights=spread(decision.weights, samples),
            kept=spread(decision.kept, samples),
            threshold=decision.threshold,
            scope=self._chosen,
            seconds=time.perf_counter() - began,
            slow=self.reader.slow if self.needs_layers else (),
        )

    def _named(self) -> dict[str, nn.Parameter]:
        """The trainable parameters as they are now, by their first path; `names` gets all paths, by id."""
        self.names.clear()
        found: dict[str, nn.Parameter] = {}
        for prefix, module in self.modules.items():
            for name, p in module.named_parameters(prefix=prefix, remove_duplicate=False):
                if p.requires_grad:
                    if id(p) not in self.names:
                        found[name] = p
                    self.names.setdefault(id(p), []).append(name)
        return found

    def _need_record(self) -> None:
        recorded, self._recorded = self._recorded, False
        self._wrapped = Wrapped(self.modules)
        self._wrapped.prepare(self.modules, by_layers=self.needs_layers or self.granularity.whole)
        if self.needs_layers and not recorded:
            raise BadInput(
                f"scope {self.scope.name}: run the encoder inside `with harmonizer.record():`; only scope "
                "representation and granularity batch work without"
            )

    def state_dict(self) -> dict[str, Any]:
        """The state of the rule."""
        return {"rule": self.policy.rule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        if "rule" in state:
            self.policy.rule.load_state_dict(state["rule"])
