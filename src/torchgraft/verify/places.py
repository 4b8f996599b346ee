"""The outputs of matched layers side by side: where two computations agree, and where they part."""

from __future__ import annotations

__all__ = ["Course", "Evidence", "Pair", "channel_axis", "compare_places", "pairs_of"]

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torchgraft.axes import axis_groups
from torchgraft.axes.holes import Arguments
from torchgraft.axes.shadow import ours
from torchgraft.couple import Coupled
from torchgraft.errors import GraftError
from torchgraft.kinds import GATES
from torchgraft.network import read_module
from torchgraft.plan import Plan
from torchgraft.predict import obstacles
from torchgraft.records import Obstacle, Shape, Transfer
from torchgraft.transfer.apply import stored_tensors
from torchgraft.verify.certificate import TOLERANCE
from torchgraft.verify.outputs import ROUNDING, apart, factor_between
from torchgraft.verify.running import Mode, run
from torchgraft.verify.units import sizes_of, units_of

_CHANNELS_FIRST = ("conv", "batchnorm", "groupnorm", "instancenorm", "prelu")


@dataclass(frozen=True, slots=True)
class Pair:
    """A matched layer: the paths of the two modules whose outputs are compared, and the transfer that says so."""

    target: str
    source: str
    transfer: Transfer


@dataclass(slots=True)
class Course:
    """One run of a model: when each module finished, and by how much the modules without a counterpart change their
    input (relative; infinite where the shape changes), zero for an identity."""

    order: dict[str, int] = field(default_factory=dict)
    changes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the rules look at: both models, and what running them side by side has shown.

    ``found`` are the compared pairs in the order of the target's run, each with the relative deviation and the constant
    factor by which the outputs differ (1 where there is none). ``unseen`` are matched pairs that could not be compared,
    ``outputs`` what both models returned, ``obstacles`` what the plan foretold.
    """

    plan: Plan
    source: nn.Module
    target: nn.Module
    source_course: Course
    target_course: Course
    found: tuple[tuple[Pair, float, float], ...]
    unseen: tuple[Pair, ...]
    outputs: tuple[Any, Any]
    obstacles: tuple[Obstacle, ...] = ()

    def pairs(self) -> list[Pair]:
        """All matched pairs, in the order of the target's run."""
        return sorted((*(one[0] for one in self.found), *self.unseen), key=self.position)

    def position(self, pair: Pair) -> int:
        """When the target's module finished."""
        return self.target_course.order.get(pair.target, len(self.target_course.order))

    def limit(self, relative: float) -> float:
        """Deviation of a layer that explains one of the outputs; what is far below did not bring it about."""
        return max(TOLERANCE["float64"], min(ROUNDING, 1e-4 * relative))

    def parting(self, limit: float) -> int | None:
        """Index into ``found`` of the first pair that differs by more than a constant factor, then by a factor."""
        parted = [number for number, (_, relative, _) in enumerate(self.found) if not relative <= limit]
        scaled = [number for number, (_, _, factor) in enumerate(self.found) if abs(factor - 1) > limit]
        return next(iter(parted or scaled), None)


def compare_places(
    plan: Plan, models: tuple[nn.Module, nn.Module], calls: tuple[Arguments, Arguments], mode: Mode
) -> Evidence:
    """Run both models, and compare the outputs of the layers that the plan matched.

    Args:
        plan: says which layers and which of their units stand for each other.
        models: source and target; left as they are.
        calls: what each is run on.
        mode: in which they are run.
    """
    source, target = models
    pairs = pairs_of(plan, source, target)
    kept: dict[str, list[Tensor]] = {}
    measured: dict[int, list[tuple[float, float] | None]] = {}
    courses = Course(), Course()

    def keep(path: str, output: Tensor) -> None:
        kept.setdefault(path, []).append(output.clone())

    def compare(path: str, output: Tensor) -> None:
        for number, pair in wanted.get(path, ()):
            done = measured.setdefault(number, [])
            outputs = kept.get(pair.source, [])
            done.append(_differ(plan, pair, outputs[len(done)], output) if len(done) < len(outputs) else None)

    wanted: dict[str, list[tuple[int, Pair]]] = {}
    for number, pair in enumerate(pairs):
        if _works(source.get_submodule(pair.source)) == _works(target.get_submodule(pair.target)):
            wanted.setdefault(pair.target, []).append((number, pair))
    steps: tuple[tuple[set[str], Callable[[str, Tensor], None]], ...]
    steps = ({pair.source for row in wanted.values() for _, pair in row}, keep), (set(wanted), compare)
    outputs: list[Any] = []
    for side, (paths, see) in enumerate(steps):
        alone = unmatched(models[side], plan, side)
        watch = partial(_watch, course=courses[side], wanted=paths, alone=alone, see=see)
        outputs.append(run(models[side], calls[side], mode, watch))
    found, unseen = [], []
    for number, pair in enumerate(pairs):
        done = [one for one in measured.get(number, []) if one is not None]
        if done and len(done) == len(measured[number]) == len(kept[pair.source]):
            worst = max(done, key=lambda one: (not math.isfinite(one[0]), one[0], abs(one[1] - 1)))
            found.append((pair, *worst))
        else:
            unseen.append(pair)
    found.sort(key=lambda one: courses[1].order[one[0].target])
    returned = outputs[0], outputs[1]
    return Evidence(
        plan, source, target, *courses, tuple(found), tuple(unseen), returned, _foretold(plan, models, calls)
    )


def _foretold(
    plan: Plan, models: tuple[nn.Module, nn.Module], calls: tuple[Arguments, Arguments]
) -> tuple[Obstacle, ...]:
    """Return the obstacles that the plan knows of, or would have known of had it seen the models."""
    known = plan.forecast.obstacles
    if known is not None:
        return known
    try:
        source, target = (axis_groups(model, *call) for model, call in zip(models, calls, strict=True))
    except GraftError:  # it does not run without values: the rules have to do
        return ()
    coupled = Coupled(plan.transfers, plan.maps, plan.fills, plan.settings, plan.passages)
    return obstacles(target, source, coupled, plan.operator, read_module(models[0]).tied)


def pairs_of(plan: Plan, source: nn.Module, target: nn.Module) -> list[Pair]:
    """Return the matched layers whose own outputs a module gives; a source that serves twice counts once.

    A layer that holds a layer scale of the source gives what no module of that gives.
    """
    found = []
    parts = [dict(one.named_modules(remove_duplicate=False)) for one in (target, source)]
    for transfer in plan.transfers:
        named = zip(parts, (transfer.target, transfer.source), strict=True)
        paths = [_module_path(modules, path, transfer) for modules, path in named]
        folded = any(move.fold for move in transfer.moves)
        if not (transfer.reused or folded) and paths[0] is not None and paths[1] is not None:
            found.append(Pair(paths[0], paths[1], transfer))
    return found


def _module_path(parts: Mapping[str, nn.Module], path: str, transfer: Transfer) -> str | None:
    """Return the path of the module whose output is the layer's, ``None`` where no module gives it."""
    path, _, part = path.partition("[")
    if transfer.kind == "parameter":  # a layer scale is the output of its module, a position embedding is not
        path = path.rpartition(".")[0]
        return path if path and path in parts and not any(parts[path].children()) else None
    own = parts.get(path)
    if own is None or (part and isinstance(own, nn.MultiheadAttention)):
        return None
    if transfer.kind in GATES or transfer.kind.endswith("reverse"):
        last = f"{getattr(own, 'num_layers', 1) - 1}]" if part else ""
        return path if part == last and not getattr(own, "bidirectional", False) else None
    return path


def _works(module: nn.Module) -> bool:
    """Tell whether a layer does more than its own tensors say: a norm that applies an activation, too."""
    return any(type(child) is not nn.Identity for child in module.children())


def unmatched(module: nn.Module, plan: Plan, side: int) -> set[str]:
    """Return the largest modules that hold tensors, none of which the plan gives a place of its own."""
    taken = [transfer.source if side == 0 else transfer.target for transfer in plan.transfers if not transfer.reused]
    if side == 0:
        taken += [move.fold for transfer in plan.transfers for move in transfer.moves if move.fold]
    served = {around for path in taken for around in _around(path.partition("[")[0])}
    stored = stored_tensors(module)
    holding = {path for key in stored if stored[key].is_floating_point() for path in _around(key.rpartition(".")[0])}
    return {path for path in holding - served if path.rpartition(".")[0] in served or "." not in path}


def _around(path: str) -> Iterator[str]:
    """Yield a path and those of all modules around it but the outermost."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _watch(
    module: nn.Module, course: Course, wanted: set[str], alone: set[str], see: Callable[[str, Tensor], None]
) -> None:
    """Note when each module finishes, show the outputs of the ``wanted``, measure what the ``alone`` ones change."""
    entered: dict[str, Tensor] = {}

    @ours
    def before(path: str, _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        first = _first((args, dict(kwargs)))
        if first is not None:
            entered[path] = first.clone()  # it may be changed in place inside

    @ours
    def after(path: str, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        course.order.setdefault(path, len(course.order))
        first = _first(output)
        if first is not None and path in wanted:
            see(path, first)
        if path in alone:
            given = entered.pop(path, None)
            same = given is not None and first is not None and given.shape == first.shape
            change = apart(given, first)[1] if same and given is not None and first is not None else math.inf
            course.changes[path] = max(change, course.changes.get(path, 0.0))

    for path, part in module.named_modules(remove_duplicate=False):
        if path in alone:
            part.register_forward_pre_hook(partial(before, path), with_kwargs=True)
        part.register_forward_hook(partial(after, path))


def _first(value: Any) -> Tensor | None:
    leaves = tree_leaves(dict(value) if isinstance(value, Mapping) else value)
    return next((leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()), None)


def _differ(plan: Plan, pair: Pair, source: Tensor, target: Tensor) -> tuple[float, float] | None:
    """Return the relative deviation of the units that stand for each other, but for a constant factor, and that."""
    units = units_of(plan, pair.transfer)
    if units is None or source.ndim != target.ndim:
        return None
    axis = channel_axis(pair.transfer.kind, tuple(target.shape), tuple(source.shape), sizes_of(pair.transfer))
    if axis is None:
        return None
    s, t = (
        one.index_select(axis, torch.as_tensor(index, device=one.device))
        for one, index in ((source, units[1]), (target, units[0]))
    )
    relative = apart(s, t)[1]
    factor = factor_between(s, t) if relative > ROUNDING else 1.0
    return (relative, 1.0) if factor == 1.0 else (apart(s * factor, t)[1], factor)


def channel_axis(kind: str, target: Shape, source: Shape, sizes: tuple[int, int] | None) -> int | None:
    """Return the axis of two outputs that counts units, ``None`` where that is not certain.

    Args:
        kind: of the layer.
        target: shape of the target's output.
        source: shape of the source's output, of the same rank.
        sizes: numbers of units; ``None`` for a part of a linear layer, whose units are on the last axis.

    >>> channel_axis("conv2d", (2, 8, 4, 4), (2, 4, 4, 4), (8, 4)), channel_axis("linear", (2, 9, 8), (2, 5, 8), (8, 8))
    (1, None)
    """
    last = len(target) - 1
    axes = [
        axis
        for axis in range(1, last + 1)
        if (target[axis], source[axis]) == sizes or (sizes is None and axis == last)
        if target[:axis] + target[axis + 1 :] == source[:axis] + source[axis + 1 :]
    ]
    usual = 1 if kind.startswith(_CHANNELS_FIRST) else last
    return usual if usual in axes else axes[0] if len(axes) == 1 else None
