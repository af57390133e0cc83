"""Walks over autograd graphs: what a tensor was made from, and where two tensors share their making."""

from collections.abc import Iterable, Sequence

from torch import Tensor
from torch.autograd.graph import Node


def node_of(tensor: Tensor) -> Node | None:
    """The node whose input gradient is the gradient of `tensor`; None for a leaf or a constant."""
    return tensor.grad_fn


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


def components(tensors: Sequence[Tensor]) -> list[tuple[list[int], set[Node]]]:
    """Groups of `tensors` (as indices) whose graphs share no node but leaves, each with its nodes."""
    groups: list[tuple[list[int], set[Node]]] = []
    for i, tensor in enumerate(tensors):
        own = reached([tensor.grad_fn])
        inner = {node for node in own if not hasattr(node, "variable")}
        members, nodes = [i], own
        apart = []
        for group in groups:
            if inner.isdisjoint(group[1]):
                apart.append(group)
            else:
                members, nodes = group[0] + members, nodes | group[1]
        groups = [*apart, (members, nodes)]
    return groups
