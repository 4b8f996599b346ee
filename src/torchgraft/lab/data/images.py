"""The images of an experiment, ready for training: subset, colours and batches."""

from __future__ import annotations

__all__ = ["NORMALIZATIONS", "Images", "prepare"]

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchgraft.errors import LabError, choose
from torchgraft.lab.data.augment import AUGMENTATIONS, Boxes
from torchgraft.lab.data.parts import Part, Raw, balanced, check
from torchgraft.lab.data.stores import Store
from torchgraft.lab.records import Data

Colours = tuple[tuple[float, ...], tuple[float, ...]]
Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """Training or test images: the store and the class number of each of its images."""

    store: Store
    labels: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Training and test images of one experiment.

    ``channels`` is 3, also for grey images, which networks get three times. ``fingerprint`` is the SHA-256 of pixels
    (or encoded files) and labels of the images used, in order; for images that stay in files, of their names and
    lengths. ``mean`` and ``deviation`` (for each channel, of pixels in 0..1) are what batches are normalized by.
    ``note`` is what a user should be told about how the data were read, or empty.
    """

    data: Data
    classes: int
    channels: int
    names: tuple[str, ...]
    train_count: int
    test_count: int
    fingerprint: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    note: str
    _train: _Side
    _test: _Side

    def train(
        self, batch: int, augment: str, generator: torch.Generator, device: str | torch.device = "cpu"
    ) -> Batches:
        """Return one epoch: each training image once, shuffled and augmented; a last partial batch is kept.

        All random numbers are drawn before this returns. They depend on the generator's state alone, neither on
        ``batch`` nor on ``device``.

        Args:
            batch: images in a batch.
            augment: a name in ``AUGMENTATIONS``.
            generator: on the CPU.
            device: where the batches are wanted; images in memory are kept and augmented there.

        Returns:
            an iterator of float32 images ``(n, 3, size, size)``, normalized, and long labels ``(n,)``.

        Raises:
            SpecError: the augmentation does not exist.
            LabError: the batch is no positive number, or the generator is not on the CPU; and, while iterating, a file
                cannot be read.
        """
        draw = choose(AUGMENTATIONS, augment, "augmentation")
        _check_batch(batch)
        if generator.device.type != "cpu":
            raise LabError(f"the generator is on {generator.device}: images want one on the CPU, whatever the device")
        order = torch.randperm(self.train_count, generator=generator)
        boxes = draw(self._train.store.sizes[order], self.data.size, generator)
        return self._batches(self._train, order, boxes, batch, torch.device(device))

    def test(self, batch: int, device: str | torch.device = "cpu") -> Batches:
        """Return the test images, each once and in order: the largest centred square, resized, not augmented.

        Args and returns are those of :meth:`train`.

        Raises:
            LabError: the batch is no positive number; and, while iterating, a file cannot be read.
        """
        _check_batch(batch)
        store = self._test.store
        boxes = AUGMENTATIONS["none"](store.sizes, self.data.size, torch.Generator())
        return self._batches(self._test, torch.arange(self.test_count), boxes, batch, torch.device(device))

    def _batches(self, side: _Side, order: Tensor, boxes: Boxes, batch: int, device: torch.device) -> Batches:
        scale = torch.tensor([1 / (255 * value) for value in self.deviation], device=device).view(3, 1, 1)
        shift = torch.tensor(
            [mean / value for mean, value in zip(self.mean, self.deviation, strict=True)], device=device
        ).view(3, 1, 1)
        rows = [slice(start, start + batch) for start in range(0, len(order), batch)]
        crops = side.store.crops(((order[row], boxes[row]) for row in rows), self.data.size, device)
        labels = side.labels[order].to(device)
        for row, pixels in zip(rows, crops, strict=True):
            yield (pixels * scale).sub_(shift), labels[row]  # the product makes three channels of one


def prepare(raw: Raw, data: Data) -> Images:
    """Check the labels, choose the subset, load it, and find its colours.

    Raises:
        LabError: a label is bad, a class has no training image, a limit cannot be met, or an image cannot be read.
        SpecError: the normalization does not exist.
    """
    colours = choose(NORMALIZATIONS, data.normalize, "normalization")
    check(raw.train)
    names, note = _names(raw)
    classes = len(names)
    check(raw.test, classes)
    generator = torch.Generator().manual_seed(data.seed)
    train, train_numbers = _chosen(raw.train, data.train, generator, f"training images of {raw.origin}")
    test, test_numbers = _chosen(raw.test, data.test, generator, f"test images of {raw.origin}")
    if data.train is not None and data.train < classes:
        raise LabError(f"{data.train} training images of {raw.origin} leave classes out: take at least {classes}")
    sides = [
        _Side(part.load(np.arange(len(part.labels))), torch.from_numpy(part.labels.astype(np.int64)))
        for part in (train, test)
    ]
    mean, deviation = colours(sides[0].store, raw.origin)
    return Images(
        data,
        classes,
        3,
        names,
        len(train_numbers),
        len(test_numbers),
        _fingerprint(sides, classes),
        mean,
        deviation,
        note,
        sides[0],
        sides[1],
    )


def _chosen(part: Part, limit: int | None, generator: torch.Generator, what: str) -> tuple[Part, Tensor]:
    numbers = balanced(part.labels, limit, generator, what)
    return part.take(numbers), torch.from_numpy(numbers)


def _names(raw: Raw) -> tuple[tuple[str, ...], str]:
    """Return the classes' names (their numbers if they have none), and the note; each must have a training image."""
    present = np.unique(raw.train.labels)
    count = int(present[-1]) + 1
    total = len(raw.train.labels) + len(raw.test.labels)
    names, note = raw.names, raw.note
    useful = count <= len(names) == len(set(names)) and (len(names) == count or len(names) != total)
    if names and not useful:  # a name for each image, perhaps
        more = f"{raw.origin}: {len(names)} names for {count} classes, not used"
        names, note = (), "; ".join(filter(None, (note, more)))
    if len(present) < max(count, len(names)):
        missing = next((place for place, label in enumerate(present) if place != label), len(present))
        named = f" ({names[missing]})" if names else ""
        raise LabError(f"{raw.origin}: class {missing}{named} has no training image: add some or renumber the classes")
    return names or tuple(map(str, range(count))), note


def _fingerprint(sides: list[_Side], classes: int) -> str:
    whole = hashlib.sha256(str(classes).encode())
    for side in sides:
        whole.update(side.store.digest)
        whole.update(side.labels.numpy().astype("<i8").tobytes())
    return whole.hexdigest()


def _check_batch(batch: int) -> None:
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise LabError(f"cannot make batches of {batch!r} images: give a whole number from 1 on")


def of_data(store: Store, origin: str) -> Colours:
    """Return mean and deviation of each channel of the training images, before any resizing."""
    counts = store.histogram().double()
    values = torch.arange(256, dtype=torch.float64) / 255
    total = counts.sum(1)
    mean = (counts * values).sum(1) / total
    variance = (counts * (values - mean[:, None]).square()).sum(1) / total
    if not variance.any():
        raise LabError(f"{origin}: all training images are of one and the same colour: check the file")
    deviation = torch.where(variance > 0, variance, 1).sqrt()  # a channel that is constant becomes zero
    return tuple(mean.expand(3).tolist()), tuple(deviation.expand(3).tolist())


def of_imagenet(store: Store, origin: str) -> Colours:
    """Return the mean and deviation that networks pretrained on ImageNet expect (torchvision's documentation)."""
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


NORMALIZATIONS: dict[str, Callable[[Store, str], Colours]] = {"data": of_data, "imagenet": of_imagenet}
