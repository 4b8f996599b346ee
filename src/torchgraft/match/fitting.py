"""Whether a source has more to give than its first layers: how alike the networks are, and how much of it fits."""

from __future__ import annotations

__all__ = ["LEAST_SIMILARITY", "input_pairs", "is_alike", "scored_layers"]

from collections.abc import Iterable, Mapping, Sequence

from torchgraft.kinds import DIMENSIONAL
from torchgraft.records import Layer, Pair

#: A start from a network less alike than that trains worse than random initialization where it leaves much of the
#: target out (docs/results/trained.md); the paper saw losses below 0.45, which we do not.
LEAST_SIMILARITY = 0.15

_SERVED = 2 / 3


def is_alike(score: float, pairs: Mapping[int, Pair], target: Sequence[Layer], least: float = LEAST_SIMILARITY) -> bool:
    """Tell whether a match is more than chance.

    It is where the source serves the target by at least ``least`` (``F`` of arXiv:2212.13970 eq. 4), or most of the
    target's layers that mix units: a network that is many times wider than its source scores low and may still hold it.

    Args:
        score: of the match.
        pairs: the match, by number of the target's layer.
        target: the target's layers.
        least: similarity that is enough.
    """
    mixing = _mixing(target)
    served = sum(number in pairs for number in mixing)
    return score >= least * scored_layers(target) or served >= _SERVED * len(mixing)


def input_pairs(pairs: Mapping[int, Pair], target: Sequence[Layer]) -> dict[int, Pair]:
    """Return the pairs of what reads the input: those before the second layer of the target that mixes units."""
    mixing = _mixing(target)
    end = mixing[1] if len(mixing) > 1 else len(target)
    return {number: pair for number, pair in pairs.items() if number < end}


def scored_layers(layers: Iterable[Layer]) -> int:
    """Return ``score(A, A)``: every layer that can be scored meets itself with score 1."""
    return sum(layer.kind != "other" for layer in layers)


def _mixing(layers: Sequence[Layer]) -> list[int]:
    return [number for number, layer in enumerate(layers) if layer.kind in DIMENSIONAL]
