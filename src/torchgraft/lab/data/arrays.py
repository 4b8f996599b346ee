"""Images in a ``.npz`` file: arrays of pixels, or JPEG bytes laid end to end; pickled objects are refused."""

from __future__ import annotations

__all__ = ["array_part", "read"]

import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from torchgraft.errors import LabError
from torchgraft.lab.data.encoded import Encoded
from torchgraft.lab.data.parts import Array, Part, Raw, last_fifth
from torchgraft.lab.data.stores import TensorStore

_IMAGES = ("images", "x", "data")
_LABELS = ("labels", "y", "targets")
_NAMES = ("names", "name", "class_names", "classes", "label_names")
_DAMAGE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
_ACCEPTED = (
    f"it needs images as one of {', '.join(_IMAGES)} and class numbers as one of {', '.join(_LABELS)} "
    "(divided: x_train, y_train, x_test, y_test and the like), or jpeg, off and y"
)


def read(place: str, size: int) -> Raw:
    """Read a ``.npz`` file of images and class numbers.

    Accepted, upper case or lower:

    - ``x_train, y_train, x_test, y_test``, with ``images`` or ``data`` for ``x``, ``labels`` or ``targets`` for ``y``,
      and the split before or after the underscore (``train_images``);
    - ``x, y`` (the same names), with a boolean ``test`` that is true for test images; without it the last fifth of each
      class is for the test;
    - ``jpeg, off, y`` and maybe ``test``: image ``i`` is encoded (JPEG, PNG, …) in ``jpeg[off[i]:off[i + 1]]``.

    Pixels are ``(n, height, width)``, ``(n, height, width, channels)`` or ``(n, channels, height, width)``, with 1 or 3
    channels, as uint8 or as float in 0..1 (rounded to 256 steps). ``names`` may name the classes.

    Raises:
        LabError: the file cannot be read, holds pickled objects, or something else than the above.
    """
    path = Path(place).expanduser()
    arrays = _load(path)
    divided = [key for key in arrays if key in _split_keys("train", _IMAGES)]
    if divided:
        train, test = (_divided(arrays, split, path.name) for split in ("train", "test"))
        return Raw(path.name, train, test, _names(arrays), _unused(arrays, path.name))
    labels = _one(arrays, _LABELS, path.name, "class numbers")
    if "jpeg" in arrays:
        whole = _jpegs(arrays, labels, path.name, size)
    else:
        whole = array_part(_one(arrays, _IMAGES, path.name, "images"), labels, path.name)
    if "test" in arrays:
        mask = _mask(arrays["test"], len(whole.labels), path.name)
        train, test, note = whole.take(np.flatnonzero(~mask)), whole.take(np.flatnonzero(mask)), ""
    else:
        train, test, note = last_fifth(whole, path.name)
    return Raw(path.name, train, test, _names(arrays), note)


def array_part(pixels: Array, labels: Array, origin: str) -> Part:
    """Check an array of images against its labels and make a part of them.

    Raises:
        LabError: layout, type or range of the pixels is not an accepted one, or there is not one label an image.
    """
    axes = _layout(pixels, origin)
    if pixels.dtype.kind == "f":
        wrong = ~((pixels >= 0) & (pixels <= 1)).reshape(len(pixels), -1).all(1)
        if wrong.any():
            raise LabError(
                f"{origin}, image {int(wrong.argmax())}: float pixels must lie in 0..1: divide by 255 or save uint8"
            )
    elif pixels.dtype != np.uint8:
        raise LabError(f"{origin}: pixels are of type {pixels.dtype}: save uint8, or float in 0..1")
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if len(labels) != len(pixels):
        raise LabError(f"{origin}: {len(pixels)} images but {len(labels)} labels: give one label an image")
    return Part(labels, partial(_store, pixels, axes), lambda number: f"{origin}, image {number}")


def _store(pixels: Array, axes: tuple[int, ...], chosen: Array) -> TensorStore:
    whole = len(chosen) == len(pixels) and bool((chosen == np.arange(len(pixels))).all())
    part = pixels if whole else pixels[chosen]
    if part.ndim == 3:
        part = part[:, None]
    if part.dtype != np.uint8:
        part = np.round(part.astype(np.float32) * 255).astype(np.uint8)
    tensor = torch.from_numpy(np.ascontiguousarray(part.transpose(axes)))
    return TensorStore(tensor, hashlib.sha256(repr(tuple(tensor.shape)).encode() + tensor.numpy().data).digest())


def _layout(pixels: Array, origin: str) -> tuple[int, ...]:
    """Return the order of the four axes that gives ``(n, channels, height, width)``."""
    shape = pixels.shape
    if not len(shape) or not len(pixels):
        raise LabError(f"{origin}: there are no images")
    if 0 in shape:
        raise LabError(f"{origin}: images have shape {shape[1:]}: no side may be empty")
    if len(shape) == 3:
        return (0, 1, 2, 3)
    first, last = (len(shape) == 4 and shape[axis] in (1, 3) for axis in (1, 3))
    if first == last:
        reason = "channels may be the second axis or the last" if first else "no axis holds 1 or 3 channels"
        raise LabError(
            f"{origin}: images have shape {shape} and {reason}: give (n, height, width, 3) or (n, height, width)"
        )
    return (0, 1, 2, 3) if first else (0, 3, 1, 2)


def _load(path: Path) -> dict[str, Array]:
    """Read all arrays of a file, by lower-case name."""
    if not path.is_file():
        raise LabError(f"npz:{path}: there is no such file")
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path):  # numpy would take other files for single arrays, or for pickles
            pass
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                if key.lower() in arrays:
                    raise LabError(f"{path.name} holds {key!r} twice: save it again")
                arrays[key.lower()] = file[key]
    except LabError:
        raise
    except _DAMAGE as error:
        if "allow_pickle" in str(error):
            raise LabError(
                f"{path.name} holds pickled objects, which torchgraft never executes: save arrays of numbers"
            ) from None
        raise LabError(f"{path.name} is not a complete .npz file ({error}): save it again") from None
    return arrays


def _split_keys(split: str, names: tuple[str, ...]) -> list[str]:
    return [key for name in names for key in (f"{name}_{split}", f"{split}_{name}")]


def _one(arrays: Mapping[str, Array], keys: tuple[str, ...] | list[str], origin: str, what: str) -> Array:
    found = [key for key in keys if key in arrays]
    if len(found) > 1:
        raise LabError(f"{origin} holds {what} more than once ({', '.join(found)}): keep one")
    if not found:
        raise LabError(f"{origin} holds {', '.join(arrays) or 'nothing'}, which lacks {what}: {_ACCEPTED}")
    return arrays[found[0]]


def _divided(arrays: Mapping[str, Array], split: str, origin: str) -> Part:
    pixels = _one(arrays, _split_keys(split, _IMAGES), origin, f"{split} images")
    labels = _one(arrays, _split_keys(split, _LABELS), origin, f"{split} labels")
    return array_part(pixels, labels, f"{origin} ({split})")


def _jpegs(arrays: Mapping[str, Array], labels: Array, origin: str, size: int) -> Part:
    stream, ends = arrays["jpeg"], arrays.get("off")
    if ends is None or ends.ndim != 1 or ends.dtype.kind not in "iu" or stream.dtype != np.uint8 or stream.ndim != 1:
        raise LabError(f"{origin}: jpeg must be uint8 bytes, and off the place where each image begins, and the end")
    if len(ends) != len(labels) + 1:
        raise LabError(f"{origin}: {len(ends) - 1} images but {len(labels)} labels: give one label an image")
    places = ends.astype(np.int64)
    if places[0] < 0 or places[-1] > len(stream) or (np.diff(places) < 0).any():
        raise LabError(f"{origin}: off does not ascend from 0 to {len(stream)}, the length of jpeg")

    def where(number: int) -> str:
        return f"{origin}, image {number}"

    images = Encoded(lambda number: stream[places[number] : places[number + 1]].tobytes(), where, size)
    return Part(labels, images.store, where)


def _mask(mask: Array, count: int, origin: str) -> Array:
    if mask.dtype != np.bool_ or mask.shape != (count,):
        raise LabError(f"{origin}: test has type {mask.dtype} and shape {mask.shape}: give {count} booleans")
    if mask.all() or not mask.any():
        raise LabError(f"{origin}: test is {mask[0]} for every image: mark some, and not all")
    return mask


def _names(arrays: Mapping[str, Array]) -> tuple[str, ...]:
    for key in _NAMES:
        if key in arrays and arrays[key].ndim == 1 and arrays[key].dtype.kind == "U":
            return tuple(arrays[key].tolist())
    return ()


def _unused(arrays: Mapping[str, Array], origin: str) -> str:
    used = {key for split in ("train", "test") for names in (_IMAGES, _LABELS) for key in _split_keys(split, names)}
    rest = [key for key in arrays if key not in used and key not in _NAMES]
    return f"{origin}: {', '.join(rest)} not used" if rest else ""
