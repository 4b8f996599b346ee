"""How large gradients became: what did not break a run, but is far beyond what random initialization has."""

from __future__ import annotations

__all__ = ["FAR", "Gradients", "gradients", "largest"]

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from torchgraft.lab.analysis.runs import RANDOM, Runs
from torchgraft.lab.records import Row

#: So many times the largest gradient from random initialization is called far beyond it.
FAR = 10.0


@dataclass(frozen=True, slots=True)
class Gradients:
    """The largest gradient norm of each run of an initialization: their median and maximum.

    ``far`` lists the runs beyond :data:`FAR` times the largest of the same target from random initialization;
    ``ended`` counts those that broke.
    """

    initialization: str
    runs: int
    median: float
    largest: float
    far: tuple[Row, ...]
    ended: int


def largest(row: Row) -> float | None:
    """Return the largest gradient norm of any step of a run; ``None`` where no epoch was completed.

    >>> from torchgraft.lab.records import Epoch, Initialized
    >>> points = (Epoch(0, 0, 10.0, 2.3), Epoch(1, 50, 30.0, 1.0, gradient=4.0), Epoch(2, 99, 31.0, 1.0, gradient=2.0))
    >>> largest(Row("k", "target", "b", "", "random", 0, {}, points, Initialized()))
    4.0
    """
    return max((point.gradient for point in row.curve if point.gradient is not None), default=None)


def gradients(runs: Runs) -> tuple[Gradients, ...]:
    """Return the gradients of every initialization that has a completed epoch."""
    names = dict.fromkeys(case.initialization for case in runs.by_case)
    found = (_gradients(runs, name) for name in names)
    return tuple(one for one in found if one is not None)


def _gradients(runs: Runs, name: str) -> Gradients | None:
    rows = [row for case in runs.cases(name) for row in runs.by_case[case]]
    norms = [(row, norm) for row in rows if (norm := largest(row)) is not None]
    if not norms:
        return None
    values = [norm for _, norm in norms]
    usual = {target: _most(runs.random(target)) for target in runs.target_names}
    far = tuple(row for row, norm in norms if name != RANDOM and norm > FAR * (usual[row.network] or float("inf")))
    return Gradients(name, len(rows), median(values), max(values), far, sum(bool(row.exploded) for row in rows))


def _most(rows: Sequence[Row]) -> float | None:
    return max((norm for row in rows if (norm := largest(row)) is not None), default=None)
