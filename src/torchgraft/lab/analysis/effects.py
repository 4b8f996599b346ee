"""Effectiveness: accuracy with an initialization over accuracy from random initialization (dpiat.md section 6)."""

from __future__ import annotations

__all__ = ["Accuracy", "Comparison", "Effect", "Overall", "accuracies", "compare", "effects", "overalls"]

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from torchgraft.lab.analysis.runs import RANDOM, Case, Runs
from torchgraft.lab.analysis.statistics import Estimate, bootstrap, deviation, geometric, mean, ratio, signed_rank
from torchgraft.lab.records import Row


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracies of one case in percent, over its ``n`` seeds: mean and sample deviation, after the last epoch,
    at the best epoch and before training. ``exploded`` counts runs that broke."""

    case: Case
    n: int
    last: float
    last_spread: float | None
    best: float
    best_spread: float | None
    zero_shot: float
    zero_shot_spread: float | None
    exploded: int


@dataclass(frozen=True, slots=True)
class Effect:
    """Effectiveness of one case: mean accuracy after the last epoch over that of the same target from random.

    ``value`` is ``None`` where random initialization reached 0 %. ``spread`` is the sample deviation over seeds of
    accuracy over mean random accuracy; the interval holds the noise of both sides (see ``statistics.ratio``).
    """

    case: Case
    value: float | None
    spread: float | None
    low: float | None
    high: float | None
    n: int
    n_random: int
    exploded: int


@dataclass(frozen=True, slots=True)
class Overall:
    """Effectiveness of one initialization over all its cases.

    ``undefined`` lists cases that have runs but no figure, because random initialization has no run or reached 0 %.
    """

    initialization: str
    mean: Estimate | None
    median: float | None
    geometric: float | None
    wins: int
    pairs: int
    undefined: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One initialization over another, pair by pair, after the last epoch.

    ``p`` is of Wilcoxon's signed-rank test on the differences in accuracy. ``undefined`` lists the pairs
    ``(source, target)`` on which the second initialization reached 0 %.
    """

    first: str
    second: str
    ratios: tuple[tuple[str, str, float], ...]
    mean: Estimate | None
    geometric: float | None
    wins: int
    p: float | None
    undefined: tuple[tuple[str, str], ...]


def accuracies(runs: Runs) -> tuple[Accuracy, ...]:
    """Return the accuracies of every case that has a run."""
    return tuple(_accuracy(case, rows) for case, rows in runs.by_case.items())


def _accuracy(case: Case, rows: Sequence[Row]) -> Accuracy:
    last = [row.accuracy for row in rows]
    best = [row.best for row in rows]
    zero = [row.zero_shot for row in rows]
    sides = (mean(last), deviation(last), mean(best), deviation(best), mean(zero), deviation(zero))
    return Accuracy(case, len(rows), *sides, sum(bool(row.exploded) for row in rows))


def effects(runs: Runs) -> tuple[Effect, ...]:
    """Return the effectiveness of every case but those of random initialization, where the target has a random run."""
    found = []
    for case, rows in runs.by_case.items():
        baseline = [row.accuracy for row in runs.random(case.target)]
        if case.initialization != RANDOM and baseline:
            found.append(_effect(case, rows, baseline))
    return tuple(found)


def _effect(case: Case, rows: Sequence[Row], baseline: Sequence[float]) -> Effect:
    last = [row.accuracy for row in rows]
    found = ratio(last, baseline)
    exploded = sum(bool(row.exploded) for row in rows)
    if found is None:
        return Effect(case, None, None, None, None, len(rows), len(baseline), exploded)
    spread = deviation([value / mean(baseline) for value in last])
    return Effect(case, found.value, spread, found.low, found.high, len(rows), len(baseline), exploded)


def overalls(runs: Runs, found: Sequence[Effect], seed: int = 0) -> tuple[Overall, ...]:
    """Return the mean effectiveness of every initialization, with a bootstrap interval over pairs."""
    names = dict.fromkeys(case.initialization for case in runs.by_case if case.initialization != RANDOM)
    return tuple(_overall(runs, name, [e for e in found if e.case.initialization == name], seed) for name in names)


def _overall(runs: Runs, name: str, found: Sequence[Effect], seed: int) -> Overall:
    values = {effect.case: effect.value for effect in found if effect.value is not None}
    there = list(values.values())
    return Overall(
        name,
        bootstrap(there, seed),
        median(there) if there else None,
        geometric(there),
        sum(value > 1 for value in there),
        len(there),
        tuple(case for case in runs.cases(name) if case not in values),
    )


def compare(runs: Runs, first: str, second: str, seed: int = 0) -> Comparison | None:
    """Compare two initializations on the pairs that have runs of both; ``None`` where there is no such pair."""
    ratios, differences, undefined = [], [], []
    for source, target in runs.pairs:
        tops = [row.accuracy for row in runs.of(first, source, target)]
        bottoms = [row.accuracy for row in runs.of(second, source, target)]
        if tops and bottoms:
            differences.append(mean(tops) - mean(bottoms))
            found = ratio(tops, bottoms)
            if found is None:
                undefined.append((source, target))
            else:
                ratios.append((source, target, found.value))
    if not differences:
        return None
    values = [value for _, _, value in ratios]
    average = bootstrap(values, seed)
    wins = sum(difference > 0 for difference in differences)
    told = (tuple(ratios), average, geometric(values), wins, signed_rank(differences), tuple(undefined))
    return Comparison(first, second, *told)
