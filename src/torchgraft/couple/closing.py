"""New blocks as identities: which tensors are set to zero, so that a branch without a source adds nothing."""

from __future__ import annotations

__all__ = ["closings"]

from collections.abc import Mapping, Sequence

from torchgraft.axes.branches import Branch, outermost
from torchgraft.records import Transfer


def closings(
    target: Sequence[Branch], source: Sequence[Branch], transfers: Sequence[Transfer]
) -> tuple[tuple[str, ...], tuple[Branch, ...]]:
    """Return the tensors to set to zero, and the new branches that none can close.

    A branch is new where no layer of the source serves it for the first time. New ones are closed where every branch of
    the source has a place: what they would add is not in the source. Inside a new branch nothing else is closed, or no
    gradient would come through.
    """
    moves = [move for one in transfers if not one.reused for move in one.moves if not move.target.buffer]
    if not _hold(source, {move.source.key: move.target.key for move in moves}, target):
        return (), ()
    served = {move.target.key for move in moves}
    new = [branch for branch in target if served.isdisjoint(branch.keys)]
    outer = outermost(new)
    keys = dict.fromkeys(key for branch in outer for key in branch.closing)
    return tuple(keys), tuple(branch for branch in outer if not branch.closing)


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
    return bool(source)
