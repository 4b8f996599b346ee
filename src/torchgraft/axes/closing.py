"""What makes a value of a run zero: the stored tensors that do when they are zero themselves."""

from __future__ import annotations

__all__ = ["Closing", "closing_keys", "silencing_keys"]

from collections.abc import Mapping, Sequence

from torchgraft.axes.flow import Flow
from torchgraft.axes.operators import BATCH_NORMS, FACTORS, KEEPS_ZERO, LAYER_NORMS, LAYOUT, SUMS
from torchgraft.axes.steps import Step

_NORMS = BATCH_NORMS | LAYER_NORMS

Keys = tuple[str, ...]
#: By the number of a value, the keys of the tensors that make it zero.
Closing = Mapping[int, Keys]


def closing_keys(flow: Flow) -> Closing:
    """Return, for every value that stored tensors make zero when they are zero, the keys of these tensors.

    One pass in the order of the run: a value that many others are summed from is asked once.

    Args:
        flow: of a run.
    """
    found: dict[int, Keys] = {}
    for step in flow.steps:
        keys = _keys(flow, step, found)
        if keys:
            found.update(dict.fromkeys(step.outputs, keys))
    return found


def _keys(flow: Flow, step: Step, found: Closing) -> Keys:
    name, inputs = step.operator, step.inputs
    if step.name in LAYOUT or name in KEEPS_ZERO:
        return found.get(inputs[0], ()) if inputs else ()
    if name in ("cat", "stack"):
        return _all([found.get(one, ()) for one in inputs])
    own = silencing_keys(flow, step)
    if own or name not in ("mul", *SUMS):
        return own
    stored = [flow.parameter(one) for one in inputs]
    parts = [found.get(one, ()) for one in inputs]
    if name == "mul":
        return tuple(filter(None, stored))[:1] or next(filter(None, parts), ())
    return _all([(key,) if key else part for key, part in zip(stored, parts, strict=True)])


def silencing_keys(flow: Flow, step: Step) -> Keys:
    """Return the stored tensors that make what a norm or a product gives zero when they are zero; none for others.

    Args:
        flow: of a run.
        step: of that run.
    """
    if step.name not in _NORMS and step.name not in FACTORS:
        return ()
    stored = [flow.parameter(one) for one in step.inputs]
    if step.name in _NORMS:
        affine = tuple(key for key in stored[1:3] if key is not None)
        return affine if len(affine) == (2 if step.name in BATCH_NORMS else len(stored) - 1) else ()
    weighted = any(key is not None for key in stored[slice(*FACTORS[step.name])])
    return tuple(dict.fromkeys(key for key in stored if key is not None)) if weighted else ()  # computed ones stay


def _all(parts: Sequence[Keys]) -> Keys:
    """Every part must be zero."""
    return tuple(dict.fromkeys(key for part in parts for key in part)) if all(parts) else ()
