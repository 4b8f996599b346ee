"""Pins and exclusions: what the user knows better than kinds and shapes can tell."""

from __future__ import annotations

__all__ = ["NO_PINS", "Pins", "Stages", "is_below", "match_pinned"]

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from torchgraft.errors import PinError
from torchgraft.match.blocks import Elements
from torchgraft.match.matchers import Matcher
from torchgraft.records import Element, Layer, Match, Pair
from torchgraft.score import Scorer


class Stages(Protocol):
    """The choices a match needs (see ``transfer.planning.Method``)."""

    @property
    def score(self) -> Scorer: ...
    @property
    def match(self) -> Matcher: ...
    @property
    def exponent(self) -> float: ...
    @property
    def mixed(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Pins:
    """Pinned pairs ``(target path, source path)``, whole subtrees too, and the paths to leave out on either side."""

    pairs: tuple[tuple[str, str], ...] = ()
    exclude_target: tuple[str, ...] = ()
    exclude_source: tuple[str, ...] = ()

    def excludes_target(self, key: str) -> bool:
        """Tell whether a target tensor is excluded."""
        return any(is_below(key, path) for path in self.exclude_target)


#: Nothing pinned, nothing excluded.
NO_PINS = Pins()


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Part of a network: elements cut down to some of its layers, and the flat positions of these layers."""

    elements: tuple[Element, ...]
    positions: tuple[int, ...]


def is_below(path: str, root: str) -> bool:
    """Tell whether ``path`` is ``root``, a part of it (``attn[0]``) or anything inside.

    >>> is_below("layer3.0.conv1", "layer3"), is_below("layer30", "layer3")
    (True, False)
    """
    return path == root or not root or path.startswith((f"{root}.", f"{root}["))


def match_pinned(
    target: Elements, source: Elements, stages: Stages, pins: Pins, seed: int
) -> tuple[Match, Elements, Elements]:
    """Match with the exclusions taken out and the pins held.

    Pinned subtrees are matched with each other and with nothing else. Pins that keep the order of both networks also
    divide them: what stands before a pin on one side is matched with what stands before it on the other.

    Returns the match and the elements that its flat positions refer to.

    Raises:
        PinError: a path that does not exist, is pinned twice, is excluded, or holds nothing that can be exchanged.
    """
    target = _without(target, pins.exclude_target, "target")
    source = _without(source, pins.exclude_source, "source")
    run = _runner(stages, seed)
    if not pins.pairs:
        everything = [_keep(elements, lambda _: True) for elements in (target, source)]
        return run(*everything), target, source
    layers = _flat(target), _flat(source)
    held = [_resolve(pair, layers, pins) for pair in pins.pairs]
    _check_overlaps(held)
    matches = [_hold(run, pin, target, source) for pin in held]
    taken = {i for pin in held for i in pin[1]}, {j for pin in held for j in pin[2]}
    edges = _ordered_edges([(pin[1][0], pin[2][0]) for pin in held])
    for number in range(len(edges) + 1):
        pieces = []
        for side, elements in enumerate((target, source)):
            cuts = [edge[side] for edge in edges]
            pieces.append(_keep(elements, _between(cuts, number, taken[side])))
        matches.append(run(*pieces))
    pairs = sorted((pair for match in matches for pair in match.pairs), key=lambda pair: pair.target)
    return Match(tuple(pairs), sum(match.score for match in matches)), target, source


def _runner(stages: Stages, seed: int) -> Callable[[_Stretch, _Stretch], Match]:
    def run(target: _Stretch, source: _Stretch) -> Match:
        match = stages.match(
            target.elements, source.elements, stages.score, exponent=stages.exponent, mixed=stages.mixed, seed=seed
        )
        pairs = (Pair(target.positions[p.target], source.positions[p.source], p.score) for p in match.pairs)
        return Match(tuple(pairs), match.score)

    return run


def _between(cuts: Sequence[int], number: int, taken: Set[int]) -> Callable[[int], bool]:
    """Tell whether a position lies behind exactly ``number`` of the cuts, and is not pinned itself."""
    return lambda position: position not in taken and bisect_right(cuts, position) == number


def _flat(elements: Elements) -> list[Layer]:
    return [layer for element in elements for layer in element.layers]


def _keep(elements: Elements, keep: Callable[[int], bool]) -> _Stretch:
    kept, positions, position = [], [], 0
    for element in elements:
        chosen = [position + i for i in range(len(element.layers)) if keep(position + i)]
        if chosen:
            kept.append(Element(tuple(element.layers[i - position] for i in chosen), element.block))
            positions += chosen
        position += len(element.layers)
    return _Stretch(tuple(kept), tuple(positions))


def _without(elements: Elements, excluded: Sequence[str], side: str) -> Elements:
    layers = _flat(elements)
    for path in excluded:
        if not any(is_below(layer.path, path) for layer in layers):
            raise PinError(f"nothing to exclude at {side} path {path!r}: {_suggest(path, layers)}")
    if not excluded:
        return elements
    return _keep(elements, lambda i: not any(is_below(layers[i].path, path) for path in excluded)).elements


Held = tuple[tuple[str, str], list[int], list[int]]


def _resolve(pair: tuple[str, str], layers: tuple[Sequence[Layer], Sequence[Layer]], pins: Pins) -> Held:
    places = []
    for path, side, sequence in zip(pair, ("target", "source"), layers, strict=True):
        found = [i for i, layer in enumerate(sequence) if is_below(layer.path, path)]
        if not found:
            gone = any(is_below(path, other) for other in (pins.exclude_target, pins.exclude_source)[side == "source"])
            why = "it is excluded" if gone else f"the {side} has no such path ({_suggest(path, sequence)})"
            raise PinError(f"the pin {pair[0]!r} ← {pair[1]!r} cannot hold: {why}")
        places.append(found)
    return pair, places[0], places[1]


def _suggest(path: str, layers: Iterable[Layer]) -> str:
    from difflib import get_close_matches

    paths = {layer.path for layer in layers}
    paths |= {parent for one in paths for parent in _parents(one)}
    close = get_close_matches(path, sorted(paths), n=3, cutoff=0.5)
    return (
        f"did you mean {' or '.join(map(repr, close))}?" if close else "give the dotted path of a module with tensors"
    )


def _parents(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _check_overlaps(held: Sequence[Held]) -> None:
    owner: dict[int, tuple[str, str]] = {}
    for pair, targets, _ in held:
        for i in targets:
            if i in owner:
                raise PinError(
                    f"the pins of {owner[i][0]!r} and {pair[0]!r} cannot both hold: they overlap in the target"
                )
            owner[i] = pair


def _hold(run: Callable[[_Stretch, _Stretch], Match], pin: Held, target: Elements, source: Elements) -> Match:
    pair, targets, sources = pin
    inside = set(targets), set(sources)
    pieces = _keep(target, lambda i: i in inside[0]), _keep(source, lambda j: j in inside[1])
    match = run(*pieces)
    if not match.pairs:
        kinds = [", ".join(sorted({layer.kind for e in piece.elements for layer in e.layers})) for piece in pieces]
        raise PinError(f"the pin {pair[0]!r} ← {pair[1]!r} cannot hold: {kinds[0]} cannot take weights from {kinds[1]}")
    return match


def _ordered_edges(edges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest subsequence of pins that keeps the order of both networks."""
    tails: list[int] = []
    chains: list[list[tuple[int, int]]] = []
    for edge in sorted(edges):
        place = bisect_left(tails, edge[1])
        chain = [*(chains[place - 1] if place else []), edge]
        tails[place : place + 1] = [edge[1]]
        chains[place : place + 1] = [chain]
    return chains[-1] if chains else []
