"""The number of channels of every blob of a module."""

from __future__ import annotations

__all__ = ["channels_of"]

import re
from collections.abc import Sequence

from torchgraft.errors import MorphError
from torchgraft.morph.graph import DEPTHWISE, Graph

_RELATIVE = re.compile(r"(\d*)(in|out)(?:/(\d+))?")


def channels_of(graph: Graph, order: Sequence[str], inputs: int, outputs: int) -> dict[str, int]:
    """Return the channels of each vertex.

    They are given, or those of a blob that an identity or pooling ties it to, or the larger of ``inputs`` and
    ``outputs``, which is wide enough to carry the convolution.

    >>> from torchgraft.morph.text import parse
    >>> channels_of(parse("a=out/2 s>a:3x3 a>b:id b>t:1x1"), ("s", "a", "b", "t"), 8, 16)
    {'s': 8, 't': 16, 'a': 8, 'b': 8}
    """
    known = {order[0]: inputs, order[-1]: outputs}
    known |= {name: _resolved(name, width, inputs, outputs) for name, width in graph.widths}
    _tie(graph, known)
    for name in order:
        if name not in known:
            known[name] = max(inputs, outputs)
            _tie(graph, known)
    for edge in graph.edges:
        if edge.op != "conv" and known[edge.tail] != known[edge.head]:
            pair = f"{known[edge.tail]} channels and {edge.head} {known[edge.head]}"
            raise MorphError(f"{edge}: an edge without weights keeps the width, but {edge.tail} has {pair}: use 1x1")
    return known


def _resolved(name: str, width: str, inputs: int, outputs: int) -> int:
    found = _RELATIVE.fullmatch(width)
    if found is None:
        return int(width)
    whole = int(found[1] or 1) * (inputs if found[2] == "in" else outputs)
    divisor = int(found[3] or 1)
    if whole % divisor or not whole:
        raise MorphError(f"{name}={width}: {whole} channels cannot be divided by {divisor}")
    return whole // divisor


def _tie(graph: Graph, known: dict[str, int]) -> None:
    """Give both ends of an edge without weights, and of a depthwise convolution, the same width where one is open."""
    open_ = True
    while open_:
        open_ = False
        for edge in graph.edges:
            if edge.op == "conv" and edge.groups != DEPTHWISE:
                continue
            for one, other in ((edge.tail, edge.head), (edge.head, edge.tail)):
                if one in known and other not in known:
                    known[other] = known[one]
                    open_ = True
