"""Hugging Face data sets that are already on this machine; nothing is downloaded."""

from __future__ import annotations

__all__ = ["read"]

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from torchgraft.errors import LabError
from torchgraft.lab.data.encoded import Encoded
from torchgraft.lab.data.parts import Part, Raw, last_fifth
from torchgraft.lab.packages import optional

_TESTS = ("test", "validation", "valid", "val")  # the first that exists is used
_LABELS = ("label", "labels", "fine_label", "target", "y")


def read(place: str, size: int) -> Raw:
    """Read ``hf:NAME`` or ``hf:NAME:CONFIGURATION`` from the cache of the package ``datasets``, or a local folder.

    The image column is the one of type ``Image``; the label column is the only one of type ``ClassLabel``, or the first
    integer column of a usual name. Without a test or validation split the last fifth of each class is for the test.

    Raises:
        LabError: the package is not installed, the data set not cached, or it holds no images with class numbers.
    """
    datasets = optional("datasets", f"hf:{place}", extra="datasets")
    name, _, configuration = place.partition(":")
    with _offline(datasets):
        try:
            if (Path(name) / "dataset_dict.json").is_file():
                splits = datasets.load_from_disk(name)
            else:
                splits = datasets.load_dataset(name, configuration or None)
        except Exception as error:  # the package raises a different class for each of many reasons
            reason = str(error).partition("\n")[0]
            raise LabError(
                f"hf:{place} is not on this machine ({type(error).__name__}: {reason}): "
                f"once run datasets.load_dataset({name!r}) with a connection"
            ) from None
    tests = [split for split in _TESTS if split in splits]
    if "train" not in splits:
        raise LabError(f"hf:{place} has no split train, only {', '.join(splits)}: choose another data set")
    train, names = _part(datasets, splits["train"], f"hf:{place} (train)", size)
    if not tests:
        train, test, note = last_fifth(train, f"hf:{place}")
        return Raw(f"hf:{place}", train, test, names, note)
    test, _ = _part(datasets, splits[tests[0]], f"hf:{place} ({tests[0]})", size)
    return Raw(f"hf:{place}", train, test, names, f"hf:{place}: {tests[0]} is the test")


@contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    """Forbid every connection: the environment variables for this are read only when the packages are imported."""
    constants = optional("huggingface_hub.constants", "hf:", "huggingface_hub", "datasets")
    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _part(datasets: Any, split: Any, origin: str, size: int) -> tuple[Part, tuple[str, ...]]:
    """Return a split's images, and the names of its classes where it has them."""
    image, label = _columns(datasets, split, origin)
    encoded = split.select_columns([image]).cast_column(image, datasets.Image(decode=False))

    def fetch(number: int) -> Path | bytes:
        found = encoded[number][image]
        if found is None:
            raise LabError(f"{where(number)}: there is no image")
        content: bytes | None = found["bytes"]
        return Path(found["path"]) if content is None else content

    def where(number: int) -> str:
        return f"{origin}, image {number}"

    labels = split.with_format(None)[label]
    if any(value is None for value in labels):
        raise LabError(f"{where(list(labels).index(None))}: it has no label")
    names = tuple(getattr(split.features[label], "names", ()))
    return Part(np.asarray(labels[:]), Encoded(fetch, where, size).store, where), names


def _columns(datasets: Any, split: Any, origin: str) -> tuple[str, str]:
    images = [name for name, feature in split.features.items() if isinstance(feature, datasets.Image)]
    classes = [name for name, feature in split.features.items() if isinstance(feature, datasets.ClassLabel)]
    usual = [name for name in _LABELS if name in split.features]
    chosen = classes if len(classes) == 1 else usual
    if len(images) != 1 or not chosen:
        raise LabError(
            f"{origin} has columns {', '.join(split.features)}: one must hold images, and one, of type ClassLabel or "
            f"named {', '.join(_LABELS)}, class numbers"
        )
    return images[0], chosen[0]
