"""The few statistics that the tables need: means with intervals, paired tests, correlations."""

from __future__ import annotations

__all__ = [
    "Estimate",
    "bootstrap",
    "deviation",
    "geometric",
    "holm",
    "mean",
    "paired_test",
    "pearson",
    "ratio",
    "signed_rank",
    "spearman",
]

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

#: Two-sided share of all intervals.
LEVEL = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure from ``n`` values with its 95 % interval; no interval where ``n`` is too small for one."""

    value: float
    low: float | None
    high: float | None
    n: int


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean of at least one value."""
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (divisor ``n - 1``); ``None`` for fewer than two values.

    >>> deviation([1.0, 3.0]), deviation([1.0])
    (1.4142135623730951, None)
    """
    return None if len(values) < 2 else float(np.std(values, ddof=1))


def geometric(values: Sequence[float]) -> float | None:
    """Return the geometric mean; ``None`` where a value is not positive or there is none.

    >>> geometric([0.5, 2.0]), geometric([0.0, 2.0])
    (1.0, None)
    """
    if not values or min(values) <= 0:
        return None
    return math.exp(mean([math.log(value) for value in values]))


def ratio(tops: Sequence[float], bottoms: Sequence[float]) -> Estimate | None:
    """Return the ratio of two means, with the interval of the delta method on its logarithm.

    The variance of the logarithm is the sum of both squared relative standard errors, and its degrees of freedom are
    Welch's. The ratio of means is preferred to the mean of ratios, which is too high where the denominators are noisy.
    ``None`` where the lower mean is 0.

    >>> ratio([30.0, 34.0], [20.0, 20.0]).value
    1.6
    >>> ratio([30.0], [0.0]) is None
    True
    """
    top, bottom, count = mean(tops), mean(bottoms), len(tops)
    if bottom <= 0:
        return None
    value = top / bottom
    if top <= 0 or len(tops) < 2 or len(bottoms) < 2:
        return Estimate(value, None, None, count)
    first = float(np.var(tops, ddof=1)) / (len(tops) * top**2)
    second = float(np.var(bottoms, ddof=1)) / (len(bottoms) * bottom**2)
    error = math.sqrt(first + second)
    if error < 1e-12:
        return Estimate(value, value, value, count)
    freedom = (first + second) ** 2 / (first**2 / (len(tops) - 1) + second**2 / (len(bottoms) - 1))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    return Estimate(value, _finite(value * math.exp(-reach)), _finite(value * math.exp(min(reach, 700.0))), count)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def bootstrap(values: Sequence[float], seed: int = 0, average: Callable[..., object] = np.mean) -> Estimate | None:
    """Return the average with its percentile-bootstrap interval (10,000 resamples); ``None`` of no values.

    Args:
        values: one per pair.
        seed: of the resampling; equal seeds give equal intervals.
        average: a function of an array and ``axis``, such as ``numpy.mean``.
    """
    if not values:
        return None
    array = np.asarray(values, dtype=float)
    value = float(np.asarray(average(array, axis=0)))
    if len(values) < 2:
        return Estimate(value, None, None, len(values))
    drawn = np.random.default_rng(seed).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = _tails(np.asarray(average(array[drawn], axis=1)))
    return Estimate(value, low, high, len(array))


def _tails(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired_test(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the two-sided p of the paired t-test; ``None`` where it says nothing.

    It says nothing of fewer than two pairs, and of differences that are all the same but for 0: their t is unbounded,
    which with few seeds and an accuracy that moves in steps is chance, not evidence. No difference at all is 1.

    >>> round(paired_test([3.0, 5.0, 7.0], [1.0, 2.0, 3.0]), 4)
    0.0351
    >>> paired_test([3.0, 4.0], [1.0, 2.0]), paired_test([3.0, 4.0], [3.0, 4.0])
    (None, 1.0)
    """
    if len(first) < 2:
        return None
    differences = np.subtract(first, second)
    if np.ptp(differences) < 1e-9:
        return 1.0 if abs(differences[0]) < 1e-9 else None
    return float(stats.ttest_rel(first, second).pvalue)


def signed_rank(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of Wilcoxon's signed-rank test; ``None`` where no difference is other than 0."""
    left = [difference for difference in differences if abs(difference) > 1e-12]
    return float(stats.wilcoxon(left).pvalue) if left else None


def holm(values: Sequence[float]) -> list[float]:
    """Return the p values adjusted by Holm's step-down rule (Scandinavian Journal of Statistics 6, 1979), in order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted


def pearson(x: Sequence[float], y: Sequence[float]) -> tuple[Estimate, float] | None:
    """Return Pearson's r with Fisher's interval, and its p; ``None`` for fewer than three points or a constant.

    The interval needs four points.
    """
    if not _varied(x, y):
        return None
    found = stats.pearsonr(x, y)
    if len(x) < 4:
        return Estimate(float(found.statistic), None, None, len(x)), float(found.pvalue)
    interval = found.confidence_interval(LEVEL)
    return Estimate(float(found.statistic), float(interval.low), float(interval.high), len(x)), float(found.pvalue)


def spearman(x: Sequence[float], y: Sequence[float], seed: int = 0) -> tuple[Estimate, float] | None:
    """Return Spearman's rho with a percentile-bootstrap interval over points, and its p; ``None`` as for Pearson.

    Resamples in which a side is constant have no correlation and are left out of the interval.
    """
    if not _varied(x, y):
        return None
    found = stats.spearmanr(x, y)
    value, p = float(found.statistic), float(found.pvalue)
    if len(x) < 4:
        return Estimate(value, None, None, len(x)), p
    drawn = np.random.default_rng(seed).integers(len(x), size=(RESAMPLES // 5, len(x)))
    ranks = [stats.rankdata(np.asarray(side, dtype=float)[drawn], axis=1) for side in (x, y)]
    first, second = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    scale = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    fit = scale > 0
    low, high = _tails((first * second).sum(axis=1)[fit] / scale[fit])
    return Estimate(value, low, high, len(x)), p


def _varied(x: Sequence[float], y: Sequence[float]) -> bool:
    return len(x) > 2 and min(float(np.ptp(x)), float(np.ptp(y))) > 1e-12
