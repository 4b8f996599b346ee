"""Does similarity foretell effectiveness? Correlations, and gains and losses by ranges of similarity."""

from __future__ import annotations

__all__ = ["BANDS", "Band", "Correlation", "Point", "bands", "correlations", "points"]

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torchgraft.lab.analysis.effects import Effect
from torchgraft.lab.analysis.runs import Case, Runs
from torchgraft.lab.analysis.statistics import Estimate, bootstrap, pearson, spearman

#: Ranges of similarity by name: from (included), to (not included). The authors saw gains above 0.6, losses below 0.45.
BANDS = (("above 0.6", 0.6, math.inf), ("0.45 to 0.6", 0.45, 0.6), ("below 0.45", -math.inf, 0.45))


@dataclass(frozen=True, slots=True)
class Point:
    """One pair: its similarity by ``measure`` and its effectiveness."""

    case: Case
    measure: str
    similarity: float
    effectiveness: float


@dataclass(frozen=True, slots=True)
class Correlation:
    """Correlation of effectiveness with one measure of similarity over pairs.

    ``own`` tells the measure that belongs to the initialization. The estimates are ``None`` for fewer than three pairs.
    """

    initialization: str
    measure: str
    own: bool
    pairs: int
    pearson: Estimate | None
    pearson_p: float | None
    spearman: Estimate | None
    spearman_p: float | None


@dataclass(frozen=True, slots=True)
class Band:
    """Effectiveness of the pairs in one range of similarity."""

    initialization: str
    measure: str
    name: str
    pairs: int
    wins: int
    mean: Estimate | None


def own_measure(initialization: str, measures: Sequence[str]) -> str:
    """Return the measure of the method that the initialization is a variant of, else the paper's, else the first.

    >>> own_measure("graft:dp", ["dpiat", "graft"]), own_measure("fna", ["dpiat", "graft"])
    ('graft', 'dpiat')
    """
    method = initialization.split(":", maxsplit=1)[0]
    if method in measures:
        return method
    return "dpiat" if "dpiat" in measures else measures[0]


def points(runs: Runs, found: Sequence[Effect]) -> tuple[Point, ...]:
    """Return every pair that has both an effectiveness and a similarity, once for each measure."""
    return tuple(
        Point(effect.case, measure, value, effect.value)
        for effect in found
        if effect.value is not None
        for measure, value in sorted(runs.similarity.get((effect.case.source, effect.case.target), {}).items())
    )


def _groups(found: Sequence[Point]) -> list[tuple[str, str, bool, list[Point]]]:
    names = dict.fromkeys(point.case.initialization for point in found)
    groups = []
    for name in names:
        measures = list(dict.fromkeys(point.measure for point in found if point.case.initialization == name))
        for measure in measures:
            chosen = [p for p in found if p.case.initialization == name and p.measure == measure]
            groups.append((name, measure, measure == own_measure(name, measures), chosen))
    return groups


def correlations(found: Sequence[Point], seed: int = 0) -> tuple[Correlation, ...]:
    """Correlate effectiveness with every measure of similarity, for every initialization."""
    return tuple(_correlation(*group, seed) for group in _groups(found))


def _correlation(name: str, measure: str, own: bool, group: Sequence[Point], seed: int) -> Correlation:
    x, y = [point.similarity for point in group], [point.effectiveness for point in group]
    first, second = pearson(x, y), spearman(x, y, seed)
    return Correlation(
        name,
        measure,
        own,
        len(group),
        first[0] if first else None,
        first[1] if first else None,
        second[0] if second else None,
        second[1] if second else None,
    )


def bands(found: Sequence[Point], seed: int = 0) -> tuple[Band, ...]:
    """Return mean effectiveness and wins in every range of similarity, for every initialization and its own measure."""
    return tuple(
        _band(name, measure, band, [p.effectiveness for p in group if low <= p.similarity < high], seed)
        for name, measure, own, group in _groups(found)
        if own
        for band, low, high in BANDS
    )


def _band(name: str, measure: str, band: str, values: Sequence[float], seed: int) -> Band:
    return Band(name, measure, band, len(values), sum(value > 1 for value in values), bootstrap(values, seed))
