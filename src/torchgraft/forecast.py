"""Whether a target will compute the source's function, found out when it is first asked."""

from __future__ import annotations

__all__ = ["Forecast", "told"]

from collections.abc import Callable, Iterable
from typing import final

from torchgraft.records import Obstacle

Find = Callable[[], tuple[Obstacle, ...] | None]


@final
class Forecast:
    """What stands between a target and the source's function, known or still to be found.

    >>> Forecast(lambda: ()).exact, Forecast().exact
    (True, None)
    """

    __slots__ = ("_find", "_found")

    def __init__(self, find: Find | None = None, found: tuple[Obstacle, ...] | None = None) -> None:
        self._find = find
        self._found = found

    @property
    def obstacles(self) -> tuple[Obstacle, ...] | None:
        """What keeps the target from computing the source's function; ``None`` where that is not known."""
        if self._find is not None:
            find, self._find = self._find, None
            self._found = find()
        return self._found

    @property
    def exact(self) -> bool | None:
        """Whether nothing does; ``None`` where that is not known."""
        return None if self.obstacles is None else not self.obstacles

    def lines(self, most: int = 5) -> list[str]:
        """Return what it comes to in words; nothing where it is not known.

        Args:
            most: how many kinds of obstacles are told.
        """
        if self.obstacles is None:
            return []
        if not self.obstacles:
            return ["exact: the target will compute the source's function"]
        sentences = told(self.obstacles)
        names = ["not exact", *["further"] * most]
        lines = [f"{name}: {text}" for name, text in zip(names, sentences[:most], strict=False)]
        more = len(sentences) - most
        return [*lines, f"and {more} further reasons"] if more > 0 else lines

    def __reduce__(self) -> tuple[type[Forecast], tuple[None, tuple[Obstacle, ...] | None]]:
        return Forecast, (None, self.obstacles)


def told(obstacles: Iterable[Obstacle]) -> tuple[str, ...]:
    """Return obstacles in words, one sentence for each kind.

    >>> told([Obstacle("kernel 5×5 → 3×3", "conv1"), Obstacle("kernel 5×5 → 3×3", "conv2")])
    ('kernel 5×5 → 3×3, at conv1 and 1 more',)
    """
    places: dict[str, dict[str, None]] = {}
    for one in obstacles:
        places.setdefault(one.what, {})[one.where] = None
    return tuple(
        f"{what}, at {next(iter(where))}" + (f" and {len(where) - 1} more" if len(where) > 1 else "")
        for what, where in places.items()
    )
