"""Images for the lab: from a bundled set, a file, a local folder or a local cache, into normalized batches.

A reader (one for each entry of ``DATASETS``) finds images and labels (``Raw``); ``prepare`` checks them, chooses the
fixed subset and loads it into a store; :class:`Images` draws an epoch's random numbers and yields batches.
"""

from __future__ import annotations

import functools
from pathlib import Path

from torchgraft.errors import LabError, choose
from torchgraft.lab.data import arrays, digits, folders, hub
from torchgraft.lab.data.augment import AUGMENTATIONS
from torchgraft.lab.data.images import NORMALIZATIONS, Images, prepare
from torchgraft.lab.data.parts import Reader
from torchgraft.lab.records import Data

__all__ = ["AUGMENTATIONS", "DATASETS", "NORMALIZATIONS", "Images", "open_data"]

DATASETS: dict[str, Reader] = {
    "digits": digits.read,
    "npz": arrays.read,
    "cifar10": folders.read_cifar10,
    "cifar100": folders.read_cifar100,
    "food101": folders.read_food101,
    "folder": folders.read_folder,
    "hf": hub.read,
}


def open_data(data: Data) -> Images:
    """Open the images that a record describes; a second opening in the same process costs nothing.

    That is also why files changed within a folder meanwhile are not seen by it; a new process sees them.

    Args:
        data: name, size in pixels, limits, seed of the subset, normalization.

    Returns:
        the images, in memory where they take at most ``stores.MEMORY_LIMIT`` bytes, else decoded when they are used.

    Raises:
        SpecError: there is no such kind of data set, or normalization.
        LabError: the data cannot be read, or are not images with class numbers; the file and the image are named.

    >>> images = open_data(Data(name="digits", size=16, train=100))
    >>> images.classes, images.train_count, images.test_count
    (10, 100, 355)
    >>> pixels, labels = next(images.test(batch=8))
    >>> pixels.shape, labels.dtype
    (torch.Size([8, 3, 16, 16]), torch.int64)
    """
    kind, _, place = data.name.partition(":")
    choose(DATASETS, kind, "data set")
    if kind != "digits" and not place:
        raise LabError(
            f"{data.name!r} does not say where the images are: write {kind}:{'NAME' if kind == 'hf' else 'PATH'}"
        )
    if isinstance(data.size, bool) or not isinstance(data.size, int) or data.size < 1:
        raise LabError(f"images cannot be {data.size!r} pixels wide: give a whole number from 1 on")
    return _open(data, _stamp(place))


@functools.lru_cache(maxsize=2)  # the data of the sources and of the targets; more would hold on to memory
def _open(data: Data, stamp: tuple[str, int, int]) -> Images:
    kind, _, place = data.name.partition(":")
    return prepare(DATASETS[kind](place, data.size), data)


def _stamp(place: str) -> tuple[str, int, int]:
    """Return what changes when the file at a place is written anew, or another folder becomes the current one."""
    path = Path(place).expanduser()
    if not place or not path.exists():
        return place, 0, 0
    state = path.stat()
    return str(path.resolve()), state.st_mtime_ns, state.st_size
