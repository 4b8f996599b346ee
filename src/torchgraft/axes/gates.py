"""Gates of a run: a value times a sigmoid of something computed aside (squeeze-and-excitation)."""

from __future__ import annotations

__all__ = ["Gate", "gates"]

from dataclasses import dataclass

from torchgraft.axes.flow import Flow
from torchgraft.axes.operators import BATCH_NORMS, LAYOUT

_HOMOGENEOUS = frozenset(("relu", "leaky_relu", "neg"))  # f(2 x) = 2 f(x)


@dataclass(frozen=True, slots=True)
class Gate:
    """The layer before a sigmoid, and what can make up for a gate that is the same everywhere.

    ``function`` is ``sigmoid`` or ``hardsigmoid``; ``weight`` and ``bias`` are of the layer. What comes after the gate
    is a multiple of the tensors ``scaled``, empty where there are none such.
    """

    function: str
    weight: str
    bias: str | None
    scaled: tuple[str, ...]


def gates(flow: Flow) -> tuple[Gate, ...]:
    """Return the gates of a run, in its order."""
    found = []
    for step in flow.steps:
        for gate, value in step.operands("mul"):
            made = flow.gate(gate)
            if made is None:
                continue
            last = flow.factors(flow.step(flow.plain(made.inputs[0])))
            if last is not None:
                scaled = _after(flow, step.outputs[0]) or _before(flow, value)
                found.append(Gate(made.operator, *last, scaled))
            break
    return tuple(found)


def _after(flow: Flow, value: int) -> tuple[str, ...]:
    """Return the weights of the products that read a value, ``()`` where anything else does."""
    keys: list[str] = []
    for step in flow.readers(value):
        product = flow.product(step)
        if step.name in LAYOUT:
            inner = _after(flow, step.outputs[0])
        elif product is not None and product.value == value:
            key = flow.parameter(product.weight)
            inner = () if key is None else (key,)
        else:
            inner = ()
        if not inner:
            return ()
        keys += inner
    return tuple(dict.fromkeys(keys))


def _before(flow: Flow, value: int) -> tuple[str, ...]:
    """Return the tensors of which a value is a multiple, through functions that keep multiples."""
    step = flow.step(value)
    if step is None:
        return ()
    if step.name in LAYOUT or step.operator in _HOMOGENEOUS:
        return _before(flow, step.inputs[0])
    if step.name in BATCH_NORMS:
        keys = [flow.parameter(one) for one in step.inputs[1:3]]
        return tuple(key for key in keys if key is not None) if None not in keys else ()
    return tuple(key for key in flow.factors(step) or () if key is not None)
