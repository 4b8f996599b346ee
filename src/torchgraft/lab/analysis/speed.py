"""Speed-up: how much earlier a fixed accuracy is reached than from random initialization."""

from __future__ import annotations

__all__ = ["Reach", "Speed", "SpeedSummary", "Time", "first_reach", "speed_lines", "speeds", "summarize", "times"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torchgraft.lab.analysis.runs import RANDOM, Case, Runs
from torchgraft.lab.analysis.statistics import geometric, mean
from torchgraft.lab.records import Epoch, Row

#: How the speed-up stands to its value: equal; a bound, because a side did not reach the accuracy in every seed;
#: open, because neither did (or the run broke before its first epoch); at once, because the initialization has it
#: before any training.
Relation = Literal["=", "at least", "at most", "open", "at once"]


@dataclass(frozen=True, slots=True)
class Reach:
    """Where one run reaches an accuracy; where it does not, its end, which is then a lower bound."""

    epoch: float
    step: float
    seconds: float
    reached: bool


@dataclass(frozen=True, slots=True)
class Time:
    """Mean time of a case to an accuracy over ``n`` seeds; a lower bound where fewer than ``n`` reached it."""

    case: Case
    threshold: float
    epoch: float
    step: float
    seconds: float
    reached: int
    n: int


@dataclass(frozen=True, slots=True)
class Speed:
    """Epochs from random over epochs of the case; ``value`` is ``None`` where ``relation`` gives no number."""

    time: Time
    random: Time
    relation: Relation
    value: float | None

    @property
    def faster(self) -> bool:
        """Whether the accuracy is reached earlier than from random, as far as is known."""
        return self.relation == "at once" or (self.relation in ("=", "at least") and (self.value or 0.0) > 1)


@dataclass(frozen=True, slots=True)
class SpeedSummary:
    """The speed-ups of one initialization to one accuracy: how many stand how; geometric mean of the exact ones."""

    initialization: str
    threshold: float
    counts: dict[Relation, int]
    mean: float | None


def first_reach(curve: Sequence[Epoch], threshold: float) -> Reach:
    """Return where a curve first reaches an accuracy, by linear interpolation between its epochs.

    Args:
        curve: at least one point.
        threshold: accuracy in percent.

    >>> first_reach([Epoch(0, 0, 10.0, 2.0), Epoch(1, 50, 30.0, 1.0)], 25.0)
    Reach(epoch=0.75, step=37.5, seconds=0.0, reached=True)
    """
    for index, point in enumerate(curve):
        if point.accuracy >= threshold:
            before = curve[index - 1] if index else point
            climb = point.accuracy - before.accuracy
            part = (threshold - before.accuracy) / climb if climb > 0 else 1.0
            epoch, step, seconds = (
                first + part * (second - first)
                for first, second in (
                    (before.epoch, point.epoch),
                    (before.step, point.step),
                    (before.seconds, point.seconds),
                )
            )
            return Reach(epoch, step, seconds, True)
    return Reach(float(curve[-1].epoch), float(curve[-1].step), curve[-1].seconds, False)


def times(runs: Runs) -> tuple[Time, ...]:
    """Return the times of every case to every threshold of the experiment."""
    thresholds = sorted(set(runs.experiment.thresholds))
    horizon = max((row.curve[-1].epoch for rows in runs.by_case.values() for row in rows), default=0)
    return tuple(_time(case, rows, mark, horizon) for mark in thresholds for case, rows in runs.by_case.items())


def _reach(row: Row, threshold: float, horizon: int) -> Reach:
    """Return where a run reaches an accuracy; one that broke before it counts to the end that the others had."""
    found = first_reach(row.curve, threshold)
    if found.reached or not row.exploded or not 0 < found.epoch < horizon:
        return found
    longer = horizon / found.epoch
    return Reach(float(horizon), found.step * longer, found.seconds * longer, False)


def _time(case: Case, rows: Sequence[Row], threshold: float, horizon: int) -> Time:
    found = [_reach(row, threshold, horizon) for row in rows]
    sides = (mean([r.epoch for r in found]), mean([r.step for r in found]), mean([r.seconds for r in found]))
    return Time(case, threshold, *sides, sum(r.reached for r in found), len(found))


def speeds(found: Sequence[Time]) -> tuple[Speed, ...]:
    """Return the speed-up of every case over random initialization of its target, where that has a run."""
    baseline = {(t.case.target, t.threshold): t for t in found if t.case.initialization == RANDOM}
    return tuple(
        _speed(time, baseline[time.case.target, time.threshold])
        for time in found
        if time.case.initialization != RANDOM and (time.case.target, time.threshold) in baseline
    )


def _speed(time: Time, random: Time) -> Speed:
    mine, theirs = time.reached == time.n, random.reached == random.n
    if not mine and (not theirs or time.epoch == 0):
        return Speed(time, random, "open", None)
    if time.epoch == 0:
        # Reached before any training, in every seed: no finite factor says it, unless random has it at once too.
        both = theirs and random.epoch == 0
        return Speed(time, random, "=" if both else "at once", 1.0 if both else None)
    relation: Relation = "=" if mine and theirs else ("at least" if mine else "at most")
    return Speed(time, random, relation, random.epoch / time.epoch)


def summarize(found: Sequence[Speed]) -> tuple[SpeedSummary, ...]:
    """Count the speed-ups of every initialization to every threshold, and average the exact ones."""
    groups: dict[tuple[float, str], list[Speed]] = {}
    for speed in found:
        groups.setdefault((speed.time.threshold, speed.time.case.initialization), []).append(speed)
    return tuple(_summary(name, threshold, group) for (threshold, name), group in groups.items())


def _summary(name: str, threshold: float, group: Sequence[Speed]) -> SpeedSummary:
    relations: tuple[Relation, ...] = ("=", "at least", "at most", "at once", "open")
    counts = {relation: sum(speed.relation == relation for speed in group) for relation in relations}
    exact = [speed.value for speed in group if speed.relation == "=" and speed.value is not None]
    return SpeedSummary(name, threshold, counts, geometric(exact))


def speed_lines(found: Sequence[Speed]) -> list[dict[str, Any]]:
    """Return one line per speed-up, for ``speed.csv`` and for a notebook."""
    return [
        {
            "threshold": speed.time.threshold,
            "initialization": speed.time.case.initialization,
            "source": speed.time.case.source,
            "target": speed.time.case.target,
            "epochs": speed.time.epoch,
            "steps": speed.time.step,
            "seconds": speed.time.seconds,
            "reached": speed.time.reached,
            "n": speed.time.n,
            "random_epochs": speed.random.epoch,
            "random_steps": speed.random.step,
            "random_seconds": speed.random.seconds,
            "random_reached": speed.random.reached,
            "random_n": speed.random.n,
            "relation": speed.relation,
            "speed_up": speed.value,
        }
        for speed in found
    ]
