"""New blocks as identities, and new layer scales: tensors set to zero where a branch has no source, or to one."""

from __future__ import annotations

__all__ = ["closings", "folded_scales", "new_scales", "scale_keys"]

from collections.abc import Mapping, Sequence

from torchgraft.axes import AxisGroups
from torchgraft.axes.branches import Branch, outermost
from torchgraft.records import Transfer


def closings(
    target: AxisGroups, source: AxisGroups, transfers: Sequence[Transfer], whole: bool, through: Sequence[Branch] = ()
) -> tuple[dict[str, float], tuple[Branch, ...]]:
    """Return the values of tensors that make new branches add nothing, and the new branches that none can close.

    A branch is new where no layer of the source serves it for the first time. New ones are closed where every branch of
    the source has a place, or where it has none and all of its layers stand outside of branches: what they would add is
    not in the source. Inside a new branch nothing else is closed, or no gradient would come through. Where all layers
    of the source have a place, so is the new one of two summands.

    Args:
        target: the target's groups.
        source: the source's groups.
        transfers: matched layers and their moves.
        whole: every layer of the source has a place.
        through: branches of the source whose sum goes through the layers that they stand in.
    """
    moves = [move for one in transfers if not one.reused for move in one.moves if not move.target.buffer]
    served = {move.target.key for move in moves}
    residual = [branch for branch in source.branches if branch not in through]
    if residual:
        held = _hold(residual, {move.source.key: move.target.key for move in moves}, target.branches)
    else:
        held = whole and all(served.isdisjoint(branch.keys) for branch in target.branches)
    if not held:
        return {}, ()
    new = [branch for branch in target.branches if served.isdisjoint(branch.keys)]
    outer = outermost(new)
    values = dict.fromkeys((key for branch in outer for key in branch.closing), 0.0)
    values |= dict.fromkeys((branch.scale for branch in outer if branch.scale), 1.0)
    inside = {key for branch in outer for key in branch.keys}
    for pair in target.sums if whole else ():
        fresh = [one for one in pair if one and served.isdisjoint(one)]
        if len(fresh) == 1 and inside.isdisjoint(fresh[0]):
            values |= dict.fromkeys(fresh[0], 0.0)
    return values, tuple(branch for branch in outer if not branch.closing)


def new_scales(target: AxisGroups, source: AxisGroups, transfers: Sequence[Transfer]) -> dict[str, float]:
    """Return the value one for layer scales that multiply what the source does not scale.

    As they are drawn, nearly zero, they would silence what the source's weights give.

    Args:
        target: the target's groups.
        source: the source's groups.
        transfers: matched layers and their moves.
    """
    moves = [move for one in transfers for move in one.moves]
    plain = {move.target.key for move in moves if move.source.key not in source.layer_scales}
    served = {move.target.key for move in moves}
    scales = {scale for key, scale in target.layer_scales.items() if key in plain}
    return dict.fromkeys(sorted(scales - served), 1.0)


def folded_scales(source: AxisGroups, transfers: Sequence[Transfer]) -> dict[str, str]:
    """Return the source's layer scales without a place in the target, by the keys of what they multiply.

    Args:
        source: the source's groups.
        transfers: matched layers and their moves.
    """
    placed = {move.source.key for one in transfers for move in one.moves}
    return {key: scale for key, scale in source.layer_scales.items() if scale not in placed}


def scale_keys(groups: AxisGroups, other: AxisGroups) -> frozenset[str]:
    """Return the layer scales of a network where another one has none: none of their layers stands for one of those."""
    return frozenset() if other.layer_scales else frozenset(groups.layer_scales.values())


def _hold(source: Sequence[Branch], place: Mapping[str, str], target: Sequence[Branch]) -> bool:
    """Tell whether every branch of the source stands in one of the target."""
    homes: dict[str, set[int]] = {}
    for number, branch in enumerate(target):
        for key in branch.keys:
            homes.setdefault(key, set()).add(number)
    for branch in source:
        found = [homes.get(place[key], set()) for key in branch.keys if key in place]
        if not found or not set.intersection(*found):
            return False
    return True
