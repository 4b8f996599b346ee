"""A module as a graph: blobs are vertices, layers are edges; networkx does the graph work.

A blob with several edges out of it is copied, one with several edges into it is their sum (arXiv:1701.03281 section 3).
"""

from __future__ import annotations

__all__ = ["DEPTHWISE", "Edge", "Graph", "check", "layer_text", "reachable", "to_text", "vertices"]

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from torchgraft.errors import MorphError

if TYPE_CHECKING:
    import networkx

#: ``Edge.groups`` of a convolution with one group for each channel that comes in.
DEPTHWISE = 0

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Edge:
    """A layer from blob ``tail`` to blob ``head``.

    ``op`` is ``conv``, ``id``, ``avg`` or ``max``: a convolution, an identity, an average or a maximum pooling.
    ``kernel``, ``stride``, ``dilation`` and ``padding`` have one number for each spatial axis, or a single one that
    holds for all. ``padding`` is ``None`` where it follows from the module's window, as it should. ``scale`` is the
    factor of an identity.
    """

    tail: str
    head: str
    op: str = "conv"
    kernel: tuple[int, ...] = (1,)
    stride: tuple[int, ...] = (1,)
    dilation: tuple[int, ...] = (1,)
    groups: int = 1
    padding: tuple[int, ...] | None = None
    scale: float = 1.0

    def __str__(self) -> str:
        return f"{self.tail}>{self.head}"


@dataclass(frozen=True, slots=True)
class Graph:
    """A module: its ``edges``, and the ``widths`` of inner vertices that were given, by name.

    A width is a number of channels, or relative to the convolution: ``"in"``, ``"2out"``, ``"in/4"``. Vertices
    without one take the larger of the two.
    """

    edges: tuple[Edge, ...]
    widths: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return to_text(self)


def to_text(graph: Graph) -> str:
    """Write a module so that :func:`torchgraft.morph.parse` reads the same one."""
    widths = [f"{name}={width}" for name, width in graph.widths]
    return " ".join([*widths, *(f"{edge}:{layer_text(edge)}" for edge in graph.edges)])


def layer_text(edge: Edge) -> str:
    """Write the layer of one edge."""
    if edge.op == "id":
        return "id" if edge.scale == 1.0 else f"{edge.scale!r}*id"
    parts = [("" if edge.op == "conv" else edge.op) + _joined(edge.kernel)]
    for name in ("stride", "dilation"):
        value = getattr(edge, name)
        parts += [] if value == (1,) else [f"{name}={_joined(value)}"]
    parts += [] if edge.padding is None else [f"padding={_joined(edge.padding)}"]
    if edge.groups != 1:
        parts.append("groups=all" if edge.groups == DEPTHWISE else f"groups={edge.groups}")
    return ",".join(parts)


def _joined(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))


def check(graph: Graph) -> Graph:
    """Return the graph if it is a module: acyclic, with a single source and a single sink; else say what is wrong."""
    import networkx as nx

    if not graph.edges:
        raise MorphError("a module needs at least one edge, such as s>t:3x3")
    whole = nx.MultiDiGraph([(edge.tail, edge.head) for edge in graph.edges])
    for name in whole:
        if not _NAME.fullmatch(name) or hasattr(nn.ModuleDict, name):
            raise MorphError(
                f"{name!r} cannot name a vertex: use a letter, then letters and digits, no method of a module"
            )
    if not nx.is_directed_acyclic_graph(whole):
        loop = " > ".join(tail for tail, *_ in nx.find_cycle(whole))
        raise MorphError(f"a module has no cycle, and {loop} is one: turn an edge around")
    for what, degrees in (("source", whole.in_degree()), ("sink", whole.out_degree())):
        ends = [name for name, degree in degrees if degree == 0]
        if len(ends) != 1:
            raise MorphError(f"a module has one {what}, and {', '.join(ends)} are {len(ends)}: join them")
    _check_widths(graph, whole)
    return graph


def _check_widths(graph: Graph, whole: networkx.MultiDiGraph) -> None:
    inner = {name for name in whole if whole.in_degree(name) and whole.out_degree(name)}
    for name, width in graph.widths:
        if name not in whole:
            raise MorphError(f"{name}={width} names no vertex of the module: it has {', '.join(whole)}")
        if name not in inner:
            raise MorphError(f"{name}={width}: the width of the source and of the sink is that of the convolution")


def vertices(graph: Graph) -> tuple[str, ...]:
    """Return the vertices from source to sink, each after all that lead to it.

    >>> vertices(Graph((Edge("a", "t"), Edge("s", "a"))))
    ('s', 'a', 't')
    """
    import networkx as nx

    whole = nx.MultiDiGraph([(edge.tail, edge.head) for edge in graph.edges])
    return tuple(nx.topological_sort(whole))


def reachable(graph: Graph) -> Mapping[str, frozenset[str]]:
    """Return for each vertex those that some path leads to, itself among them."""
    import networkx as nx

    whole = nx.MultiDiGraph([(edge.tail, edge.head) for edge in graph.edges])
    return {name: frozenset(nx.descendants(whole, name)) | {name} for name in whole}
