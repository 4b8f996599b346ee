"""How a stream under a norm grows: what its new units hold, so that the norm gives what it gave before.

A layer norm or a root mean square norm sees all of its ``d`` units at once. Over ``D > d`` units it gives the same

- where every unit stands there ``D / d`` times (whole numbers alone), or
- where the further units are the mean of the others (layer norm: LEMON, Wang et al., ICLR 2024) or zero (root mean
  square norm: Gesmundo and Maile 2023), and gain and epsilon are scaled by ``sqrt(d / D)`` and ``d / D``.
"""

from __future__ import annotations

__all__ = ["Growth", "growths"]

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from torchgraft.axes import AxisGroups
from torchgraft.axes.attention import Scores
from torchgraft.axes.norms import Norm
from torchgraft.axes.spans import Leaf, locked, size_of_leaf, spans_of
from torchgraft.couple.election import Ballot
from torchgraft.records import Move, Setting

_PADS = {"layer": "mean", "rms": "zero"}


@dataclass(frozen=True, slots=True)
class Growth:
    """By group of the target: the rule of its map, and what its further units hold; what gains are multiplied by.

    ``keys`` are the tensors that make the keys of an attention over more units per head, whose new units are zero.
    """

    rules: dict[Leaf, str] = field(default_factory=dict)
    pads: dict[Leaf, str] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    settings: dict[str, Setting] = field(default_factory=dict)

    def rule(self, target: Leaf, source: Leaf) -> str | None:
        """Return how units of the target stand for some of the source; copies only where their numbers divide.

        A layer may be filled from one that reads other units: one that adds nothing yet, from its neighbour.
        """
        found = self.rules.get(target)
        return "start" if found == "tile" and size_of_leaf(target) % size_of_leaf(source) else found

    def scale(self, key: str, factor: float) -> None:
        """Multiply a tensor by one more factor."""
        self.factors[key] = self.factors.get(key, 1.0) * factor


def growths(ballots: Sequence[Ballot], target: AxisGroups, source: AxisGroups, tied: Collection[str]) -> Growth:
    """Decide for every group that grows under a norm how it grows.

    ``tied`` are tensors that the target holds under further names: an embedding that reads what a last norm gives.
    """
    found = Growth()
    both = {leaf: key for key in tied if key in target.normed for leaf in _leaves(ballots, key)}
    for ballot in ballots:
        key, other = ballot.move.target.key, ballot.move.source.key
        row = ballot.rows[0] if ballot.rows else None
        if key in target.norms and row is not None and len(row[0]) == len(row[1]) == 1:
            leaf, large, small = row[0][0].leaf, row[0][0].size, row[1][0].size
            if large > small and _free(leaf, row[1][0].leaf, target.norms[key].kind):
                _grow(found, leaf, large, small, key, target, source.norms.get(other), both.get(leaf))
        if key in target.embedding_scales and other in source.embedding_scales:
            _level(found, key, source.embedding_scales[other] / target.embedding_scales[key], target)
        first = ballot.move.target.part is None or ballot.move.target.part.start == 0
        if key in target.normed and other in source.normed and first:
            _rescale(found, key, source.normed[other].scale / target.normed[key].scale, target)
        factor = _score_factor(ballot.move, target.scales.get(key), source.scales.get(other))
        if factor != 1:
            found.keys.add(key)
            found.factors[key] = factor
    _copy(found, ballots, _plain(target) - both.keys())
    return found


def _plain(target: AxisGroups) -> set[Leaf]:
    """Return the units under layer norms without gain and shift."""
    steps = [one for one in target.flow.steps if one.name == "native_layer_norm" and len(one.inputs) == 1]
    spans = [spans_of(term) for step in steps for term in step.over]
    return {row[0].leaf for row in spans if len(row) == 1}


def _copy(found: Growth, ballots: Sequence[Ballot], plain: Collection[Leaf]) -> None:
    """Let units stand several times where no gain could make up for new ones."""
    for row in (row for ballot in ballots for row in ballot.rows if plain and row is not None):
        if len(row[0]) == len(row[1]) == 1 and row[0][0].leaf in plain:
            leaf, large, small = row[0][0].leaf, row[0][0].size, row[1][0].size
            if large > small and large % small == 0 and _free(leaf, row[1][0].leaf, "layer"):
                found.rules.setdefault(leaf, "tile")


def _free(target: Leaf, source: Leaf, kind: str) -> bool:
    """Tell whether units may be added under a norm: of one group, or, where they are zero, of heads and in heads.

    Those of an output too, as of an encoder without a head: the source's stay the first ones.
    """
    if len(target) == 1:
        return not locked(target[0]) or getattr(target[0], "locked", "") == "an output"
    pairs = list(zip(target, source, strict=False))
    stay = all(size_of_leaf((t,)) == size_of_leaf((s,)) for t, s in pairs if locked(t))
    return kind == "rms" and len(target) == len(source) and stay


def _score_factor(move: Move, target: Scores | None, source: Scores | None) -> float:
    """Return what keys are multiplied by, so that scores stay what they were, where they are known apart."""
    if target is None or source is None or (target.fused and move.target.part is None):
        return 1.0
    return source.scale / target.scale


def _grow(
    found: Growth,
    leaf: Leaf,
    large: int,
    small: int,
    key: str,
    target: AxisGroups,
    original: Norm | None,
    tied: str | None,
) -> None:
    """Copies where the widths divide, further units that the norm does not see where they do not.

    What reads the copies shares its weight among them; an embedding that is tied to the last layer cannot, so the norm
    before it is divided instead (Shen et al. 2022), if nothing else reads what that gives.
    """
    norm = target.norms[key]
    if norm.kind == "group" and large % small:
        return
    last = target.normed[tied].gains if tied is not None else frozenset()
    alone = all(key == tied or not reader.gains & last for key, reader in target.normed.items())
    if large % small == 0 and alone and len(leaf) == 1:
        found.rules[leaf] = "tile"
        if key in last:
            for one in filter(None, (key, norm.shift)):
                found.scale(one, small / large)
        return
    found.rules[leaf], found.pads[leaf] = "start", _PADS[norm.kind]
    found.scale(key, (small / large) ** 0.5)
    if original is not None and original.epsilon is not None and norm.epsilon is not None:
        path = key.rpartition(".")[0]
        found.settings[path] = Setting(path, norm.epsilon[0], original.epsilon[1] * small / large)


def _level(found: Growth, key: str, factor: float, target: AxisGroups) -> None:
    """Let an embedding make up for a number that the code multiplies by (Gemma: ``width ** 0.5``).

    Where the last layer reads the same tensor, the norm before it takes the factor away again.
    """
    if factor != 1:
        found.scale(key, factor)
        if key in target.normed:
            _rescale(found, key, 1 / factor, target)


def _rescale(found: Growth, key: str, factor: float, target: AxisGroups) -> None:
    """Let the norm before a layer make up for a number that the code multiplies by (T5: ``width ** -0.5``)."""
    reader = target.normed[key]
    if factor == 1 or any(other.gains & reader.gains for one, other in target.normed.items() if one != key):
        return
    for gain in reader.gains:
        for one in filter(None, (gain, target.norms[gain].shift)):
            found.scale(one, factor)


def _leaves(ballots: Sequence[Ballot], key: str) -> set[Leaf]:
    rows = (row for ballot in ballots if ballot.move.target.key == key for row in ballot.rows if row is not None)
    return {span.leaf for row in rows for span in row[0]}
