"""Gates of a run: a value times a sigmoid of something computed aside (squeeze-and-excitation)."""

from __future__ import annotations

__all__ = ["Gate", "gates"]

from collections import defaultdict
from dataclasses import dataclass

from torchgraft.axes.flow import LAYOUT, Flow

_SIGMOIDS = frozenset(("sigmoid", "hardsigmoid"))
_WEIGHTS = {"addmm": (0, 2), "mm": (1,), "convolution": (1, 2)}  # where bias and weight of a product stand
_NORMS = frozenset(("native_batch_norm", "_native_batch_norm_legit_no_training"))
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
    read: dict[int, list[int]] = defaultdict(list)
    for number, step in enumerate(flow.steps):
        for value in step.inputs:
            read[value].append(number)
    found = []
    for step in flow.steps:
        if step.name.rstrip("_") != "mul" or len(step.inputs) != 2:
            continue
        for gate, value in (step.inputs, step.inputs[::-1]):
            made = flow.step(flow.plain(gate))
            if made is None or made.name.rstrip("_") not in _SIGMOIDS:
                continue
            last = _weights(flow, flow.plain(made.inputs[0]))
            if last:
                scaled = _after(flow, step.outputs[0], read) or _before(flow, value)
                bias, weight = (None, last[0]) if len(last) == 1 else _told_apart(flow, flow.plain(made.inputs[0]))
                found.append(Gate(made.name.rstrip("_"), weight, bias, scaled))
            break
    return tuple(found)


def _weights(flow: Flow, value: int) -> tuple[str, ...]:
    """Return the stored tensors that made a value in one product, ``()`` where a computed one takes part."""
    made = flow.step(value)
    if made is None or made.name not in _WEIGHTS:
        return ()
    keys = [flow.parameter(made.inputs[place]) for place in _WEIGHTS[made.name] if place < len(made.inputs)]
    return tuple(key for key in keys if key is not None) if None not in keys else ()


def _told_apart(flow: Flow, value: int) -> tuple[str, str]:
    """Return bias and weight of the product that made a value and has both."""
    made = flow.step(value)
    assert made is not None
    places = (0, 2) if made.name == "addmm" else (2, 1)
    bias, weight = (flow.parameter(made.inputs[place]) for place in places)
    assert bias is not None and weight is not None
    return bias, weight


def _after(flow: Flow, value: int, read: dict[int, list[int]]) -> tuple[str, ...]:
    """Return the weights of the products that read a value, ``()`` where anything else does."""
    keys: list[str] = []
    for number in read[value]:
        step = flow.steps[number]
        if step.name in LAYOUT:
            inner = _after(flow, step.outputs[0], read)
        elif step.name in _WEIGHTS and value not in step.inputs[2 if step.name == "addmm" else 1 :]:
            key = flow.parameter(step.inputs[1 if step.name != "addmm" else 2])
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
    if step.name in LAYOUT or step.name.rstrip("_") in _HOMOGENEOUS:
        return _before(flow, step.inputs[0])
    if step.name in _NORMS:
        keys = [flow.parameter(one) for one in step.inputs[1:3]]
        return tuple(key for key in keys if key is not None) if None not in keys else ()
    return _weights(flow, value)
