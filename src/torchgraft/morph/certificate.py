"""What a module morph achieved, measured."""

from __future__ import annotations

__all__ = ["TOLERANCE", "ModuleCertificate", "deviation"]

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

#: Relative deviation in float64 up to which a module computes the convolution's function.
TOLERANCE = 1e-8


@dataclass(frozen=True, slots=True)
class ModuleCertificate:
    """By how much a module deviates from the convolution it stands for, and how its weights were found.

    ``deviation`` is ``max|module(x) - conv(x)| / max|conv(x)|`` in float64 and eval mode on random input, borders
    included, before the weights are rounded to the convolution's type; ``inside`` is the same for the kernels, where
    no border is near. ``gain`` is the norm of the largest part of the kernel that goes through one layer relative to
    the whole, estimated: far above one, large parts cancel. ``condition`` is the worst of the linear systems solved
    (1 where none was, nan where one was iterated on). ``carrier`` is the path that carries the convolution, the layer
    solved for in brackets; ``zero`` the edges whose weights start at zero.
    """

    graph: str
    padding: str
    method: str
    deviation: float
    inside: float
    gain: float
    condition: float
    carrier: str = ""
    zero: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the deviation is at most 1e-8."""
        return self.deviation <= TOLERANCE

    def __str__(self) -> str:
        lines = [
            f"{self.graph}: {'exact' if self.exact else 'not exact'}",
            f"deviation {self.deviation:.1e}, inside {self.inside:.1e}, padding at {self.padding!r}",
            f"method {self.method}, largest part {self.gain:.2f} of the whole, condition {self.condition:.1e}",
        ]
        lines += [f"carrier {self.carrier}"] if self.carrier else []
        lines += [f"zero {', '.join(self.zero)}"] if self.zero else []
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the certificate as plain data."""
        return {"exact": self.exact, **asdict(self)}


@torch.no_grad()
def deviation(source: nn.Module, target: nn.Module, shape: Sequence[int], seed: int = 0) -> float:
    """Return ``max|y_t - y_s| / max|y_s|`` in float64 and eval mode on random input of ``shape``; the models stay.

    The absolute deviation where the source's output is zero, and infinity where the outputs' shapes differ.
    """
    one, other = (copy.deepcopy(model).to("cpu", torch.float64).eval() for model in (source, target))
    blob = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted, got = one(blob), other(blob)
    if wanted.shape != got.shape:
        return float("inf")
    size = float(wanted.abs().max()) if wanted.numel() else 0.0
    apart = float((got - wanted).abs().max()) if wanted.numel() else 0.0
    return apart / (size or 1.0)
