"""Both runs side by side, from the outputs back: where the target calls something else than the source."""

from __future__ import annotations

__all__ = ["Course", "Found", "compare", "place"]

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from torchgraft.axes import AxisGroups
from torchgraft.axes.flow import Flow
from torchgraft.axes.operators import LAYER_NORMS, LAYOUT, SUMS
from torchgraft.axes.steps import Step
from torchgraft.axes.terms import size_of
from torchgraft.predict.settings import differ
from torchgraft.predict.sides import SAME, Sides, named, stored_inputs
from torchgraft.predict.views import seen_alike
from torchgraft.records import Obstacle

#: A value of the target, the value of the source that it should be, and the place of what reads it.
Point = tuple[int, int, str]

_COMMUTES = frozenset(("add", "mul"))
_BRIEF = frozenset(("addmm", "mm"))  # the same product, with and without a bias


@dataclass(frozen=True, slots=True)
class Found:
    """An obstacle, and when in the target's run it is met.

    ``kind`` is ``layer`` for a layer that only one network has, ``sum`` for a sum of which that is said, ``order`` for
    one that values are put in; the last two may follow from others.
    """

    position: int
    obstacle: Obstacle
    kind: str = ""


@dataclass(slots=True)
class Course:
    """What the walk has found: obstacles, and the steps of the target that stand for steps of the source.

    ``new`` are the tensors that make further parts of a concatenation, whose units nothing may read; ``constants``
    are buffers that no state dict holds, of the target and of the source, and the places of what reads them.
    """

    found: list[Found] = field(default_factory=list)
    new: set[str] = field(default_factory=set)
    constants: dict[tuple[str, str], str] = field(default_factory=dict)
    pairs: dict[int, tuple[Step, Step]] = field(default_factory=dict)


def compare(sides: Sides) -> Course:
    """Walk back through both runs at once; where they part, go on at the next layers that stand for each other."""
    target, source, course = sides.target.flow, sides.source.flow, Course()
    waiting = [(*pair, "the output") for pair in zip(target.outputs, source.outputs, strict=False)]
    seen: set[tuple[int, int]] = set()
    while waiting:
        made, original, below = waiting.pop()
        t, s = sides.live(made), sides.original(original)
        if (t, s) in seen:
            continue
        seen.add((t, s))
        mine, other = target.step(t), source.step(s)
        if mine is None or other is None:
            known = target.constants.get(t), source.constants.get(s)
            numbers = target.numbers.get(t), source.numbers.get(s)
            if numbers[0] is not None and numbers[1] is not None and sides.makes_up(numbers[0], numbers[1]):
                continue
            if mine is None and known[0] and known[1]:
                course.constants.setdefault((known[0], known[1]), below)
            elif (mine is None) != (other is None):
                course.found += _apart(sides, (t, s, below), waiting)
            continue
        alone = _alone(sides, mine, other, course.new)
        if alone is not None:
            waiting.append((alone, s, below))
            continue
        carried = _carried(sides, mine, other, course.new)
        if carried is not None:
            waiting += [(t, carried[0], below), (carried[1], carried[2], below)]
            continue
        inputs = _aligned(sides, mine, other, course.new)
        if inputs is None and (viewed := seen_alike(sides, t, s)) is not None:
            waiting.append((*viewed, below))
            continue
        if inputs is None or mine.outputs.index(t) != other.outputs.index(s):
            course.found += _apart(sides, (t, s, below), waiting)
            continue
        number, where = target.maker[t], place(target, mine, below)
        course.pairs[number] = mine, other
        course.found += [Found(number, Obstacle(what, where)) for what in differ(sides, mine, other)]
        course.found += _tensors(sides, number, mine, other)
        waiting += [(*pair, where) for pair in inputs]
    follows = {"sum", "order"} if any(one.kind == "layer" for one in course.found) else {"order"}
    course.found = [one for one in course.found if one.kind not in follows] or course.found
    return course


def _carried(sides: Sides, mine: Step, other: Step, new: set[str]) -> tuple[int, int, int] | None:
    """Split a sum of the source that the target's layer makes, whose spare units carry the stream through the block.

    Returns what the layer gives in the source, the stream in the target, and the stream in the source.
    """
    flow, source = sides.target.flow, sides.source.flow
    first = next((sides.carried[key] for key in stored_inputs(flow, mine) if key in sides.carried), None)
    if first is None:
        return None
    product = flow.product(next((step for step in sides.uses(first) if flow.product(step) is not None), None))
    for made, stream in other.operands("add"):
        step = source.step(sides.original(made))
        if product is not None and step is not None and _aligned(sides, mine, step, new) is not None:
            return made, product.value, stream
    return None


def _aligned(sides: Sides, mine: Step, other: Step, new: set[str]) -> list[tuple[int, int]] | None:
    """Return the values that both steps read, in pairs, or ``None`` where the steps are not the same function."""
    names = mine.operator, other.operator
    if names[0] != names[1] and not (_is_linear(sides.target, mine) and _is_linear(sides.source, other)):
        return None
    keys = [set(stored_inputs(flow, step)) for flow, step in _both(sides, mine, other)]
    if keys[0] and not any(sides.sources.get(key, frozenset()) & keys[1] for key in keys[0]):
        return None  # a layer of another place
    if bool(keys[0]) != bool(keys[1]):
        return None
    values = [[v for v in step.inputs if flow.parameter(v) is None] for flow, step in _both(sides, mine, other)]
    if names[0] == "cat" and len(values[0]) > len(values[1]):
        further = {value: made for value in values[0] if (made := _new_part(sides, value))}
        values[0] = [value for value in values[0] if value not in further]
        new.update(key for held in further.values() for key in held)
    if len(values[0]) != len(values[1]):
        return None
    if names[0] in _COMMUTES and not mine.settings and _crossed(sides, *values):
        values[0].reverse()
    return list(zip(*values, strict=True))


def _is_linear(groups: AxisGroups, step: Step) -> bool:
    """Tell whether a step is a product with a matrix: with a bias, without one, or a convolution of a single place."""
    if step.operator != "convolution":
        return step.operator in _BRIEF
    key = groups.flow.parameter(step.inputs[1])
    kernel = () if key is None else groups.axes[key][2:]
    return key is not None and step.groups == 1 and {*step.shape[2:], *map(size_of, kernel)} <= {1}


def _crossed(sides: Sides, mine: Sequence[int], other: Sequence[int]) -> bool:
    """Tell whether two values that are added or multiplied stand in the other order, by the layers that made them."""
    made = [_makers(sides.target.flow, value, sides.live) for value in mine]
    homes = [{one for key in keys for one in sides.sources.get(key, ())} for keys in made]
    makers = [_makers(sides.source.flow, value, sides.original) for value in other]
    straight = any(a & b for a, b in zip(homes, makers, strict=True))
    return not straight and any(a & b for a, b in zip(homes, reversed(makers), strict=True))


def _makers(flow: Flow, value: int, plain: Callable[[int], int]) -> set[str]:
    """Return the tensors of the layer that made a value, nothing where several values came together since."""
    while (step := flow.step(plain(value))) is not None:
        keys = set(stored_inputs(flow, step))
        values = [one for one in step.inputs if flow.parameter(one) is None]
        if keys or len(values) != 1:
            return keys
        value = values[0]
    return set()


def _alone(sides: Sides, mine: Step, other: Step, new: set[str]) -> int | None:
    """Return the one part of a concatenation that is not new, where all others are."""
    if mine.name != "cat":
        return None
    further = {value: made for value in mine.inputs if (made := _new_part(sides, value))}
    left = [value for value in mine.inputs if value not in further]
    if len(left) != 1 or not further:
        return None
    new.update(key for held in further.values() for key in held)
    return left[0]


def _new_part(sides: Sides, value: int) -> tuple[str, ...]:
    """Return the tensors of the layer that makes a part of a concatenation, if it has no source of its own."""
    flow = sides.target.flow
    step = flow.step(sides.live(value))
    while step is not None and len(step.inputs) == 1 and not any(stored_inputs(flow, step)):
        step = flow.step(sides.live(step.inputs[0]))
    keys = () if step is None else tuple(stored_inputs(flow, step))
    return keys if all(key in sides.again or key not in sides.sources for key in keys) else ()


def _both(sides: Sides, mine: Step, other: Step) -> tuple[tuple[Flow, Step], tuple[Flow, Step]]:
    return (sides.target.flow, mine), (sides.source.flow, other)


def _tensors(sides: Sides, number: int, mine: Step, other: Step) -> Iterator[Found]:
    """Yield tensors of one side that the other has no counterpart of."""
    flow = sides.target.flow
    keys, others = (list(stored_inputs(one, step)) for one, step in _both(sides, mine, other))
    where = place(flow, mine, "")
    new = {key for key in keys if not sides.sources.get(key, frozenset()) & set(others) and key not in sides.values}
    for key in sorted(new):
        yield Found(number, Obstacle(f"a {_role(key)} has no source", where))
    held = {one for key in keys for one in sides.sources.get(key, ())}
    for key in others:
        if key not in held and _role(key) not in map(_role, new):
            yield Found(number, Obstacle(f"a {_role(key)} of the source has no place", where))


def _role(key: str) -> str:
    return key.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class _Stretch:
    """What lies before a value: the steps back to the next layers of both networks, and those."""

    steps: tuple[Step, ...]
    anchors: tuple[Step, ...]


def _apart(sides: Sides, at: Point, waiting: list[Point]) -> Iterator[Found]:
    """Say what differs between here and the next layers that stand for each other, and go on before those."""
    target, (t, s, below) = sides.target.flow, at
    mine = _before(sides, target, t, sides.served, live=True)
    other = _before(sides, sides.source.flow, s, sides.placed, live=False)
    for anchor in mine.anchors:
        home = _home_of(sides, anchor)
        waiting += [] if home is None else [(anchor.outputs[0], home.outputs[0], below)]
    step = target.step(t)
    where = below if step is None else place(target, step, below)
    number = target.maker.get(t, 0)
    told = [Found(number, one, "layer") for one in _layers(sides, mine, other)]
    if not told:
        told += [Found(number, one) for one in _functions(sides, mine, other, where, below)]
        told += [Found(number, one, "order") for one in _functions(sides, mine, other, where, below, layout=True)]
        told += [Found(number, one, "sum") for one in _sums(sides, mine, other, where)]
    yield from told or [Found(number, Obstacle("layers stand in another order than in the source", where), "order")]


def _home_of(sides: Sides, anchor: Step) -> Step | None:
    """Return the step of the source that reads what a step of the target got, at the same turn of a recurrence."""
    flow = sides.target.flow
    for key in stored_inputs(flow, anchor):
        for other in sides.sources.get(key, ()):
            uses, homes = sides.uses(key), sides.uses(other, of_source=True)
            turn = next(number for number, step in enumerate(uses) if step is anchor)
            if turn < len(homes):
                return homes[turn]
    return None


def _before(sides: Sides, flow: Flow, value: int, anchored: Collection[str], *, live: bool) -> _Stretch:
    """Walk back from a value to the next steps that read one of these tensors."""
    steps: dict[int, Step] = {}
    anchors: dict[int, Step] = {}
    waiting, seen = [value], set[int]()
    while waiting:
        one = waiting.pop()
        one = sides.live(one) if live else sides.original(one)
        step = flow.step(one)
        if step is None or one in seen:
            continue
        seen.add(one)
        number = flow.maker[one]
        if any(key in anchored for key in stored_inputs(flow, step)):
            anchors[number] = step
            continue
        steps[number] = step
        waiting += [v for v in step.inputs if flow.parameter(v) is None]
    return _Stretch(tuple(steps[n] for n in sorted(steps)), tuple(anchors[n] for n in sorted(anchors)))


def _layers(sides: Sides, mine: _Stretch, other: _Stretch) -> Iterator[Obstacle]:
    """Yield layers that only one network has there."""
    flow = sides.target.flow
    for step in mine.steps:
        keys = list(stored_inputs(flow, step))
        if keys and not all(key in sides.values for key in keys):
            again = any(key in sides.again for key in keys)
            if step.operator in LAYER_NORMS and again:
                what = f"a new {named(flow, step)} normalizes what passes it, so its block is no identity"
            else:
                told = "repeats layers of the source" if again else "has no counterpart in the source"
                what = f"a layer {told} and is no identity"
            yield Obstacle(what, _home(keys, sides))
    original = sides.source.flow
    for step in other.steps:
        keys = list(stored_inputs(original, step))
        if keys:
            yield Obstacle(
                "a layer of the source has no place in the target", f"the source's {keys[0].rpartition('.')[0]}"
            )


def _home(keys: Sequence[str], sides: Sides) -> str:
    """Return the path of a layer, or the key of its weight where others of that module have a source."""
    key = next((one for one in keys if "weight" in one), keys[0])
    path = key.rpartition(".")[0]
    return key if path in sides.owners else path


def _functions(
    sides: Sides, mine: _Stretch, other: _Stretch, where: str, below: str, *, layout: bool = False
) -> Iterator[Obstacle]:
    """Yield the functions that only one network calls there, or what only one does to the order of values."""
    called = [
        [(named(flow, one), place(flow, one, below)) for one in stretch.steps if _is_function(flow, one, layout)]
        for flow, stretch in ((sides.target.flow, mine), (sides.source.flow, other))
    ]
    new, gone = ([one for one in called[a] if one[0] not in {name for name, _ in called[1 - a]}] for a in (0, 1))
    if new or gone:
        names = [", ".join(dict.fromkeys(name for name, _ in one)) or "none" for one in (gone, new)]
        yield Obstacle(" → ".join(names), new[0][1] if new else where)


def _sums(sides: Sides, mine: _Stretch, other: _Stretch, where: str) -> Iterator[Obstacle]:
    """Yield that only one network adds a stream to what was computed from it."""
    flows = sides.target.flow, sides.source.flow
    sums = [sum(_adds(flow, one) for one in stretch.steps) for flow, stretch in zip(flows, (mine, other), strict=True)]
    if sums[0] != sums[1]:
        one, another = ("the target", "the source") if sums[0] > sums[1] else ("the source", "the target")
        yield Obstacle(f"{one} adds the input of this block to what it gives, {another} does not", where)


def _adds(flow: Flow, step: Step) -> bool:
    """Tell whether a step adds two values that were both computed from the input: a mask is none."""
    return step.operator in SUMS and len(step.inputs) == 2 and all(_computed(flow, v) for v in step.inputs)


def _computed(flow: Flow, value: int) -> bool:
    waiting, seen = [value], set[int]()
    while waiting:
        one = waiting.pop()
        step = flow.step(one)
        if one in flow.given or (step is not None and any(stored_inputs(flow, step))):
            return True
        if step is not None and one not in seen:
            seen.add(one)
            waiting += step.inputs
    return False


def _is_function(flow: Flow, step: Step, layout: bool) -> bool:
    plain = step.name not in SAME and step.operator not in SUMS and not any(stored_inputs(flow, step))
    return plain and (step.name in LAYOUT) == layout


def place(flow: Flow, step: Step, below: str) -> str:
    """Return where a step runs: the layer whose tensors it reads, a module that does nothing else, or what follows.

    Args:
        flow: the run.
        step: of it.
        below: the place of what reads the step.
    """
    key = next(stored_inputs(flow, step), None)
    if key is not None:
        return key.rpartition(".")[0] or key
    return step.path if step.path in flow.classes else below
