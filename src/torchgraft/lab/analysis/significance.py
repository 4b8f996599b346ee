"""Is an initialization better or worse than random? Paired over seeds for each pair, pooled over pairs for all."""

from __future__ import annotations

__all__ = ["ALPHA", "Pooled", "Verdict", "pooled", "verdicts"]

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from torchgraft.lab.analysis.runs import RANDOM, Case, Runs
from torchgraft.lab.analysis.statistics import holm, mean, paired_test, signed_rank

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Verdict:
    """A case against random initialization of the same target, over the seeds that both have.

    ``difference`` is in points of accuracy after the last epoch. ``p`` is of the paired t-test, ``None`` where it says
    nothing (one seed, or the same difference in every seed); ``holm`` is corrected over all tested cases of the same
    initialization.
    """

    case: Case
    difference: float
    seeds: int
    p: float | None
    holm: float | None = None

    @property
    def marked(self) -> str:
        """``worse`` or ``better`` at p < 0.05 without correction, else empty."""
        if self.p is None or self.p >= ALPHA:
            return ""
        return "worse" if self.difference < 0 else "better"

    @property
    def holds(self) -> bool:
        """Whether p stays below 0.05 after Holm's correction."""
        return self.holm is not None and self.holm < ALPHA


@dataclass(frozen=True, slots=True)
class Pooled:
    """All cases of one initialization against random: Wilcoxon's signed-rank test on their mean differences."""

    initialization: str
    pairs: int
    median: float
    p: float | None


def verdicts(runs: Runs) -> tuple[Verdict, ...]:
    """Test every case against random initialization of its target, by the seeds that both have."""
    families: dict[str, list[Verdict]] = defaultdict(list)
    for case, rows in runs.by_case.items():
        baseline = {row.seed: row.accuracy for row in runs.random(case.target)}
        pairs = [(row.accuracy, baseline[row.seed]) for row in rows if row.seed in baseline]
        if case.initialization != RANDOM and pairs:
            first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            found = Verdict(case, mean(first) - mean(second), len(pairs), paired_test(first, second))
            families[case.initialization].append(found)
    return tuple(verdict for family in families.values() for verdict in _corrected(family))


def _corrected(family: Sequence[Verdict]) -> list[Verdict]:
    tested = [verdict for verdict in family if verdict.p is not None]
    adjusted = holm([verdict.p for verdict in tested if verdict.p is not None])
    by_case = {verdict.case: value for verdict, value in zip(tested, adjusted, strict=True)}
    return [replace(verdict, holm=by_case.get(verdict.case)) for verdict in family]


def pooled(found: Sequence[Verdict]) -> tuple[Pooled, ...]:
    """Test every initialization over all its cases."""
    names = dict.fromkeys(verdict.case.initialization for verdict in found)
    return tuple(_pooled(name, [v.difference for v in found if v.case.initialization == name]) for name in names)


def _pooled(name: str, differences: Sequence[float]) -> Pooled:
    return Pooled(name, len(differences), median(differences), signed_rank(differences))
