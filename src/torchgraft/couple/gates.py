"""New gates let everything through: the same value everywhere, and what is gated or reads it makes up for it."""

from __future__ import annotations

__all__ = ["open_gates"]

from collections import Counter
from collections.abc import Sequence
from math import exp

from torchgraft.axes.gates import Gate
from torchgraft.records import Transfer

# The bias that a gate is opened with, and its value there: nearly one, and with a gradient left.
_OPEN = {"sigmoid": (3.0, 1 / (1 + exp(-3.0))), "hardsigmoid": (2.0, 5 / 6)}
_HALF = 0.5  # of a gate without a bias


def open_gates(gates: Sequence[Gate], transfers: Sequence[Transfer]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the values of tensors that make new gates constant, and the factors of others that make up for it.

    A gate is new where no layer of the source serves it. It is opened where every tensor that makes up for it is served
    and has to for one gate alone.
    """
    served = {move.target.key for one in transfers for move in one.moves}
    uses = Counter(key for gate in gates for key in gate.scaled)
    fills: dict[str, float] = {}
    factors: dict[str, float] = {}
    for gate in gates:
        makes_up = bool(gate.scaled) and all(key in served and uses[key] == 1 for key in gate.scaled)
        if makes_up and gate.weight not in served and gate.bias not in served:
            bias, value = _OPEN[gate.function] if gate.bias is not None else (0.0, _HALF)
            fills |= {gate.weight: 0.0} | ({} if gate.bias is None else {gate.bias: bias})
            factors |= dict.fromkeys(gate.scaled, 1 / value)
    return fills, factors
