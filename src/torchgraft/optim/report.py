"""What became of an optimizer's state."""

from __future__ import annotations

__all__ = ["OptimizerReport"]

from dataclasses import dataclass
from typing import Any

from torchgraft.errors import listed


@dataclass(frozen=True, slots=True)
class OptimizerReport:
    """What :func:`torchgraft.transfer_optimizer` did: every parameter of the target's optimizer is in it once.

    ``moved`` are the parameters that got state; ``left`` are the others, each with the reason; ``state`` names what was
    moved (``exp_avg``, ``step``); ``notes`` say what had to be assumed.
    """

    optimizer: str
    moved: tuple[str, ...]
    left: tuple[tuple[str, str], ...]
    state: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = f" ({', '.join(self.state)})" if self.state else ""
        total = len(self.moved) + len(self.left)
        lines = [f"{self.optimizer}: {len(self.moved)} of {total} parameters have state from the source{names}"]
        reasons: dict[str, list[str]] = {}
        for key, reason in self.left:
            reasons.setdefault(reason, []).append(key)
        lines += [f"none for {listed(keys)}: {reason}" for reason, keys in reasons.items()]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "optimizer": self.optimizer,
            "moved": list(self.moved),
            "left": dict(self.left),
            "state": list(self.state),
            "notes": list(self.notes),
        }
