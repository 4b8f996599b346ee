"""A run as a graph: which operator made a value, and from what."""

from __future__ import annotations

__all__ = ["Flow", "Product", "flow_of", "grouped_weights"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from torchgraft.axes.operators import LAYOUT, PRODUCTS, SIGMOIDS
from torchgraft.axes.steps import Step
from torchgraft.axes.trace import Trace


@dataclass(frozen=True, slots=True)
class Product:
    """What a product reads, as numbers of values; ``bias`` is ``None`` where it has none."""

    value: int
    weight: int
    bias: int | None


@dataclass(frozen=True, slots=True)
class Flow:
    """The steps of a run, the number of the step that made each value, and the keys of stored tensors by value.

    ``given`` and ``outputs`` are the values of inputs and outputs, ``classes`` those of the modules without
    others inside, by path; ``constants`` the names of buffers that no state dict holds, ``numbers`` those that are one
    number; ``read`` are the steps that read a value, in the order of the run.
    """

    steps: Sequence[Step]
    maker: Mapping[int, int]
    stored: Mapping[int, str]
    given: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    classes: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[int, str] = field(default_factory=dict)
    numbers: Mapping[int, float] = field(default_factory=dict)
    read: Mapping[int, Sequence[Step]] = field(default_factory=dict)

    def step(self, value: int) -> Step | None:
        """Return the step that made a value, ``None`` for what was there before the run."""
        number = self.maker.get(value)
        return None if number is None else self.steps[number]

    def operands(self, value: int, *names: str) -> tuple[tuple[int, int], ...]:
        """Return both operands of the step that made a value, in either order, if it is one of these operators."""
        step = self.step(value)
        return () if step is None else step.operands(*names)

    def readers(self, value: int) -> Sequence[Step]:
        """Return the steps that read a value."""
        return self.read.get(value, ())

    def plain(self, value: int) -> int:
        """Return the value that another one is in a new layout."""
        while (step := self.step(value)) is not None and step.inputs:
            if step.name in LAYOUT:
                value = step.inputs[0]
                continue
            made = [one for one in step.inputs if one in self.maker] if step.name == "cat" else []
            if len(made) != 1:
                break
            value = made[0]  # put behind a cache, which was empty before the run
        return value

    def scaled(self, value: int) -> tuple[int, float]:
        """Return the value that another one is a multiple of, in a new layout perhaps, and the number."""
        factor = 1.0
        while True:
            value = self.plain(value)
            step = self.step(value)
            if step is None or step.operator not in ("mul", "div"):
                return value, factor
            numbers = [self.numbers.get(self.plain(one)) for one in step.inputs[1:]]
            if None in numbers or (numbers and step.operator == "div"):
                return value, factor
            factor *= prod(one for one in numbers if one is not None) if numbers else step.scale
            value = step.inputs[0]

    def embeddings(self) -> frozenset[str]:
        """Return the keys of the stored tensors whose rows are looked up by number."""
        keys = (self.parameter(step.inputs[0]) for step in self.steps if step.name == "embedding")
        return frozenset(key for key in keys if key is not None)

    def parameter(self, value: int) -> str | None:
        """Return the key of a value that is a stored tensor, if in another layout."""
        return self.stored.get(self.plain(value))

    def gate(self, value: int) -> Step | None:
        """Return the sigmoid that a value comes from, if in another layout, ``None`` where it comes from none."""
        step = self.step(self.plain(value))
        return step if step is not None and step.operator in SIGMOIDS else None

    def product(self, step: Step | None) -> Product | None:
        """Return what a step reads if it is a product with a weight."""
        if step is None or step.name not in PRODUCTS:
            return None
        value, weight, bias = PRODUCTS[step.name]
        held = step.inputs
        return Product(held[value], held[weight], None if bias is None or bias >= len(held) else held[bias])

    def factors(self, step: Step | None) -> tuple[str, str | None] | None:
        """Return the keys of weight and bias (``None`` if there is none) of a product, ``None`` if one is computed."""
        product = self.product(step)
        weight = None if product is None else self.parameter(product.weight)
        bias = None if product is None or product.bias is None else self.parameter(product.bias)
        if product is None or weight is None or (bias is None and product.bias is not None):
            return None
        return weight, bias


def flow_of(found: Trace) -> Flow:
    """Return a run as a graph."""
    maker = {value: number for number, step in enumerate(found.steps) for value in step.outputs}
    read: dict[int, list[Step]] = {}
    for step in found.steps:
        for value in step.inputs:
            read.setdefault(value, []).append(step)
    told = found.given, found.outputs, found.classes, found.constants, found.numbers
    return Flow(found.steps, maker, found.stored, *told, read)


def grouped_weights(flow: Flow) -> dict[str, int]:
    """Return how many groups a convolution has, where it has more than one, by the key of its weight."""
    found = {}
    for step in flow.steps:
        key = flow.parameter(step.inputs[1]) if step.groups > 1 and step.name == "convolution" else None
        if key is not None:
            found[key] = step.groups
    return found
