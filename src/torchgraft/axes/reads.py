"""What a layer reads, if it is a function of what one batch norm gives: then its mean is known, channel by channel."""

from __future__ import annotations

__all__ = ["Read", "read_norm"]

from dataclasses import dataclass

from torchgraft.axes.flow import Flow
from torchgraft.axes.operators import BATCH_NORMS, SIGMOIDS
from torchgraft.axes.steps import Step

_FUNCTIONS = frozenset(["relu", "relu6", "silu", "gelu", "hardswish", "mish", "elu", "leaky_relu", "tanh", *SIGMOIDS])
# Operators that change neither which channels there are nor, but for what a pool adds, their mean.
_PASSING = frozenset(
    [
        *("view", "_unsafe_view", "reshape", "clone", "contiguous", "alias", "detach", "_to_copy", "native_dropout"),
        *("dropout", "constant_pad_nd", "avg_pool2d", "_adaptive_avg_pool2d", "mean", "max_pool2d_with_indices"),
    ]
)


@dataclass(frozen=True, slots=True)
class Read:
    """A function of what a batch norm gives, which a gate may multiply; ``gain`` and ``shift`` are keys."""

    gain: str
    shift: str
    function: str


def read_norm(flow: Flow, value: int) -> Read | None:
    """Return what a value is a function of, if of one batch norm, through one function at most.

    Every step on the way has the channels of the value, in the same order.
    """
    step, function = flow.step(value), ""
    channels = () if step is None else step.shape[1:2]
    while step is not None and step.shape[1:2] == channels:
        if step.name in BATCH_NORMS:
            gain, shift = (flow.parameter(one) for one in step.inputs[1:3])
            return None if gain is None or shift is None or len(step.inputs) < 5 else Read(gain, shift, function)
        name = "relu6" if step.name.startswith("hardtanh") and step.settings == (0, 6) else step.operator
        if name in _FUNCTIONS and not function:
            function, value = name, step.inputs[0]
        elif step.name in _PASSING and step.inputs:
            value = step.inputs[0]
        elif (gated := _gated(flow, step)) is not None:
            value = gated
        else:
            return None
        step = flow.step(value)
    return None


def _gated(flow: Flow, step: Step) -> int | None:
    """Return the factor of a product that the other one is a gate of."""
    return next((one for one, other in step.operands("mul") if flow.gate(other) is not None), None)
