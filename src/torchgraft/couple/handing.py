"""New blocks under norms behind the sum (BERT): what a norm gives is normalized once more, and nothing changes.

A norm behind a branch that adds nothing reads what the norm before it gave. If that one has no gain and no shift, its
outputs are normalized already (but for its epsilon) and come out as they are; so gain and shift of the source's norm
belong to the last one of such a row.
"""

from __future__ import annotations

__all__ = ["Handing", "handings"]

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from torchgraft.axes import AxisGroups
from torchgraft.records import Move, Transfer


@dataclass(frozen=True, slots=True)
class Handing:
    """Tensors whose values go to others instead, by key, and tensors that hold one value everywhere."""

    keys: dict[str, str] = field(default_factory=dict)
    fills: dict[str, float] = field(default_factory=dict)

    def hand_on(self, move: Move) -> Move:
        """Return a move into the tensor that its values go to."""
        key = self.keys.get(move.target.key)
        return move if key is None else replace(move, target=replace(move.target, key=key))


def handings(target: AxisGroups, closed: Collection[str], transfers: Sequence[Transfer]) -> Handing:
    """Return what the norms before new branches hand on to the norms behind them.

    Args:
        target: the target's groups.
        closed: tensors that are zero, so that a branch adds nothing.
        transfers: matched layers and their moves.
    """
    served = {move.target.key for one in transfers if not one.reused for move in one.moves}
    after = {
        norm.before: gain
        for gain, norm in target.post_norms.items()
        if set(norm.closing) <= set(closed) and not _is_read(norm.before, target, served)
    }
    found = Handing()
    for gain in after:
        if gain in after.values():
            continue
        row = [gain]
        while row[-1] in after:
            row.append(after[row[-1]])
        known = [place for place, one in enumerate(row) if one in served]
        if len(known) != 1:
            continue
        shifts = [target.norms[one].shift for one in row]
        for keys, value in ((row, 1.0), (shifts, 0.0)):
            held, last = keys[known[0]], keys[-1]
            if held is not None and last is not None and held != last:
                found.keys[held] = last
            found.fills.update((key, value) for key in keys[:-1] if key is not None)
    return found


def _is_read(gain: str, target: AxisGroups, served: Collection[str]) -> bool:
    """Tell whether a layer that the source serves reads what a norm gives."""
    return any(gain in reader.gains and key in served for key, reader in target.normed.items())
