"""Results, one JSON line each, appended as they come: a sweep can stop anywhere and go on later."""

from __future__ import annotations

__all__ = ["Key", "Result", "Size", "append", "load"]

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Size:
    """How large an architecture is; ``cost`` is what a run costs, roughly: parameters × share of a 224 picture."""

    library: str
    name: str
    family: str
    parameters: int
    cost: float


@dataclass(frozen=True, slots=True)
class Result:
    """What the axis groups of one architecture are, and what probing has shown.

    ``error`` says why there are no groups, ``reason`` why they are not proven. ``unmovable`` is the share of the
    parameters' numbers of which no axis may move, ``locks`` counts groups by the reason, ``seconds`` is the time that
    finding the groups took, ``proof_seconds`` that of building and probing, ``seed`` that of the drawn weights,
    ``limit`` the deviation that rounding explains; ``side`` is that of the pictures it was built for to be proven, 0
    for its own.
    ``idle``, ``alike`` and ``hidden``: see :class:`torchgraft.axes.Proof`.
    """

    library: str
    name: str
    groups: int = 0
    free: int = 0
    unmovable: float = 0.0
    unknown: Mapping[str, int] = field(default_factory=dict)
    locks: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""
    seed: int = 0
    deviation: float = 0.0
    limit: float = 1e-10
    probed: int = 0
    silent: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    inputs: str = ""
    side: int = 0
    proof_seconds: float = 0.0
    reason: str = ""

    @property
    def proven(self) -> bool:
        """Tell whether the groups are proven."""
        return not self.error and not self.reason


def append(path: Path, record: Size | Result) -> None:
    """Add one record to the store."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": type(record).__name__, **asdict(record)}) + "\n")


def load(path: Path) -> tuple[dict[Key, Size], dict[Key, Result]]:
    """Return the last record of each kind for every architecture, by library and name; none where there is no store."""
    sizes: dict[Key, Size] = {}
    results: dict[Key, Result] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        entry = json.loads(line)
        key = entry["library"], entry["name"]
        if entry.pop("kind") == "Size":
            sizes[key] = Size(**entry)
        else:
            results[key] = Result(**entry)
    return sizes, results
