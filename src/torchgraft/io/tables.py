"""The table of tensors that every checkpoint is read through: names and shapes at once, values one by one."""

from __future__ import annotations

__all__ = ["DictTable", "TensorInfo", "TensorTable", "check_finite"]

import abc
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch

from torchgraft.errors import CheckpointError
from torchgraft.names import strip_wrappers

if TYPE_CHECKING:
    from typing import Self

_CHUNK = 1 << 20  # elements; how much of a float8 tensor is widened at a time
_OWN_PAGES = 1 << 18  # bytes; from this size on a loaded tensor gets pages of its own


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before its values are read.

    >>> TensorInfo((64, 3, 7, 7), torch.float16).nbytes
    18816
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The size of the values in bytes."""
        return self.numel * self.dtype.itemsize


class TensorTable(abc.ABC):
    """A named, read-only table of tensors under canonical keys (wrapper names stripped).

    ``name`` is short, for messages. ``ordered`` says whether the iteration order is the writer's order.
    ``skipped`` lists the raw keys that are in the file but not in the table, such as ``n_averaged``.
    """

    def __init__(self, name: str, *, ordered: bool, allow_nonfinite: bool = False) -> None:
        self.name = name
        self.ordered = ordered
        self.allow_nonfinite = allow_nonfinite
        self.skipped: tuple[str, ...] = ()
        self._infos: Mapping[str, TensorInfo] = {}
        self._raw: dict[str, str] = {}

    @abc.abstractmethod
    def raw_infos(self) -> dict[str, TensorInfo]:
        """Return shape and dtype under the keys as they are written, without reading values where that can be."""

    @abc.abstractmethod
    def raw_load(self, key: str) -> torch.Tensor:
        """Read one tensor by the key as it is written."""

    def _index(self) -> None:
        """Fill the table of canonical keys; each subclass calls it once, at the end of its constructor."""
        raw = self.raw_infos()
        try:
            canonical = strip_wrappers(raw)
        except CheckpointError as error:
            raise CheckpointError(f"{self.name}: {error}") from None
        self.skipped += tuple(key for key in raw if key not in canonical)
        self._raw = {name: key for key, name in canonical.items()}
        self._infos = MappingProxyType({name: raw[key] for name, key in self._raw.items()})
        if not self._raw:
            raise CheckpointError(f"{self.name} holds no tensors: check that it is the file that was meant")

    def infos(self) -> Mapping[str, TensorInfo]:
        """Return canonical key -> shape and dtype, without reading values where the format allows it."""
        return self._infos

    def load(self, key: str) -> torch.Tensor:
        """Return the values of one tensor on the CPU, checked to be finite unless ``allow_nonfinite``.

        The tensor may share memory with the table: read it, never write to it.

        Args:
            key: a canonical key, one of :meth:`infos`.

        Raises:
            CheckpointError: there is no such key, the file is damaged, or it holds NaN or infinite values.
        """
        if key not in self._raw:
            raise CheckpointError(f"{self.name} has no tensor {key!r}: its keys begin {list(self._raw)[:3]}")
        tensor = self.raw_load(self._raw[key])
        if not self.allow_nonfinite:
            check_finite(self.name, key, tensor)
        return tensor

    def metadata(self) -> Mapping[str, str]:
        """Return the text that the writer attached (safetensors only; empty elsewhere)."""
        return {}

    def close(self) -> None:  # noqa: B027  most tables hold nothing open
        """Release the open file, if there is one; tensors already loaded stay valid."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self._raw)} tensors)"


@final
class DictTable(TensorTable):
    """A state dict that is already in memory, seen as a table; its values may be arrays of NumPy.

    >>> table = DictTable({"module.weight": torch.ones(2, 3)})
    >>> dict(table.infos())
    {'weight': TensorInfo(shape=(2, 3), dtype=torch.float32)}
    """

    def __init__(self, tensors: Mapping[str, Any], name: str = "state dict", *, allow_nonfinite: bool = False) -> None:
        super().__init__(name, ordered=True, allow_nonfinite=allow_nonfinite)
        self._tensors, self.skipped = only_tensors(name, {key: _as_tensor(value) for key, value in tensors.items()})
        self._index()

    def raw_infos(self) -> dict[str, TensorInfo]:
        """Return shape and dtype of every tensor."""
        return {key: TensorInfo(tuple(tensor.shape), tensor.dtype) for key, tensor in self._tensors.items()}

    def raw_load(self, key: str) -> torch.Tensor:
        """Return the tensor itself, on the CPU."""
        tensor = self._tensors[key]
        if tensor.is_meta:
            raise CheckpointError(f"{self.name}: {key!r} is on the meta device and has no values: load the weights")
        return tensor.detach().to("cpu")


def _as_tensor(value: Any) -> Any:
    """Return an array of numbers as a tensor, and everything else as it is."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufc":
        return value
    try:
        return torch.tensor(np.ascontiguousarray(value.astype(value.dtype.newbyteorder("="), copy=False)))
    except TypeError:  # a type that torch does not have is told with its key
        return value


def fresh(info: TensorInfo) -> torch.Tensor:
    """Return an uninitialised CPU tensor whose memory goes back to the system the moment it is dropped.

    malloc would keep it: once a large block was freed, glibc serves blocks of up to 32 MiB from its heap and returns
    them late, so that a loop over the tensors of a file peaks at several of them.
    """
    if info.nbytes < _OWN_PAGES:
        return torch.empty(info.shape, dtype=info.dtype)
    return torch.frombuffer(mmap.mmap(-1, info.nbytes), dtype=torch.uint8).view(info.dtype).view(info.shape)


def octets(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a contiguous tensor, as a view."""
    return tensor.view(-1).view(torch.uint8)


def only_tensors(name: str, entries: Mapping[Any, Any]) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Return the tensors of a state dict and the keys left aside, or raise for an entry that is neither.

    Left aside is ``_extra_state`` alone, which a module may fill with any object and which is no parameter or buffer.
    """
    tensors: dict[str, torch.Tensor] = {}
    skipped: list[str] = []
    for key, value in entries.items():
        if isinstance(key, str) and key.rpartition(".")[2] == "_extra_state":
            skipped.append(key)
        elif not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{name}: {key!r} is of type {type(value).__name__}, not a named tensor: save model.state_dict() alone"
            )
        elif value.layout is not torch.strided:
            raise CheckpointError(f"{name}: {key!r} is sparse: save it after .to_dense()")
        else:
            tensors[key] = value
    return tensors, tuple(skipped)


def check_finite(table_name: str, key: str, tensor: torch.Tensor) -> None:
    """Raise unless every element of a floating or complex tensor is finite.

    One pass without a temporary: NaN survives ``aminmax`` and an infinity is an extreme. ``isfinite().all()`` would
    take forty times as long and a quarter of the tensor's size.

    Raises:
        CheckpointError: the tensor holds NaN or an infinity.

    >>> check_finite("old.npz", "fc.bias", torch.tensor([0.0, float("nan")]))
    Traceback (most recent call last):
    torchgraft.errors.CheckpointError: old.npz holds NaN in 'fc.bias': repair it, or pass allow_nonfinite=True
    """
    if tensor.is_meta or tensor.numel() == 0 or not (tensor.is_floating_point() or tensor.is_complex()):
        return
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    narrow = real.element_size() == 1  # float8 has no aminmax
    parts = (
        (real,) if not narrow else (real.reshape(-1)[i : i + _CHUNK].float() for i in range(0, real.numel(), _CHUNK))
    )
    for part in parts:
        low, high = (float(extreme) for extreme in torch.aminmax(part))
        if not (math.isfinite(low) and math.isfinite(high)):
            what = "NaN" if math.isnan(low) or math.isnan(high) else "infinite values"
            raise CheckpointError(f"{table_name} holds {what} in {key!r}: repair it, or pass allow_nonfinite=True")
