"""Where a tensor is cut and placed: integer arithmetic on two shapes, done once when a plan is made."""

from __future__ import annotations

__all__ = ["centred_windows", "outputs_of", "windows_of"]

from functools import lru_cache

from torchgraft.kinds import input_axis, output_axis
from torchgraft.records import Shape, TensorSpec, Window, Windows

Steps = tuple[tuple[int, int, int], ...]  # axis, start, length


def windows_of(
    kind: str, into: TensorSpec, out_of: TensorSpec, operator: str, lead: tuple[int, ...] = ()
) -> Windows | None:
    """Return the windows of a move, or ``None`` where the operator must see the tensors themselves.

    That is so for parts and transposed tensors, whole units (heads, gates) of another size, and every operator but a
    copy, ``clip`` and ``embed``.

    Args:
        kind: of the target layer.
        into: tensor of the target.
        out_of: tensor of the source.
        operator: the move's.
        lead: axes that are aligned at their start.
    """
    if into.part or out_of.part or into.transpose or out_of.transpose:
        return None
    if operator == "copy":
        return centred_windows(into.shape, into.shape, (), None) if into.shape == out_of.shape else None
    if operator not in ("embed", "clip") or into.units or out_of.units or len(into.shape) != len(out_of.shape):
        return None
    axis = outputs_of(kind, into.role) if operator == "embed" else None
    return centred_windows(into.shape, out_of.shape, lead, None if axis is None else (axis,))


def outputs_of(kind: str, role: str) -> int | None:
    """Axis of the outputs of a tensor that mixes inputs into outputs, ``None`` for every other one."""
    if kind == "embedding" or input_axis(kind, role) is None:
        return None
    return output_axis(kind, role)


@lru_cache(maxsize=1 << 14)
def centred_windows(target: Shape, source: Shape, lead: tuple[int, ...], outputs: tuple[int, ...] | None) -> Windows:
    """Centre into centre, start into start along the axes in ``lead``.

    ``outputs`` are the axes that count outputs: where another axis grows, the outputs that come from the source are
    silent but for what the source gives them.

    >>> centred_windows((4,), (2,), (), None).into
    Window(steps=((0, 1, 2),), shape=(2,), strides=(1,), offset=1)
    """
    into, out_of = [], []
    for axis, (t, s) in enumerate(zip(target, source, strict=True)):
        size = min(t, s)
        if t > s:
            into.append((axis, 0 if axis in lead else (t - size) // 2, size))
        elif s > t:
            out_of.append((axis, 0 if axis in lead else (s - size) // 2, size))
    silent = []
    if outputs is not None:
        rows = tuple(one for one in into if one[0] in outputs)
        for axis, start, size in into:
            rims = ((0, start), (start + size, target[axis] - start - size))
            silent += [(*rows, (axis, first, length)) for first, length in rims if length and axis not in outputs]
    boxes = tuple(_box(target, steps) for steps in silent)
    return Windows(_box(target, tuple(into)), _box(source, tuple(out_of)), boxes)


def _box(shape: Shape, steps: Steps) -> Window:
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    size = list(shape)
    for axis, _, length in steps:
        size[axis] = length
    return Window(steps, tuple(size), tuple(strides), sum(start * strides[axis] for axis, start, _ in steps))
