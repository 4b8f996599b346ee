"""From a path to the table of tensors behind it."""

from __future__ import annotations

__all__ = ["SUFFIXES", "open_table"]

import os
from collections.abc import Callable
from pathlib import Path

from torchgraft.errors import CheckpointError
from torchgraft.io.npz_table import NpzTable
from torchgraft.io.safetensors_table import SafetensorsTable
from torchgraft.io.sharded import ShardedTable
from torchgraft.io.tables import TensorTable
from torchgraft.io.torch_table import TorchTable

_INDEX = ".index.json"
_OPENERS: dict[str, Callable[..., TensorTable]] = {
    ".safetensors": SafetensorsTable,
    ".npz": NpzTable,
    ".pt": TorchTable,
    ".pth": TorchTable,
    ".bin": TorchTable,
    ".ckpt": TorchTable,
}
SUFFIXES = (*_OPENERS, _INDEX)
_HINTS = {
    ".npy": "one array has no names; save a table with numpy.savez(path, **arrays)",
    ".h5": "load it in Keras and save the weights with numpy.savez(path, **arrays)",
    ".onnx": "export the state dict of the original model instead",
    ".gguf": "use the safetensors release of the model",
    ".pkl": "torchgraft never executes pickles; save model.state_dict() with safetensors",
    ".zip": "unpack it and give the file inside",
    ".json": "give the index (*.safetensors.index.json) or the weights",
}


def open_table(path: str | os.PathLike[str], *, allow_nonfinite: bool = False) -> TensorTable:
    """Open a checkpoint as a table of named tensors, reading as little of it as the format allows.

    Args:
        path: a ``.safetensors``, ``.npz``, ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` file, a shard index
            (``*.index.json``), or a folder that holds exactly one checkpoint. A place inside a training checkpoint
            follows a ``#``: ``run.pth#teacher``.
        allow_nonfinite: take NaN and infinite values as they are instead of refusing them on load.

    Raises:
        CheckpointError: there is no such file, it is damaged or hostile, or its format is unknown.

    >>> import os, tempfile, torch
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "old.pt")
    >>> torch.save({"fc.weight": torch.zeros(10, 512)}, path)
    >>> open_table(path).infos()["fc.weight"].shape
    (10, 512)
    >>> folder.cleanup()
    """
    file, select = _split_place(Path(path))
    if file.is_dir():
        file = _inside(file)
    if not file.is_file():
        raise CheckpointError(f"{path} does not exist or is no file: check the path")
    if file.stat().st_size == 0:
        raise CheckpointError(f"{file} is empty: download or save it again")
    try:
        return _open_file(file, select, allow_nonfinite)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from None


def _split_place(path: Path) -> tuple[Path, str | None]:
    """Split ``run.pth#teacher``, unless a file has that very name."""
    stem, mark, place = path.name.partition("#")
    return (path, None) if not mark or path.exists() else (path.with_name(stem), place)


def _inside(folder: Path) -> Path:
    """Return the one checkpoint of a folder: an index before the shards it names, safetensors before the rest."""
    for pattern in (
        f"*.safetensors{_INDEX}",
        "*.safetensors",
        f"*{_INDEX}",
        "*.npz",
        "*.pt",
        "*.pth",
        "*.bin",
        "*.ckpt",
    ):
        found = sorted(file for file in folder.glob(pattern) if not file.name.startswith("."))
        if len(found) > 1:
            names = ", ".join(file.name for file in found[:4])
            raise CheckpointError(f"{folder} holds several checkpoints ({names}): give the path of one")
        if found:
            return found[0]
    raise CheckpointError(f"{folder} holds no checkpoint ({', '.join(SUFFIXES)}): give the path of one")


def _open_file(file: Path, select: str | None, allow_nonfinite: bool) -> TensorTable:
    if file.name.endswith(_INDEX):
        return ShardedTable(file, lambda shard: _open_file(shard, None, True), allow_nonfinite=allow_nonfinite)
    suffix = file.suffix.lower()
    if suffix not in _OPENERS:
        hint = _HINTS.get(suffix, "convert it to safetensors")
        raise CheckpointError(f"{file} is none of {', '.join(SUFFIXES)}: {hint}")
    opener = _OPENERS[suffix]
    if opener is TorchTable:
        return TorchTable(file, select=select, allow_nonfinite=allow_nonfinite)
    if select is not None:
        raise CheckpointError(f"{file} has one table of tensors and no {select!r} inside: drop '#{select}'")
    return opener(file, allow_nonfinite=allow_nonfinite)
