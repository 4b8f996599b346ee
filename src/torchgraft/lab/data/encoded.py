"""Images as files or encoded bytes (JPEG, PNG, …): decoded once if they fit into memory, else each time."""

from __future__ import annotations

__all__ = ["Encoded"]

import hashlib
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchgraft.errors import LabError
from torchgraft.lab.data import stores
from torchgraft.lab.data.parts import Array
from torchgraft.lab.packages import optional

_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)  # what Pillow's decoders raise
_RESERVE = 4  # sides: from an image four times the output's size, the smallest crops are still shrunk, not enlarged


@dataclass(frozen=True, slots=True)
class Encoded:
    """Encoded images: ``fetch(number)`` gives a path or bytes, ``where(number)`` its name, ``size`` the side wanted.

    Images whose short side exceeds four times ``size`` are shrunk to that when decoded, in their own proportions: the
    smallest crop of the paper (a tenth of the area) then still has about ``size`` pixels a side.
    """

    fetch: Callable[[int], Path | bytes]
    where: Callable[[int], str]
    size: int

    def store(self, chosen: Array) -> stores.Store:
        """Make a store of the chosen images; those that fit into ``stores.MEMORY_LIMIT`` are decoded now.

        Kept in files, only their headers are read here, and the digest is of names and lengths instead of content.

        Raises:
            LabError: a file is missing, or no image that can be decoded.
        """
        numbers = [int(number) for number in chosen]
        with ThreadPoolExecutor(stores.threads()) as pool:
            shapes = list(pool.map(self.measure, numbers))
            sizes = torch.tensor(shapes)
            if int(sizes.prod(1).sum()) * 3 > stores.MEMORY_LIMIT:
                digest = _digest(map(self._name, numbers))
                return stores.ItemStore(lambda row: self.decode(numbers[row]), sizes, digest)
            images = list(pool.map(self.decode, numbers))
        digest = _digest(map(self._content, numbers))
        if len(set(shapes)) == 1:
            return stores.TensorStore(_stacked(images), digest)
        return stores.ItemStore(images.__getitem__, sizes, digest)

    def measure(self, number: int) -> tuple[int, int]:
        """Return height and width of an image as :meth:`decode` will give it, from its header."""
        with self._opened(number) as image:
            width, height = self._reduced(image)
            return height, width

    def decode(self, number: int) -> Any:
        """Return an image as a Pillow image in RGB."""
        with self._opened(number) as image:
            size = self._reduced(image)
            if size != image.size:
                image.draft(None, size)  # JPEG can be decoded at 1/2, 1/4 or 1/8, much faster
            image.load()
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")  # Pillow asks for this detour
            image = image.convert("RGB")
            if size != image.size:
                image = image.resize(size, optional("PIL.Image", "an image", "Pillow").Resampling.BILINEAR)
            return image

    def _reduced(self, image: Any) -> tuple[int, int]:
        """Return width and height that an image is brought to."""
        width, height = image.size
        most, short = _RESERVE * self.size, min(width, height)
        if short <= most:
            return width, height
        return max(most, round(width * most / short)), max(most, round(height * most / short))

    @contextmanager
    def _opened(self, number: int) -> Iterator[Any]:
        library = optional("PIL.Image", "an image", "Pillow")
        try:
            source = self.fetch(number)
            with library.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                if image.mode[0] in "IF":  # Pillow would cut such values off at 255
                    raise LabError(f"{self.where(number)}: it has more than 8 bits a pixel: save it with 8")
                yield image
        except LabError:
            raise
        except library.DecompressionBombError as error:
            raise LabError(f"{self.where(number)}: it is too large: {error}") from None
        except _DAMAGE as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            text = str(reason).partition(" <_io")[0]  # Pillow names the buffer's address
            raise LabError(
                f"{self.where(number)}: it cannot be read as an image ({text}): replace or remove it"
            ) from None

    def _content(self, number: int) -> bytes:
        source = self.fetch(number)
        return hashlib.sha256(source if isinstance(source, bytes) else source.read_bytes()).digest()

    def _name(self, number: int) -> bytes:
        source = self.fetch(number)
        if isinstance(source, bytes):
            return hashlib.sha256(source).digest()
        return f"{source.parent.name}/{source.name}:{source.stat().st_size}\n".encode()


def _digest(pieces: Iterator[bytes]) -> bytes:
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(piece)
    return whole.digest()


def _stacked(images: list[Any]) -> Tensor:
    """Return uint8 ``(n, 3, height, width)``, freeing each image as it is copied."""
    width, height = images[0].size
    pixels = torch.empty(len(images), 3, height, width, dtype=torch.uint8)
    for number, image in enumerate(images):
        pixels[number] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        images[number] = None
    return pixels
