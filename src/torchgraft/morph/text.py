"""Reading the text of a module.

    graph  = item { space item }
    item   = width | edge
    width  = vertex "=" ( number | [ number ] ( "in" | "out" ) [ "/" number ] )
    edge   = vertex ">" vertex ":" layer
    layer  = op { "," option }
    op     = kernel | [ scale "*" ] "id" | "avg" kernel | "max" kernel
    kernel = number { "x" number }
    option = ( "stride" | "dilation" | "padding" ) "=" kernel | "groups" "=" ( number | "all" )

A single number in a kernel holds for every axis. The width belongs to the blob, not to the edge: all edges into a blob
have it. ``groups=all`` is a depthwise convolution.
"""

from __future__ import annotations

__all__ = ["parse", "parse_layer"]

import re
from typing import Any

from torchgraft.errors import MorphError
from torchgraft.morph.graph import DEPTHWISE, Edge, Graph, check

_WIDTH = re.compile(r"[1-9]\d*|[1-9]?\d*(in|out)(/[1-9]\d*)?")
_OP = re.compile(r"(?:(?P<scale>-?[0-9.]+(?:e-?\d+)?)\*)?(?P<id>id)|(?P<pool>avg|max)?(?P<kernel>\d+(?:x\d+)*)")
_OPTIONS = ("stride", "dilation", "padding", "groups")


def parse(text: str) -> Graph:
    """Read a module from its text.

    >>> module = parse("a=64 s>a:3x3 a>t:1x1 s>t:0.5*id")
    >>> module.edges[0]
    Edge(tail='s', head='a', op='conv', kernel=(3, 3), stride=(1,), dilation=(1,), groups=1, padding=None, scale=1.0)
    >>> str(module)
    'a=64 s>a:3x3 a>t:1x1 s>t:0.5*id'

    Raises :class:`MorphError` for what the grammar does not know, and for graphs that are no module.
    """
    edges, widths = [], {}
    for item in text.split():
        ends, colon, layer = item.partition(":")
        tail, arrow, head = ends.partition(">")
        name, equals, width = item.partition("=")
        if colon and arrow:
            edges.append(parse_layer(tail, head, layer))
        elif equals and not colon and _WIDTH.fullmatch(width) and name not in widths:
            widths[name] = width
        else:
            raise MorphError(f"cannot read {item!r}: write an edge as s>a:3x3, a width once as a=64, a=2in or a=out/4")
    return check(Graph(tuple(edges), tuple(sorted(widths.items()))))


def parse_layer(tail: str, head: str, text: str) -> Edge:
    """Read the layer of one edge, such as ``3x3,stride=2`` or ``0.5*id``."""
    op, *options = text.split(",")
    found = _OP.fullmatch(op)
    if found is None:
        raise MorphError(f"cannot read the layer {op!r} of {tail}>{head}: write 3x3, id, 0.5*id, avg3x3 or max3x3")
    fields: dict[str, Any] = {}
    for option in options:
        name, _, value = option.partition("=")
        if name not in _OPTIONS or name in fields:
            raise MorphError(f"cannot read {option!r} of {tail}>{head}: valid, once each, are {', '.join(_OPTIONS)}")
        fields[name] = (
            _groups(value, option) if name == "groups" else _numbers(value, option, 0 if name == "padding" else 1)
        )
    if found["id"]:
        if fields:
            raise MorphError(f"the identity {tail}>{head} takes no options: use 1x1 for one with a stride")
        return Edge(tail, head, "id", scale=float(found["scale"] or 1.0))
    if found["pool"] and {"groups", "dilation"} & fields.keys():
        raise MorphError(f"the pooling {tail}>{head} takes stride and padding only")
    return Edge(tail, head, found["pool"] or "conv", _numbers(found["kernel"], text), **fields)


def _numbers(text: str, where: str, least: int = 1) -> tuple[int, ...]:
    try:
        numbers = tuple(map(int, text.split("x")))
    except ValueError:
        raise MorphError(f"cannot read {where!r}: write numbers with x between them, such as 3x3") from None
    if min(numbers) < least:
        raise MorphError(f"cannot use {where!r}: the least is {least}")
    return numbers


def _groups(text: str, where: str) -> int:
    if text == "all":
        return DEPTHWISE
    numbers = _numbers(text, where)
    if len(numbers) > 1:
        raise MorphError(f"cannot read {where!r}: groups are one number, or all")
    return numbers[0]
