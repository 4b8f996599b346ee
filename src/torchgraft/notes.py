"""What a plan has to leave open: places in a row of equal layers that kinds and shapes cannot tell apart."""

from __future__ import annotations

__all__ = ["OPEN", "open_places"]

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from torchgraft.kinds import DIMENSIONAL
from torchgraft.match.pins import Pins, is_below
from torchgraft.match.recover import owners, signature
from torchgraft.records import Element, Layer, Match


@dataclass(frozen=True, slots=True)
class Row:
    """A row of equal layers, ``start`` to ``stop``, and the stretches of it that are not used."""

    start: int
    stop: int
    unused: tuple[tuple[int, int], ...]


#: How notes of open places end.
OPEN = "pins or exclusions settle it"


def open_places(match: Match, target: Sequence[Element], source: Sequence[Element], pins: Pins) -> tuple[str, ...]:
    """Find target layers that are new, or source layers that are gone, in the middle of others exactly like them.

    A stretch that equals what stands before or behind it could as well be that: 13 equal blocks filled from 12 leave
    open which block is the new one.
    """
    chosen = {pair.target: pair for pair in match.pairs}
    owner = owners(chosen)
    taken = {j: pair.target for pair in match.pairs for j in (pair.source,) if owner[j] == pair.target}
    layers = [[layer for element in elements for layer in element.layers] for elements in (target, source)]
    own = {t for t, pair in chosen.items() if owner[pair.source] == t}
    new = _rows(layers[0], own, [pin for pin, _ in pins.pairs])
    gone = _rows(layers[1], set(taken), [pin for _, pin in pins.pairs])
    return (
        *(_told(layers[0], row, "target", "taken as new") for row in new),
        *(_told(layers[1], row, "source", "left out") for row in gone),
    )


def _told(layers: Sequence[Layer], row: Row, side: str, verdict: str) -> str:
    names = [_common_path(layers[start:stop]) for start, stop in row.unused]
    named = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]} ({len(names)} places)"
    first, last = layers[row.start].path, layers[row.stop - 1].path
    return (
        f"{side} {named} is {verdict}, but it stands in a row of equal layers ({first} … {last}) and any other of them "
        f"could be meant: {OPEN}"
    )


def _common_path(layers: Sequence[Layer]) -> str:
    """The module that holds all these layers and nothing above it, or the first and the last of them."""
    parts = [layer.path.split(".") for layer in layers]
    common = [group[0] for group in zip(*parts, strict=False) if len(set(group)) == 1]
    return ".".join(common) if len(common) > 1 or len(layers) == 1 else f"{layers[0].path} … {layers[-1].path}"


def _rows(layers: Sequence[Layer], used: set[int], pinned: Sequence[str]) -> list[Row]:
    """Rows of equal layers with unused ones among them."""
    signatures: list[Hashable] = [
        position if any(is_below(layer.path, path) for path in pinned) else signature(layer)
        for position, layer in enumerate(layers)
    ]
    rows: list[Row] = []
    for start, stop in _unused(len(layers), used):
        if not any(layer.kind in DIMENSIONAL for layer in layers[start:stop]):
            continue
        low, high = _slide(signatures, start, stop)
        if high - low < 2 * (stop - start) or not used & set(range(low, high)):
            continue
        if rows and low < rows[-1].stop:
            last = rows.pop()
            rows.append(Row(last.start, max(high, last.stop), (*last.unused, (start, stop))))
        else:
            rows.append(Row(low, high, ((start, stop),)))
    return rows


def _unused(count: int, used: set[int]) -> Iterator[tuple[int, int]]:
    start = None
    for position in range(count + 1):
        free = position < count and position not in used
        if free and start is None:
            start = position
        elif not free and start is not None:
            yield start, position
            start = None


def _slide(signatures: Sequence[Hashable], start: int, stop: int) -> tuple[int, int]:
    """Extend a stretch over all positions it could slide to without a visible change."""
    period = stop - start
    low, high = start, stop
    while low > 0 and signatures[low - 1] == signatures[low - 1 + period]:
        low -= 1
    while high < len(signatures) and signatures[high] == signatures[high - period]:
        high += 1
    # Only whole repetitions are places.
    return start - (start - low) // period * period, stop + (high - stop) // period * period
