"""The numbers in the code: stride, padding, epsilon, and all that an operator is given beside tensors."""

from __future__ import annotations

__all__ = ["differ", "same_epsilon"]

from collections.abc import Iterator
from math import isclose
from typing import Any

from torchgraft.axes.operators import BATCH_NORMS
from torchgraft.axes.steps import Step
from torchgraft.predict.sides import Sides, named, stored_inputs

# Operators whose arguments follow from the sizes of what they read or make.
_SIZED = frozenset((
    "expand", "repeat", "split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes",
    "arange", "full", "zeros", "ones", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "empty_like",
    "linspace", "as_strided", "im2col", "col2im", "rand", "randn", "empty_strided", "new_empty_strided", "copy",
))  # fmt: skip
_RESIZED = "upsample"  # to the size of a picture


def differ(sides: Sides, mine: Step, other: Step) -> Iterator[str]:
    """Yield what is set otherwise in a step of the target than in that of the source."""
    name = mine.operator
    if "convolution" in (name, other.operator):
        if name == other.operator:  # else of a picture of one place, where there is nothing to set
            yield from _geometry(sides, mine, other)
    elif name == "mean" and _averaged(mine) == _averaged(other):
        return
    elif name in BATCH_NORMS:
        if mine.settings[-1] != other.settings[-1]:
            yield _epsilons(sides, mine, other)
    elif name == "native_group_norm":
        groups, sizes = (mine.settings[-2], other.settings[-2]), (mine.settings[1], other.settings[1])
        if groups[0] == groups[1] == 1 and sizes[0] > sizes[1]:
            return  # see the norms
        if groups[0] != groups[1] or sizes[0] != sizes[1]:
            inside = f" (in {groups[0]} groups)" if groups[0] > 1 else ""
            yield f"GroupNorm {sizes[1]} → {sizes[0]}{inside} takes its statistics over other units"
        elif mine.settings[-1] != other.settings[-1]:
            yield _epsilons(sides, mine, other)
    elif name in ("mul", "div"):
        if not sides.makes_up(mine.scale, other.scale):
            yield f"the code multiplies by {mine.scale:.4g} instead of {other.scale:.4g}"
    elif name == "add" and _is_epsilon(sides, mine):
        return  # see the norms
    elif name == "native_layer_norm":
        if len(mine.inputs) == 1 and mine.settings[-1] != other.settings[-1]:  # one with a gain: see the norms
            yield _epsilons(sides, mine, other)
    elif not _follows_sizes(name, mine, other):
        numbers = [tuple(filter(_counts, step.settings)) for step in (mine, other)]
        if numbers[0] != numbers[1]:
            yield " → ".join(
                f"{named(groups.flow, step)}({_told(row) or 'default'})"
                for groups, step, row in ((sides.source, other, numbers[1]), (sides.target, mine, numbers[0]))
            )


def _follows_sizes(name: str, mine: Step, other: Step) -> bool:
    """Tell whether arguments may differ because the target is larger, or was run on a larger picture."""
    if name == "slice":
        axis = int(mine.settings[0])
        return mine.settings[:1] == other.settings[:1] and mine.shape[axis] != other.shape[axis]
    if name == "constant_pad_nd":
        axes = len(mine.settings[0]) // 2
        return mine.shape[-axes:] != other.shape[-axes:]
    if _RESIZED in name:
        return mine.shape[2:] != other.shape[2:]
    return name in _SIZED and (mine.shape != other.shape or _splits_more(name, mine, other))


def _splits_more(name: str, mine: Step, other: Step) -> bool:
    """Tell whether a larger axis is cut into as many parts, the first of which is no larger: a query of one unit."""
    if not name.endswith("split_with_sizes"):
        return False
    parts = [one for step in (mine, other) for one in step.settings[:1] if isinstance(one, tuple)]
    return len(parts) == 2 and len(parts[0]) == len(parts[1]) and sum(parts[0]) != sum(parts[1])


def _epsilons(sides: Sides, mine: Step, other: Step) -> str:
    return f"epsilon {other.settings[-1]:g} → {mine.settings[-1]:g} in {named(sides.target.flow, mine)}"


def _counts(setting: Any) -> bool:
    """Tell whether an argument is a number, or a row of numbers."""
    return isinstance(setting, int | float | str) or (
        isinstance(setting, tuple) and all(isinstance(one, int | float | str) for one in setting)
    )


def _averaged(step: Step) -> tuple[int, frozenset[int]] | None:
    """Return the number of axes before a mean, and those that it is taken over; ``None`` where it takes all."""
    axes = next((one for one in step.settings if isinstance(one, tuple)), None)
    if axes is None:
        return None
    rank = len(step.shape) + (0 if True in step.settings else len(axes))
    return rank, frozenset(axis % rank for axis in axes)


def _is_epsilon(sides: Sides, step: Step) -> bool:
    """Tell whether a number is added inside of a root mean square norm."""
    return any(key.rpartition(".")[0] == step.path for key in sides.target.norms)


def _geometry(sides: Sides, mine: Step, other: Step) -> Iterator[str]:
    """A larger kernel with as much more padding computes the same; another stride does not."""
    rows = [[one for one in step.settings if one is not None][-6:] for step in (mine, other)]
    (stride, pad, dilation, turned, _, groups), (stride_s, pad_s, dilation_s, turned_s, _, groups_s) = rows
    changes = [
        f"{name} {_told(before)} → {_told(after)}"
        for name, before, after in (
            ("stride", stride_s, stride), ("dilation", dilation_s, dilation), ("transposed", turned_s, turned)
        )
        if before != after
    ]  # fmt: skip
    shapes = [_shape(sides, mine, of_source=False), _shape(sides, other, of_source=True)]
    grown = [t - s for t, s in zip(shapes[0][2:], shapes[1][2:], strict=False)]
    kernels = f"kernel {_told(shapes[1][2:])} → {_told(shapes[0][2:])}"
    if any(one < 0 for one in grown):
        changes.append(kernels)
    elif not all(shapes) and pad != pad_s:
        changes.append(f"padding {_told(pad_s)} → {_told(pad)}")
    elif any(2 * (t - s) != more * step for t, s, more, step in zip(pad, pad_s, grown, dilation, strict=False)):
        changes.append(f"{kernels} with padding {_told(pad_s)} → {_told(pad)}")
    sizes = (shapes[0][1], shapes[1][1]) if all(shapes) else (0, 0)
    packed = any(map(sides.is_packed, stored_inputs(sides.target.flow, mine)))
    if not packed and (groups < groups_s or (groups_s > 1 and sizes[0] < sizes[1])):
        changes.append(f"groups of {sizes[1]} → {sizes[0]} channels" if groups > 1 else f"{groups_s} → {groups} groups")
    if changes:
        yield ", ".join(changes)


def _shape(sides: Sides, step: Step, *, of_source: bool) -> tuple[int, ...]:
    """Return the shape of a kernel, ``()`` for one that is computed: its tensors are looked at one by one."""
    groups = sides.source if of_source else sides.target
    key = groups.flow.parameter(step.inputs[1])
    axes = () if key is None else groups.axes[key]
    return tuple(sides.size(key, axis, of_source=of_source) for axis in range(len(axes))) if key is not None else ()


def same_epsilon(target: float | None, source: float | None, factor: float) -> bool:
    """Tell whether an epsilon is the source's times a factor."""
    return target is None or source is None or isclose(target, source * factor, rel_tol=1e-6)


def _told(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    nested = any(isinstance(one, tuple) for one in value)
    return ", ".join(map(_told, value)) if nested or len(value) < 2 else "×".join(map(str, value))
