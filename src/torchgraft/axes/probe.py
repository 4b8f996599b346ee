"""Prove axis groups by running the model: what is moved together must not show, what is moved alone must."""

from __future__ import annotations

__all__ = ["Proof", "probe"]

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from torchgraft.axes.groups import AxisGroups, Group, Index, Member
from torchgraft.axes.outputs import outputs_of
from torchgraft.axes.precise import Precise
from torchgraft.axes.shadow import copy_of, plain_operators
from torchgraft.network import unwrap

_EXACT = 1e-10  # relative deviation of float64 outputs
_ROUNDINGS = 16  # times what one rounding of every weight does
_ROUGH = 1e-4  # where roundings do more than that, nothing is shown
_SHOWN = 100  # times what rounding explains
_TRIES = 6  # members of a group, until one shows


@dataclass(frozen=True, slots=True)
class Proof:
    """What probing has shown.

    ``deviation`` is the largest relative deviation of an output after all free groups were permuted at once;
    of the ``probed`` groups, moving one member alone has shown, but for the ``silent`` ones, the ``idle`` ones, which
    no output depends on, and the ``alike`` ones, whose units count but stand in any order in every member (summands).
    ``hidden`` are members that did not show, of groups of which another one did, as the bias of an attention's keys.
    ``limit`` is the deviation that rounding explains: 1e-10, or more where the model is measured to enlarge roundings.
    Alone, a member has to show by a hundred times that.
    """

    deviation: float
    probed: int
    silent: tuple[int, ...]
    idle: tuple[int, ...] = ()
    alike: tuple[int, ...] = ()
    hidden: tuple[Member, ...] = ()
    limit: float = _EXACT

    @property
    def exact(self) -> bool:
        """Tell whether moving units together has not shown."""
        return self.deviation <= self.limit <= _ROUGH

    @property
    def holds(self) -> bool:
        """Tell whether moving units together has not shown, and moving them alone has, wherever it can."""
        shown = self.probed - len(self.idle) - len(self.alike)
        return self.exact and not self.silent and (shown > 0 or not self.probed)


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

    All weights are drawn anew, norms too, so that a constant cannot hide a fault; the statistics of norms are set to
    what the drawn weights make of the inputs, so that no layer is silenced by those before it.

    Args:
        module: left as it is.
        groups: from :func:`~torchgraft.axes.groups.axis_groups`.
        inputs: positional arguments, with values.
        options: keyword arguments.
        seed: of weights and permutations.
        singles: how many groups are tried for a member moved alone.
    """
    generator = torch.Generator().manual_seed(seed)
    model = _drawn(unwrap(module), generator)
    arguments = tree_map_only(Tensor, _double, (tuple(inputs), dict(options or {})))
    _calibrate(model, arguments)
    before = _outputs(model, arguments)
    free = [group for group in groups.free() if group.size > 1]
    moved = {group.number: torch.randperm(group.size, generator=generator).numpy() for group in free}
    deviation = _after(model, groups, moved, [m for group in free for m in group.members], arguments, before)
    limit = _EXACT if deviation <= _EXACT else max(_EXACT, _ROUNDINGS * _rounding(model, arguments, before, generator))
    tried = [free[i] for i in torch.randperm(len(free), generator=generator)[:singles].tolist()]
    told: dict[str, list[int]] = {"shown": [], "silent": [], "idle": [], "alike": []}
    hidden: list[Member] = []
    for group in tried:
        verdict, quiet = _alone(model, groups, group, arguments, before, _SHOWN * limit)
        told[verdict].append(group.number)
        hidden += quiet if verdict == "shown" else []
    silent, idle, alike = (tuple(told[verdict]) for verdict in ("silent", "idle", "alike"))
    return Proof(deviation, len(tried), silent, idle, alike, tuple(hidden), limit)


def _rounding(model: nn.Module, arguments: Any, before: Sequence[Tensor], generator: torch.Generator) -> float:
    """Return the largest relative deviation of the outputs when every weight is rounded up, down, or not."""
    with _restored([tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]) as tensors:
        for tensor in tensors:
            ways = torch.randint(-1, 2, tensor.shape, generator=generator).double()
            tensor.mul_(1 + ways * torch.finfo(torch.float64).eps)
        return _apart(before, _outputs(model, arguments))


@contextmanager
def _restored(tensors: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """Let tensors be changed, and put them back."""
    kept = [tensor.clone() for tensor in tensors]
    with torch.no_grad():
        yield tensors
        for tensor, value in zip(tensors, kept, strict=True):
            tensor.copy_(value)


def _alone(
    model: nn.Module, groups: AxisGroups, group: Group, arguments: Any, before: Sequence[Tensor], shown: float
) -> tuple[str, list[Member]]:
    """Move one member alone, and another one until it shows; return the verdict, and the members that did not show."""
    state = model.state_dict()
    quiet: list[Member] = []
    for member in sorted(group.members, key=lambda member: state[member.key].ndim < 2)[:_TRIES]:  # weights first
        if not _after(model, groups, {group.number: _turned(group)}, [member], arguments, before) < shown:
            return "shown", quiet
        quiet.append(member)
    keys = {member.key for member in group.members}
    with _restored([state[key] for key in keys]) as tensors:
        for tensor in tensors:
            other = tensor.flatten().roll(1).reshape(tensor.shape)
            tensor.copy_(other * 1.5 if other.is_floating_point() else other)  # numbers of places stay in range
        counts = not _apart(before, _outputs(model, arguments)) < shown
    if counts and len(quiet) == len(group.members):
        return "alike", quiet
    return "idle" if keys <= groups.idle else "silent", quiet


def _turned(group: Group) -> Index:
    return np.roll(np.arange(group.size), 1)


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _drawn(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Copy a model in float64 with all weights drawn anew; what is overwritten is not copied before."""
    anew = {tensor.data_ptr() for name, tensor in module.state_dict().items() if _is_matrix(name, tensor)}

    def made(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.clone()
        if tensor.data_ptr() in anew and _fan(tensor) > 1:
            return torch.empty(tensor.shape, dtype=torch.float64)
        return tensor.to(torch.float64, copy=True)

    model = copy_of(module, made).eval()
    for name, tensor in model.state_dict().items():
        if _is_matrix(name, tensor):
            bound = (6 / _fan(tensor)) ** 0.5  # or depth would silence what comes first
            tensor.uniform_(-bound, bound, generator=generator)
        elif tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.2 * noise.abs())
            else:  # gains, shifts, scales of whole units
                tensor.add_(0.1 * noise)
    return model


def _is_matrix(name: str, tensor: Tensor) -> bool:
    return tensor.is_floating_point() and _fan(tensor) > 1 and not name.endswith("running_var")


def _fan(tensor: Tensor) -> int:
    return prod(tensor.shape[1:])


def _calibrate(model: nn.Module, arguments: Any) -> None:
    """Set the running statistics of norms, one after the other in one run, to those of what they read."""
    handles = [
        part.register_forward_pre_hook(_take_statistics)
        for part in model.modules()
        if {"running_mean", "running_var"} <= part._buffers.keys() and part.running_mean is not None
    ]
    if handles:
        _run(model, arguments)
        for handle in handles:
            handle.remove()


def _take_statistics(norm: Any, inputs: tuple[Tensor, ...]) -> None:
    x = inputs[0].transpose(0, 1).flatten(1)  # channels × places
    if norm.running_mean.shape[0] == x.shape[0] and x.shape[1] > 1 and bool(x.isfinite().all()):
        norm.running_mean.copy_(norm.running_mean + x.mean(1))  # drawn: a centre beside that of the inputs
        norm.running_var.copy_(norm.running_var * x.var(1).clamp_min(1e-3 * float(x.var()) + 1e-12))


def _run(model: nn.Module, arguments: Any) -> Any:
    """Run a model; what a run caches (LeViT) or draws (masks) is the same in the next one."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    with torch.no_grad(), torch.random.fork_rng(devices=[]), plain_operators(), Precise():
        torch.manual_seed(0)
        return copy.deepcopy(model, shared)(*arguments[0], **arguments[1])


def _outputs(model: nn.Module, arguments: Any) -> list[Tensor]:
    return [leaf.clone() for leaf in outputs_of(_run(model, arguments)) if leaf.is_floating_point()]


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
    moves = [(state[member.key], member.axis, groups.index(member, chosen)) for member in dict.fromkeys(members)]
    _move(moves)
    deviation = _apart(before, _outputs(model, arguments))
    _move([(tensor, axis, np.argsort(order)) for tensor, axis, order in reversed(moves)])  # copies would take as much
    return deviation


def _move(moves: Sequence[tuple[Tensor, int, Index]]) -> None:
    with torch.no_grad():
        for tensor, axis, order in moves:
            tensor.copy_(tensor.index_select(axis, torch.from_numpy(order)))


def _apart(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    if [a.shape for a in before] != [b.shape for b in after]:  # a detector that keeps other boxes
        return float("inf")
    return float(np.max([_deviation(a, b) for a, b in zip(before, after, strict=True)], initial=0.0))


def _deviation(a: Tensor, b: Tensor) -> float:
    """Return the largest difference relative to the largest number; what is infinite in both is no difference."""
    if not a.numel():
        return 0.0
    same = a == b
    scale = float(a.masked_fill(a.isinf(), 0).abs().max())
    difference = float((a - b).masked_fill(same, 0).abs().max())
    return difference / scale if scale else difference
