"""Stacks of recurrent layers under a linear one, in pairs."""

from __future__ import annotations

__all__ = ["Stack", "recurrent_cases"]

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Pair = tuple[str, Callable[[], nn.Module], Callable[[], nn.Module], Callable[[], Any]]


class Stack(nn.Module):
    """Recurrent layers, and a linear one that reads what they give at every step."""

    def __init__(self, kind: type[nn.RNNBase], width: int, layers: int, both: bool = False) -> None:
        super().__init__()
        self.layers = kind(5, width, layers, batch_first=True, bidirectional=both)  # type: ignore[arg-type]
        self.head = nn.Linear(width * (2 if both else 1), 7)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, steps, 7)`` for ``(batch, steps, 5)``."""
        found: Tensor = self.head(self.layers(x)[0])
        return found


def recurrent_cases() -> Iterator[Pair]:
    """Yield name, source, target and inputs."""
    for name, kind in (("LSTM", nn.LSTM), ("GRU", nn.GRU), ("RNN", nn.RNN)):
        for source, target, told in (
            ((16, 2), (24, 2), "wider"),
            ((16, 2, True), (24, 2, True), "both ways, wider"),
            ((16, 1), (16, 2), "deeper"),
        ):
            sizes = " → ".join(f"{one[0]}/{one[1]}" for one in (source, target))
            yield f"{name} {told}: {sizes}", partial(Stack, kind, *source), partial(Stack, kind, *target), _steps


def _steps() -> Tensor:
    return torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
