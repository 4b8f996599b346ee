"""Join the shards of CIFAR in the evaluation data into one .npz file, which the lab reads as ``npz:OUT.npz``.

    python -m benchmarks.cifar_npz ../shared/data/cifar cifar100 OUT.npz

The file is written atomically; ``--compress`` makes it smaller, and slower to open.
"""

from __future__ import annotations

import argparse
import io
import lzma
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from torchgraft.errors import GraftError, LabError
from torchgraft.io import atomic_write

CLASSES = {"cifar10": 10, "cifar100": 100}


def read_images(path: Path) -> npt.NDArray[np.uint8]:
    """Return the images of a shard as uint8 ``(n, 3, 32, 32)``.

    A shard holds, channel first, differences along both axes of green, and of red and blue less green, all modulo 256.

    Raises:
        LabError: the file is damaged or holds something else.
    """
    try:
        with lzma.open(path) as file:
            stored = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, lzma.LZMAError) as error:
        raise LabError(f"{path} cannot be read ({error}): copy it again") from None
    if stored.dtype != np.uint8 or stored.ndim != 4 or stored.shape[0] != 3 or stored.shape[2:] != (32, 32):
        raise LabError(f"{path} holds {stored.dtype} of shape {stored.shape}: expected uint8 (3, n, 32, 32)")
    planes = stored.cumsum(-1, dtype=np.uint8).cumsum(-2, dtype=np.uint8)
    planes[[0, 2]] += planes[1]
    return np.ascontiguousarray(planes.transpose(1, 0, 2, 3))


def read_labels(path: Path, count: int, classes: int) -> npt.NDArray[np.int64]:
    """Return the labels of a shard of ``count`` images.

    Raises:
        LabError: the file is missing or damaged, or does not hold one class number an image.
    """
    try:
        labels: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise LabError(f"{path} cannot be read ({error}): copy it again") from None
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes:
        raise LabError(f"{path} does not hold {count} class numbers from 0 to {classes - 1}: copy it again")
    return labels.astype(np.int64)


def join(folder: Path, name: str) -> dict[str, npt.NDArray[Any]]:
    """Return ``x_train, y_train, x_test, y_test`` of all shards of ``name`` in a folder, in the order of their numbers.

    Raises:
        LabError: there is no such folder or shard, or one of them is damaged.
    """
    if not folder.is_dir():
        raise LabError(f"{folder}: there is no such folder")
    ending = ".npy.xz"
    shards = [path for path in folder.glob(f"{name}_train*{ending}") if re.fullmatch(r"\d+", _number(path, name))]
    shards.sort(key=lambda path: int(_number(path, name)))
    arrays: dict[str, npt.NDArray[Any]] = {}
    for split, paths in (("train", shards), ("test", [folder / f"{name}_test{ending}"])):
        if not paths or not paths[0].is_file():
            raise LabError(
                f"{folder} holds no {name}_{split}{'0' if split == 'train' else ''}{ending}: name another folder"
            )
        images = [read_images(path) for path in paths]
        labels = [
            read_labels(path.with_name(path.name.removesuffix(ending) + "_y.npy"), len(part), CLASSES[name])
            for path, part in zip(paths, images, strict=True)
        ]
        arrays[f"x_{split}"], arrays[f"y_{split}"] = np.concatenate(images), np.concatenate(labels)
    return arrays


def _number(path: Path, name: str) -> str:
    return path.name.removeprefix(f"{name}_train").removesuffix(".npy.xz")


def main(arguments: list[str] | None = None) -> int:
    """Convert, and say what was written; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cifar_npz", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of the shards")
    parser.add_argument("name", choices=sorted(CLASSES))
    parser.add_argument("output", type=Path, help="the .npz file to write")
    parser.add_argument("--compress", action="store_true", help="smaller, and slower to open")
    options = parser.parse_args(arguments)
    try:
        if options.output.suffix != ".npz":
            raise LabError(f"{options.output} does not end in .npz: name a file that does")
        arrays = join(options.folder, options.name)
        buffer = io.BytesIO()
        options.output.parent.mkdir(parents=True, exist_ok=True)
        (np.savez_compressed if options.compress else np.savez)(buffer, allow_pickle=False, **arrays)
        atomic_write(options.output, buffer.getvalue())
    except (GraftError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{options.output}: {len(arrays['x_train'])} training and {len(arrays['x_test'])} test images of "
        f"{options.name}, {options.output.stat().st_size >> 20} MiB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
