"""Layer scales of a run: vectors that multiply what a layer gives, unit by unit (Touvron et al. 2021)."""

from __future__ import annotations

__all__ = ["layer_scales"]

from torchgraft.axes.flow import Flow

_WEIGHTED = {"addmm": (0, 2), "mm": (1,), "convolution": (1, 2)}  # where bias and weight of a product stand


def layer_scales(flow: Flow) -> dict[str, str]:
    """Return, by the key of every weight and bias whose outputs a vector multiplies, the key of that vector."""
    found: dict[str, str] = {}
    for step in flow.steps:
        if step.name.rstrip("_") != "mul" or len(step.inputs) != 2:
            continue
        for scale, value in (step.inputs, step.inputs[::-1]):
            key, made = flow.parameter(scale), flow.step(flow.plain(value))
            if key is None or made is None or made.name not in _WEIGHTED:
                continue
            places = (place for place in _WEIGHTED[made.name] if place < len(made.inputs))
            found |= {one: key for place in places if (one := flow.parameter(made.inputs[place])) is not None}
    return found
