"""One edit of a model in training, and what was done in the end."""

from __future__ import annotations

__all__ = ["Grown", "Stage"]

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from torchgraft.errors import listed
from torchgraft.morph.edits import Edit
from torchgraft.optim import OptimizerReport
from torchgraft.plan import Report
from torchgraft.verify import Certificate


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """An edit with the model before and after it."""

    edit: Edit
    source: nn.Module
    target: nn.Module
    report: Report
    certificate: Certificate | None


@dataclass(frozen=True, slots=True, eq=False)
class Grown:
    """What :func:`grow` did.

    ``certificates`` and ``reports`` are those of the edits, in order; ``optimizers`` say what became of the state of
    each optimizer; ``joined`` are the new parameters with the number of the group that they are in; ``notes`` tell what
    was left behind.
    """

    edits: tuple[Edit, ...]
    certificates: tuple[Certificate | None, ...]
    reports: tuple[Report, ...]
    optimizers: tuple[OptimizerReport, ...]
    joined: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def exact(self) -> bool | None:
        """Whether every edit was measured to keep the function; ``None`` where one was not measured."""
        measured = [one.exact for one in self.certificates if one is not None]
        return all(measured) if len(measured) == len(self.certificates) else None

    def __str__(self) -> str:
        told = {None: "not measured", True: "exact", False: "not exact"}[self.exact]
        lines = [f"{'; '.join(map(str, self.edits))} ({told})", *map(str, self.optimizers)]
        groups: dict[int, list[str]] = {}
        for key, number in self.joined.items():
            groups.setdefault(number, []).append(key)
        lines += [f"new in group {number}: {listed(keys)}" for number, keys in sorted(groups.items())]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return f"<Grown: {str(self).splitlines()[0]}>"
