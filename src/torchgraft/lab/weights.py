"""Trained sources: the weights of a run as bytes, and networks from bytes, checkpoints and libraries."""

from __future__ import annotations

__all__ = ["load_network", "read_state", "write_state"]

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from torchgraft._api import apply, plan
from torchgraft.errors import LabError
from torchgraft.io import TensorTable, open_table
from torchgraft.lab.networks import build
from torchgraft.names import strip_wrappers

# Left out by many exporters, and of no effect beside a momentum.
_OPTIONAL = "num_batches_tracked"


def write_state(state: Mapping[str, Tensor]) -> bytes:
    """Return a state dict (contiguous tensors, none sharing memory) as safetensors bytes."""
    stored: bytes = save(dict(state))
    return stored


def read_state(network: nn.Module, weights: bytes, what: str) -> nn.Module:
    """Load safetensors bytes into ``network``, every tensor of it, and return it.

    Args:
        network: written in place.
        weights: from :func:`write_state`.
        what: whose weights these are, for the message.

    Raises:
        LabError: the bytes are damaged, or of another network.

    >>> weights = write_state(nn.Linear(3, 2).state_dict())
    >>> read_state(nn.Linear(3, 4), weights, "source a")
    Traceback (most recent call last):
    torchgraft.errors.LabError: the weights of source a do not fit Linear: weight is (2, 3), not (4, 3)
    """
    try:
        state = load(weights)
    except SafetensorError as error:
        raise LabError(f"the weights of {what} are damaged ({error}): remove them, and its run is repeated") from None
    faults = _faults(network.state_dict(), {key: tuple(tensor.shape) for key, tensor in state.items()})
    if faults:
        raise LabError(f"the weights of {what} do not fit {type(network).__name__}: {faults[0]}")
    network.load_state_dict(state)
    return network


def load_network(spec: str, weights: str, seed: int = 0) -> nn.Module:
    """Build the network of ``spec`` with trained weights, for the number of classes that these have.

    Args:
        spec: as for :func:`torchgraft.lab.networks.build`.
        weights: ``pretrained`` for those of the network's own library, or the path of a checkpoint; one that other code
            has written for the same architecture, under other names, is found by its structure.
        seed: of what the weights leave open.

    Raises:
        LabError: the checkpoint is of another network.
        CheckpointError: it cannot be read.
        SpecError: the spec is wrong.
    """
    if weights == "pretrained":
        return build(spec, None, seed, pretrained=True)
    with open_table(weights) as table:
        network = build(spec, None, seed)
        classes = _other_classes(network, table)
        if classes is not None:
            network = build(spec, classes, seed)
        _fill(network, table, spec)
    return network


def _other_classes(network: nn.Module, table: TensorTable) -> int | None:
    """Tell the number of classes of a checkpoint where all that sets it apart from the network is the head's rows."""
    shapes = {name: tuple(tensor.shape) for name, tensor in _canonical(network).items()}
    found = {
        (shape, table.infos()[name].shape)
        for name, shape in shapes.items()
        if name in table.infos() and table.infos()[name].shape != shape
    }
    same_rest = all(mine and theirs and mine[1:] == theirs[1:] for mine, theirs in found)
    rows = {theirs[0] for _, theirs in found if theirs}
    return rows.pop() if same_rest and len(rows) == 1 else None


def _fill(network: nn.Module, table: TensorTable, spec: str) -> None:
    tensors = _canonical(network)
    infos = {key: info.shape for key, info in table.infos().items()}
    faults = _faults(tensors, infos)
    if faults and _fill_by_match(network, table):
        return
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise LabError(f"{table.name} does not fit {spec}: {faults[0]}{more}: give the spec that it was trained as")
    with torch.no_grad():
        for key, tensor in tensors.items():
            if key in infos:
                tensor.copy_(table.load(key))


def _fill_by_match(network: nn.Module, table: TensorTable) -> bool:
    """Load the same architecture written in other code, which has other names; tell whether it is the same."""
    planned = plan(table, network)
    whole = all(tensor.status == "copied" or tensor.key.endswith(_OPTIONAL) for tensor in planned.tensors)
    taken = {key for tensor in planned.tensors for key in tensor.source}
    if not whole or any(key not in taken and not key.endswith(_OPTIONAL) for key in table.infos()):
        return False
    apply(planned, table, network)
    return True


def _canonical(network: nn.Module) -> dict[str, Tensor]:
    state = network.state_dict()
    return {name: state[key] for key, name in strip_wrappers(state).items()}


def _faults(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return what keeps tensors of these shapes from being loaded, one line each."""
    faults = [f"it has no {key}" for key in tensors if key not in shapes and not key.endswith(_OPTIONAL)]
    faults += [f"{key} is not of it" for key in shapes if key not in tensors]
    faults += [
        f"{key} is {shapes[key]}, not {tuple(tensor.shape)}"
        for key, tensor in tensors.items()
        if key in shapes and shapes[key] != tuple(tensor.shape)
    ]
    return faults
