"""Augmentations: for each image of an epoch, which box is cut out of it, how it is shifted and whether it is mirrored.

An augmentation draws numbers only, never pixels. So one set of numbers serves images in memory (on any device) and
images decoded from files, and an epoch's draws do not depend on the size of its batches.
"""

from __future__ import annotations

__all__ = ["AUGMENTATIONS", "Boxes", "Draw", "resample"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

_SCALE = (0.1, 1.0)  # share of the image's area in a crop: arXiv:2212.13970 section 4
_LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))  # torchvision's default for RandomResizedCrop
_TRIES = 10  # likewise: then it settles for the largest crop of an allowed shape
_DENSE = 64 * 64  # pixels above which a CPU is faster image by image than with matrices, which are mostly zeros


@dataclass(frozen=True, slots=True)
class Boxes:
    """What becomes of each of ``n`` images: ``numbers`` is ``(n, 7)`` long, one row an image.

    The columns are ``top, left, height, width`` of a box inside the image, in its own pixels; ``down, right``, by how
    many output pixels the window moves over the resized box (black beyond it); and ``flip``, 1 to mirror it.
    """

    numbers: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: slice) -> Boxes:
        return Boxes(self.numbers[rows])

    def rows(self) -> list[list[int]]:
        """Return the seven numbers of each image as plain integers."""
        return cast(list[list[int]], self.numbers.tolist())


Draw = Callable[[Tensor, int, torch.Generator], Boxes]
"""``(sizes, size, generator) -> Boxes``: ``sizes`` is ``(n, 2)`` long, heights and widths; ``size``, of the output."""


def none(sizes: Tensor, size: int, generator: torch.Generator) -> Boxes:
    """Take the largest centred square as it is: what test images get.

    >>> none(torch.tensor([[8, 8], [6, 9]]), 8, torch.Generator()).rows()
    [[0, 0, 8, 8, 0, 0, 0], [0, 1, 6, 6, 0, 0, 0]]
    """
    side = sizes.amin(1)
    zero = torch.zeros_like(side)
    return _boxes((sizes[:, 0] - side) // 2, (sizes[:, 1] - side) // 2, side, side, zero, zero, zero)


def flip(sizes: Tensor, size: int, generator: torch.Generator) -> Boxes:
    """Take the largest centred square and mirror half of the images, at random."""
    numbers = none(sizes, size, generator).numbers
    numbers[:, 6] = _coin(len(sizes), generator)
    return Boxes(numbers)


def crop(sizes: Tensor, size: int, generator: torch.Generator) -> Boxes:
    """Pad by an eighth of the side (4 of 32 pixels) with black and take a random window of the old size.

    For images that a mirror would spoil, such as digits.
    """
    numbers = none(sizes, size, generator).numbers
    pad = size // 8
    numbers[:, 4:6] = torch.randint(-pad, pad + 1, (len(sizes), 2), generator=generator)
    return Boxes(numbers)


def crop_flip(sizes: Tensor, size: int, generator: torch.Generator) -> Boxes:
    """Crop as ``crop`` does and mirror half: usual for CIFAR (He et al., arXiv:1512.03385 section 4.2)."""
    numbers = crop(sizes, size, generator).numbers
    numbers[:, 6] = _coin(len(sizes), generator)
    return Boxes(numbers)


def paper(sizes: Tensor, size: int, generator: torch.Generator) -> Boxes:
    """Take a random box of 10 to 100 % of the area, of ratio 3/4 to 4/3, and mirror half (arXiv:2212.13970 section 4).

    The same distribution as torchvision's ``RandomResizedCrop(size, scale=(0.1, 1))``: up to ten tries for a box that
    fits, then the largest centred box of an allowed ratio.
    """
    count = len(sizes)
    tries = torch.rand((count, _TRIES, 2), generator=generator)
    place = torch.rand((count, 2), generator=generator)
    mirrored = _coin(count, generator)
    full_height, full_width = sizes[:, 0], sizes[:, 1]
    area = (full_height * full_width)[:, None] * (_SCALE[0] + (_SCALE[1] - _SCALE[0]) * tries[..., 0])
    ratio = torch.exp(_LOG_RATIO[0] + (_LOG_RATIO[1] - _LOG_RATIO[0]) * tries[..., 1])
    height, width = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()
    fits = (height > 0) & (height <= full_height[:, None]) & (width > 0) & (width <= full_width[:, None])
    first = fits.int().argmax(1, keepdim=True)
    last_height, last_width = _largest(full_height, full_width)
    found = fits.any(1)
    height = torch.where(found, height.gather(1, first)[:, 0], last_height)
    width = torch.where(found, width.gather(1, first)[:, 0], last_width)
    free = torch.stack([full_height - height, full_width - width], 1)
    corner = torch.where(found[:, None], (place * (free + 1)).long().minimum(free), free // 2)
    zero = torch.zeros_like(height)
    return _boxes(corner[:, 0], corner[:, 1], height, width, zero, zero, mirrored)


AUGMENTATIONS: dict[str, Draw] = {"none": none, "flip": flip, "crop": crop, "crop_flip": crop_flip, "paper": paper}


def _largest(height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Return height and width of the largest box whose ratio is allowed."""
    low, high = math.exp(_LOG_RATIO[0]), math.exp(_LOG_RATIO[1])
    ratio = width / height
    return (
        torch.where(ratio < low, (width / low).round().long(), height),
        torch.where(ratio > high, (height * high).round().long(), width),
    )


def _coin(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (count,), generator=generator)


def _boxes(*columns: Tensor) -> Boxes:
    return Boxes(torch.stack(columns, 1))


def resample(images: Tensor, boxes: Boxes, size: int) -> Tensor:
    """Cut and resize a batch, each image by its own box: bilinear, and antialiased where the image shrinks.

    One matrix an image and axis holds the weights of a triangle filter as wide as the scale (at least one pixel), which
    is what Pillow and ``torch.nn.functional.interpolate(antialias=True)`` compute; two batched products apply them.
    This is exact where ``grid_sample`` would alias, and at 32 pixels faster too. Large images on a CPU go through
    ``interpolate`` one by one.

    Args:
        images: ``(n, channels, height, width)``, any dtype, on any device.
        boxes: one for each image.
        size: side of the result in pixels.

    Returns:
        float32 ``(n, channels, size, size)``, on the same scale as ``images``, on their device.

    >>> image = torch.arange(16).view(1, 1, 4, 4)
    >>> resample(image, Boxes(torch.tensor([[0, 1, 2, 2, 0, 0, 1]])), 2)
    tensor([[[[2., 1.],
              [6., 5.]]]])
    """
    count, channels, height, width = images.shape
    kind: Any = images.device.type
    with torch.autocast(kind, enabled=False):  # a caller's half precision would blur whole pixel values
        if size == height == width and not _changes(boxes, size):
            return images.float()
        if kind == "cpu" and height * width > _DENSE:
            return torch.stack([_single(image, box, size) for image, box in zip(images, boxes.rows(), strict=True)])
        numbers = boxes.numbers.to(images.device, non_blocking=True)
        top, left, tall, wide, down, right, mirror = numbers.unbind(1)
        rows = _weights(top, tall, down, height, size)
        columns = _weights(left, wide, right, width, size)
        columns = torch.where(mirror.bool()[:, None, None], columns.flip(1), columns)
        narrow = torch.bmm(images.float().reshape(count, channels * height, width), columns.mT)
        return rows[:, None] @ narrow.view(count, channels, height, size)


def _changes(boxes: Boxes, size: int) -> bool:
    """Tell whether any image of ``size`` × ``size`` pixels would come out as anything but itself."""
    same = torch.tensor([0, 0, size, size, 0, 0, 0])
    return bool((boxes.numbers != same).any())


def _single(image: Tensor, box: list[int], size: int) -> Tensor:
    """Cut and resize one image, ``(channels, height, width)``."""
    top, left, height, width, down, right, mirror = box
    part = image[None, :, top : top + height, left : left + width].float()
    part = functional.interpolate(part, (size, size), mode="bilinear", antialias=True)
    part = functional.pad(part, (-right, right, -down, down))  # a negative pad cuts off
    return (part.flip(3) if mirror else part)[0]


def _weights(start: Tensor, length: Tensor, shift: Tensor, whole: int, size: int) -> Tensor:
    """Return ``(n, size, whole)``: the share of each pixel of an axis in each pixel of the resized box."""
    scale = (length / size)[:, None]
    output = torch.arange(size, device=start.device) + shift[:, None]
    centre = start[:, None] + (output + 0.5) * scale
    pixel = torch.arange(whole, device=start.device)
    inside = (pixel >= start[:, None]) & (pixel < (start + length)[:, None])
    distance = (pixel + 0.5 - centre[..., None]).abs_()
    weights = (1 - distance / scale.clamp_min(1)[..., None]).clamp_min_(0) * inside[:, None]
    weights /= weights.sum(2, keepdim=True).clamp_min_(1e-6)  # all zero only beyond the box, where it stays zero
    return weights * ((output >= 0) & (output < size))[..., None]
