"""The step: losses in, harmonized gradients out."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony._gate import Gate
from harmonize_cli.harmony._policy import Control, Decision, Policy
from harmonize_cli.harmony._report import HarmonyReport
from harmonize_cli.harmony._rule import Weigh, make_rule
from harmonize_cli.harmony.cut import Cut, make_cut
from harmonize_cli.harmony.downstream import ADVICE
from harmonize_cli.harmony.granularity import Granularity, any_in_unit, spread
from harmonize_cli.harmony.measure import heads_by_module, measure, read_layers, update
from harmonize_cli.harmony.representation import representation_gram
from harmonize_cli.harmony.scope import Scope
from harmonize_cli.harmony.sketch import Sketch
from harmonize_cli.harmony.sums import Buffers
from harmonize_cli.harmony.tape import Tape, owned
from harmonize_cli.harmony.whole import WholeBatch
from harmonize_cli.ranks import gather, own_rows, sum_gradients

Pooled = Tensor | Mapping[str, Tensor] | Iterable[Tensor]


class Harmonizer:
    """Per-sample gradient harmonization of a model trained under several losses.

    In a training loop, in place of `(loss_va + loss_vt).backward()`:

        with harmonizer.record():
            pooled = model.encode(batch)          # anything; layers are seen through forward hooks
            losses = {"va": ..., "vt": ...}       # scalars made from `pooled`
        report = harmonizer.backward(losses, pooled, step=step)
        optimizer.step()

    Upstream of `pooled` the gradient is sum_i alpha_i g_va,i + beta_i g_vt,i over the samples i;
    downstream (heads) it is the plain one, without the rows of gated samples.

    Args:
        modules: the model, or several by name.
        rule: a name for `make_rule`, a `Rule`, or any function gram [B, K, K] -> weights [B, K].
        scope: see `Scope`. granularity: `sample`, `microbatch:N`, `batch`. gram: `exact` or `sketch:K`.
        gate: curriculum; control: `random`, `shuffled` or `norm` (see `Policy`). seed: of their draws.
    """

    def __init__(
        self,
        modules: nn.Module | Mapping[str, nn.Module],
        *,
        rule: str | Weigh = "realign",
        scope: str | Iterable[str] = "backbone",
        gate: Gate | None = None,
        granularity: str = "sample",
        gram: str = "exact",
        control: Control | None = None,
        seed: int = 0,
    ) -> None:
        self.modules = {"": modules} if isinstance(modules, nn.Module) else dict(modules)
        self.scope = Scope.parse(scope)
        self.granularity = Granularity.parse(granularity)
        self.policy = Policy(make_rule(rule), gate, control, seed)
        self.sketch = parse_gram(gram, seed)
        self.tape = Tape(self.modules)
        self.doors: list[Tensor] = []
        self.in_scope: list[str] = []
        """Names of the layers compared in the last step, where the Gram is taken layer by layer."""
        if self.granularity.whole and gate is not None:
            raise BadInput("granularity: a gate chooses among samples or microbatches, not within `batch`")

    @property
    def needs_layers(self) -> bool:
        """Whether the Gram is taken layer by layer."""
        return not self.granularity.whole and self.scope.name != "representation"

    @property
    def reads_heads(self) -> bool:
        """Whether heads are compared and updated layer by layer."""
        return self.needs_layers and self.scope.name == "all"

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record the forward pass made inside: encoder, and heads too for scope `all`."""
        if self.needs_layers:
            with self.tape.record():
                yield
        else:
            yield

    def through_gate(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The heads' outputs as the losses must see them: a gate takes losses away from a sample here.

        embeddings: [B, ...] (or a multiple of B rows) each. Without a gate they come back as they are.
        """
        if self.policy.gate is None:
            return dict(embeddings)
        # aliases: what flows through another embedding does not pass them
        doors = {name: e.view_as(e) for name, e in embeddings.items()}
        self.doors = [door for door in doors.values() if door.requires_grad]
        return doors

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
        began = time.perf_counter()
        scale = 1.0
        if scaler is not None and scaler.is_enabled():
            losses = {name: scaler.scale(loss) for name, loss in losses.items()}
            scale = scaler.get_scale()
        cut = self.cut(losses, listed(pooled))
        units = self.granularity.units(cut.samples)
        defined = any_in_unit(defined_samples(valid, cut), units)
        if self.granularity.whole:
            gram, decision = self.per_batch(cut, scale, defined, step)
        else:
            gram, decision = self._per_unit(cut, units, scale, defined, step)
            if reduce:
                sum_gradients(self.parameters())
        return self.report(cut, gram, decision, began)

    def cut(self, losses: Mapping[str, Tensor], pooled: list[Tensor]) -> Cut:
        """The graph of the last forward pass, cut at `pooled`.

        Raises:
            BadInput: see `make_cut`; or the losses train what this harmonizer does not know, or a gate does
                not know the heads.
        """
        doors, self.doors = self.doors, []
        cut = make_cut(losses, pooled, self.tape.take(), read_heads=self.reads_heads, doors=doors)
        known = {id(p) for p in self.parameters()}
        if any(id(p) not in known for p in [*cut.upstream, *(p for p, _ in cut.plain)]):
            raise BadInput(
                "the losses train parameters outside the given modules; pass all of them, "
                'such as Harmonizer({"": model, "loss": loss})'
            )
        if self.policy.gate is not None and not doors and any(p.dim() > 0 for p, _ in cut.plain):
            raise BadInput("a gate has to know the heads' outputs: " + ADVICE)
        return cut

    def report(self, cut: Cut, gram: Tensor, decision: Decision, began: float) -> HarmonyReport:
        """End of a step: let a rule with a state see it, and say what happened."""
        self.policy.rule.observe(decision.everywhere)
        return HarmonyReport(
            losses=tuple(cut.losses),
            gram=spread(gram, cut.samples),
            cosine=spread(decision.cosine, cut.samples),
            weights=spread(decision.weights, cut.samples),
            kept=spread(decision.kept, cut.samples),
            threshold=decision.threshold,
            scope=self.scope.name,
            seconds=time.perf_counter() - began,
        )

    def gram(self, losses: Mapping[str, Tensor], pooled: Pooled) -> Tensor:
        """Only measure: [U, K, K] of this rank, without touching `.grad`; frees the graph.

        At granularity `batch` use `backward`: there the Gram comes from the gradients themselves.
        """
        if self.granularity.whole:
            raise BadInput("granularity: batch is measured by `backward` alone")
        self.doors = []
        cut = make_cut(losses, listed(pooled), self.tape.take(), read_heads=self.scope.name == "all")
        units = self.granularity.units(cut.samples)
        if self.scope.name == "representation":
            return representation_gram(cut, units)
        return measure(cut, units, self.scope, self.tape.names.values(), self.sketch).gram

    def per_batch(
        self, cut: Cut, scale: float, defined: Tensor, step: int, parts: Iterable[Cut] | None = None
    ) -> tuple[Tensor, Decision]:
        """Granularity batch; parts: see `WholeBatch`."""
        whole = WholeBatch(cut, self.scope, self._named(), parts)
        gram = whole.gram / scale**2
        decision = self.decide(gram, defined, step, cut.losses)
        whole.update(decision.weights)
        return gram, decision

    def _per_unit(
        self, cut: Cut, units: int, scale: float, defined: Tensor, step: int
    ) -> tuple[Tensor, Decision]:
        """Granularities sample and microbatch."""
        found = None
        if self.scope.name == "representation":
            gram = representation_gram(cut, units) / scale**2
        else:
            names, keep = self.tape.names.values(), cut.behind is not None
            found = measure(cut, units, self.scope, names, self.sketch, keep_graph=keep)
            gram = found.gram / scale**2
            self.in_scope = found.names
        decision = self.decide(gram, defined, step, cut.losses)
        weights = decision.weights.to(gram)
        if decision.rejecting and cut.behind is not None:
            found = None  # it was read from cotangents that are replaced now
            weights = self.close(cut, decision).to(gram)
        if found is None:
            cut.backward(spread(weights, cut.samples))
            self.update_heads(cut, weights)
        else:
            update(found, cut, weights, spread(weights, cut.samples))
        cut.add_plain()
        return gram, decision

    def close(self, cut: Cut, decision: Decision) -> Tensor:
        """Take away what the gate rejected; returns the weights [U, K] of what is left."""
        cut.close(spread(decision.taking_part, cut.samples).to(cut.pooled[0].device))
        return decision.open_weights()

    def decide(self, gram: Tensor, defined: Tensor, step: int, losses: list[str]) -> Decision:
        """Decide on the units of all ranks (a few numbers each, on the CPU), return this rank's."""
        if self.granularity.whole:
            everywhere = gather(defined).any()[None]
            return self.policy.decide(gram.cpu(), everywhere.cpu(), step, losses)
        decision = self.policy.decide(gather(gram).cpu(), gather(defined).cpu(), step, losses)
        return Decision(
            weights=own_rows(decision.weights),
            taking_part=own_rows(decision.taking_part),
            kept=own_rows(decision.kept),
            cosine=own_rows(decision.cosine),
            everywhere=decision.cosine,
            threshold=decision.threshold,
            rejecting=decision.rejecting,
        )

    def update_heads(self, cut: Cut, weights: Tensor) -> None:
        """In scope `all` the heads' layers get the rule's weights [U, K] as well."""
        layers, _ = read_layers(heads_by_module(cut), len(weights), set())
        buffers = Buffers()
        for layer in layers:
            layer.update(weights, buffers)

    def _named(self) -> dict[str, nn.Parameter]:
        found: dict[int, tuple[str, nn.Parameter]] = {}
        for prefix, module in self.modules.items():
            for name, p in module.named_parameters(prefix=prefix):
                if p.requires_grad:
                    found.setdefault(id(p), (name, p))
        return dict(found.values())

    def parameters_in_scope(self) -> list[nn.Parameter]:
        """Parameters of the layers of `in_scope`."""
        chosen = set(self.in_scope)
        owners = [module for module, name in self.tape.names.items() if name in chosen]
        return [p for module in owners for p in owned(module) if p.requires_grad]

    def state_dict(self) -> dict[str, Any]:
        """The state of the rule."""
        return {"rule": self.policy.rule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        if "rule" in state:
            self.policy.rule.load_state_dict(state["rule"])


def parse_gram(text: str, seed: int = 0) -> Sketch | None:
    """`exact` -> None, `sketch:K` -> a sketch of K x K numbers per layer."""
    kind, _, number = text.partition(":")
    if kind == "exact" and not number:
        return None
    if kind == "sketch" and number.isdecimal() and int(number) > 0:
        return Sketch(int(number), seed)
    raise BadInput(f"gram: {text!r}; choose exact or sketch:K (such as sketch:32)")


def listed(pooled: Pooled) -> list[Tensor]:
    """The pooled vectors in order."""
    if isinstance(pooled, Tensor):
        return [pooled]
    return list(pooled.values()) if isinstance(pooled, Mapping) else list(pooled)


def defined_samples(valid: Mapping[str, Tensor] | None, cut: Cut) -> Tensor:
    """[B] True for the samples that have the pairs of all losses."""
    flags = torch.ones(cut.samples, dtype=torch.bool, device=cut.pooled[0].device)
    for name, of in (valid or {}).items():
        if name not in cut.losses or of.shape != flags.shape:
            raise BadInput(
                f"valid[{name!r}]: expected one of the losses {cut.losses} and shape [{cut.samples}]"
            )
        flags &= of.to(flags)
    return flags
