"""What a plan has to leave open: places in a row of equal layers that kinds and shapes cannot tell apart."""

from __future__ import annotations

__all__ = ["open_places"]

from collections.abc import Hashable, Iterator, Sequence

from torchgraft.kinds import DIMENSIONAL
from torchgraft.match.pins import Pins, is_below
from torchgraft.match.recover import owners, signature
from torchgraft.records import Element, Layer, Match


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
    notes = [
        f"{_span(layers[0], start, stop)}: {count} of these layers are new and stand in a row of equal ones; which of them "
        "are new cannot be told from kinds and shapes (pin a pair of paths to settle it)"
        for start, stop, count in new
    ] + [
        f"source {_span(layers[1], start, stop)}: {count} of these layers are not used and stand in a row of equal ones; "
        "which of them is left out cannot be told from kinds and shapes (pin a pair of paths to settle it)"
        for start, stop, count in gone
    ]
    return tuple(notes)


def _rows(layers: Sequence[Layer], used: set[int], pinned: Sequence[str]) -> list[tuple[int, int, int]]:
    """Rows of equal layers with unused ones among them: first, one past the last, number of unused layers."""
    signatures: list[Hashable] = [
        position if any(is_below(layer.path, path) for path in pinned) else signature(layer)
        for position, layer in enumerate(layers)
    ]
    rows: list[tuple[int, int, int]] = []
    for start, stop in _unused(len(layers), used):
        if not any(layer.kind in DIMENSIONAL for layer in layers[start:stop]):
            continue
        low, high = _slide(signatures, start, stop)
        if high - low < 2 * (stop - start) or not used & set(range(low, high)):
            continue
        if rows and low < rows[-1][1]:
            rows[-1] = (rows[-1][0], max(high, rows[-1][1]), rows[-1][2] + stop - start)
        else:
            rows.append((low, high, stop - start))
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
    return low, high


def _span(layers: Sequence[Layer], start: int, stop: int) -> str:
    return f"{layers[start].path} … {layers[stop - 1].path}"
