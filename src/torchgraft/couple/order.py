"""Layers of one shape that a network may define in any order: told apart by the layers whose values they read.

The last convolution of a residual block and the one of its shortcut, say: torchvision defines the shortcut last,
transformers first.
"""

from __future__ import annotations

__all__ = ["in_order_of_runs"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torchgraft.axes import AxisGroups
from torchgraft.match.recover import owners
from torchgraft.records import Layer, Pair

Layers = Sequence[Layer]
Numbers = frozenset[int]
#: The nearest layers before each layer.
Reads = Mapping[int, Numbers]


def in_order_of_runs(
    pairs: Mapping[int, Pair],
    placed: Mapping[int, int],
    layers: tuple[Layers, Layers],
    groups: tuple[AxisGroups, AxisGroups],
) -> tuple[dict[int, Pair], dict[int, int]]:
    """Let two layers change their sources where each then reads what its source reads, and did not before.

    Args:
        pairs: the match, by number of the target's layer.
        placed: the target's layer that layers of the source serve first, where that is settled.
        layers: of target and source.
        groups: of target and source.

    Returns both anew.
    """
    made, owner = dict(pairs), owners(pairs) | dict(placed)
    sorts: dict[object, list[int]] = {}
    for t, pair in made.items():
        if owner[pair.source] == t:
            one, other = layers[0][t], layers[1][pair.source]
            sorts.setdefault((one.kind, one.shape, other.kind, other.shape), []).append(t)
    rows = [row for row in sorts.values() if len(row) > 1]
    reads = [_read(*one) for one in zip(layers, groups, strict=True)] if rows else []
    for _ in made if rows else ():  # a norm can only follow the layer before it
        swaps = [swap for row in rows for swap in _swaps(row, made, owner, *reads)]
        for t, u in swaps:
            a, b = made[t].source, made[u].source
            made[t], made[u] = replace(made[t], source=b), replace(made[u], source=a)
            owner[a], owner[b] = u, t
        if not swaps:
            break
    return made, {s: owner[s] for s in placed}


def _swaps(
    row: Sequence[int], made: Mapping[int, Pair], owner: Mapping[int, int], mine: Reads, theirs: Reads
) -> Iterator[tuple[int, int]]:
    """Yield layers of one shape that would each read what the other one's source reads, each once."""
    found = {t: frozenset(theirs.get(made[t].source, ())) for t in row}
    wanted = {
        t: frozenset(made[u].source for u in mine.get(t, ()) if u in made and owner[made[u].source] == u) for t in row
    }
    left = [t for t in row if wanted[t] != found[t]]
    while left:
        t = left.pop(0)
        other = next((u for u in left if (wanted[t], wanted[u]) == (found[u], found[t])), None)
        if other is not None:
            left.remove(other)
            yield t, other


def _read(layers: Layers, groups: AxisGroups) -> dict[int, Numbers]:
    """Return the nearest layers before each layer that runs."""
    homes: dict[str, set[int]] = {}  # of a tensor that is held in parts, several
    for number, layer in enumerate(layers):
        for spec in layer.tensors:
            homes.setdefault(spec.key, set()).add(number)
    flow = groups.flow
    near: dict[int, Numbers] = {}  # by value
    found: dict[int, Numbers] = {}
    for step in flow.steps:
        keys = {value: flow.parameter(value) for value in step.inputs}
        own = frozenset[int]().union(*(homes.get(key, ()) for key in keys.values() if key is not None))
        before = frozenset[int]().union(*(near.get(value, ()) for value, key in keys.items() if key is None))
        for number in own:
            found.setdefault(number, before)
        near.update(dict.fromkeys(step.outputs, own or before))
    return found
