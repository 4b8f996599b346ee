"""Both runs and what the transfer does to them: which tensors are silent, and what a value is without them."""

from __future__ import annotations

__all__ = ["SAME", "Sides", "named", "sides_of", "stored_inputs"]

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose

from torchgraft.axes import AxisGroups
from torchgraft.axes.closing import silencing_keys
from torchgraft.axes.flow import Flow
from torchgraft.axes.operators import KEEPS_ZERO, LAYOUT, SUMS
from torchgraft.axes.steps import Step
from torchgraft.axes.terms import size_of
from torchgraft.couple import Coupled
from torchgraft.couple.election import Ballot, spans_of_moves
from torchgraft.couple.passages import LINEAR
from torchgraft.records import Passage

#: Operators that give what they read, if in another shape of the same order.
SAME = frozenset((
    "view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze", "clone", "contiguous", "alias",
    "detach", "_to_copy", "lift_fresh", "native_dropout", "dropout",
))  # fmt: skip
_OPERATORS = {"native_layer_norm": "LayerNorm", "native_group_norm": "GroupNorm", "native_batch_norm": "BatchNorm"}
_NO_EPSILON = 1e-11  # what a norm of what is normalized already changes, at most
_GREATEST = frozenset(("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d"))
_IDEMPOTENT = frozenset(("relu", "hardtanh"))


@dataclass(frozen=True, slots=True)
class Sides:
    """The groups of both networks, and the plan between them.

    ``ballots`` are the moves by the target's key; ``sources`` the source's keys behind each of the target's, ``placed``
    those that have a place; ``again`` are the target's keys that are served from what serves others, ``served`` the
    rest, in modules ``owners``; ``values`` are the tensors of one value, ``factors`` by what numbers in the target's
    code may be larger. ``passing`` are tensors of new layers that give on what they read, with the activation that is
    passed in its linear range, and ``gates`` those of new gates before them; ``carried`` are tensors of layers in which
    a residual of the source is added, with the weight of the first layer that it goes through; ``folded`` are layer
    scales of the source by the keys of the weights that they are multiplied into. ``zeros``, ``lived`` and ``readers``
    remember what was asked for.
    """

    target: AxisGroups
    source: AxisGroups
    coupled: Coupled
    operator: str
    ballots: Mapping[str, Sequence[Ballot]]
    sources: Mapping[str, frozenset[str]]
    placed: frozenset[str]
    served: frozenset[str]
    owners: frozenset[str]
    again: frozenset[str]
    values: Mapping[str, float]
    factors: tuple[float, ...]
    passing: Mapping[str, str]
    gates: frozenset[str]
    carried: Mapping[str, str]
    folded: Mapping[str, str]
    zeros: dict[int, bool] = field(default_factory=dict)
    lived: dict[int, int] = field(default_factory=dict)
    readers: dict[bool, dict[str, list[Step]]] = field(default_factory=dict)

    def live(self, value: int) -> int:
        """Return what a value of the target is without what adds nothing, lets everything through, or only reshapes."""
        if value not in self.lived:
            self.lived[value] = self._live(value)
        return self.lived[value]

    def _live(self, value: int) -> int:
        flow = self.target.flow
        while (step := flow.step(value)) is not None:
            name, inputs = step.operator, step.inputs
            sums = name in SUMS and len(inputs) == 2
            if (step.name in SAME and inputs) or (sums and self.is_zero(inputs[1])):
                value = inputs[0]
            elif sums and name == "add" and self.is_zero(inputs[0]):
                value = inputs[1]
            elif self._is_done(flow, step, self.live) or self._is_plain(step):
                value = inputs[0]
            elif (before := self._turned_back(flow, step, self.live)) is not None:
                value = before
            elif self._passes(step):
                product = flow.product(step)
                value = inputs[0] if product is None else self._given_on(step, product.value)
            elif name == "mul" and len(inputs) == 2 and any(map(self._is_open, inputs)):
                value = inputs[0] if self._is_open(inputs[1]) else inputs[1]
            elif name == "mul" and len(inputs) == 2 and any(map(self._is_one, inputs)):
                value = inputs[0] if self._is_one(inputs[1]) else inputs[1]
            else:
                break
        return value

    def _is_one(self, value: int) -> bool:
        """Tell whether a value is a stored vector of ones: a stream passes it as it is."""
        key = self.target.flow.parameter(value)
        return key is not None and self.values.get(key) == 1

    def original(self, value: int) -> int:
        """Return what a value of the source is but for its shape."""
        flow = self.source.flow
        while (step := flow.step(value)) is not None and step.inputs:
            before = self._turned_back(flow, step, self.original)
            if step.name in SAME or self._is_done(flow, step, self.original):
                value = step.inputs[0]
            elif before is None and (before := self._unscaled(step)) is None:
                break
            else:
                value = before
        return value

    def _unscaled(self, step: Step) -> int | None:
        """Return what a layer scale of the source multiplies, if the target's weights hold what both give."""
        flow = self.source.flow
        for scale, value in step.operands("mul"):
            factors = flow.factors(flow.step(flow.plain(value)))
            if factors is not None and self.folded.get(factors[0], "") == flow.parameter(scale):
                return value
        return None

    @staticmethod
    def _is_done(flow: Flow, step: Step, before: Callable[[int], int]) -> bool:
        """Tell whether a step does again what was just done: a rectifier behind one, with a silent block between."""
        name = step.operator
        if name not in _IDEMPOTENT:
            return False
        made = flow.step(before(step.inputs[0]))
        while made is not None and made.name in _GREATEST:
            made = flow.step(before(made.inputs[0]))
        return made is not None and (made.operator, made.settings) == (name, step.settings)

    @staticmethod
    def _turned_back(flow: Flow, step: Step, before: Callable[[int], int]) -> int | None:
        """Return what a step puts back as it was: axes that were swapped before a silent block and are after it."""
        if step.name != "transpose":
            return None
        made = flow.step(before(step.inputs[0]))
        swapped = made is not None and made.name == "transpose" and _swap(made) == _swap(step)
        return made.inputs[0] if made is not None and swapped else None

    def _is_plain(self, step: Step) -> bool:
        """Tell whether a norm without gain and shift stands before another norm."""
        keys = list(stored_inputs(self.target.flow, step)) if step.name == "native_layer_norm" else []
        return [self.values.get(key) for key in keys] == [1.0, 0.0]

    def repeated(self) -> Iterator[tuple[int, Step]]:
        """Yield the norms that come on top of others, whose epsilon leaves a trace, with the numbers of their steps."""
        for number, step in enumerate(self.target.flow.steps if self.values else ()):
            if self._is_plain(step) and step.settings[-1] > _NO_EPSILON:
                yield number, step

    def _passes(self, step: Step) -> bool:
        """Tell whether a step is of a new layer that gives on what it reads, or its activation in its linear range."""
        flow = self.target.flow
        if self.passing.keys() & set(stored_inputs(flow, step)):
            return True
        before = flow.step(step.inputs[0]) if step.inputs and step.operator in LINEAR else None
        made = () if before is None else stored_inputs(flow, before)
        return any(self.passing.get(key) == step.operator for key in made)

    def _given_on(self, step: Step, value: int) -> int:
        """Return what a new layer gives on of what it reads: of a concatenation, the part that its rows are taken from.

        Its first outputs are the units of that part, in their order.
        """
        flow = self.target.flow
        made = flow.step(value)
        if made is None or made.name != "cat" or step.name != "convolution":
            return value
        keys = set(stored_inputs(flow, step))
        passage = next((one for one in self.coupled.passages if one.weight in keys), None)
        if passage is None or passage.rows[0] != 0:
            return value
        start, first = 0, passage.columns[0]
        if any(column != first + row for row, column in zip(passage.rows, passage.columns, strict=True)):
            return value
        for one in made.inputs:
            part = flow.step(one)
            if part is None or part.outputs[0] != one or len(part.shape) < 3:
                break
            if start == first and len(passage.columns) <= part.shape[1]:
                return one
            start += part.shape[1]
        return value

    def _is_open(self, value: int) -> bool:
        """Tell whether a value is a gate that is the same everywhere, which other tensors make up for."""
        flow = self.target.flow
        made = flow.gate(value)
        before = None if made is None else flow.step(flow.plain(made.inputs[0]))
        keys = [] if before is None else list(stored_inputs(flow, before))
        return bool(keys) and all(key in self.values or key in self.gates for key in keys)

    def is_zero(self, value: int) -> bool:
        """Tell whether silent tensors make a value of the target zero."""
        if not self.values:
            return False
        if value not in self.zeros:
            self.zeros[value] = self._is_zero(value)
        return self.zeros[value]

    def _is_zero(self, value: int) -> bool:
        flow = self.target.flow
        key = flow.parameter(value)
        if key is not None:
            return self.values.get(key) == 0
        step = flow.step(value)
        if step is None or not step.inputs:
            return False
        name = step.operator
        if step.name in LAYOUT or name in KEEPS_ZERO:
            return self.is_zero(step.inputs[0])
        silencing = silencing_keys(flow, step)
        if silencing:
            return all(self.values.get(key) == 0 for key in silencing)
        if name == "mul":
            return any(map(self.is_zero, step.inputs))
        if name in SUMS or name in ("cat", "stack"):
            latest = sorted(step.inputs, key=lambda one: -flow.maker.get(one, -1))  # a branch is short, a stream is not
            return all(map(self.is_zero, latest))
        return False

    def is_packed(self, key: str) -> bool:
        """Tell whether groups of a grouped convolution stand side by side in larger ones: a move for each of them."""
        held = [one.move for one in self.ballots.get(key, ())]
        return len(held) > 1 and all(one.target.part is None and one.source.key in self.source.grouped for one in held)

    def makes_up(self, target: float, source: float) -> bool:
        """Tell whether two numbers in the code are alike, or tensors make up for their difference."""
        if isclose(target, source, rel_tol=1e-9):
            return True
        return bool(source) and any(isclose(target / source, factor, rel_tol=1e-6) for factor in self.factors)

    def uses(self, key: str, *, of_source: bool = False) -> Sequence[Step]:
        """Return the steps that read a stored tensor, in the order of the run."""
        if of_source not in self.readers:
            flow = (self.source if of_source else self.target).flow
            found = self.readers.setdefault(of_source, {})
            for step in flow.steps:
                for one in stored_inputs(flow, step):
                    found.setdefault(one, []).append(step)
        return self.readers[of_source].get(key, ())

    def size(self, key: str, axis: int, *, of_source: bool = False) -> int:
        """Return the length of an axis of a stored tensor."""
        return size_of((self.source if of_source else self.target).axes[key][axis])


def _swap(step: Step) -> frozenset[int]:
    """Return the axes that a transposition swaps."""
    return frozenset(int(axis) % len(step.shape) for axis in step.settings[:2])


def stored_inputs(flow: Flow, step: Step) -> Iterator[str]:
    """Yield the keys of the stored tensors that a step reads."""
    for value in step.inputs:
        key = flow.parameter(value)
        if key is not None:
            yield key


def named(flow: Flow, step: Step) -> str:
    """Return the class of the module in which a step ran, where that does nothing else, or the operator's name."""
    name = flow.classes.get(step.path)
    if name is not None and not name.startswith("Identity"):
        return name
    return _OPERATORS.get(step.operator, step.name.strip("_"))


def sides_of(target: AxisGroups, source: AxisGroups, coupled: Coupled, operator: str, tied: Mapping[str, str]) -> Sides:
    """Put together what both runs are compared by.

    Args:
        target: the target's groups.
        source: the source's groups.
        coupled: the moves of the plan.
        operator: its name.
        tied: further names of the source's tensors, and the first ones.
    """
    ballots: dict[str, list[Ballot]] = {}
    for ballot in spans_of_moves(coupled.transfers, target, source):
        ballots.setdefault(ballot.move.target.key, []).append(ballot)
    sources = {
        key: frozenset(tied.get(one.move.source.key, one.move.source.key) for one in held)
        for key, held in ballots.items()
    }
    placed = {key for name, held in ballots.items() if not held[0].transfer.reused for key in sources[name]}
    again = frozenset(key for key, held in ballots.items() if held[0].transfer.reused)
    values = {fill.key: fill.value for fill in coupled.fills}
    factors = tuple(_factors(ballots, target, source))
    served = frozenset(sources) - again
    owners = frozenset(key.rpartition(".")[0] for key in served)
    new = [one for one in coupled.passages if one.weight not in ballots]
    passing = {key: one.lifts[1] for one in new if not one.gate for key in one.keys}
    gates = frozenset(key for one in new if one.gate for key in (one.weight, one.bias))
    folded = {one.move.source.key: one.move.fold for held in ballots.values() for one in held if one.move.fold}
    return Sides(
        target, source, coupled, operator, ballots, sources, frozenset(placed), served, owners, again, values, factors,
        passing, gates, _carried(coupled.passages, ballots), folded,
    )  # fmt: skip


def _carried(passages: Sequence[Passage], served: Collection[str]) -> dict[str, str]:
    """Return the first layer of every row that carries a residual, by the tensors of the last one."""
    found: dict[str, str] = {}
    first = ""
    for one in passages:
        if one.weight in served and not one.gate:
            first = first or one.weight
            if one.added:
                found |= dict.fromkeys(one.keys, first)
                first = ""
    return found


def _factors(ballots: Mapping[str, Sequence[Ballot]], target: AxisGroups, source: AxisGroups) -> Iterator[float]:
    """Yield by what numbers of the target's code may be larger than the source's, since tensors make up for it."""
    for key, held in ballots.items():
        other = held[0].move.source.key
        if any(one.move.factor != 1 for one in held) and key in target.scales and other in source.scales:
            ratio = target.scales[key].scale / source.scales[other].scale
            yield from (ratio, ratio**0.5)  # queries and keys may each be multiplied by a root
        if key in target.embedding_scales and other in source.embedding_scales:
            ratio = target.embedding_scales[key] / source.embedding_scales[other]
            if all(isclose(one.move.factor * ratio, 1, rel_tol=1e-6) for one in held):
                yield from (ratio, 1 / ratio)  # the norm before a tied layer takes it back
        if key in target.normed and other in source.normed:
            ratio = target.normed[key].scale / source.normed[other].scale
            if ratio != 1 and all(_divides(ballots.get(gain, ()), ratio) for gain in target.normed[key].gains):
                yield ratio


def _divides(held: Sequence[Ballot], ratio: float) -> bool:
    """Tell whether a gain makes up for a number that is larger by this ratio, beside what its norm asks for."""
    return bool(held) and any(isclose(held[0].move.factor * ratio, one, rel_tol=1e-6) for one in _gain_factors(held[0]))


def _gain_factors(ballot: Ballot) -> tuple[float, ...]:
    """Return by what the gain of a norm may be multiplied because the norm is over more units."""
    large, small = ballot.move.target.shape[0], ballot.move.source.shape[0]
    return (1.0,) if large == small else ((small / large) ** 0.5, 1.0, small / large)
