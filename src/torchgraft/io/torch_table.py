"""A ``.pt`` / ``.pth`` / ``.bin`` / ``.ckpt`` file of torch; its pickle is never executed."""

from __future__ import annotations

__all__ = ["TorchTable"]

import argparse
import ctypes
import functools
import mmap
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

import torch

from torchgraft.errors import CheckpointError
from torchgraft.io.tables import TensorInfo, TensorTable, fresh, octets, only_tensors

# Where training scripts put the state dict; the first four are the plain choice where several are present.
_CANONICAL = ("state_dict", "model_state_dict", "model", "module")
_NESTS = (
    *_CANONICAL,
    *("checkpoint", "ckpt", "net", "network", "weights", "params", "model_state", "state"),
    *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "params_ema"),
    *("student", "teacher", "encoder", "backbone", "generator"),
)
_MAX_DEPTH = 3
# Plain attribute bags that training scripts store beside the weights; building one runs no foreign code.
_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [argparse.Namespace]
_RESAVE = "resave with torch.save(model.state_dict(), path), where its code is trusted"
_PIECE = 1 << 20  # bytes copied out of the mapping at a time


@final
class TorchTable(TensorTable):
    """A checkpoint written by ``torch.save``, read with ``weights_only=True`` and mapped into memory.

    The state dict is looked for at the top and under the usual names of training scripts; ``select`` names another
    place (``"teacher"``, ``"model.ema"``). Files older than torch 1.6 cannot be mapped and are read whole.

    Raises:
        CheckpointError: the file would run code, is damaged, or holds no or several state dicts.
    """

    def __init__(self, path: Path, *, select: str | None = None, allow_nonfinite: bool = False) -> None:
        super().__init__(path.name, ordered=True, allow_nonfinite=allow_nonfinite)
        self._mapped = _is_archive(path)
        content = _load(path, mapped=self._mapped)
        where, entries = _state_dict(self.name, content, select)
        if where:
            self.name = f"{path.name}#{where}"
        self._tensors, self.skipped = only_tensors(self.name, entries)
        self._index()

    def raw_infos(self) -> dict[str, TensorInfo]:
        """Return shape and dtype of every tensor; the mapped values are not touched."""
        return {key: TensorInfo(tuple(tensor.shape), tensor.dtype) for key, tensor in self._tensors.items()}

    def raw_load(self, key: str) -> torch.Tensor:
        """Copy one tensor out of the mapping and give its pages back."""
        if key not in self._tensors:
            raise CheckpointError(f"{self.name} was closed: open it again to read from it")
        tensor = self._tensors[key].detach()
        if not self._mapped or tensor.numel() == 0 or tensor.is_quantized:
            return tensor
        copy = fresh(TensorInfo(tuple(tensor.shape), tensor.dtype))
        if not tensor.is_contiguous():
            copy.copy_(tensor)
            _release(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
            return copy
        into, source = octets(copy), octets(tensor)
        for start in range(0, len(source), _PIECE):
            piece = source[start : start + _PIECE]
            into[start : start + _PIECE] = piece
            _release(piece.data_ptr(), len(piece))
        return copy

    def close(self) -> None:
        """Drop the mapping."""
        self._tensors = {}


def _release(address: int, length: int) -> None:
    """Tell the kernel that pages of the mapping may go; they are clean, so that a later read finds them in the file.

    Without it every page that was ever copied stays in the process: the whole file by the end of a transfer.
    """
    if sys.platform == "win32":
        return
    page = mmap.PAGESIZE
    begin = address // page * page
    end = -(-(address + length) // page) * page
    _libc().madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _is_archive(path: Path) -> bool:
    """Say whether the file is a zip archive that can be mapped, or raise where it is one that must not be read."""
    with open(path, "rb") as file:
        start = file.read(4)
    if start[:2] != b"PK":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path.name} is truncated or damaged ({error}): download or save it again") from None
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(f"{path.name} is a compressed archive, which torch.save never writes: {_RESAVE}")
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise CheckpointError(f"{path.name} is a TorchScript program, not weights: {_RESAVE}")
    return True


def _load(path: Path, *, mapped: bool) -> Any:
    """Unpickle with torch's restricted unpickler, which builds tensors and containers and calls nothing else."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_HARMLESS):
            warnings.simplefilter("ignore")  # pickle protocols and old storages, said better by our own errors
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = found.group(1) if found else "Python objects"
        raise CheckpointError(
            f"{path.name} holds {what}, not weights alone, or is damaged; torchgraft never executes pickles: {_RESAVE}"
        ) from None
    except Exception as error:  # a damaged file can fail anywhere in the unpickler
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path.name} is damaged or no torch checkpoint ({reason[:120]}): download or save it again"
        ) from None


def _state_dict(name: str, content: Any, select: str | None) -> tuple[str, Mapping[Any, Any]]:
    """Return the place of the state dict inside a checkpoint ("" for the top) and the state dict itself."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{name} holds a {type(content).__name__}, not a state dict: {_RESAVE}")
    if select is not None:
        return select, _selected(name, content, select)
    places = dict(_nested(content, ()))
    if len(places) == 1:
        return next(iter(places.items()))
    for place in _CANONICAL:
        if place in places:
            return place, places[place]
    if places:
        raise CheckpointError(f"{name} holds several state dicts ({', '.join(places)}): choose one, as in {name}#PLACE")
    if not any(isinstance(value, torch.Tensor) for value in content.values()):
        keys = ", ".join(map(repr, list(content)[:5])) or "nothing"
        raise CheckpointError(f"{name} holds no state dict (at its top: {keys}): name its place, as in {name}#PLACE")
    return "", content


def _nested(content: Mapping[Any, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield every state dict under the usual names, outermost first; optimizers are never entered."""
    for key in _NESTS if len(path) < _MAX_DEPTH else ():
        value = content.get(key)
        if not isinstance(value, Mapping):
            continue
        if any(isinstance(inner, torch.Tensor) for inner in value.values()):
            yield ".".join((*path, key)), value
        else:
            yield from _nested(value, (*path, key))


def _selected(name: str, content: Mapping[Any, Any], select: str) -> Mapping[Any, Any]:
    value: Any = content
    for part in select.split("."):
        if not isinstance(value, Mapping) or part not in value:
            valid = ", ".join(map(str, list(value)[:8])) if isinstance(value, Mapping) else "nothing"
            raise CheckpointError(f"{name} holds no {select!r}: at {part!r} there is {valid}")
        value = value[part]
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{name}: {select!r} is a {type(value).__name__}, not a state dict: name another place")
    return value
