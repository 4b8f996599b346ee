"""Running statistics that follow what was cut: which norms come after a layer that lost inputs or taps."""

from __future__ import annotations

__all__ = ["followed"]

from collections.abc import Iterable, Sequence

from torchgraft.axes import AxisGroups
from torchgraft.axes.links import Link
from torchgraft.axes.reads import Read
from torchgraft.records import Followed, Move, Transfer, UnitMap
from torchgraft.units import covered


def followed(
    transfers: Iterable[Transfer], target: AxisGroups, source: AxisGroups, maps: Sequence[UnitMap]
) -> tuple[Followed, ...]:
    """Return the running statistics that no longer fit the layer before them, because it was cut.

    They follow where that layer and the norm come from a layer and a norm that belong together in the source, too.

    Args:
        transfers: of a plan, laid out.
        target: the target's groups.
        source: the source's groups.
        maps: of the plan.
    """
    home = {move.target.key: move for transfer in transfers for move in transfer.moves}
    origins = {link.weight: link for link in source.links}
    found = []
    for link in target.links:
        move = home.get(link.weight)
        origin = None if move is None else origins.get(move.source.key)
        if move is None or origin is None or not _belong(link, origin, home) or not _is_cut(move, maps):
            continue
        reads = origin.reads or Read("", "", "")
        groups = source.grouped.get(origin.weight, 1)
        mean, variance = _statistics(link)
        found.append(
            Followed(mean, variance, link.weight, origin.bias, groups, reads.gain, reads.shift, reads.function)
        )
    return tuple(found)


def _statistics(link: Link) -> tuple[str, ...]:
    """Return the keys of mean and variance of the batch norm behind a layer."""
    return () if link.norm is None else link.norm.keys[2:]


def _belong(target: Link, source: Link, home: dict[str, Move]) -> bool:
    """Tell whether the statistics behind a layer come from those behind the layer that it comes from."""
    ours, theirs = _statistics(target), _statistics(source)
    return bool(theirs) and tuple(home[key].source.key for key in ours if key in home) == theirs


def _is_cut(move: Move, maps: Sequence[UnitMap]) -> bool:
    """Tell whether the outputs of a weight ``(out, in, ...)`` that are kept lose some of their inputs or taps."""
    if move.operator != "embed" or move.prepare or move.source.part is not None or move.source.transpose:
        return False
    sizes = list(zip(move.target.shape, move.source.shape, strict=True))[1:]
    rows = move.layout[1:] if move.layout else ((),) * len(sizes)
    return any((covered(row, maps) if row else min(t, s)) < s for row, (t, s) in zip(rows, sizes, strict=True))
