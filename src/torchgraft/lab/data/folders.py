"""Data sets in local folders, in the layouts that torchvision reads; nothing is downloaded."""

from __future__ import annotations

__all__ = ["read_cifar10", "read_cifar100", "read_folder", "read_food101"]

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchgraft.errors import LabError
from torchgraft.lab.data.arrays import array_part
from torchgraft.lab.data.encoded import Encoded
from torchgraft.lab.data.parts import Part, Raw, last_fifth
from torchgraft.lab.packages import optional

_TRAIN = "train"
_TESTS = ("test", "val", "valid", "validation")  # the first that exists is used


def read_cifar10(place: str, size: int) -> Raw:
    """Read CIFAR-10 from the folder that holds ``cifar-10-batches-py``."""
    return _cifar("CIFAR10", place)


def read_cifar100(place: str, size: int) -> Raw:
    """Read CIFAR-100, fine labels, from the folder that holds ``cifar-100-python``."""
    return _cifar("CIFAR100", place)


def _cifar(kind: str, place: str) -> Raw:
    """Read one of the CIFARs; torchvision compares checksums, so what it unpickles are the known, harmless files.

    Raises:
        LabError: torchvision is not installed, or the folder does not hold the files, intact.
    """
    reader: Any = getattr(optional("torchvision.datasets", kind.lower()), kind)
    folder = _existing(kind.lower(), place)
    if folder.name == reader.base_folder:
        folder = folder.parent
    try:
        with warnings.catch_warnings():  # numpy 2.4 objects to how numpy 1 pickled a dtype
            warnings.filterwarnings("ignore", message=r"dtype\(\): align", category=Warning)
            train, test = (reader(str(folder), train=train, download=False) for train in (True, False))
    except (RuntimeError, OSError) as error:
        raise LabError(
            f"{kind.lower()}:{place} does not hold {reader.base_folder} as published ({error}): unpack "
            f"{reader.filename} there, or once run torchvision.datasets.{kind}({place!r}, download=True)"
        ) from None
    parts = [
        array_part(found.data, np.asarray(found.targets), f"{kind.lower()} ({split})")
        for found, split in ((train, "train"), (test, "test"))
    ]
    return Raw(kind.lower(), parts[0], parts[1], tuple(train.classes))


def read_food101(place: str, size: int) -> Raw:
    """Read Food-101 from the folder that holds ``food-101``: 75,750 training and 25,250 test images in files.

    Raises:
        LabError: torchvision is not installed, or the folder does not hold ``food-101/meta`` and ``food-101/images``.
    """
    datasets = optional("torchvision.datasets", "food101")
    folder = _existing("food101", place)
    if folder.name == "food-101":
        folder = folder.parent
    parts: list[Part] = []
    names: list[tuple[str, ...]] = []
    for split in ("train", "test"):
        try:  # the loader leaves the path as it is: what a sample holds is then (path, label)
            found = datasets.Food101(str(folder), split=split, download=False, loader=Path)
        except (RuntimeError, OSError, ValueError) as error:
            raise LabError(
                f"food101:{place} does not hold food-101 as published ({error}): unpack food-101.tar.gz there, or once "
                f"run torchvision.datasets.Food101({place!r}, download=True)"
            ) from None
        parts.append(_files([found[number] for number in range(len(found))], f"food101:{place}", size))
        names.append(tuple(found.classes))
    if names[0] != names[1]:
        raise LabError(f"food101:{place}: meta/train.json and meta/test.json name different classes: unpack it again")
    return Raw("food101", parts[0], parts[1], names[0])


def read_folder(place: str, size: int) -> Raw:
    """Read a folder of images, one folder a class: ``train/CLASS/…`` and ``test/CLASS/…`` (or ``val``), or ``CLASS/…``.

    Without ``train`` the images are not divided, and the last fifth of each class, by file name, is for the test.

    Raises:
        LabError: torchvision is not installed, there is no such folder, class or image, or only one of the two splits,
            or a class of the test is unknown in training.
    """
    folder = _existing("folder", place)
    tests = [name for name in _TESTS if (folder / name).is_dir()]
    if not (folder / _TRAIN).is_dir():
        if tests:
            raise LabError(f"folder:{place} has {tests[0]}/ but no {_TRAIN}/: add it")
        names = _classes(folder)
        whole, note = _labelled(folder, names, size)
        train, test, divided = last_fifth(whole, place)
        return Raw(place, train, test, names, "; ".join(filter(None, (divided, note))))
    if not tests:
        raise LabError(f"folder:{place} has {_TRAIN}/ but neither {'/, '.join(_TESTS)}/: add one")
    names = _classes(folder / _TRAIN)
    unknown = sorted(set(_classes(folder / tests[0])) - set(names))
    if unknown:
        raise LabError(
            f"{folder / tests[0] / unknown[0]}: class {unknown[0]!r} is unknown in {_TRAIN}/: remove or add it"
        )
    notes = [f"{place}: {', '.join(tests[1:])} not used"] if tests[1:] else []
    train, note = _labelled(folder / _TRAIN, names, size)
    test, more = _labelled(folder / tests[0], names, size)
    return Raw(place, train, test, names, "; ".join(filter(None, (*notes, note, more))))


def _existing(kind: str, place: str) -> Path:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise LabError(f"{kind}:{place}: there is no such folder")
    return folder


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    if not names:
        raise LabError(f"{folder} has no folder in it: put the images of each class into a folder of its own")
    return names


def _labelled(folder: Path, names: Sequence[str], size: int) -> tuple[Part, str]:
    """Return the images of a folder of classes, and a note on files that are none by their ending."""
    library = optional("torchvision.datasets.folder", "a folder of images")
    numbers = {name: number for number, name in enumerate(names) if (folder / name).is_dir()}
    endings = library.IMG_EXTENSIONS
    found = library.make_dataset(str(folder), numbers, extensions=endings, allow_empty=True)
    if not found:
        raise LabError(f"{folder}: no image in it ends in {', '.join(endings)}: add some or name another folder")
    files = sum(1 for name in numbers for path in (folder / name).rglob("[!.]*") if path.is_file())
    note = f"{folder}: {files - len(found)} files are no images by their ending, not used" if files > len(found) else ""
    return _files([(Path(path), label) for path, label in found], str(folder), size), note


def _files(samples: Sequence[tuple[Path, int]], origin: str, size: int) -> Part:
    def where(number: int) -> str:
        return str(samples[number][0]) if samples else origin

    images = Encoded(lambda number: samples[number][0], where, size)
    return Part(np.asarray([label for _, label in samples], dtype=np.int64), images.store, where)
