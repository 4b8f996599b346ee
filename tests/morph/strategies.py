"""Random modules and layers for property tests."""

from __future__ import annotations

from hypothesis import strategies as st
from torch import nn

from torchgraft.morph import Edge, Graph
from torchgraft.morph.graph import check

WIDTHS = (1, 2, 3, 4, 6)


@st.composite
def graphs(draw: st.DrawFn, kernels: tuple[int, ...] = (1, 3), identities: bool = True) -> Graph:
    """Draw a module of up to 8 vertices and 16 edges, series-parallel or not, with widths of its own."""
    count = draw(st.integers(2, 8))
    names = [f"v{place}" for place in range(count)]
    pairs = [
        (place, draw(st.integers(place + 1, count - 1))) for place in range(count - 1)
    ]  # a way on for every vertex
    reached = {head for _, head in pairs}
    pairs += [(draw(st.integers(0, place - 1)), place) for place in range(1, count) if place not in reached]
    more = draw(st.integers(0, max(0, 16 - len(pairs))))
    for _ in range(more):
        tail = draw(st.integers(0, count - 2))
        pairs.append((tail, draw(st.integers(tail + 1, count - 1))))
    edges = tuple(Edge(names[tail], names[head], "conv", (draw(st.sampled_from(kernels)),)) for tail, head in pairs)
    widths = {name: draw(st.sampled_from(WIDTHS)) for name in names[1:-1]}
    if identities:
        edges = tuple(
            Edge(edge.tail, edge.head, "id", scale=draw(st.sampled_from((1.0, 0.5, -0.5))))
            if edge.tail in widths and widths.get(edge.head) == widths[edge.tail] and draw(st.integers(0, 3)) == 0
            else edge
            for edge in edges
        )
    return check(Graph(edges, tuple(sorted((name, str(width)) for name, width in widths.items()))))


@st.composite
def convolutions(draw: st.DrawFn) -> nn.Conv2d:
    """Draw a small convolution without stride."""
    kernel = draw(st.sampled_from((1, 3)))
    inputs, outputs = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return nn.Conv2d(inputs, outputs, kernel, padding=draw(st.integers(0, 2)), bias=draw(st.booleans()))
