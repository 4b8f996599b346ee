"""Arguments of a forward pass of which only shapes are known yet."""

from __future__ import annotations

__all__ = ["Arguments", "Candidate", "Hole", "drawn"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

#: Positional and keyword arguments of a run.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]

_FEW = 30  # tokens are drawn among the first ones, the special ones at the start left out


@dataclass(frozen=True, slots=True)
class Hole:
    """A tensor to come: real numbers, or whole ones from 0 to ``below`` where that is not 0; ``last`` ends each row."""

    shape: tuple[int, ...]
    below: int = 0
    last: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """Arguments to try, in any nesting of lists and dictionaries, with holes for tensors."""

    arguments: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


def drawn(candidate: Candidate, seed: int | None, dtype: torch.dtype) -> Arguments:
    """Return positional and keyword arguments with their holes filled.

    Args:
        candidate: the arguments.
        seed: of the values; on the meta device, without any, where it is ``None``.
        dtype: of real numbers.
    """
    generator = torch.Generator().manual_seed(seed or 0)

    def fill(hole: Hole) -> Tensor:
        kind = torch.long if hole.below else dtype
        if seed is None:
            return torch.empty(hole.shape, dtype=kind, device="meta")
        if hole.below:
            most = min(hole.below, _FEW)
            tokens = torch.randint(min(3, most - 1), most, hole.shape, generator=generator)
            if hole.last:
                tokens[..., -len(hole.last) :] = torch.tensor(hole.last)
            return tokens
        return torch.randn(hole.shape, generator=generator).to(dtype)

    arguments, options = tree_map_only(Hole, fill, (candidate.arguments, dict(candidate.options)))
    return arguments, options
