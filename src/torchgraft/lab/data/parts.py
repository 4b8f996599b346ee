"""What a reader of a data set hands over, before a subset is chosen and anything is decoded; and its checks."""

from __future__ import annotations

__all__ = ["Array", "Part", "Raw", "Reader", "balanced", "check", "last_fifth"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from torchgraft.errors import LabError
from torchgraft.lab.data.stores import Store

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Part:
    """Labelled images, not yet loaded: ``load(numbers)`` makes a store of some, ``where(number)`` names one."""

    labels: Array
    load: Callable[[Array], Store]
    where: Callable[[int], str]

    def take(self, numbers: Array) -> Part:
        """Return the part of these images only, in this order."""
        return Part(
            self.labels[numbers],
            lambda chosen: self.load(numbers[chosen]),
            lambda number: self.where(int(numbers[number])),
        )


@dataclass(frozen=True, slots=True)
class Raw:
    """Training and test images as read; ``names`` of the classes, if known; ``note``: what a user should be told."""

    origin: str
    train: Part
    test: Part
    names: tuple[str, ...] = ()
    note: str = ""


Reader = Callable[[str, int], Raw]
"""``(place, size) -> Raw``: ``place`` is what follows the colon in the data's name, ``size`` the side wanted later."""


def check(part: Part, classes: int | None = None) -> None:
    """Refuse labels that are no class numbers.

    Args:
        part: its labels must be integers ``(n,)``, from 0 on.
        classes: how many classes there are, if that is known.

    Raises:
        LabError: there is no image, or a label is negative, no integer, or too large; the first such image is named.
    """
    labels = part.labels
    if labels.ndim != 1:
        raise LabError(f"{part.where(0)}: labels have shape {labels.shape}: give one class number an image")
    if not len(labels):
        raise LabError(f"{part.where(0)}: there are no images")
    if labels.dtype.kind not in "iu":
        raise LabError(f"{part.where(0)}: labels are of type {labels.dtype}: give class numbers as integers")
    wrong = labels < 0 if classes is None else (labels < 0) | (labels >= classes)
    if wrong.any():
        first = int(wrong.argmax())
        allowed = f"0 to {classes - 1}" if classes else "0 and more"
        raise LabError(f"{part.where(first)}: label {labels[first]} is no class number: use {allowed}")


def last_fifth(part: Part, origin: str) -> tuple[Part, Part, str]:
    """Split images that come undivided: the last fifth of each class (at least one image) is for the test.

    Returns:
        training part, test part, and the note that says so.

    Raises:
        LabError: a label is bad, or a class has a single image.
    """
    check(part)
    test = np.zeros(len(part.labels), dtype=bool)
    for label in np.unique(part.labels):
        members = np.flatnonzero(part.labels == label)
        if len(members) < 2:
            raise LabError(
                f"{part.where(int(members[0]))}: it is the only image of class {label}, which cannot be divided: "
                "add images or tell training and test images apart"
            )
        test[members[-max(1, len(members) // 5) :]] = True
    note = f"{origin} is not divided into training and test images: the last fifth of each class is used for the test"
    return part.take(np.flatnonzero(~test)), part.take(np.flatnonzero(test)), note


def balanced(labels: Array, limit: int | None, generator: torch.Generator, what: str) -> Array:
    """Choose ``limit`` images, as equally many of each class as there are; a smaller choice lies inside a larger one.

    Args:
        labels: class numbers ``(n,)``.
        limit: how many to choose; ``None`` for all.
        generator: decides which; it advances equally for any limit.
        what: names the images in errors.

    Returns:
        numbers of the chosen images, ascending.

    Raises:
        LabError: there are not so many images.

    >>> balanced(np.array([0, 0, 0, 0, 1, 1, 2]), 5, torch.Generator().manual_seed(0), "images").tolist()
    [0, 3, 4, 5, 6]
    """
    count, (present, codes) = len(labels), np.unique(labels, return_inverse=True)
    shuffled = torch.randperm(count, generator=generator).numpy()
    ties = torch.randperm(len(present), generator=generator).numpy()
    if limit is None:
        return np.arange(count)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise LabError(f"cannot take {limit!r} {what}: give a whole number from 1 on")
    if limit > count:
        raise LabError(f"cannot take {limit} {what}: there are {count}")
    rank = np.empty(count, dtype=np.int64)  # of each image among those of its class
    for code in range(len(present)):
        members = shuffled[codes[shuffled] == code]
        rank[members] = np.arange(len(members))
    return np.sort(np.lexsort((ties[codes], rank))[:limit])
