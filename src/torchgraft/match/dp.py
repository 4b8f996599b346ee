"""Order-preserving matching by dynamic programming (arXiv:2212.13970 eqs. 2 and 3), all pairs of blocks at once.

For targets ``t_1..t_n`` and sources ``s_1..s_m``::

    dp[i][j] = max(dp[i][j-1], dp[i-1][j], max_k dp[k-1][j-1] + f(i-k+1) * sum_{l=k..i} score(t_l, s_j))

with ``f(d) = d**-x``: a source serves a run of consecutive targets, and order is kept. Column ``j`` depends on column
``j-1`` alone, so a column is one vectorized step over all pairs of blocks, all ``i`` and all run lengths.
"""

from __future__ import annotations

__all__ = ["Solution", "solve", "trace"]

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int16]

# Largest number of floats in the work array of one column step; more pairs are solved in several batches.
_BATCH = 1 << 21

# Sums that differ by less are the same sum, added up in another order.
_TIE = 1e-9


@dataclass(frozen=True, slots=True)
class Solution:
    """Tables of ``P`` solved pairs: ``value`` and ``run``, both ``(P, n + 1, m + 1)``.

    ``run`` holds the decision of each cell: 0 skip the source, -1 skip the target, ``d > 0`` a run of ``d`` targets.
    """

    value: Floats
    run: Integers


def solve(scores: Floats, exponent: float = 0.5, *, leading: bool = False) -> Solution:
    """Solve a batch of pairs. ``scores`` is ``(P, n, m)``: pairs, targets, sources; pad with zeros.

    Ties, read from the end: the source is skipped first, then the target, and the shortest of several equal runs is
    taken, so that of equal targets the first ones share a source. ``leading`` takes the longest run instead, so that
    a row of equal blocks is matched from its start and the last ones share: where blocks were appended, the others
    keep their place. Values do not depend on it.

    >>> float(solve(np.ones((1, 2, 1))).value[0, -1, -1])
    1.4142135623730951
    """
    pairs, n, m = scores.shape
    value = np.zeros((pairs, n + 1, m + 1))
    run = np.zeros((pairs, n + 1, m + 1), np.int16)
    step = max(1, _BATCH // max(1, n * n))
    for start in range(0, pairs, step):
        stop = start + step
        _solve_batch(scores[start:stop], exponent, leading, value[start:stop], run[start:stop])
    return Solution(value, run)


def _solve_batch(scores: Floats, exponent: float, leading: bool, value: Floats, run: Integers) -> None:
    pairs, n, m = scores.shape
    weights = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    # before[d-1, i-1] is the row of dp that a run of d targets ending at i continues from; row n+1 is "no such run".
    before = np.arange(n)[None, :] - np.arange(n)[:, None]
    before[before < 0] = n + 1
    previous = np.full((pairs, n + 2), -np.inf)
    for j in range(m):
        column = scores[:, :, j]
        if not column.any():
            value[:, :, j + 1] = value[:, :, j]
            continue
        sums = _run_sums(column)
        previous[:, : n + 1] = value[:, :, j]
        gains = weights[None, :, None] * sums
        gains += previous[:, before]
        if leading:
            matched = gains.max(axis=1)
            best = n - 1 - (gains[:, ::-1] >= matched[:, None] - _TIE).argmax(axis=1)
        else:
            best = gains.argmax(axis=1)
            matched = np.take_along_axis(gains, best[:, None, :], 1)[:, 0]
        _fill_column(value, run, j, matched, best, _TIE if leading else 0.0)


def _run_sums(column: Floats) -> Floats:
    """``(P, n) -> (P, n, n)``: entry ``[p, d-1, i-1]`` sums the scores of the run of ``d`` targets that ends at ``i``.

    Added up from the run's end to its start, one target at a time: ties between equal sums must stay ties.
    """
    pairs, n = column.shape
    sums = np.zeros((pairs, n, n))
    sums[:, 0] = column
    for d in range(1, n):
        sums[:, d, d:] = sums[:, d - 1, d:] + column[:, : n - d]
    return sums


def _fill_column(
    value: Floats, run: Integers, j: int, matched: Floats, best: NDArray[np.intp], tolerance: float
) -> None:
    skip = value[:, 1:, j]
    value[:, 1:, j + 1] = np.maximum.accumulate(np.maximum(skip, matched), axis=1)
    filled = value[:, :, j + 1]
    above = filled[:, :-1]
    decision = np.where(above > skip + tolerance, -1, 0)
    decision = np.where(matched > np.maximum(skip, above) + tolerance, best + 1, decision)
    run[:, 1:, j + 1] = decision


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
