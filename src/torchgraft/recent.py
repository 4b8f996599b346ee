"""What was found before, for the keys that were asked for last."""

from __future__ import annotations

__all__ = ["Recent"]

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar, final

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Entry(Generic[V]):
    value: V
    used: int


@final
class Recent(Generic[K, V]):
    """A bounded table: beyond ``most`` entries, the one that was asked for or set longest ago goes.

    A key may be a tuple of thousands of values, so it is hashed once for every question, and the order of use is kept
    as numbers beside the values instead of as the order of the table.

    Threads may share a table. Two that miss the same key both do the work, and the value set last stays; where they set
    values at the same time, an entry more than needed may go.

    >>> squares = Recent[int, int](2)
    >>> squares[3], squares[4] = 9, 16
    >>> squares.get(3), squares.get(5)
    (9, None)
    >>> squares[5] = 25
    >>> squares.get(3), squares.get(4), len(squares)
    (9, None, 2)
    """

    __slots__ = ("_clock", "_held", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[K, _Entry[V]] = {}
        self._clock = count()

    def get(self, key: K) -> V | None:
        """Return the value of a key, which is asked for by that, or ``None``."""
        entry = self._held.get(key)
        if entry is None:
            return None
        entry.used = next(self._clock)
        return entry.value

    def __setitem__(self, key: K, value: V) -> None:
        self._held[key] = _Entry(value, next(self._clock))
        while len(held := self._held.copy()) > self._most:  # of a copy, since another thread may set a value meanwhile
            self._held.pop(min(held.items(), key=lambda entry: entry[1].used)[0], None)

    def __len__(self) -> int:
        return len(self._held)

    def clear(self) -> None:
        """Forget all."""
        self._held.clear()
