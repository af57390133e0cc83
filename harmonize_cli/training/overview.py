"""`--print-model`: the module tree with parameters, the losses that train each part, and the scope."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from harmonize_cli.harmony import Harmonizer
from harmonize_cli.models.base import blank_inputs, make_model
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.objectives.objective import Objective
from harmonize_cli.training.config import PretrainConfig


@dataclass(frozen=True, slots=True)
class Row:
    """One layer; layers that repeat in every block are one row, their parameters added up."""

    path: str
    kind: str
    parameters: int
    trained: bool
    losses: tuple[str, ...]
    in_scope: bool


def describe_model(specs: Mapping[str, InputSpec], config: PretrainConfig) -> list[Row]:
    """Rows in the order of the tree. Works on shapes alone, without memory and arithmetic, where a model can.

    Raises:
        BadInput: a scope that covers no layer.
    """
    try:
        return _describe(specs, config, "meta")
    except RuntimeError:  # a model that looks at its inputs' values
        return _describe(specs, config, "cpu")


def _describe(specs: Mapping[str, InputSpec], config: PretrainConfig, device: str) -> list[Row]:
    with torch.device(device):
        model = make_model(config.model.fresh(), specs)
        loss = Objective(config.loss)
        pooled = model.encode(blank_inputs(specs))
        present = {m: torch.ones(2, dtype=torch.bool) for m in ("video", "audio", "text")}
        texts = specs["text"].candidates if "text" in specs else 1
        terms = loss(model.heads(pooled), present, torch.ones(2, texts, dtype=torch.bool))
    owners = {p: name for name, module in model.named_modules() for p in module.parameters(recurse=False)}
    trained_by = {name: _reached(term.value, owners) for name, term in terms.items()}
    harmonizer = Harmonizer({"": model, "loss": loss}, scope=config.harmonize.scope)
    _, covered = harmonizer.covers({name: term.value for name, term in terms.items()}, pooled)
    inside = {name.rpartition(".")[0] for name in covered}
    rows = []
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own:
            losses = tuple(loss_name for loss_name, reached in trained_by.items() if name in reached)
            count = sum(p.numel() for p in own)
            trained = any(p.requires_grad for p in own)
            rows.append(Row(name, type(module).__name__, count, trained, losses, name in inside))
    return _folded(rows)


def show_model(rows: list[Row], scope: str) -> str:
    """A table for people."""
    width = max(len(row.path) for row in rows)
    lines = [f"{'layer':<{width}}  {'kind':<13}  {'parameters':>12}  losses   in scope {scope}"]
    for row in rows:
        losses = "+".join(row.losses) if row.trained else "frozen"
        mark = "yes" if row.in_scope else ""
        line = f"{row.path:<{width}}  {row.kind:<13}  {row.parameters:>12,}  {losses:<7}  {mark}"
        lines.append(line.rstrip())
    total = sum(row.parameters for row in rows)
    inside = sum(row.parameters for row in rows if row.in_scope)
    lines.append(f"{'total':<{width}}  {'':<13}  {total:>12,}  {inside:,} of them in scope {scope}")
    if scope == "representation":
        lines.append("scope representation compares cotangents of the pooled vectors, no parameters")
    return "\n".join(lines)


def _reached(loss: Tensor, owners: Mapping[nn.Parameter, str]) -> set[str]:
    """Names of the modules whose parameters `loss` depends on."""
    trained = [p for p in owners if p.requires_grad]
    grads = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
    return {owners[p] for p, grad in zip(trained, grads, strict=True) if grad is not None}


def _folded(rows: list[Row]) -> list[Row]:
    """Rows of `blocks.0.x`, `blocks.1.x`, ... as one row `blocks.*.x`."""

    def pattern(row: Row) -> str:
        parts = row.path.split(".")
        return ".".join(
            "*" if i and parts[i - 1] in ("blocks", "layer", "layers") else part
            for i, part in enumerate(parts)
        )

    order: dict[str, list[Row]] = {}
    for row in rows:
        order.setdefault(pattern(row), []).append(row)
    return [
        replace(same[0], path=path, parameters=sum(row.parameters for row in same))
        for path, same in order.items()
    ]
