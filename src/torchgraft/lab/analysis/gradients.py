"""How large gradients became: what did not break a run, but is far beyond what random initialization has."""

from __future__ import annotations

__all__ = ["FAR", "Gradients", "gradients"]

from collections.abc import Iterable, Mapping
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


def gradients(runs: Runs) -> tuple[Gradients, ...]:
    """Return the gradients of every initialization that has a completed epoch."""
    names = dict.fromkeys(case.initialization for case in runs.by_case)
    usual = {target: max(_norms(runs.random(target)), default=0.0) for target in runs.target_names}
    limits = {target: FAR * (norm or float("inf")) for target, norm in usual.items()}
    found = (_gradients(runs, name, limits) for name in names)
    return tuple(one for one in found if one is not None)


def _gradients(runs: Runs, name: str, limits: Mapping[str, float]) -> Gradients | None:
    rows = [row for case in runs.cases(name) for row in runs.by_case[case]]
    norms = _norms(rows)
    if not norms:
        return None
    far = tuple(row for row in rows if name != RANDOM and (row.gradient or 0.0) > limits[row.network])
    return Gradients(name, len(rows), median(norms), max(norms), far, sum(bool(row.exploded) for row in rows))


def _norms(rows: Iterable[Row]) -> list[float]:
    return [row.gradient for row in rows if row.gradient is not None]
