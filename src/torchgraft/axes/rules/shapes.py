"""Operators that move axes and places: reshapes, parts, concatenations, look-ups."""

from __future__ import annotations

__all__ = [
    "concatenate",
    "divide",
    "expand",
    "fold",
    "gather",
    "index",
    "index_put",
    "index_select",
    "pad",
    "permute",
    "pieces_of",
    "repeat",
    "reshape",
    "select",
    "shuffle",
    "slice_",
    "stack",
    "strided",
    "transpose",
    "unbind",
    "unfold",
    "unshuffle",
    "windows",
]

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from torchgraft.axes.terms import ONE, Cat, Term, cut, fuse, lock, resolve, size_of, split, unify
from torchgraft.axes.trace import Axes, Call, broadcast, fresh, positions, same, wide


def reshape(call: Call) -> None:
    """Factor the axes of the input into those of the output."""
    given, shape = call.axes(call.args[0]), call.outputs[0].shape
    call.give(_reshaped(given, shape))


def _reshaped(given: Axes, shape: Sequence[int]) -> list[Term]:
    """Return the axes after a reshape: neighbours that multiply to the same size belong together."""
    if 0 in shape:
        return [fresh(size, "nothing") for size in shape]
    result: list[Term] = []
    old, new = list(given), list(shape)
    while old or new:
        taken, sizes = old[:1], new[:1]
        del old[:1], new[:1]
        while (have := prod(map(size_of, taken))) != (want := prod(sizes)):
            if have < want:
                taken.append(old.pop(0))
            else:
                sizes.append(new.pop(0))
        result += _factored(taken, sizes)
    return result


def _factored(taken: list[Term], sizes: list[int]) -> list[Term]:
    whole = fuse(taken)
    found = split(whole, sizes)
    if found is None:
        lock(whole, "a reshape that cuts through it")
        return [fresh(size, "a reshape that cuts through it") for size in sizes]
    return list(found)


def permute(call: Call) -> None:
    """Axes change places."""
    axes = call.axes(call.args[0])
    call.give([axes[place] for place in call.args[1]])


def transpose(call: Call) -> None:
    """Two axes change places; ``t`` swaps the only two."""
    axes = list(call.axes(call.args[0]))
    if len(axes) > 1:
        a, b = (call.args[1], call.args[2]) if len(call.args) > 2 else (0, 1)
        axes[a], axes[b] = axes[b], axes[a]
    call.give(axes)


def expand(call: Call) -> None:
    """An axis of one is repeated: the copies are alike."""
    axes, shape = call.axes(call.args[0]), call.outputs[0].shape
    padded = [ONE] * (len(shape) - len(axes)) + list(axes)
    call.give([term if size_of(term) == size else fresh(size) for term, size in zip(padded, shape, strict=True)])


def repeat(call: Call) -> None:
    """Whole axes one after the other: the turns are the slow factor, and alike."""
    axes, times = call.axes(call.args[0]), call.args[1]
    padded = [ONE] * (len(times) - len(axes)) + list(axes)
    call.give([fuse((fresh(count), term)) for count, term in zip(times, padded, strict=True)])


def concatenate(call: Call) -> None:
    """The parts stand one after the other; all other axes are one."""
    tensors = [tensor for tensor in call.args[0] if tensor.numel() or tensor.ndim > 1]
    if not tensors:
        call.give_new("nothing")
        return
    axis = call.arg(1, "dim", 0) % call.outputs[0].ndim
    rows = [call.axes(tensor) for tensor in tensors]
    for row in rows[1:]:
        for place, (a, b) in enumerate(zip(rows[0], row, strict=True)):
            if place != axis and wide(a) and wide(b):
                unify(a, b)
    out = list(rows[0])
    out[axis] = resolve(Cat(tuple(row[axis] for row in rows)))
    call.give(out)


def stack(call: Call) -> None:
    """The same axes side by side, in an axis that counts them."""
    rows = [call.axes(tensor) for tensor in call.args[0]]
    for row in rows[1:]:
        same(rows[0], row)
    axis = call.arg(1, "dim", 0) % call.outputs[0].ndim
    call.give([*rows[0][:axis], fresh(len(rows), "a stack"), *rows[0][axis:]])


def divide(call: Call) -> None:
    """split, chunk: consecutive parts of one axis."""
    axes = call.axes(call.args[0])
    axis = call.arg(2, "dim", 0) % len(axes)
    pieces = pieces_of(axes[axis], [output.shape[axis] for output in call.outputs])
    for place, piece in enumerate(pieces):
        call.give([*axes[:axis], piece, *axes[axis + 1 :]], place)


def pieces_of(term: Term, sizes: list[int]) -> Sequence[Term]:
    found = cut(term, sizes) if sum(sizes) == size_of(term) else None
    if found is None:
        lock(term, "a part that cuts through it")
        return [fresh(size, "a part that cuts through it") for size in sizes]
    return [ONE if size_of(piece) == 1 else piece for piece in found]


def unbind(call: Call) -> None:
    """Every place of an axis becomes a tensor: the places stay as they are."""
    axes = call.axes(call.args[0])
    axis = call.arg(1, "dim", 0) % len(axes)
    lock(axes[axis], "single places")
    for place in range(len(call.outputs)):
        call.give([*axes[:axis], *axes[axis + 1 :]], place)


def select(call: Call) -> None:
    """One place of an axis."""
    axes = call.axes(call.args[0])
    axis = call.args[1] % len(axes)
    call.lock_if_needed(axes[axis], "single places")
    call.give([*axes[:axis], *axes[axis + 1 :]])


def slice_(call: Call) -> None:
    """A stretch of an axis, or every so many places of it."""
    axes, size = list(call.axes(call.args[0])), 0
    axis = call.arg(1, "dim", 0) % len(axes)
    have, size = size_of(axes[axis]), call.outputs[0].shape[axis]
    if size != have:
        start, step = call.arg(2, "start") or 0, call.arg(4, "step", 1)
        start = max(0, start + have) if start < 0 else min(start, have)
        axes[axis] = _stretch(axes[axis], start, size, step)
    call.give(axes)


def _stretch(term: Term, start: int, size: int, step: int) -> Term:
    have = size_of(term)
    if step == 1:
        return pieces_of(term, [start, size, have - start - size])[1]
    pieces = split(term, (have // step, step)) if have % step == 0 and size == have // step else None
    if pieces is None:
        lock(term, "every so many places")
        return fresh(size, "every so many places")
    lock(pieces[1], "every so many places")
    return pieces[0]


def pad(call: Call) -> None:
    """New places at the rims of the last axes, or fewer."""
    x = call.args[0]
    axes, pads = list(call.axes(x)), call.args[1]
    for number, place in enumerate(range(0, len(pads), 2)):
        axis = x.ndim - 1 - number
        if pads[place] or pads[place + 1]:
            axes[axis] = _padded(axes[axis], pads[place], pads[place + 1], call.outputs[0].shape[axis])
    call.give(axes)


def _padded(term: Term, before: int, after: int, size: int) -> Term:
    if before < 0 or after < 0:
        lock(term, "a cut rim")
        return fresh(size, "a cut rim")
    parts = [fresh(before, "padding")] if before else []
    return resolve(Cat((*parts, term, *([fresh(after, "padding")] if after else []))))


def index(call: Call) -> None:
    """Places looked up by number: they stay; the numbers' axes take their place, all other axes follow."""
    call.give(_looked_up(call, call.outputs[0].shape))


def index_put(call: Call) -> None:
    """The same places written: what is put there has the axes of what would be read there."""
    x, values = call.args[0], call.args[2]
    if any(one is not None and one.dtype == torch.bool for one in call.args[1]):
        for term in (*call.axes(x), *call.axes(values)):
            lock(term, "looked up by number")
    else:
        shape = torch.empty(x.shape, device="meta")[tuple(_hollow(one) for one in call.args[1])].shape
        same(_looked_up(call, shape), call.axes(values))
    call.give(call.axes(x))


def _hollow(lookup: Tensor | None) -> Any:
    return slice(None) if lookup is None else torch.empty(lookup.shape, dtype=torch.long, device="meta")


def _looked_up(call: Call, shape: Sequence[int]) -> list[Term]:
    axes, lookups = call.axes(call.args[0]), list(call.args[1])
    used = [place for place, one in enumerate(lookups) if one is not None]
    for place in used:
        lock(axes[place], "looked up by number")
    rest = [term for place, term in enumerate(axes) if place not in used]
    together = used == list(range(used[0], used[0] + len(used)))
    first = used[0] if together else 0
    found = _numbers(call, [lookups[place] for place in used], shape[first : first + len(shape) - len(rest)])
    return [*rest[:first], *found, *rest[first:]]


def _numbers(call: Call, lookups: list[Tensor], shape: Sequence[int]) -> list[Term]:
    """The axes of numbers that are looked up together; a choice by true and false leaves places that stay."""
    rows = [call.axes(one) for one in lookups]
    if any(one.dtype in (torch.bool, torch.uint8) for one in lookups):
        for term in (term for row in rows for term in row):
            lock(term, "looked up by number")
        return [fresh(size, "looked up by number") for size in shape]
    return broadcast(rows, shape)


def index_select(call: Call) -> None:
    """Places of one axis looked up by number."""
    axes = list(call.axes(call.args[0]))
    axis = call.args[1] % len(axes)
    lock(axes[axis], "looked up by number")
    numbers = call.axes(call.args[2])
    axes[axis] = numbers[0] if numbers else ONE
    call.give(axes)


def gather(call: Call) -> None:
    """Each place looked up for itself along one axis; along the others places and numbers go side by side."""
    axes, numbers = call.axes(call.args[0]), call.axes(call.args[2])
    axis = call.args[1] % len(axes) if axes else 0
    for place, (term, number) in enumerate(zip(axes, numbers, strict=True)):
        if place == axis:
            lock(term, "looked up by number")
        elif size_of(term) == size_of(number):
            unify(term, number)
        else:
            lock(term, "looked up by number")
            lock(number, "looked up by number")
    call.give(numbers)


def strided(call: Call) -> None:
    """``as_strided``: axes that keep size and step follow, all others stay where they are."""
    x, shape, steps = call.args[0], call.args[1], call.args[2]
    axes = call.axes(x)
    places = {
        (size, step): place for place, (size, step) in enumerate(zip(x.shape, x.stride(), strict=True)) if size > 1
    }
    found: list[Term] = []
    for place, (size, step) in enumerate(zip(shape, steps, strict=True)):
        others = [other for i, other in enumerate(steps) if i != place and shape[i] > 1]
        whole = all(other < step or other % (step * size) == 0 for other in others) and not call.arg(3, "offset")
        kept = places.pop((size, step), None) if whole else None
        found.append(fresh(size, f"operator {call.name}") if kept is None else axes[kept])
    for place in places.values():
        lock(axes[place], f"operator {call.name}")
    call.give(found)


def shuffle(call: Call) -> None:
    """Pixel shuffle: ``(c * r * r, h, w)`` to ``(c, h * r, w * r)``; the places of a square stay."""
    axes, square = call.axes(call.args[0]), call.args[1] ** 2
    found = split(axes[-3], (size_of(axes[-3]) // square, square))
    if found is None:
        lock(axes[-3], "a pixel shuffle")
        found = (fresh(size_of(axes[-3]) // square, "a pixel shuffle"), ONE)
    lock(found[1], "places of a pixel")
    call.give([*axes[:-3], found[0], *positions(axes[-2:], call.outputs[0].shape[-2:])])


def unshuffle(call: Call) -> None:
    """Its reverse: ``(c, h * r, w * r)`` to ``(c * r * r, h, w)``."""
    axes, square = call.axes(call.args[0]), call.args[1] ** 2
    channels = fuse((axes[-3], fresh(square, "places of a pixel")))
    call.give([*axes[:-3], channels, *positions(axes[-2:], call.outputs[0].shape[-2:])])


def windows(call: Call) -> None:
    """``Tensor.unfold``: windows over one axis, their places last."""
    axes, shape = list(call.axes(call.args[0])), call.outputs[0].shape
    axis = call.args[1] % len(axes)
    axes[axis], inside = positions(axes[axis : axis + 1], (shape[axis], shape[-1]))
    call.give([*axes, inside])


def unfold(call: Call) -> None:
    """``im2col``: ``(n, c, h, w)`` to ``(n, c * window, places)``."""
    axes, shape = call.axes(call.args[0]), call.outputs[0].shape
    window = shape[-2] // size_of(axes[-3])
    channels = fuse((axes[-3], fresh(window, "a window")))
    call.give([*axes[:-3], channels, *positions(axes[-2:], shape[-1:])])


def fold(call: Call) -> None:
    """``col2im``, its reverse: ``(n, c * window, places)`` to ``(n, c, h, w)``."""
    axes, shape = call.axes(call.args[0]), call.outputs[0].shape
    channels = shape[-3]
    found = split(axes[-2], (channels, size_of(axes[-2]) // channels))
    if found is None:
        lock(axes[-2], "windows that are added")
        found = (fresh(channels, "windows that are added"), ONE)
    lock(found[1], "a window")
    call.give([*axes[:-2], found[0], *positions(axes[-1:], shape[-2:])])
