"""A run as a graph: which operator made a value, and from what."""

from __future__ import annotations

__all__ = ["LAYOUT", "Flow", "flow_of"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchgraft.axes.trace import Step, Trace

#: Operators that only change how a value lies, or pass a part of it on.
LAYOUT = frozenset(
    [
        *("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "clone", "contiguous", "expand", "squeeze"),
        *("unsqueeze", "roll", "slice", "select", "flatten", "as_strided", "alias", "detach", "_to_copy", "index"),
        *("pixel_shuffle", "constant_pad_nd", "native_dropout", "dropout", "unbind", "split", "split_with_sizes"),
    ]
)


@dataclass(frozen=True, slots=True)
class Flow:
    """The steps of a run, the number of the step that made each value, and the keys of stored tensors by value."""

    steps: Sequence[Step]
    maker: Mapping[int, int]
    stored: Mapping[int, str]

    def step(self, value: int) -> Step | None:
        """Return the step that made a value, ``None`` for what was there before the run."""
        number = self.maker.get(value)
        return None if number is None else self.steps[number]

    def plain(self, value: int) -> int:
        """Return the value that another one is in a new layout."""
        while True:
            step = self.step(value)
            if step is not None and step.name in LAYOUT and step.inputs:
                value = step.inputs[0]
            elif (
                step is not None
                and step.name == "cat"
                and len(made := [v for v in step.inputs if v in self.maker]) == 1
            ):
                value = made[0]  # put behind a cache, which was empty before the run
            else:
                return value

    def scaled(self, value: int) -> tuple[int, float]:
        """Return the value that another one is a multiple of, in a new layout perhaps, and the number."""
        factor = 1.0
        while True:
            value = self.plain(value)
            step = self.step(value)
            if step is None or step.name.rstrip("_") not in ("mul", "div") or len(step.inputs) != 1:
                return value, factor
            factor *= step.scale
            value = step.inputs[0]

    def parameter(self, value: int) -> str | None:
        """Return the key of a value that is a stored tensor, if in another layout."""
        return self.stored.get(self.plain(value))


def flow_of(found: Trace) -> Flow:
    """Return a run as a graph."""
    maker = {value: number for number, step in enumerate(found.steps) for value in step.outputs}
    return Flow(found.steps, maker, found.stored)
