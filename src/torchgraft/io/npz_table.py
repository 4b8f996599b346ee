"""A ``.npz`` file of arrays, read member by member; object arrays are refused."""

from __future__ import annotations

__all__ = ["NpzTable"]

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, cast, final

import numpy as np
import torch
from numpy.lib import format as npy

from torchgraft.errors import CheckpointError
from torchgraft.io.tables import TensorInfo, TensorTable, fresh, octets

_DAMAGE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
_PIECE = 1 << 20  # bytes unpacked at a time
_MAX_RATIO = 1032  # deflate cannot pack a byte tighter than this; a member that claims more is a bomb or a lie
_READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@final
class NpzTable(TensorTable):
    """A ``.npz`` file of which only each member's own header is read until :meth:`load`.

    Raises:
        CheckpointError: the archive is damaged, or a member is not an array of numbers.
    """

    def __init__(self, path: Path, *, allow_nonfinite: bool = False) -> None:
        super().__init__(path.name, ordered=True, allow_nonfinite=allow_nonfinite)
        try:
            self._zip = zipfile.ZipFile(path)
        except _DAMAGE as error:
            raise CheckpointError(f"{self.name} is not a complete .npz file ({error}): save it again") from None
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in self._zip.infolist():
            key = member.filename.removesuffix(".npy")
            if key in self._members:
                raise CheckpointError(f"{self.name} holds {key!r} twice: save it again")
            self._members[key] = member
        self._index()

    def raw_infos(self) -> dict[str, TensorInfo]:
        """Return shape and dtype from the header of each member."""
        return {key: self._info(key, member) for key, member in self._members.items()}

    def _info(self, key: str, member: zipfile.ZipInfo) -> TensorInfo:
        if member.file_size > _MAX_RATIO * member.compress_size + _MAX_RATIO:
            raise CheckpointError(f"{self.name}: {key!r} claims to unpack to {member.file_size} bytes: the file lies")
        try:
            with self._open(member) as file:
                shape, _, dtype = _npy_header(file)
                offset = file.tell()
        except _DAMAGE as error:
            raise CheckpointError(f"{self.name}: {key!r} is not a complete array ({error}): save it again") from None
        info = TensorInfo(shape, self._torch_dtype(key, dtype))
        if offset + math.prod(shape) * dtype.itemsize != member.file_size:
            raise CheckpointError(f"{self.name}: {key!r} says shape {shape} but has another size: save it again")
        return info

    def _torch_dtype(self, key: str, dtype: np.dtype[Any]) -> torch.dtype:
        if dtype.hasobject:
            raise CheckpointError(
                f"{self.name}: {key!r} holds pickled objects, which torchgraft never executes: save arrays of numbers"
            )
        try:
            return torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype
        except TypeError:
            raise CheckpointError(
                f"{self.name}: {key!r} is of type {dtype}, which is no tensor: save numbers (bfloat16 as float32)"
            ) from None

    def raw_load(self, key: str) -> torch.Tensor:
        """Read one array into fresh memory."""
        try:
            with self._open(self._members[key]) as file:
                shape, by_column, dtype = _npy_header(file)
                stored = tuple(reversed(shape)) if by_column else shape
                tensor = fresh(TensorInfo(stored, self._torch_dtype(key, dtype)))
                view = octets(tensor).numpy().data
                while len(view):  # in pieces: zipfile would read the whole into bytes first
                    count = file.readinto(view[:_PIECE])
                    if not count:
                        raise EOFError("it ends early")
                    view = view[count:]
                file.read(1)  # the end of the member, where zipfile compares the checksum
        except _DAMAGE as error:
            raise CheckpointError(f"{self.name}: {key!r} cannot be read ({error}): save it again") from None
        if not dtype.isnative:
            tensor.numpy().byteswap(inplace=True)
        return tensor.permute(*reversed(range(len(shape)))) if by_column else tensor

    def _open(self, member: zipfile.ZipInfo) -> zipfile.ZipExtFile:
        return cast(zipfile.ZipExtFile, self._zip.open(member))  # the type stubs leave its readinto out

    def close(self) -> None:
        """Close the archive."""
        self._zip.close()


def _npy_header(file: zipfile.ZipExtFile) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether the first axis runs fastest, and dtype; the file then stands at the values."""
    version = npy.read_magic(file)
    if version not in _READ_HEADER:  # 3.0 exists for structured arrays alone
        raise ValueError(f"npy format {version} is for structured arrays")
    return _READ_HEADER[version](file)
