"""The dynamic program against brute force, the worked examples of the paper's specification, and its own ties."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from torchgraft.match.dp import solve, trace
from torchgraft.match.matchers import match_dp
from torchgraft.records import Element, Layer
from torchgraft.score import score_paper

SCORES = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.sampled_from([0, 0.25, 0.5, 0.9, 1])
)
EXPONENTS = st.sampled_from([0.25, 0.5, 0.75])


def brute_force(scores: np.ndarray, exponent: float) -> float:
    """Best value over all matchings: each target takes a source or none, order kept, runs weighed by length."""
    n, m = scores.shape
    best = 0.0
    for choice in product(range(-1, m), repeat=n):
        taken = [j for j in choice if j >= 0]
        if taken != sorted(taken):
            continue
        total = 0.0
        for j in set(taken):
            members = [i for i in range(n) if choice[i] == j]
            length = members[-1] - members[0] + 1
            total += length**-exponent * sum(scores[i, j] for i in members)
        best = max(best, total)
    return best


@settings(max_examples=150, deadline=None)
@given(SCORES, EXPONENTS)
def test_value_equals_brute_force(scores: np.ndarray, exponent: float) -> None:
    solution = solve(scores[None], exponent)
    assert solution.value[0, -1, -1] == pytest.approx(brute_force(scores, exponent), abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(SCORES, EXPONENTS, st.booleans())
def test_trace_is_a_valid_matching_of_that_value(scores: np.ndarray, exponent: float, leading: bool) -> None:
    n, m = scores.shape
    solution = solve(scores[None], exponent, leading=leading)
    runs = trace(solution, 0, n, m)
    assert [run[0] for run in runs] == sorted(run[0] for run in runs)
    assert all(a[1] <= b[0] and a[2] < b[2] for a, b in pairwise(runs))
    value = sum((past - first) ** -exponent * scores[first:past, j].sum() for first, past, j in runs)
    assert value == pytest.approx(solution.value[0, -1, -1], abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(SCORES, min_size=2, max_size=4))
def test_a_padded_batch_equals_its_single_solutions(batch: list[np.ndarray]) -> None:
    n, m = max(len(s) for s in batch), max(s.shape[1] for s in batch)
    padded = np.zeros((len(batch), n, m))
    for number, scores in enumerate(batch):
        padded[number, : scores.shape[0], : scores.shape[1]] = scores
    together = solve(padded)
    for number, scores in enumerate(batch):
        alone = solve(scores[None])
        assert together.value[number, -1, -1] == alone.value[0, -1, -1]
        assert trace(together, number, *scores.shape) == trace(alone, 0, *scores.shape)


def block(kinds: str) -> tuple[Element, ...]:
    """One layer for each letter: c a convolution, b a batch norm, r an activation."""
    letters = {"c": ("conv2d", (8, 8, 3, 3)), "b": ("batchnorm2d", (8,)), "r": ("other", None)}
    return tuple(Element((Layer(f"{i}", *letters[kind]),), False) for i, kind in enumerate(kinds))


@pytest.mark.parametrize(
    ("source", "target", "score", "matched"),
    [
        ("c", "cc", 1.4142, [0, 1]),
        ("c", "cbc", 1.1547, [0, 2]),
        ("c", "cbrc", 1.0, [0]),
        ("cb", "cbcb", 2.1547, [0, 2, 3]),
        ("cc", "ccc", 2.4142, [0, 1, 2]),
    ],
)
def test_worked_examples(source: str, target: str, score: float, matched: list[int]) -> None:
    match = match_dp(block(target), block(source), score_paper)
    assert match.score == pytest.approx(score, abs=5e-5)
    assert [pair.target for pair in match.pairs] == matched


def test_of_two_identical_sources_the_first_is_used() -> None:
    assert [(p.target, p.source) for p in match_dp(block("c"), block("cc"), score_paper).pairs] == [(0, 0)]


def test_leading_ties_keep_the_place_of_the_first_targets() -> None:
    equal = np.ones((1, 5, 4))
    assert trace(solve(equal), 0, 5, 4) == [(0, 2, 0), (2, 3, 1), (3, 4, 2), (4, 5, 3)]
    assert trace(solve(equal, leading=True), 0, 5, 4) == [(0, 1, 0), (1, 2, 1), (2, 3, 2), (3, 5, 3)]
