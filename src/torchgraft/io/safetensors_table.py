"""A single ``.safetensors`` file, read tensor by tensor through its header."""

from __future__ import annotations

__all__ = ["SafetensorsTable"]

import json
import os
import struct
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open

from torchgraft.errors import CheckpointError
from torchgraft.io.tables import TensorInfo, TensorTable, fresh, octets
from torchgraft.names import unique

TIED = "torchgraft.tied"  # metadata entry: JSON object, left-out name -> name under which the tensor is stored
_TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
# A name that the installed torch does not know yet is simply absent.
_DTYPES: Mapping[str, torch.dtype] = {
    code: getattr(torch, name) for code, name in _TORCH_NAMES.items() if hasattr(torch, name)
}
_LENGTH = struct.Struct("<Q")


@final
class SafetensorsTable(TensorTable):
    """A ``.safetensors`` file whose header alone is read until :meth:`load`.

    The safetensors library validates the header; the values are then read with plain ``readinto`` into the tensor that
    is returned. Its own default maps the file, and every page of a mapping that was touched stays in the process until
    the file is closed, which would double the memory of a transfer.

    Raises:
        CheckpointError: the file is truncated, its header lies, or a dtype is unknown to torch.
    """

    def __init__(self, path: Path, *, allow_nonfinite: bool = False) -> None:
        super().__init__(path.name, ordered=False, allow_nonfinite=allow_nonfinite)
        self._metadata, entries, start = _read_header(path)
        self._aliases = _aliases(self.name, self._metadata, entries)
        self._header = {key: _info(self.name, key, entry) for key, entry in entries.items()}
        self._starts = {key: start + entry["data_offsets"][0] for key, entry in entries.items()}
        # One handle for the life of the table: a file replaced meanwhile must not be read with the old offsets.
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  closed by the finalizer
        self._finalizer = weakref.finalize(self, self._file.close)
        self._index()

    def raw_infos(self) -> dict[str, TensorInfo]:
        """Return shape and dtype from the header, tied names that the writer left out included."""
        return self._header | {alias: self._header[kept] for alias, kept in self._aliases.items()}

    def raw_load(self, key: str) -> torch.Tensor:
        """Read one tensor into fresh memory."""
        key = self._aliases.get(key, key)
        tensor = fresh(self._header[key])
        if tensor.numel() == 0:
            return tensor
        self._fill(octets(tensor).numpy().data, self._starts[key])
        if tensor.dtype is torch.bool and int(octets(tensor).max()) > 1:
            raise CheckpointError(f"{self.name}: {key!r} is boolean but holds bytes above 1: the file is damaged")
        return tensor

    def _fill(self, view: memoryview, position: int) -> None:
        if self._file.closed:
            raise CheckpointError(f"{self.name} was closed: open it again to read from it")
        self._file.seek(position)
        while len(view):
            count = self._file.readinto(view)  # at most 2 GiB at a time on Linux
            if not count:
                raise CheckpointError(f"{self.name} ended early while it was read: it was changed meanwhile, try again")
            view = view[count:]

    def metadata(self) -> Mapping[str, str]:
        """Return the text that the writer attached to the header."""
        return self._metadata

    def close(self) -> None:
        """Close the file."""
        self._finalizer()


def _info(name: str, key: str, entry: Mapping[str, Any]) -> TensorInfo:
    if entry["dtype"] not in _DTYPES:
        raise CheckpointError(
            f"{name}: {key!r} is stored as {entry['dtype']}, which this torch cannot hold: "
            "convert it to float16 or bfloat16"
        )
    return TensorInfo(tuple(entry["shape"]), _DTYPES[entry["dtype"]])


def _read_header(path: Path) -> tuple[dict[str, str], dict[str, dict[str, Any]], int]:
    """Return metadata, entries and where the values start, after the library found the header sound."""
    try:
        with safe_open(os.fspath(path), framework="np"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise CheckpointError(
            f"{path.name} is not a complete safetensors file ({reason}): download or save it again"
        ) from None
    with open(path, "rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=unique)
    except KeyError as error:
        raise CheckpointError(f"{path.name} names {error} twice in its header: save it again") from None
    return header.pop("__metadata__", None) or {}, header, _LENGTH.size + length


def _aliases(name: str, metadata: Mapping[str, str], entries: Mapping[str, Any]) -> dict[str, str]:
    """Return the tied names that torchgraft's writer left out, each with the stored name."""
    try:
        aliases = json.loads(metadata.get(TIED, "{}"))
        sound = all(alias not in entries and kept in entries for alias, kept in aliases.items())
    except (ValueError, AttributeError, TypeError):
        sound = False
    if not sound:
        raise CheckpointError(f"{name}: metadata {TIED!r} does not fit the tensors: save the file again")
    return dict(aliases)
