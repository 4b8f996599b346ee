"""Writing: all of a file or nothing of it."""

from __future__ import annotations

__all__ = ["atomic_write", "save_safetensors"]

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from torchgraft.errors import CheckpointError
from torchgraft.io.safetensors_table import TIED

if TYPE_CHECKING:
    _Place = tuple[torch.device, int, tuple[int, ...], tuple[int, ...], torch.dtype]

_UNSTORABLE = {torch.complex128: "cast it to complex64"}


def save_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    repeat_tied: bool = False,
) -> None:
    """Write a state dict as safetensors, atomically: either the whole new file or the old one is there.

    Tied tensors (several names, one memory) are stored once under their first name, as safetensors' own ``save_model``
    and transformers do; the other names go into the metadata entry ``torchgraft.tied`` (JSON, left-out name -> stored
    name), from which :func:`open_table` restores them. For a reader that wants every name in the file, such as a
    strict ``load_state_dict(load_file(path))``, pass ``repeat_tied=True``. Nothing else is copied but tensors that are
    not contiguous on the CPU.

    Args:
        path: where to write; must end in ``.safetensors``.
        tensors: key -> tensor, of any shape, on any device but meta.
        metadata: text to attach; ``format`` is set to ``pt``, without which transformers refuses a file.
        repeat_tied: store every name of a tied tensor in full.

    Raises:
        CheckpointError: the path cannot be written, or a tensor has no values or no place in the format.

    >>> import os, tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_safetensors(os.path.join(folder, "warm.safetensors"), {"bias": torch.zeros(3)}, {"source": "old.pt"})
    ...     os.listdir(folder)
    ['warm.safetensors']
    """
    if Path(path).suffix.lower() != ".safetensors":
        raise CheckpointError(f"{path} does not end in .safetensors, the one format that is written: rename it")
    if not tensors:
        raise CheckpointError(f"{path}: there are no tensors to write: check the model")
    stored, aliases = _untie(tensors, repeat_tied)
    text = {"format": "pt", **(metadata or {})}
    if aliases:
        text[TIED] = json.dumps(aliases)
    with _replacing(path) as temporary:
        mode = temporary.stat().st_mode & 0o777
        save_file(stored, temporary, metadata=text)
        _sort_metadata(temporary)
        os.chmod(temporary, mode)  # the library leaves 0600, whatever the umask says


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a text (UTF-8) or bytes to a file, atomically.

    Raises:
        CheckpointError: the path cannot be written.

    >>> import os, tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     atomic_write(os.path.join(folder, "plan.json"), "{}")
    ...     os.listdir(folder)
    ['plan.json']
    """
    with _replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def _replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty temporary file beside ``path`` and move it there when the block ends well."""
    final = Path(os.path.realpath(path))  # a link is followed, not replaced
    if final.is_dir():
        raise CheckpointError(f"{path} is a folder: give the name of a file")
    temporary = final.with_name(f".{final.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, final)
        if os.name == "posix":
            _sync(final.parent, os.O_RDONLY)  # the new name itself must survive a power cut
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CheckpointError(f"{path} cannot be written: {reason}") from None
    finally:
        with suppress(OSError):  # gone after the move, or never there
            temporary.unlink()


def _sort_metadata(path: Path) -> None:
    """Put the metadata of a header into the order of its names, in place.

    The library writes it in an order that changes from run to run, and equal weights should give equal files.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # the same text in another order; the format pads headers with spaces
            file.seek(8)
            file.write(text.ljust(length))


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _untie(tensors: Mapping[str, torch.Tensor], repeat: bool) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return what to store, each tensor with memory of its own, and the names left out: alias -> stored name."""
    stored: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[_Place, str] = {}
    spans: dict[tuple[torch.device, int], list[tuple[int, int]]] = {}
    for key, tensor in tensors.items():
        plain = _storable(key, tensor)
        place = (plain.device, plain.data_ptr(), tuple(plain.shape), plain.stride(), plain.dtype)
        tied = plain.numel() > 0 and place in first
        if tied and not repeat:
            aliases[key] = first[place]
            continue
        first.setdefault(place, key)
        # Views that overlap without being equal are independent once loaded: each is stored in full, from a copy,
        # because the library refuses memory that is named twice.
        owned = spans.setdefault((plain.device, plain.untyped_storage().data_ptr()), [])
        begin, end = plain.data_ptr(), plain.data_ptr() + plain.numel() * plain.element_size()
        if not plain.is_contiguous() or plain.is_conj() or plain.is_neg():
            plain = plain.resolve_conj().resolve_neg().contiguous()
        elif any(begin < other_end and other < end for other, other_end in owned):
            plain = plain.clone()
        else:
            owned.append((begin, end))
        stored[key] = plain.to("cpu")
    return stored, aliases


def _storable(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return the plain tensor, or raise where the format has no place for it."""
    if not isinstance(tensor, torch.Tensor):
        raise CheckpointError(f"{key!r} is of type {type(tensor).__name__}, not a tensor: leave it out")
    plain = tensor.detach()
    if plain.is_meta:
        raise CheckpointError(f"{key!r} is on the meta device and has no values: materialize the model first")
    if plain.layout is not torch.strided or plain.is_quantized:
        raise CheckpointError(f"{key!r} is sparse or quantized, which safetensors cannot hold: make it dense first")
    if type(plain) is not torch.Tensor:
        raise CheckpointError(f"{key!r} is a {type(plain).__name__}: gather it into a plain tensor first")
    if plain.dtype in _UNSTORABLE:
        raise CheckpointError(f"{key!r} is {plain.dtype}, which safetensors cannot hold: {_UNSTORABLE[plain.dtype]}")
    return plain
