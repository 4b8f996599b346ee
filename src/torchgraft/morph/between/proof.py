"""What rules out every row of edits: edits add and enlarge, and so there are things that a target has to have."""

from __future__ import annotations

__all__ = ["ruled_out"]

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from torchgraft.axes.operators import PRODUCTS
from torchgraft.axes.steps import Step
from torchgraft.morph.between.runs import Run, Use, fits

# Operators of which no edit takes one away, nor changes how they are set.
_KEPT = frozenset((
    "relu", "hardtanh", "silu", "gelu", "hardswish", "sigmoid", "hardsigmoid", "mish", "elu", "leaky_relu", "tanh",
    "softplus", "_softmax", "max_pool2d_with_indices", "avg_pool2d", "cat",
))  # fmt: skip
_MOST = 3  # layers that are named one by one


def ruled_out(source: Run, target: Run) -> tuple[str, ...]:
    """Return why no row of edits leads from the source to the target, nothing where that is not known.

    The edits that are searched keep what comes in and goes out, take no layer and no activation away, and make none
    smaller. So every operator of the source has one of its own in the target, as it is or larger: where none can have
    it, or not all at once (a matching of both), the target is out of reach.
    """
    return (*_outputs(source, target), *_operators(source, target), *_layers(source, target))


def _outputs(source: Run, target: Run) -> Iterator[str]:
    shapes = [
        [step.shape for value in run.flow.outputs if (step := run.flow.step(value)) is not None]
        for run in (source, target)
    ]
    if shapes[0] != shapes[1]:
        told = [", ".join("×".join(map(str, shape)) for shape in held) or "none" for held in shapes]
        yield f"the outputs change: {told[0]} → {told[1]}"


def _operators(source: Run, target: Run) -> Iterator[str]:
    counts = [
        Counter(_kind(run, step) for step in run.flow.steps if step.operator in _KEPT) for run in (source, target)
    ]
    more = sorted(name for name, count in counts[1].items() if count > counts[0][name])
    instead = f", and {' and '.join(more)} more often" if more else ""
    for name, count in counts[0].items():
        left = counts[1][name]
        if left < count:
            yield f"the source runs {name} {_times(count)}, the target {_times(left)}{instead}: no edit takes one away"


def _kind(run: Run, step: Step) -> str:
    """Return an operator with what no edit changes of it."""
    name = step.operator
    told = {"max_pool2d_with_indices": "max_pool2d", "_softmax": "softmax"}.get(name, name)
    if name in ("hardtanh", "leaky_relu", "elu", "gelu", "max_pool2d_with_indices", "avg_pool2d"):
        numbers = [one for one in step.settings if isinstance(one, int | float | tuple)]
        return told + (f" {numbers}" if numbers else "")
    return told


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _layers(source: Run, target: Run) -> Iterator[str]:
    """Yield the layers of the source that have no place of their own in the target."""
    table = np.array([[fits(mine, other) for other in target.uses] for mine in source.uses], dtype=bool)
    places = maximum_bipartite_matching(csr_array(table), perm_type="column") if table.size else np.zeros(0)
    left = [use for use, place in zip(source.uses, places, strict=False) if place < 0]
    if not left:
        return
    twins = {use.keys[0]: use for use in target.uses}
    nowhere = [use for use, row in zip(source.uses, table, strict=True) if not row.any()]
    changed = [use for use in source.uses if use.keys[0] in twins and not fits(use, twins[use.keys[0]])]
    worst = nowhere or changed or left
    more = f" and {len(worst) - _MOST} more" if len(worst) > _MOST else ""
    told = ", ".join(f"{use}{_change(use, twins.get(use.keys[0]))}" for use in worst[:_MOST]) + more
    if nowhere:
        count = "1 layer of the source has" if len(nowhere) == 1 else f"{len(nowhere)} layers of the source have"
        yield f"{count} no place in the target, as they are or larger: {told}"
    else:
        count = f"{len(places) - len(left)} of the source's {len(places)} layers"
        yield f"only {count} can each have a place in the target, as they are or larger; among others: {told}"


def _change(use: Use, twin: Use | None) -> str:
    """Tell how the layer of the same name in the target differs, if there is one."""
    if twin is None or fits(use, twin):
        return ""
    if twin.fixed != use.fixed:
        return f" [{_settings(use, twin)}]"
    shapes = use.shapes[0], twin.shapes[0]
    if shapes[0] != shapes[1]:
        return f" [→ {'×'.join(map(str, shapes[1]))}]"
    biases = ("with a bias" if len(one.shapes) == 2 else "without" for one in (use, twin))
    return f" [{' → '.join(biases)}]" if use.name in PRODUCTS else f" [{use.name} → {twin.name}]"


def _settings(use: Use, twin: Use) -> str:
    if use.name != "convolution" or twin.name != "convolution":
        return f"{use.fixed} → {twin.fixed}"
    names = ("stride", "dilation", "transposed", "padding beyond the same size", "in groups")
    rows = zip(names, use.fixed, twin.fixed, strict=True)
    return ", ".join(f"{name} {_number(a)} → {_number(b)}" for name, a, b in rows if a != b)


def _number(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, tuple) else "yes" if value else "no"
