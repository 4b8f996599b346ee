"""Modules as graphs of networkx, there and back."""

from __future__ import annotations

__all__ = ["from_networkx", "to_networkx"]

from typing import TYPE_CHECKING

from torchgraft.errors import MorphError
from torchgraft.morph.graph import Graph, check, layer_text
from torchgraft.morph.text import parse_layer

if TYPE_CHECKING:
    import networkx


def to_networkx(graph: Graph) -> networkx.MultiDiGraph:
    """Return the module as a ``MultiDiGraph``: edges have a ``layer`` (as in the text), vertices perhaps a ``width``.

    >>> from torchgraft.morph.text import parse
    >>> to_networkx(parse("s>a:3x3 a>t:1x1 s>t:id")).edges(data="layer")
    OutMultiEdgeDataView([('s', 'a', '3x3'), ('s', 't', 'id'), ('a', 't', '1x1')])
    """
    import networkx as nx

    made = nx.MultiDiGraph()
    for place, edge in enumerate(graph.edges):
        made.add_edge(edge.tail, edge.head, layer=layer_text(edge), place=place)
    for name, width in graph.widths:
        made.nodes[name]["width"] = width
    return made


def from_networkx(graph: networkx.DiGraph) -> Graph:
    """Return the module that a directed (multi)graph describes: edge attribute ``layer``, vertex attribute ``width``.

    Raises :class:`MorphError` where an edge has no layer, or the graph is no module.
    """
    found = []
    for order, (tail, head, data) in enumerate(graph.edges(data=True)):
        if "layer" not in data:
            raise MorphError(f"the edge {tail}>{head} has no attribute 'layer': give it one, such as layer='3x3'")
        found.append((data.get("place", order), parse_layer(str(tail), str(head), str(data["layer"]))))
    widths = {str(name): str(width) for name, width in graph.nodes(data="width") if width is not None}
    edges = tuple(edge for _, edge in sorted(found, key=lambda one: one[0]))
    return check(Graph(edges, tuple(sorted(widths.items()))))
