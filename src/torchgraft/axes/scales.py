"""Layer scales of a run: vectors that multiply what a layer gives, unit by unit (Touvron et al. 2021)."""

from __future__ import annotations

__all__ = ["layer_scales"]

from torchgraft.axes.flow import Flow


def layer_scales(flow: Flow) -> dict[str, str]:
    """Return, by the key of every weight and bias whose outputs a vector multiplies, the key of that vector."""
    found: dict[str, str] = {}
    for step in flow.steps:
        if step.name.rstrip("_") != "mul" or len(step.inputs) != 2:
            continue
        for scale, value in (step.inputs, step.inputs[::-1]):
            key, factors = flow.parameter(scale), flow.factors(flow.step(flow.plain(value)))
            if key is not None and factors is not None:
                found |= {one: key for one in factors if one is not None}
    return found
