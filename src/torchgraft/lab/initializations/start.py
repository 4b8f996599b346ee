"""What every initialization is given, and the small arithmetic that they share."""

from __future__ import annotations

__all__ = ["Initialization", "Start", "counted", "hashed"]

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from torchgraft.errors import LabError
from torchgraft.lab.records import Initialized
from torchgraft.transfer.apply import stored_tensors


@dataclass(frozen=True, slots=True)
class Start:
    """One target to initialize: from which source (``None`` where none is needed), by which argument and seed.

    ``argument`` is what stands behind the first colon of the name: ``"dp:clip"`` in ``"dpiat:dp:clip"``.
    """

    target: nn.Module
    given: nn.Module | None
    argument: str
    seed: int

    @property
    def source(self) -> nn.Module:
        """The source network.

        Raises:
            LabError: there is none.
        """
        if self.given is None:
            raise LabError("this initialization takes weights from a source network: give one")
        return self.given

    @property
    def own_seed(self) -> int:
        """Seed of draws that must not repeat those of a network's own initialization, made from the bare seed."""
        return int(hashed(["start", str(self.seed)])[:15], 16)


#: Writes the target in place and says what it did.
Initialization = Callable[[Start], Initialized]


def hashed(lines: Iterable[str]) -> str:
    """Hash of what an initialization without a plan did (sha256, hexadecimal)."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def counted(target: nn.Module, keys: Iterable[str]) -> float:
    """Share of the target's stored elements that belong to the tensors of these keys; tied tensors count once.

    >>> counted(nn.Linear(3, 1), ["weight"])
    0.75
    """
    tensors = stored_tensors(target)
    wanted = set(keys)
    once = {id(tensor): tensor for tensor in tensors.values()}
    filled = {id(tensor) for key, tensor in tensors.items() if key in wanted}
    total = sum(tensor.numel() for tensor in once.values())
    return sum(once[one].numel() for one in filled) / max(1, total)
