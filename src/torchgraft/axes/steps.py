"""One operator of a run, written down."""

from __future__ import annotations

__all__ = ["Step", "scale_of", "settings_of"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torchgraft.axes.terms import Term


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of a run; ``inputs`` and ``outputs`` are numbers of values.

    A value written in place gets a new number. ``shape`` is that of the first output; ``scale`` is the number that a
    product has for a factor. ``path`` is the innermost module in which it ran, ``settings`` are the arguments that are
    no tensors, ``over`` the axes whose units come together in it: what is summed, or shares statistics.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shape: tuple[int, ...]
    scale: float = 1.0
    path: str = ""
    settings: tuple[Any, ...] = ()
    over: tuple[Term, ...] = ()

    @property
    def operator(self) -> str:
        """The name, the same for an operator that writes in place."""
        return self.name.rstrip("_")

    def operands(self, *names: str) -> tuple[tuple[int, int], ...]:
        """Return both values that the operator works on, in either order; nothing where it is none of ``names``.

        >>> Step("mul_", (3, 5), (6,), ()).operands("mul"), Step("add", (3,), (6,), ()).operands("add")
        (((3, 5), (5, 3)), ())
        """
        if self.operator not in names or len(self.inputs) != 2:
            return ()
        one, other = self.inputs
        return (one, other), (other, one)

    @property
    def groups(self) -> int:
        """How many groups a convolution or a group norm has; 1 for every other operator."""
        place = {"convolution": -1, "native_group_norm": -2}.get(self.name)
        return 1 if place is None else int(self.settings[place])


def settings_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the arguments that hold no tensors; rows of numbers as tuples."""
    plain = [one for one in (*args, *kwargs.items()) if not isinstance(one, Tensor)]
    rows = (tuple(one) if isinstance(one, list) else one for one in plain)
    return tuple(one for one in rows if not (isinstance(one, tuple) and any(isinstance(x, Tensor) for x in one)))


def scale_of(name: str, args: Sequence[Any]) -> float:
    """Return the number that a product has for a factor, 1 where it is none."""
    factor = args[1] if len(args) > 1 and isinstance(args[1], int | float) else 1
    if name.rstrip("_") == "mul":
        return float(factor)
    return 1 / factor if name.rstrip("_") == "div" and factor else 1.0
