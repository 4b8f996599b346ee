"""New gates let everything through: one half everywhere, and what is gated or reads it doubled."""

from __future__ import annotations

__all__ = ["open_gates"]

from collections import Counter
from collections.abc import Sequence

from torchgraft.axes.gates import Gate
from torchgraft.records import Transfer


def open_gates(gates: Sequence[Gate], transfers: Sequence[Transfer]) -> tuple[tuple[str, ...], dict[str, float]]:
    """Return the tensors to set to zero, so that new gates stop choosing, and the factors that make up for it.

    A gate is new where no layer of the source serves it. It is opened where every tensor that makes up for it is served
    and has to for one gate alone.
    """
    served = {move.target.key for one in transfers for move in one.moves}
    uses = Counter(key for gate in gates for key in gate.doubled)
    new = [gate for gate in gates if not served.intersection(gate.last)]
    opened = [gate for gate in new if gate.doubled and all(key in served and uses[key] == 1 for key in gate.doubled)]
    zero = dict.fromkeys(key for gate in opened for key in gate.last)
    return tuple(zero), {key: 2.0 for gate in opened for key in gate.doubled}
