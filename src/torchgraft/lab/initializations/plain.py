"""Starts that transfer nothing between architectures: the library's own, equal names, files of whole weights."""

from __future__ import annotations

__all__ = ["load_pretrained", "name_shape", "parse_file", "predicted", "pretrained", "random"]

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from torchgraft.errors import LabError
from torchgraft.io import TensorInfo, open_table
from torchgraft.lab.initializations.start import Start, counted, hashed
from torchgraft.lab.records import Initialized
from torchgraft.network import unwrap
from torchgraft.transfer.apply import stored_tensors

# Left out by many exporters, and of no effect beside a momentum.
_OPTIONAL = "num_batches_tracked"
_ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".npz")  # of files with predicted parameters, in a folder


def random(start: Start) -> Initialized:
    """Leave the target as its own library initialized it."""
    return Initialized(note="the library's own initialization")


def name_shape(start: Start) -> Initialized:
    """Load every tensor whose name and shape are the same on both sides: what people do today."""
    tensors, available = stored_tensors(unwrap(start.target)), stored_tensors(unwrap(start.source))
    keys = [key for key, tensor in tensors.items() if key in available and available[key].shape == tensor.shape]
    with torch.no_grad():
        for key in keys:
            tensors[key].copy_(available[key])
    note = f"{len(keys)} of {len(tensors)} tensors have a namesake of equal shape"
    return Initialized(counted(unwrap(start.target), keys), hashed(keys), note=note)


def pretrained(start: Start) -> Initialized:
    """Load the target's own trained weights from a file: the upper limit."""
    if not start.argument:
        raise LabError(
            "pretrained needs the target's own weights: write pretrained:FILE, or name them in the experiment"
        )
    return load_pretrained(start.target, start.argument)


def parse_file(argument: str) -> str:
    """Return the path of a file.

    Raises:
        LabError: there is none.
    """
    if not argument:
        raise LabError("the name of a file is missing: write predicted:FILE, or predicted:FOLDER of one file a target")
    return argument


def load_pretrained(target: nn.Module, path: str | os.PathLike[str]) -> Initialized:
    """Load a checkpoint of the target's own architecture, by name; a head of other classes stays as it is.

    Args:
        target: the network, written in place.
        path: what :func:`torchgraft.io.open_table` opens.

    Raises:
        LabError: the file holds less than half of the target's elements: it is of another architecture.
        CheckpointError: the file cannot be read.
    """
    tensors = stored_tensors(unwrap(target))
    with open_table(path) as table:
        infos = table.infos()
        keys = [key for key, tensor in tensors.items() if key in infos and infos[key].shape == tuple(tensor.shape)]
        coverage = counted(unwrap(target), keys)
        if coverage < 0.5:
            raise LabError(
                f"{path} holds {len(keys)} of the target's {len(tensors)} tensors by name and shape: "
                "give a checkpoint of the target's own architecture"
            )
        _fill(tensors, {key: table.load(key) for key in keys})
    left = [key for key in tensors if key not in keys and not key.endswith(_OPTIONAL)]
    return Initialized(coverage, hashed(keys), note=f"kept as initialized: {', '.join(left)}" if left else "")


def predicted(start: Start) -> Initialized:
    """Take the parameters that GHN-2 or GHN-3 predicted for this target from a file made with those packages.

    (Graph HyperNetworks, arXiv:2110.13100, arXiv:2303.04143.) They predict no normalization statistics, and need not
    predict everything: what the file does not hold stays as initialized, and the coverage says so. Of a folder, one
    file for each target, the one that fits is taken.

    Raises:
        LabError: a tensor of the file has no place in the target, or another shape there, or not one file of the folder
            fits; nothing is written then.
        CheckpointError: the file cannot be read.
    """
    tensors = stored_tensors(unwrap(start.target))
    path = _fitting(parse_file(start.argument), tensors)
    with open_table(path) as table:
        _check_fit(path, table.infos(), tensors)
        values = {key: table.load(key) for key in table.infos()}
    _fill(tensors, values)
    note = f"{len(values)} of {len(tensors)} tensors predicted"
    return Initialized(counted(unwrap(start.target), values), hashed(values), note=note)


def _fitting(path: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the path of a file, or of the one file in a folder that was predicted for a network of these tensors."""
    if not Path(path).is_dir():
        return path
    files = sorted(str(file) for file in Path(path).iterdir() if file.suffix in _ENDINGS)
    faults: dict[str, str] = {}
    for file in files:
        with open_table(file) as table:
            try:
                _check_fit(file, table.infos(), tensors)
            except LabError as error:
                faults[file] = str(error)
    fitting = [file for file in files if file not in faults]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise LabError(f"{path}: {' and '.join(fitting[:2])} both fit this target: leave one")
    reason = next(iter(faults.values()), f"it holds no file that ends in {', '.join(_ENDINGS)}")
    raise LabError(f"{path} has no prediction for this target: {reason}")


def _check_fit(path: str, infos: Mapping[str, TensorInfo], tensors: Mapping[str, Tensor]) -> None:
    for key, info in infos.items():
        if key not in tensors:
            raise LabError(f"{path} predicts {key}, which the target does not have: predict for this very network")
        shape = tuple(tensors[key].shape)
        if info.shape != shape:
            raise LabError(
                f"{path} predicts {key} as {_told(info.shape)}, but the target's is {_told(shape)}: "
                "predict for this very network and its number of classes"
            )


def _fill(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for key, value in values.items():
            tensors[key].copy_(value)


def _told(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a scalar"
