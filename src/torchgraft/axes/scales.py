"""What a run multiplies the outputs of layers by: vectors, unit by unit (Touvron et al. 2021), and numbers."""

from __future__ import annotations

__all__ = ["embedding_scales", "layer_scales"]

from torchgraft.axes.flow import Flow


def layer_scales(flow: Flow) -> dict[str, str]:
    """Return, by the key of every weight and bias whose outputs a vector multiplies, the key of that vector."""
    found: dict[str, str] = {}
    for step in flow.steps:
        for scale, value in step.operands("mul"):
            key, factors = flow.parameter(scale), flow.factors(flow.step(flow.plain(value)))
            if key is not None and factors is not None:
                found |= {one: key for one in factors if one is not None}
    return found


def embedding_scales(flow: Flow) -> dict[str, float]:
    """Return, by the key of an embedding's weight, the number that the code multiplies what is looked up by."""
    found: dict[str, float] = {}
    for step in flow.steps:
        if step.operator == "mul":
            value, factor = flow.scaled(step.outputs[0])
            made = flow.step(value)
            key = flow.parameter(made.inputs[0]) if made is not None and made.name == "embedding" else None
            if key is not None:
                found[key] = factor
    return found
