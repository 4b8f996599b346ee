"""Whether two models are the same computation: both runs side by side, from the outputs back, names aside."""

from __future__ import annotations

__all__ = ["Comparison", "compare", "named"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from torchgraft.axes.flow import Flow
from torchgraft.axes.steps import Step
from torchgraft.axes.terms import size_of
from torchgraft.morph.between.runs import Run

# Operators that give what they read, and those that are one operator but for how a value lies.
_PASSING = frozenset(("clone", "contiguous", "alias", "detach", "lift_fresh"))
_VIEWS = frozenset(("view", "_unsafe_view", "reshape", "flatten"))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Which tensor of the edited model stands for each one of the target, and what differs, in the run's order."""

    keys: Mapping[str, str]
    differences: tuple[str, ...]


@dataclass(slots=True)
class _Walk:
    """Values that have been paired, both ways, and what was found."""

    mine: Run
    other: Run
    values: dict[int, int] = field(default_factory=dict)
    back: dict[int, int] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)
    found: list[tuple[int, str]] = field(default_factory=list)
    epsilons: bool = True


# Numbers in code below this one are epsilons, which wider norms need in another size.
_EPSILON = 1e-2


def compare(run: Run, target: Run, *, epsilons: bool = True) -> Comparison:
    """Walk back through both runs at once.

    Two models without differences are isomorphic: their operators have the same names and settings and read each
    other's results in the same way, and the tensors that they read have the same shapes and are shared alike.

    Args:
        run: of the edited model.
        target: of the target, on the same inputs.
        epsilons: whether these have to be equal, too.
    """
    walk = _Walk(run, target, epsilons=epsilons)
    if len(run.flow.outputs) != len(target.flow.outputs):
        return Comparison({}, (f"{len(run.flow.outputs)} outputs → {len(target.flow.outputs)}",))
    waiting = list(zip(run.flow.outputs, target.flow.outputs, strict=True))
    while waiting:
        a, b = waiting.pop()
        a, b = _passed(run.flow, a), _passed(target.flow, b)
        if a in walk.values or b in walk.back:
            if walk.values.get(a) != b:
                _note(walk, b, "a value is read in another place")
            continue
        walk.values[a], walk.back[b] = b, a
        waiting += _step(walk, a, b)
    _behind(walk)
    told = dict.fromkeys(text for _, text in sorted(walk.found))
    return Comparison({b: a for a, b in walk.keys.items()}, tuple(told))


def _passed(flow: Flow, value: int) -> int:
    while (step := flow.step(value)) is not None and step.name in _PASSING:
        value = step.inputs[0]
    return value


def _step(walk: _Walk, a: int, b: int) -> list[tuple[int, int]]:
    """Compare how two values are made; return the pairs of what they are made from."""
    mine, other = walk.mine.flow.step(a), walk.other.flow.step(b)
    if mine is None or other is None:
        _leaf(walk, a, b)
        return []
    if _name(mine) != _name(other) or len(mine.inputs) != len(other.inputs):
        _note(walk, b, f"{_told(walk.mine, mine)} → {_told(walk.other, other)}")
        one_each = len(mine.inputs) == len(other.inputs) == 1
        return [(mine.inputs[0], other.inputs[0])] if one_each else []
    if mine.outputs.index(a) != other.outputs.index(b):
        _note(walk, b, f"another result of {_told(walk.other, other)} is read")
    settings = [tuple(_number(walk, one) for one in step.settings if _counts(one)) for step in (mine, other)]
    if settings[0] != settings[1]:
        _note(walk, b, f"{_told(walk.mine, mine, True)} → {_told(walk.other, other, True)}")
    elif mine.shape != other.shape:
        _note(walk, b, f"{_told(walk.other, other)} gives {_sizes(mine.shape)} → {_sizes(other.shape)}")
    return list(zip(mine.inputs, other.inputs, strict=True))


def _leaf(walk: _Walk, a: int, b: int) -> None:
    """Compare two values that were there before the run, or one of them."""
    mine, other = walk.mine.flow, walk.other.flow
    keys = mine.stored.get(a), other.stored.get(b)
    if keys[0] is not None and keys[1] is not None:
        _pair(walk, keys[0], keys[1], b)
    elif a in mine.given or b in other.given:
        if [a == one for one in mine.given] != [b == one for one in other.given]:
            _note(walk, b, "another input is read")
    elif keys != (None, None) or (mine.step(a) is None) != (other.step(b) is None):
        _note(walk, b, f"{_what(walk.mine, a)} → {_what(walk.other, b)}")
    elif not _equal(_buffer(walk.mine, a), _buffer(walk.other, b)):
        _note(walk, b, f"the buffer {other.constants.get(b)} holds other values")


def _buffer(run: Run, value: int) -> torch.Tensor | None:
    name = run.flow.constants.get(value)
    return None if name is None else run.model.get_buffer(name)


def _pair(walk: _Walk, mine: str, other: str, value: int) -> None:
    if walk.keys.setdefault(mine, other) != other or walk.taken.setdefault(other, mine) != mine:
        _note(walk, value, f"{other} is shared in other places")
        return
    shapes = [tuple(map(size_of, run.groups.axes[key])) for run, key in ((walk.mine, mine), (walk.other, other))]
    if shapes[0] != shapes[1]:
        _note(walk, value, f"{other} is {_sizes(shapes[0])} → {_sizes(shapes[1])}")


def _behind(walk: _Walk) -> None:
    """Pair the tensors that no output is computed from, by the modules that hold them: counters of batches."""
    homes = {theirs.rpartition(".")[0]: own.rpartition(".")[0] for own, theirs in walk.keys.items()}
    held = walk.mine.model.state_dict(), walk.other.model.state_dict()
    for key, tensor in held[1].items():
        path, _, name = key.rpartition(".")
        mine = f"{homes.get(path, path)}.{name}".lstrip(".")
        if key in walk.taken or not isinstance(tensor, torch.Tensor):
            continue
        if mine in held[0] and mine not in walk.keys and held[0][mine].shape == tensor.shape:
            walk.keys[mine] = key
            walk.taken[key] = mine


def _note(walk: _Walk, value: int, text: str) -> None:
    flow = walk.other.flow
    number = flow.maker.get(value, -1)
    path = flow.steps[number].path if number >= 0 else ""
    walk.found.append((number, f"{text}, at {path}" if path else text))


def _name(step: Step) -> str:
    return "view" if step.operator in _VIEWS else step.operator


def _counts(setting: Any) -> bool:
    """Tell whether an argument is a number, a word, or a row of them: not a device or a type."""
    return isinstance(setting, int | float | str) or (
        isinstance(setting, tuple) and all(isinstance(one, int | float | str) for one in setting)
    )


def _number(walk: _Walk, setting: Any) -> Any:
    small = isinstance(setting, float) and 0 < setting < _EPSILON
    return "epsilon" if small and not walk.epsilons else setting


def named(run: Run, step: Step) -> str:
    """Return the class of the module that does nothing but one step, or the operator's name."""
    name = run.flow.classes.get(step.path, "")
    return name if name and not name.startswith("Identity") else step.operator.lstrip("_").removeprefix("native_")


def _told(run: Run, step: Step, settings: bool = False) -> str:
    told = ", ".join(_setting(one) for one in step.settings if _counts(one) and one is not False) if settings else ""
    return named(run, step) + (f"({told})" if told else "")


def _setting(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _what(run: Run, value: int) -> str:
    step = run.flow.step(value)
    return run.flow.stored.get(value) or (_told(run, step) if step is not None else "a constant")


def _sizes(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _equal(mine: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Tell whether two buffers that no state dict holds are equal, as far as their values are known."""
    if mine is None or other is None or mine.is_meta or other.is_meta:
        return mine is other or (mine is not None and other is not None and mine.shape == other.shape)
    return mine.shape == other.shape and bool((mine == other).all())
