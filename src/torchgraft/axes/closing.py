"""What makes a value of a run zero: the stored tensors that do when they are zero themselves."""

from __future__ import annotations

__all__ = ["Closing", "closing_keys"]

from collections.abc import Mapping, Sequence

from torchgraft.axes.flow import Flow
from torchgraft.axes.operators import BATCH_NORMS, FACTORS, KEEPS_ZERO, LAYER_NORMS, LAYOUT, SUMS
from torchgraft.axes.steps import Step

# Functions with f(0) = 0, place by place or over places.
_KEEPS_ZERO = KEEPS_ZERO.union(
    ("div", "mean", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "avg_pool2d", "avg_pool3d"),
    ("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices"),
)
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
    if step.name in LAYOUT or name in _KEEPS_ZERO:
        return found.get(inputs[0], ()) if inputs else ()
    if name in ("cat", "stack"):
        return _all([found.get(one, ()) for one in inputs])
    if step.name not in _NORMS and step.name not in FACTORS and name not in ("mul", *SUMS):
        return ()
    stored = [flow.parameter(one) for one in inputs]
    keys = tuple(key for key in stored if key is not None)
    if step.name in _NORMS:
        affine = tuple(key for key in stored[1:3] if key is not None)
        return affine if len(affine) == (2 if step.name in BATCH_NORMS else len(stored) - 1) else ()
    if step.name in FACTORS:
        weighted = any(key is not None for key in stored[slice(*FACTORS[step.name])])
        return tuple(dict.fromkeys(keys)) if weighted else ()  # a computed weight stays as it is
    parts = [found.get(one, ()) for one in inputs]
    if name == "mul":
        return keys[:1] or next(filter(None, parts), ())
    return _all([(key,) if key else part for key, part in zip(stored, parts, strict=True)])


def _all(parts: Sequence[Keys]) -> Keys:
    """Every part must be zero."""
    return tuple(dict.fromkeys(key for part in parts for key in part)) if all(parts) else ()
