"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8 × 8 pixels, ten classes."""

from __future__ import annotations

__all__ = ["read"]

import numpy as np

from torchgraft.errors import LabError
from torchgraft.lab.data.arrays import array_part
from torchgraft.lab.data.parts import Raw, last_fifth
from torchgraft.lab.packages import optional


def read(place: str, size: int) -> Raw:
    """Read the digits; the last fifth of each class, mostly by other writers, is for the test.

    Raises:
        LabError: scikit-learn is not installed, or a place is given.

    >>> raw = read("", 32)
    >>> len(raw.train.labels), len(raw.test.labels), len(raw.names)
    (1442, 355, 10)
    """
    if place:
        raise LabError(f"digits comes with scikit-learn and takes no place: write digits, not digits:{place}")
    found = optional("sklearn.datasets", "digits", "scikit-learn").load_digits()
    pixels = np.round(found.images * (255 / 16)).astype(np.uint8)
    train, test, note = last_fifth(array_part(pixels, found.target, "digits"), "digits")
    return Raw("digits", train, test, tuple("0123456789"), note)
