"""Will the target compute the source's function? Both runs side by side, from names, kinds and shapes alone.

sides      the groups of both networks, and what the plan does to them
settings   the numbers in the code
views      values that lie alike, by whatever operators
walk       which steps of the target stand for which of the source
units      whether every unit has one place
statistics whether norms and sums over units give the same
"""

from __future__ import annotations

__all__ = ["Alike", "obstacles"]

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from torchgraft.axes import AxisGroups
from torchgraft.couple import Coupled
from torchgraft.predict.sides import Sides, sides_of, stored_inputs
from torchgraft.predict.statistics import statistic_obstacles
from torchgraft.predict.units import unit_obstacles
from torchgraft.predict.walk import Course, Found, compare, place
from torchgraft.records import Obstacle
from torchgraft.units import provisional

#: Tells whether a buffer of the target that no state dict holds has the values of one of the source.
Alike = Callable[[str, str], bool]


def obstacles(
    target: AxisGroups,
    source: AxisGroups,
    coupled: Coupled,
    operator: str,
    tied: Mapping[str, str],
    alike: Alike = lambda *_: True,
) -> tuple[Obstacle, ...]:
    """Return what keeps the target from computing the source's function, in the order of the target's run.

    The target's run is followed back from its outputs, without the branches that the plan silences. Each step has to
    be the step of the source that its weights come from, every unit has to have one place, and norms over more units
    have to be made up for. What cannot be shown to be the same counts as an obstacle.

    Args:
        target: the target's groups.
        source: the source's groups.
        coupled: the moves of the plan.
        operator: its name.
        tied: further names of the source's tensors, and the first ones.
        alike: compares buffers that no state dict holds (a table of angles), by their names in target and source.
    """
    coupled = replace(coupled, maps=provisional(coupled.maps))
    sides = sides_of(target, source, coupled, operator, tied)
    course = compare(sides)
    found = [*course.found, *_units(sides, course), *_precision(sides)]
    for number, step in sides.repeated():
        what = f"a new norm adds its epsilon ({step.settings[-1]:g}) once more"
        found.append(Found(number, Obstacle(what, place(target.flow, step, ""))))
    found += [Found(number, Obstacle(what, where)) for number, what, where in statistic_obstacles(sides, course)]
    for (mine, other), where in course.constants.items():
        if not alike(mine, other):
            found.append(Found(len(target.flow.steps), Obstacle(f"the buffer {mine} holds other values", where)))
    found.sort(key=lambda one: one.position)
    return tuple(dict.fromkeys(one.obstacle for one in found))


def _units(sides: Sides, course: Course) -> Iterator[Found]:
    read: dict[str, int] = {}
    for number, (mine, _) in sorted(course.pairs.items()):
        for key in stored_inputs(sides.target.flow, mine):
            read.setdefault(key, number)
    for what, key in unit_obstacles(sides, list(read), course.new):
        yield Found(read.get(key, 0), Obstacle(what, key.rpartition(".")[0] or key))


def _precision(sides: Sides) -> Iterator[Found]:
    """Values that are stored in fewer digits than they had."""
    digits = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
    for key, held in sides.ballots.items():
        target, source = held[0].move.target.dtype, held[0].move.source.dtype
        if digits.get(target, 0) < digits.get(source, 0):
            what = f"values are rounded to {target}, the source's are {source}"
            yield Found(0, Obstacle(what, key.rpartition(".")[0] or key))
