"""Walks over autograd graphs: what a tensor was made from."""

from collections.abc import Iterable

from torch import Tensor
from torch.autograd.graph import Node


def reached(starts: Iterable[Node | None], stops: frozenset[Node] = frozenset()) -> set[Node]:
    """All nodes upstream of `starts`, these included; `stops` and what lies behind them excluded."""
    seen: set[Node] = set()
    todo = [node for node in starts if node is not None]
    while todo:
        node = todo.pop()
        if node in seen or node in stops:
            continue
        seen.add(node)
        todo.extend(below for below, _ in node.next_functions if below is not None)
    return seen


def leaves(nodes: Iterable[Node]) -> dict[int, Tensor]:
    """The leaf tensors (parameters) among `nodes`, by id."""
    found = (getattr(node, "variable", None) for node in nodes)
    return {id(leaf): leaf for leaf in found if isinstance(leaf, Tensor)}
