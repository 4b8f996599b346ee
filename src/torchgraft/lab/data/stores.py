"""Where the pixels are: one tensor in memory, or single images of any shape in memory or in files."""

from __future__ import annotations

__all__ = ["MEMORY_LIMIT", "ItemStore", "Store", "TensorStore", "threads"]

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchgraft.lab.data.augment import Boxes, resample

MEMORY_LIMIT = 1 << 30
"""Images that take no more bytes than this when decoded (training and test images apart) are kept decoded in memory."""

_AHEAD = 2  # batches that are being decoded while the one before them is in use
_SAMPLED = 1000  # images whose colours stand for all of a store that is not one tensor
_CHUNK = 1024  # images counted at a time: bincount widens what it counts


class Store(Protocol):
    """Images by number. ``sizes`` is ``(n, 2)`` long, heights and widths; ``digest`` stands for the content."""

    sizes: Tensor
    digest: bytes

    def crops(self, plan: Iterable[tuple[Tensor, Boxes]], size: int, device: torch.device) -> Iterator[Tensor]:
        """Yield one batch for each ``(numbers, boxes)`` of the plan: float ``(n, channels, size, size)`` in 0..255."""
        ...

    def histogram(self) -> Tensor:
        """Return how often each value occurs: long ``(channels, 256)``."""
        ...


@final
class TensorStore:
    """Images of one shape, held as uint8 ``(n, channels, height, width)``, and copied once to the device that asks."""

    def __init__(self, pixels: Tensor, digest: bytes) -> None:
        self.pixels = pixels
        self.digest = digest
        self.sizes = torch.tensor(pixels.shape[2:]).expand(len(pixels), 2)
        self._copies = {torch.device("cpu"): pixels}

    def crops(self, plan: Iterable[tuple[Tensor, Boxes]], size: int, device: torch.device) -> Iterator[Tensor]:
        """Cut and resize whole batches on ``device``."""
        if device not in self._copies:
            self._copies[device] = self.pixels.to(device)
        pixels = self._copies[device]
        for numbers, boxes in plan:
            yield resample(pixels[numbers.to(device)], boxes, size)

    def histogram(self) -> Tensor:
        """Count all pixels of all images."""
        counts = torch.zeros(self.pixels.shape[1], 256, dtype=torch.long)
        for start in range(0, len(self.pixels), _CHUNK):
            for channel, values in enumerate(self.pixels[start : start + _CHUNK].unbind(1)):
                counts[channel] += torch.bincount(values.flatten(), minlength=256)
        return counts


@final
class ItemStore:
    """RGB images of any shape, each fetched by ``read`` (number -> Pillow image) when it is needed.

    Threads, not the processes of a DataLoader: Pillow decodes and resizes outside the interpreter's lock, and a run
    that is itself a worker process may not start further ones. All random numbers are drawn before, so the order of
    execution cannot change a pixel.
    """

    def __init__(self, read: Callable[[int], Any], sizes: Tensor, digest: bytes) -> None:
        self._read = read
        self.sizes = sizes
        self.digest = digest

    def crops(self, plan: Iterable[tuple[Tensor, Boxes]], size: int, device: torch.device) -> Iterator[Tensor]:
        """Decode, cut and resize image by image on the CPU, a few batches ahead, and move whole batches."""
        pool = ThreadPoolExecutor(threads(), thread_name_prefix="torchgraft-images")
        waiting: deque[list[Future[npt.NDArray[np.uint8]]]] = deque()
        try:
            for numbers, boxes in plan:
                pairs = zip(numbers.tolist(), boxes.rows(), strict=True)
                waiting.append([pool.submit(self._crop, number, box, size) for number, box in pairs])
                if len(waiting) > _AHEAD:
                    yield _batch(waiting.popleft(), device)
            while waiting:
                yield _batch(waiting.popleft(), device)
        finally:
            pool.shutdown(cancel_futures=True)

    def _crop(self, number: int, numbers: list[int], size: int) -> npt.NDArray[np.uint8]:
        from PIL import Image

        top, left, height, width, down, right, mirror = numbers
        box_only = self._read(number).crop((left, top, left + width, top + height))  # resize(box=) looks beyond the box
        part = box_only.resize((size, size), Image.Resampling.BILINEAR)
        if down or right:
            moved = Image.new("RGB", (size, size))
            moved.paste(part, (-right, -down))
            part = moved
        pixels = np.asarray(part)
        return pixels[:, ::-1] if mirror else pixels

    def histogram(self) -> Tensor:
        """Count the pixels of at most a thousand images, evenly spread over the store."""
        numbers = np.unique(np.linspace(0, len(self.sizes) - 1, _SAMPLED).round().astype(int)).tolist()
        with ThreadPoolExecutor(threads()) as pool:
            counts = pool.map(lambda number: np.array(self._read(number).histogram()), numbers)
            return torch.from_numpy(sum(counts, np.zeros(768, dtype=np.int64))).view(3, 256)


def threads() -> int:
    """Return how many threads may decode at once: as many as torch may use, so that parallel runs share the cores."""
    return max(1, torch.get_num_threads())


def _batch(waiting: list[Future[npt.NDArray[np.uint8]]], device: torch.device) -> Tensor:
    stacked = np.stack([future.result() for future in waiting])
    return torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2).float()
