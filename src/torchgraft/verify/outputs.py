"""What of two models' outputs is compared, and by how much it deviates."""

from __future__ import annotations

__all__ = ["ROUNDING", "apart", "compared_leaves", "deviation_of", "factor_between"]

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchgraft.axes.outputs import outputs_of
from torchgraft.verify.certificate import Deviation
from torchgraft.verify.running import Mode
from torchgraft.verify.units import Units

#: Relative deviation that the rounding of stored float32 weights explains.
ROUNDING = 1e-6

#: Gives the corresponding units of an axis by its sizes in target and source, and the name of the layer that says so.
Mapped = Callable[[int, int], tuple[Units, str] | None]


def apart(source: Tensor, target: Tensor) -> tuple[float, float]:
    """Return ``max|t - s|`` and that divided by ``max|s|``; equal infinities do not differ.

    >>> apart(torch.tensor([4.0, 2.0]), torch.tensor([4.0, 1.0]))
    (1.0, 0.25)
    """
    if not source.numel():
        return 0.0, 0.0
    s, t = source.detach().double(), target.detach().double().to(source.device)
    absolute = float(torch.where(s == t, 0.0, (t - s).abs()).max())
    finite = s[s.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    return absolute, absolute / scale if scale else (float("inf") if absolute else absolute)


def factor_between(source: Tensor, target: Tensor) -> float:
    """Return the constant that turns the one into the other but for rounding, 1 where there is none.

    >>> round(factor_between(torch.tensor([4.0, 2.0]), torch.tensor([6.0, 3.0])), 6)
    1.5
    """
    s, t = source.detach().double(), target.detach().double().to(source.device)
    factor = float((s * t).sum() / (s * s).sum())
    return factor if factor > 0 and apart(s * factor, t)[1] <= ROUNDING else 1.0


def deviation_of(leaves: Iterable[tuple[Tensor, Tensor]], mode: Mode) -> Deviation:
    """Return the largest deviation among pairs of outputs, of which there is at least one."""
    found = torch.tensor([apart(*pair) for pair in leaves], dtype=torch.float64).amax(0)  # a NaN stays one
    return Deviation(*mode, *found.tolist())


def compared_leaves(source: Any, target: Any, mapped: Mapped) -> tuple[list[tuple[Tensor, Tensor]], list[str]]:
    """Pair the floating outputs that both models give, cut to the units that both have; notes say what was cut.

    Args:
        source: what the source returned.
        target: what the target returned.
        mapped: finds the units of an axis of two sizes.
    """
    if isinstance(source, Mapping) and isinstance(target, Mapping):
        names = [name for name in source if name in target]
        source, target = ({name: one[name] for name in names} for one in (source, target))
    leaves = [[leaf for leaf in outputs_of(one) if leaf.is_floating_point()] for one in (source, target)]
    notes = []
    if len(leaves[0]) != len(leaves[1]):
        notes.append(
            f"the source has {len(leaves[0])} outputs, the target {len(leaves[1])}: the first ones are compared"
        )
    found = []
    for number, (s, t) in enumerate(zip(*leaves, strict=False)):
        name = f"output {number + 1}" if len(leaves[0]) > 1 else "the output"
        pair, note = _cut(s, t, name, mapped)
        found += [pair] if pair else []
        notes += [note] if note else []
    return found, list(dict.fromkeys(notes))


def _cut(s: Tensor, t: Tensor, name: str, mapped: Mapped) -> tuple[tuple[Tensor, Tensor] | None, str]:
    if s.ndim != t.ndim:
        return None, f"{name} is {tuple(s.shape)} in the source and {tuple(t.shape)} in the target: not compared"
    axes = [axis for axis in range(s.ndim) if s.shape[axis] != t.shape[axis]] or [s.ndim - 1]
    axis = axes[0]
    if len(axes) > 1 or axis == 0 or not s.ndim:
        same = s.shape == t.shape
        told = f"{name} is {tuple(s.shape)} in the source and {tuple(t.shape)} in the target: not compared"
        return ((s, t), "") if same else (None, told)
    sizes = t.shape[axis], s.shape[axis]
    known = mapped(*sizes)
    if known is None and sizes[0] == sizes[1]:
        return (s, t), ""
    leading: Units = (range(min(sizes)), range(min(sizes)))
    units, layer = known or (leading, "")
    why = f"{len(units[0])} that {layer} took over" if layer else f"{min(sizes)} leading ones"
    into, out_of = (torch.as_tensor(list(index), device=t.device) for index in units)
    pair = s.index_select(axis, out_of.to(s.device)), t.index_select(axis, into)
    return pair, f"{name} has {sizes[0]} units in the target and {sizes[1]} in the source: the {why} are compared"
