"""Prove axis groups by running the model: what is moved together must not show, what is moved alone must."""

from __future__ import annotations

__all__ = ["Proof", "probe"]

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from torchgraft.axes.groups import AxisGroups, Group, Index, Member
from torchgraft.network import unwrap

_EXACT = 1e-11  # relative deviation of float64 outputs
_SHOWN = 1e-10


@dataclass(frozen=True, slots=True)
class Proof:
    """What probing has shown.

    ``deviation`` is the largest relative deviation of an output after all free groups were permuted at once;
    ``silent`` are groups of which moving one member alone did not show, of the ``probed`` that were tried.
    """

    deviation: float
    probed: int
    silent: tuple[int, ...]

    @property
    def holds(self) -> bool:
        """Tell whether all groups are proven."""
        return self.deviation <= _EXACT and not self.silent


def probe(
    module: nn.Module,
    groups: AxisGroups,
    inputs: Sequence[Any],
    options: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    singles: int = 4,
) -> Proof:
    """Permute all free groups at once in a float64 copy of ``module``, then single members of some of them.

    All weights are drawn anew, norms and their statistics too, so that a constant cannot hide a fault.

    Args:
        module: left as it is.
        groups: from :func:`~torchgraft.axes.groups.axis_groups`.
        inputs: positional arguments, with values.
        options: keyword arguments.
        seed: of weights and permutations.
        singles: how many groups are tried for a member moved alone.
    """
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(unwrap(module)).double().eval()
    _randomize(model, generator)
    arguments = tree_map_only(Tensor, _double, (tuple(inputs), dict(options or {})))
    before = _outputs(model, arguments)
    free = [group for group in groups.free() if group.size > 1]
    moved = {group.number: torch.randperm(group.size, generator=generator).numpy() for group in free}
    deviation = _after(model, groups, moved, [m for group in free for m in group.members], arguments, before)
    tried = [free[i] for i in torch.randperm(len(free), generator=generator)[:singles].tolist()]
    silent = [
        group.number
        for group in tried
        if _after(model, groups, {group.number: _turned(group)}, group.members[:1], arguments, before) < _SHOWN
    ]
    return Proof(deviation, len(tried), tuple(silent))


def _turned(group: Group) -> Index:
    return np.roll(np.arange(group.size), 1)


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _randomize(model: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                fan = max(1, tensor[0].numel()) if tensor.ndim > 1 else 1
                if name.endswith("running_var"):
                    tensor.copy_(1 + 0.2 * noise.abs())
                elif tensor.ndim > 1:
                    tensor.copy_(noise * (2 / fan) ** 0.5)  # or depth would silence what comes first
                else:
                    tensor.add_(0.1 * noise)


def _outputs(model: nn.Module, arguments: Any) -> list[Tensor]:
    with torch.no_grad():
        result = copy.deepcopy(model)(*arguments[0], **arguments[1])  # what a run caches (LeViT) does not outlive it
    leaves = tree_leaves(dict(result) if isinstance(result, Mapping) else result)
    return [leaf.clone() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _after(
    model: nn.Module,
    groups: AxisGroups,
    chosen: Mapping[int, Index],
    members: Sequence[Member],
    arguments: Any,
    before: Sequence[Tensor],
) -> float:
    """Return the largest relative deviation of the outputs with the members' units moved; the model is put back."""
    state = model.state_dict()
    kept: dict[str, Tensor] = {}
    with torch.no_grad():
        for member in dict.fromkeys(members):
            tensor = state[member.key]
            kept.setdefault(member.key, tensor.clone())
            order = torch.from_numpy(groups.index(member, chosen))
            tensor.copy_(tensor.index_select(member.axis, order))
        after = _outputs(model, arguments)
        for key, tensor in kept.items():
            state[key].copy_(tensor)
    return max((_deviation(a, b) for a, b in zip(before, after, strict=True)), default=0.0)


def _deviation(a: Tensor, b: Tensor) -> float:
    scale = float(a.abs().max()) if a.numel() else 0.0
    return float((a - b).abs().max()) / scale if scale else float((a - b).abs().sum())
