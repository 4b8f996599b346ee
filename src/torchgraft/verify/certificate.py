"""The certificate as data and as text."""

from __future__ import annotations

__all__ = ["TOLERANCE", "Certificate", "Deviation", "Place", "rounding_in_storage"]

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import isnan
from typing import Any

import torch

from torchgraft.view.text import render

#: Relative deviation up to which two outputs are the same function but for rounding, by precision.
TOLERANCE: Mapping[str, float] = {"float64": 1e-10, "float32": 1e-4}

# Rounding errors of stored weights add up on the way to the outputs.
_ROUNDINGS = 64


def rounding_in_storage(types: Iterable[torch.dtype]) -> float:
    """Return the relative deviation that storing computed weights in these types explains, 0 where there are none.

    >>> rounding_in_storage([torch.float64, torch.float32]) == 64 * 2**-23
    True
    """
    return _ROUNDINGS * max((torch.finfo(one).eps for one in types), default=0.0)


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far the outputs are apart in one ``mode`` (eval or train) and ``precision`` (float64 or float32).

    ``absolute`` is ``max|y_t - y_s|``, ``relative`` that divided by ``max|y_s|``.
    """

    mode: str
    precision: str
    absolute: float
    relative: float


@dataclass(frozen=True, slots=True)
class Place:
    """A layer of the ``target`` whose output deviates from that of the ``source`` layer which it stands for.

    ``relative`` is by how much, ``after`` the last layer before it that agrees, empty where there is none. Where all
    layers agree and the outputs do not, both paths are ``output``.
    """

    target: str
    source: str
    relative: float
    after: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """What :func:`torchgraft.verify` measured.

    ``deviations`` holds one entry for each mode and precision that could be run, ``place`` the first layer at which the
    computations part, ``reasons`` why, the nearest first. Of ``compared`` layers, ``agreeing`` agree. ``inputs`` says
    what the models were run on, ``notes`` what was left out. ``rounding`` is the relative deviation that comes from
    storing computed weights (a rescaled gain, shared columns) in the target's type, 0 where all were copied.
    """

    source: str
    target: str
    inputs: str
    deviations: tuple[Deviation, ...]
    place: Place | None
    agreeing: int
    compared: int
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rounding: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether the target computes the source's function in eval mode: 1e-10 in float64, 1e-4 in float32.

        Where the transfer computed weights that are stored in less than float64, up to ``rounding``.
        """
        measured = [one for one in self.deviations if one.mode == "eval"]
        return bool(measured) and all(map(self.within, measured))

    def within(self, deviation: Deviation) -> bool:
        """Tell whether rounding explains a deviation."""
        return deviation.relative <= max(TOLERANCE[deviation.precision], self.rounding)

    def deviation(self, mode: str = "eval", precision: str = "float64") -> Deviation | None:
        """Return what was measured in a mode and precision, ``None`` where the models did not run."""
        return next((one for one in self.deviations if (one.mode, one.precision) == (mode, precision)), None)

    def __str__(self) -> str:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("mode", "precision"):
            table.add_column(name, no_wrap=True)
        for name in ("relative", "absolute"):
            table.add_column(name, justify="right", no_wrap=True)
        for one in self.deviations:
            table.add_row(one.mode, one.precision, f"{one.relative:.1e}", f"{one.absolute:.1e}")
        head = f"{self.source} → {self.target}: {'exact' if self.exact else 'not exact'}, measured on {self.inputs}"
        return render(head, table, *self._lines())

    def _lines(self) -> list[str]:
        lines = [f"{self.agreeing} of {self.compared} compared layers agree"]
        if self.place is not None:
            after = f", after {self.place.after}" if self.place.after else ""
            place = self.place.target
            place += "" if place == self.place.source else f" (from {self.place.source})"
            apart = "" if isnan(self.place.relative) else f", by {self.place.relative:.1e}"  # nothing to compare
            lines.append(f"parts at: {place}{after}{apart}")
        names = ["reason", *["further"] * len(self.reasons)]
        lines += [f"{name}: {text}" for name, text in zip(names, self.reasons, strict=False)]
        return [*lines, *(f"note: {note}" for note in self.notes)]

    def to_dict(self) -> dict[str, Any]:
        """Return the certificate as plain data."""
        return {"exact": self.exact, **asdict(self)}
