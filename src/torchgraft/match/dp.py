"""Order-preserving matching by dynamic programming (arXiv:2212.13970 eqs. 2 and 3), all pairs of blocks at once.

For targets ``t_1..t_n`` and sources ``s_1..s_m``::

    dp[i][j] = max(dp[i][j-1], dp[i-1][j], max_k dp[k-1][j-1] + f(i-k+1) * sum_{l=k..i} score(t_l, s_j))

with ``f(d) = d**-x``: a source serves a run of consecutive targets, and order is kept. Column ``j`` depends on column
``j-1`` alone, so a column is one vectorized step over all pairs of blocks, all ``i`` and all run lengths.
"""

from __future__ import annotations

__all__ = ["Solution", "solve", "trace", "values"]

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int16]
Positions = NDArray[np.intp]

# Number of floats in a work array, two megabytes: more pairs, or more columns, are solved in several batches.
_BATCH = 1 << 18

# Sums that differ by less are the same sum, added up in another order.
_TIE = 1e-9


@dataclass(frozen=True, slots=True)
class Solution:
    """Tables of ``P`` solved pairs: ``value`` and ``run``, both ``(P, n + 1, m + 1)``.

    ``run`` holds the decision of each cell: 0 skip the source, -1 skip the target, ``d > 0`` a run of ``d`` targets.
    """

    value: Floats
    run: Integers


def solve(
    scores: Floats, exponent: float = 0.5, *, leading: bool = False, positions: Positions | None = None
) -> Solution:
    """Solve a batch of pairs. ``scores`` is ``(P, n, m)``: pairs, targets, sources; pad with zeros.

    Ties, read from the end: the source is skipped first, then the target, and the shortest of several equal runs is
    taken, so that of equal targets the first ones share a source. ``leading`` takes the longest run instead, so that
    a row of equal blocks is matched from its start and the last ones share: where blocks were appended, the others
    keep their place. Values do not depend on it.

    ``positions`` ``(P, n)`` says where the targets stand in their block, where layers that nothing can serve are left
    out: these lengthen a run but never begin or end one.

    >>> float(solve(np.ones((1, 2, 1))).value[0, -1, -1])
    1.4142135623730951
    """
    pairs, n, m = scores.shape
    value = np.zeros((pairs, n + 1, m + 1))
    run = np.zeros((pairs, n + 1, m + 1), np.int16)
    tolerance = _TIE if leading else 0.0
    for part, j, gains in _columns(scores, exponent, value, positions):
        best = gains.argmax(axis=1)
        matched = np.take_along_axis(gains, best[:, None, :], 1)[:, 0]
        if leading:
            best = n - 1 - (gains[:, ::-1] >= matched[:, None] - tolerance).argmax(axis=1)
        _decide(value[part], run[part], j, matched, best, tolerance)
    return Solution(value, run)


def values(scores: Floats, exponent: float = 0.5, *, positions: Positions | None = None) -> Floats:
    """Return the values of a batch of pairs alone, ``(P,)``: all that a similarity needs."""
    value = np.zeros((scores.shape[0], scores.shape[1] + 1, scores.shape[2] + 1))
    for part, j, gains in _columns(scores, exponent, value, positions):
        _fill(value[part], j, gains.max(axis=1))
    final: Floats = value[:, -1, -1]
    return final


def _columns(
    scores: Floats, exponent: float, value: Floats, positions: Positions | None
) -> Iterator[tuple[slice, int, Floats]]:
    """Go through the columns of all pairs: a slice of pairs, the column, and the gain of every run in it.

    Gains are ``(pairs, n, n)``: entry ``[p, d-1, i-1]`` is the best value of a run of ``d`` targets that ends at
    target ``i`` and of all before it. The receiver fills ``value[part, :, j + 1]`` before it asks for the next column.
    """
    pairs, n, m = scores.shape
    lengths = np.arange(1, n + 1, dtype=np.float64)[None, :, None]
    # before[d-1, i-1] is the row of dp that a run of d targets ending at i continues from; row n+1 is "no such run".
    before = np.arange(n)[None, :] - np.arange(n)[:, None]
    before[before < 0] = n + 1
    step = max(1, _BATCH // max(1, n * n * min(m, 16)))
    for start in range(0, pairs, step):
        part = slice(start, min(start + step, pairs))
        previous = np.full((part.stop - start, n + 2), -np.inf)
        if positions is not None:
            lengths = _lengths(positions[part])
        weights = lengths**-exponent
        width = max(1, _BATCH // max(1, n * n * (part.stop - start)))
        for first in range(0, m, width):
            sums = _run_sums(scores[part, :, first : first + width])
            for j in range(first, min(first + width, m)):
                previous[:, : n + 1] = value[part, :, j]
                gains = weights * sums[j - first]
                gains += previous[:, before]
                yield part, j, gains


def _lengths(positions: Positions) -> Floats:
    """``(P, n) -> (P, n, n)``: length of the run of ``d`` targets that ends at target ``i``, gaps included."""
    n = positions.shape[1]
    starts = np.maximum(np.arange(n)[None, :] - np.arange(n)[:, None], 0)
    return (positions[:, None, :] - positions[:, starts] + 1).astype(np.float64)


def _run_sums(columns: Floats) -> Floats:
    """Sum the scores of every run: ``(P, n, m) -> (m, P, n, n)``.

    Entry ``[j, p, d-1, i-1]`` is that of source ``j`` over the run of ``d`` targets that ends at target ``i``. Added up
    from the run's end to its start, one target at a time: ties between equal sums must stay ties.
    """
    columns = columns.transpose(2, 0, 1)
    m, pairs, n = columns.shape
    sums = np.zeros((m, pairs, n, n))
    sums[:, :, 0] = columns
    for d in range(1, n):
        sums[:, :, d, d:] = sums[:, :, d - 1, d:] + columns[:, :, : n - d]
    return sums


def _fill(value: Floats, j: int, matched: Floats) -> None:
    value[:, 1:, j + 1] = np.maximum.accumulate(np.maximum(value[:, 1:, j], matched), axis=1)


def _decide(value: Floats, run: Integers, j: int, matched: Floats, best: NDArray[np.intp], tolerance: float) -> None:
    _fill(value, j, matched)
    skip, above = value[:, 1:, j], value[:, :-1, j + 1]
    decision = np.where(above > skip + tolerance, -1, 0)
    run[:, 1:, j + 1] = np.where(matched > np.maximum(skip, above) + tolerance, best + 1, decision)


def trace(solution: Solution, pair: int, n: int, m: int) -> list[tuple[int, int, int]]:
    """Return the runs of one pair as ``(first target, one past the last target, source)``, in the order of the target.

    >>> trace(solve(np.ones((1, 2, 1))), 0, 2, 1)
    [(0, 2, 0)]
    """
    runs, i, j = [], n, m
    decisions = solution.run[pair]
    while i > 0 and j > 0:
        decision = int(decisions[i, j])
        if decision > 0:
            runs.append((i - decision, i, j - 1))
            i, j = i - decision, j - 1
        elif decision < 0:
            i -= 1
        else:
            j -= 1
    return runs[::-1]
