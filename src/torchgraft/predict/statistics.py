"""Whether what sums over units, or takes their statistics, still gives the same when there are more of them."""

from __future__ import annotations

__all__ = ["statistic_obstacles"]

from collections.abc import Iterator
from math import isclose

from torchgraft.axes.flow import Flow
from torchgraft.axes.norms import Norm
from torchgraft.axes.operators import FACTORS
from torchgraft.axes.steps import Step
from torchgraft.axes.terms import atoms_of, size_of
from torchgraft.predict.settings import same_epsilon
from torchgraft.predict.sides import Sides, named, stored_inputs
from torchgraft.predict.walk import Course, place
from torchgraft.records import Move
from torchgraft.units import copied

_LINEAR = frozenset((
    "add", "sub", "cat", "stack", "mean", "embedding", "permute", "transpose", "t", "repeat", "slice", "select",
    "expand", "roll", "index", "unbind", "split", "split_with_sizes", "flatten", "constant_pad_nd", "bmm", "avg_pool2d",
    "native_dropout",
))  # fmt: skip
_KEEPS_ZERO = frozenset(("relu", "silu", "gelu", "tanh", "mul", "hardswish", "leaky_relu"))
_NAMES = {"layer": "LayerNorm", "rms": "RMSNorm", "group": "GroupNorm"}


def statistic_obstacles(sides: Sides, course: Course) -> Iterator[tuple[int, str, str]]:
    """Yield the number of the step, what differs there, and where.

    Args:
        sides: both networks and the plan.
        course: the steps that stand for each other.
    """
    flow = sides.target.flow
    done: set[str] = set()
    for number, (mine, other) in sorted(course.pairs.items()):
        gain = next((key for key in stored_inputs(flow, mine) if key in sides.target.norms), None)
        if gain is not None:
            if gain not in done and sides.sources.get(gain):
                done.add(gain)
                told = _norm(sides, gain, mine)
                yield from ((number, what, gain.rpartition(".")[0]) for what in filter(None, [told]))
        elif mine.over and not (_is_norm(sides, mine) or _reads_weights(flow, mine)):
            for t, s in zip(mine.over, other.over, strict=False):
                if mine.name == "native_layer_norm" and _stand_as_copies(sides, t):
                    continue
                if size_of(t) != size_of(s) and not _is_silent(sides, t) and not _is_fixed(t):
                    told = f"{named(flow, mine)} takes in {size_of(t)} units instead of {size_of(s)}"
                    yield number, told, place(flow, mine, mine.path or "the whole model")


def _is_norm(sides: Sides, step: Step) -> bool:
    """Tell whether a step belongs to a norm that is looked at elsewhere."""
    return step.name == "native_group_norm" or any(key.rpartition(".")[0] == step.path for key in sides.target.norms)


def _reads_weights(flow: Flow, step: Step) -> bool:
    """Tell whether one factor of a product is a stored tensor, in which new units count nothing."""
    return step.name in FACTORS and any(stored_inputs(flow, step))


def _stand_as_copies(sides: Sides, term: object) -> bool:
    """Tell whether units stand there several times, as often each."""
    atoms = set(atoms_of(term))  # type: ignore[arg-type]
    for key, held in sides.ballots.items():
        for axis, row in zip(sides.target.axes[key], held[0].move.layout, strict=False):
            if set(atoms_of(axis)) == atoms and row:
                return copied(row, sides.coupled.maps)
    return False


def _is_fixed(term: object) -> bool:
    """Tell whether these are places of a picture or a row, of which the two runs were given other numbers."""
    return all(atom.locked in ("positions", "an input") for atom in atoms_of(term))  # type: ignore[arg-type]


def _is_silent(sides: Sides, term: object) -> bool:
    """Tell whether the new units of a product of two computed values are zero in one of them: those of the keys."""
    atoms = set(atoms_of(term))  # type: ignore[arg-type]
    for key in sides.target.scales:
        axes = sides.target.axes[key]
        held = {atom for axis in axes for atom in atoms_of(axis)}
        pads = [pad for one in sides.ballots.get(key, ()) for pad in one.move.pads[:1]]
        if "zero" in pads and atoms & held:
            return True
    return False


def _norm(sides: Sides, gain: str, step: Step) -> str:
    """Say why a norm over more units does not give what it gave, ``""`` where it does."""
    norm, move = sides.target.norms[gain], sides.ballots[gain][0].move
    original = sides.source.norms.get(move.source.key)
    large, small = sides.target.axes[gain][0], sides.source.axes[next(iter(sides.sources[gain]))][0]
    sizes = size_of(large), size_of(small)
    name = _class(sides, gain, norm)
    told = f"{name} {sizes[1]} → {sizes[0]} takes its statistics over {sizes[0]} units instead of {sizes[1]}"
    if sizes[0] == sizes[1] or _is_tiled(sides, move):
        same = original is not None and _epsilons(sides, gain, norm, original, 1.0)
        return "" if same else f"{name} adds another epsilon"
    padded = any(
        isclose(move.factor * one, (sizes[1] / sizes[0]) ** 0.5, rel_tol=1e-6) for one in (1.0, *sides.factors)
    )
    if sizes[0] < sizes[1] or not padded or original is None or norm.kind == "group":
        return told
    if not _epsilons(sides, gain, norm, original, sizes[1] / sizes[0]):
        return f"{name} {sizes[1]} → {sizes[0]} cannot be exact because its epsilon is fixed"
    behind = _behind(sides, step, large, norm)
    held = "held at their mean" if norm.kind == "layer" else "held at zero"
    return f"{told}, and new ones cannot be {held} behind {behind}" if behind else ""


def _is_tiled(sides: Sides, move: Move) -> bool:
    return copied(move.layout[0] if move.layout else (), sides.coupled.maps)


def _class(sides: Sides, gain: str, norm: Norm) -> str:
    return sides.target.flow.classes.get(gain.rpartition(".")[0], _NAMES[norm.kind])


def _epsilons(sides: Sides, gain: str, norm: Norm, original: Norm, factor: float) -> bool:
    path = gain.rpartition(".")[0]
    set_to = next((one.value for one in sides.coupled.settings if one.path == path), None)
    mine = set_to if set_to is not None else norm.epsilon[1] if norm.epsilon else None
    return same_epsilon(mine, original.epsilon[1] if original.epsilon else None, factor)


def _behind(sides: Sides, step: Step, units: object, norm: Norm) -> str:
    """Name what stands before a norm and treats each unit by itself, so that new ones leave the mean, or zero."""
    flow, held = sides.target.flow, set(atoms_of(units))  # type: ignore[arg-type]
    waiting, seen = [(_read(flow, step, norm), False)], set[tuple[int, bool]]()
    while waiting:
        value, scaled = waiting.pop()
        value = sides.live(value)
        made = flow.step(value)
        if made is None or (value, scaled) in seen:
            continue
        seen.add((value, scaled))
        name, product = made.operator, flow.product(made)
        key = None if product is None else flow.parameter(product.weight)
        if product is not None and key is not None:
            if name == "convolution" and made.settings[-1] != 1:
                shift = None if product.bias is None else flow.parameter(product.bias)
                if norm.kind == "layer" or (product.bias is not None and not _is_padded(sides, shift)):
                    return f"a depthwise {flow.classes.get(made.path, 'convolution')}"
                waiting.append((product.value, scaled))
            elif not any(held & set(atoms_of(axis)) for axis in sides.target.axes[key]):
                waiting.append((product.value, scaled))
            elif not _is_padded(sides, key):
                return _told(flow, made)
            elif scaled and not all(one.move.scale for one in sides.ballots.get(key, ())):
                return "a layer scale"
            continue
        keys = set(stored_inputs(flow, made))
        if keys and name in ("embedding", "gather", "index"):
            continue  # rows that are looked up
        weighed = name == "mul" and any(_is_one(sides, one) for one in keys)
        zero = norm.kind == "rms" and name in _KEEPS_ZERO
        if zero and any(key.rpartition(".")[0] == made.path for key in sides.target.norms):
            waiting.append((_entered(flow, value, made.path), scaled))  # a norm gives zero for zero
            continue
        scalar = name in ("mul", "div") and len(made.inputs) == 1
        if not (weighed or zero or scalar or name in _LINEAR):
            return _told(flow, made)
        waiting += [(one, scaled or weighed) for one in made.inputs if flow.parameter(one) not in keys]
    return ""


def _is_one(sides: Sides, key: str) -> bool:
    """Tell whether a layer scale is one for new units, whose values are means that the source's scale has weighed."""
    return any("one" in one.move.pads for one in sides.ballots.get(key, ()))


def _read(flow: Flow, step: Step, norm: Norm) -> int:
    """Return the value that a norm reads."""
    if norm.kind == "layer":
        return step.inputs[0]
    gain = step.outputs[0]
    if norm.offset:  # the step is the sum of the gain and a number
        step = next(one for one in flow.steps if gain in one.inputs and one.operator == "mul")
    value = next(one for one in step.inputs if flow.parameter(one) is None and one != gain)
    return _entered(flow, value, step.path)


def _entered(flow: Flow, value: int, path: str) -> int:
    """Return what a module reads, by what it makes of it first."""
    while (made := flow.step(flow.plain(value))) is not None and made.path == path and made.inputs:
        value = made.inputs[0]
    return value


def _is_padded(sides: Sides, key: str | None) -> bool:
    """Tell whether new places of a tensor are what a norm needs."""
    return any(pad in ("mean", "zero") for one in sides.ballots.get(key or "", ()) for pad in one.move.pads)


def _told(flow: Flow, step: Step) -> str:
    name = named(flow, step)
    return "a layer scale" if name.rstrip("_") == "mul" else name
