"""Attention in a run: which weights make the keys, and what their products with the queries are multiplied by."""

from __future__ import annotations

__all__ = ["Scores", "attention_scales"]

from dataclasses import dataclass

from torchgraft.axes.flow import Flow

_SOFTMAXES = frozenset(("_softmax", "_safe_softmax"))
_SCORED = frozenset(("bmm", "baddbmm"))  # products of two computed values


@dataclass(frozen=True, slots=True)
class Scores:
    """What the products of queries and keys are multiplied by; ``fused`` where the same weight makes others of them."""

    scale: float
    fused: bool


def attention_scales(flow: Flow) -> dict[str, Scores]:
    """Return, by the key of every weight or bias that makes keys, the number that scores are multiplied by.

    Where one weight makes keys and values, the queries take the place of the keys if they have a weight to themselves.
    """
    found: dict[str, Scores] = {}
    mixed = {flow.plain(step.inputs[-2]): step.inputs[-1] for step in flow.steps if step.name in _SCORED}
    for step in flow.steps:
        scores = _scores(flow, step.inputs[0]) if step.name in _SOFTMAXES else None
        if scores is None:
            continue
        product, factor = scores
        queries, keys = (flow.scaled(value) for value in flow.steps[product].inputs[-2:])
        values = mixed.get(step.outputs[0])
        makers = [_makers(flow, value) for value, _ in (queries, keys)]
        others = set() if values is None else _makers(flow, flow.scaled(values)[0])
        if makers[1] & others and not makers[0] & (makers[1] | others):
            makers = makers[::-1]
        fused = not makers[1].isdisjoint(makers[0] | others)
        found |= {key: Scores(factor * queries[1] * keys[1], fused) for key in makers[1]}
    return found


def _makers(flow: Flow, value: int) -> set[str]:
    """Return the weight and the bias of the product that made a value."""
    product = flow.product(flow.step(value))
    read = () if product is None else (product.weight, product.bias)
    keys = (flow.parameter(one) for one in read if one is not None)
    return {key for key in keys if key is not None}


def _scores(flow: Flow, value: int) -> tuple[int, float] | None:
    """Return the step of the product that a softmax reads, and the number between them; masks may be added."""
    value, factor = flow.scaled(value)
    step = flow.step(value)
    while step is not None and step.name not in _SCORED:
        if step.operator not in ("add", "where", "masked_fill") or not step.inputs:
            return None
        ways = (_scores(flow, one) for one in step.inputs)
        found = next((way for way in ways if way is not None), None)
        return None if found is None else (found[0], found[1] * factor)
    return None if step is None else (flow.maker[value], factor)
