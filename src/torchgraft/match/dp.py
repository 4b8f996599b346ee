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
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike, NDArray

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
    n = scores.shape[1]
    value, run = _table(scores, np.float64), _table(scores, np.int16)
    lengths = np.arange(1, n + 1, dtype=np.int16)[:, None, None]
    tolerance = _TIE if leading else 0.0
    for part, j, gains in _columns(scores, exponent, value, positions):
        matched = gains.max(axis=0)
        if leading:
            best = (lengths * (gains >= matched - tolerance)).max(axis=0)
        else:
            best = np.where(gains == matched, lengths, n).min(axis=0)
        _fill(value[..., part], j, matched)
        skip, above = value[j, 1:, part], value[j + 1, :-1, part]
        decision = np.where(above > skip + tolerance, -1, 0)
        run[j + 1, 1:, part] = np.where(matched > np.maximum(skip, above) + tolerance, best, decision)
    return Solution(value.T, run.T)


def values(scores: Floats, exponent: float = 0.5, *, positions: Positions | None = None) -> Floats:
    """Return the values of a batch of pairs alone, ``(P,)``: all that a similarity needs."""
    value = _table(scores, np.float64)
    for part, j, gains in _columns(scores, exponent, value, positions):
        _fill(value[..., part], j, gains.max(axis=0))
    final: Floats = value[-1, -1]
    return final


def _table(scores: Floats, dtype: DTypeLike) -> NDArray[Any]:
    """Table of all pairs, column by column and with the pairs last, so that a step runs over adjacent numbers."""
    pairs, n, m = scores.shape
    return np.zeros((m + 1, n + 1, pairs), dtype)


def _columns(
    scores: Floats, exponent: float, value: Floats, positions: Positions | None
) -> Iterator[tuple[slice, int, Floats]]:
    """Go through the columns of all pairs: a slice of pairs, the column, and the gain of every run in it.

    Gains are ``(n, n, pairs)``: entry ``[d-1, i-1, p]`` is the best value of a run of ``d`` targets that ends at
    target ``i`` and of all before it. The receiver fills ``value[j + 1, :, part]`` before it asks for the next column.
    """
    pairs, n, m = scores.shape
    lengths = np.arange(1, n + 1, dtype=np.float64)[:, None, None]
    if positions is not None and (positions == np.arange(n)).all():
        positions = None
    step = max(1, _BATCH // max(1, n * n * min(m, 16)))
    for start in range(0, pairs, step):
        part = slice(start, min(start + step, pairs))
        # The rows of the column before, below n rows that no run can continue from. Entry [d-1, i-1] of the view is the
        # row that a run of d targets ending at i continues from; it follows what is written into ``rows``.
        rows = np.full((2 * n + 1, part.stop - start), -np.inf)
        before = sliding_window_view(rows, n, axis=0)[n:0:-1].transpose(0, 2, 1)
        if positions is not None:
            lengths = _lengths(positions[part])
        weights = lengths**-exponent
        width = max(1, _BATCH // max(1, n * n * (part.stop - start)))
        for first in range(0, m, width):
            sums = _run_sums(scores[part, :, first : first + width])
            sums *= weights
            for j, gains in enumerate(sums, first):
                rows[n:] = value[j, :, part]
                gains += before
                yield part, j, gains


def _lengths(positions: Positions) -> Floats:
    """``(P, n) -> (n, n, P)``: length of the run of ``d`` targets that ends at target ``i``, gaps included."""
    n = positions.shape[1]
    starts = np.maximum(np.arange(n)[None, :] - np.arange(n)[:, None], 0)
    lengths: Floats = (positions.T[None] - positions.T[starts] + 1).astype(np.float64)
    return lengths


def _run_sums(columns: Floats) -> Floats:
    """Sum the scores of every run: ``(P, n, m) -> (m, n, n, P)``.

    Entry ``[j, d-1, i-1, p]`` is that of source ``j`` over the run of ``d`` targets that ends at target ``i``. Added up
    from the run's end to its start, one target at a time: ties between equal sums must stay ties.
    """
    columns = columns.T
    m, n, pairs = columns.shape
    sums = np.zeros((m, n, n, pairs))
    sums[:, 0] = columns
    for d in range(1, n):
        sums[:, d, d:] = sums[:, d - 1, d:] + columns[:, : n - d]
    return sums


def _fill(value: Floats, j: int, matched: Floats) -> None:
    value[j + 1, 1:] = np.maximum.accumulate(np.maximum(value[j, 1:], matched), axis=0)


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
