"""Controls: warm starts from which one thing was taken away, so that what is left shows what it was worth."""

from __future__ import annotations

__all__ = ["norms", "permuted", "shuffled", "statistics", "variance"]

import copy
from collections import defaultdict
from dataclasses import replace

import torch
from torch import Tensor, nn

from torchgraft.lab.initializations.matching import filled, parse_match, warm_start
from torchgraft.lab.initializations.ours import from_method, parse_method
from torchgraft.lab.initializations.start import Start
from torchgraft.lab.records import Initialized
from torchgraft.network import unwrap
from torchgraft.records import Move, Transfer
from torchgraft.transfer.apply import stored_tensors
from torchgraft.transfer.operators import Tensors, clip

_RUNNING = frozenset({"running_mean", "running_var"})


def permuted(start: Start) -> Initialized:
    """Warm start from a source whose channels are shuffled in every tensor by itself: layers no longer fit each other.

    Each tensor keeps its values, and so its distribution, along axes 0 and 1; kernels keep their taps.
    """
    source = copy.deepcopy(start.source)
    generator = torch.Generator().manual_seed(start.own_seed)
    with torch.no_grad():
        for tensor in _distinct(source):
            for axis in range(min(2, tensor.ndim)):
                order = torch.randperm(tensor.shape[axis], generator=generator)
                tensor.copy_(tensor.index_select(axis, order.to(tensor.device)))
    return _from(source, start)


def shuffled(start: Start) -> Initialized:
    """Warm start from a source whose layers of equal kind and shapes have changed places: features at wrong depths.

    They move round in a circle of random order, so that none of them stays; a layer unlike all others has to.
    """
    source = copy.deepcopy(start.source)
    generator = torch.Generator().manual_seed(start.own_seed)
    moved = 0
    with torch.no_grad():
        for group in _alike(source):
            order = torch.randperm(len(group), generator=generator).tolist()
            values = [{name: tensor.clone() for name, tensor in group[i].items()} for i in order]
            for place, i in enumerate(order):
                for name, tensor in group[i].items():
                    tensor.copy_(values[place - 1][name])
            moved += len(group)
    done = _from(source, start)
    return replace(done, note=f"{done.note}; {moved} layers of the source moved")


def variance(start: Start) -> Initialized:
    """Random weights with the deviation that the matched source tensor has: scale alone, without what was learned.

    Normal draws of mean zero for every weight and bias of a layer that mixes units; norms stay as initialized.
    """
    report = warm_start(start, gaussian, parse_match(start.argument) if start.argument else "graft")
    moves = [(transfer.kind, move) for transfer in report.plan.transfers for move in transfer.moves]
    return filled(start, report, [move.target.key for kind, move in moves if _is_drawn(kind, move)])


def statistics(start: Start) -> Initialized:
    """Only the running statistics of the normalization layers, as graft places them."""
    return _norms_only(start, _RUNNING)


def norms(start: Start) -> Initialized:
    """Only the normalization layers, gains and shifts and running statistics, as graft places them."""
    return _norms_only(start, None)


def gaussian(target: Tensors, source: Tensors, transfer: Transfer, generator: torch.Generator) -> None:
    """Fill the weights and biases of a layer with normal draws of the source tensor's deviation."""
    for move in transfer.moves:
        if _is_drawn(transfer.kind, move):
            t, s = target[move.target.role], source[move.target.role]
            t.copy_(torch.randn(t.shape, generator=generator) * float(s.std(unbiased=False)))


def _is_drawn(kind: str, move: Move) -> bool:
    weighty = len(move.target.shape) > 1 or move.target.role.startswith("bias")
    return weighty and not _is_norm(kind) and not move.target.buffer


def _is_norm(kind: str) -> bool:
    return "norm" in kind


def _norms_only(start: Start, roles: frozenset[str] | None) -> Initialized:
    def wanted(transfer: Transfer) -> tuple[Move, ...]:
        kept = transfer.moves if _is_norm(transfer.kind) else ()
        return tuple(move for move in kept if roles is None or move.target.role in roles)

    def norms_only(target: Tensors, source: Tensors, transfer: Transfer, generator: torch.Generator) -> None:
        clip(target, source, replace(transfer, moves=wanted(transfer)), generator)

    norms_only.__name__ = "norms" if roles is None else "statistics"  # the plan is printed and hashed with it
    report = warm_start(start, norms_only, "graft")
    moves = [move for transfer in report.plan.transfers for move in wanted(transfer)]
    coverage = sum(move.elements for move in moves) / max(1, report.total)
    return Initialized(coverage, report.fingerprint, note=f"{len(moves)} tensors of normalization layers")


def _from(source: nn.Module, start: Start) -> Initialized:
    method, variant = parse_method(start.argument)
    return from_method(method, replace(start, argument=variant), source)


def _distinct(module: nn.Module) -> list[Tensor]:
    """The stored tensors that hold real numbers, tied ones once."""
    once = {id(tensor): tensor for tensor in stored_tensors(unwrap(module)).values()}
    return [tensor for tensor in once.values() if tensor.is_floating_point()]


def _alike(module: nn.Module) -> list[list[dict[str, Tensor]]]:
    """The tensors of the layers by name, layers of equal kind and shapes together, where there are at least two."""
    groups: defaultdict[object, list[dict[str, Tensor]]] = defaultdict(list)
    for layer in unwrap(module).modules():
        own = {**layer._parameters, **layer._buffers}
        held = {name: tensor for name, tensor in own.items() if tensor is not None}
        if held:
            groups[type(layer), tuple((name, tensor.shape) for name, tensor in held.items())].append(held)
    return [group for group in groups.values() if len(group) > 1]
