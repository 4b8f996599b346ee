"""Before a grid begins: what would make every run fail is found at once, and before anything is written."""

from __future__ import annotations

__all__ = ["rehearse"]

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from torchgraft.errors import choose
from torchgraft.lab.data import AUGMENTATIONS, Images, open_data
from torchgraft.lab.engines.jobs import gpus_here
from torchgraft.lab.networks import build
from torchgraft.lab.records import Data, Experiment, Task
from torchgraft.lab.store import Store
from torchgraft.lab.tasks import tasks_of
from torchgraft.lab.weights import load_network
from torchgraft.lab.work import start


def rehearse(experiment: Experiment, folder: str | os.PathLike[str], device: str = "cpu") -> tuple[str, ...]:
    """Open the data, build every network and read every file of weights that the missing runs of an experiment need.

    Args:
        experiment: what is to be run.
        folder: the store; it need not be there yet.
        device: ``cpu`` or ``cuda``.

    Returns:
        what a user should be told about the data.

    Raises:
        GraftError: what is at fault, named.
    """
    done = Store(folder, create=False) if Path(folder).is_dir() else ()
    left = [task for tasks in tasks_of(experiment) for task in tasks if task.key not in done]
    if left and device == "cuda":
        gpus_here()
    for augment in dict.fromkeys(task.recipe.augment for task in left):
        choose(AUGMENTATIONS, augment, "augmentation")
    images = {data: open_data(data) for data in dict.fromkeys(task.data for task in left)}
    for data, spec in dict.fromkeys((task.data, task.spec) for task in left):
        build(spec, images[data].classes, size=data.size)
    _read_weights(left, images)
    # Of the bundled digits everybody is told in the documentation.
    notes = (opened.note for data, opened in images.items() if data.name != "digits")
    return tuple(dict.fromkeys(note for note in notes if note))


def _read_weights(left: Iterable[Task], images: Mapping[Data, Images]) -> None:
    given = ((task.source_spec, task.source.weights) for task in left if task.source and task.source.weights)
    for spec, weights in dict.fromkeys(given):
        load_network(spec, weights)
    # Runs that are equal but for their seed read the same file into the same network.
    filed = {(task.spec, task.initialization, task.weights): task for task in left if _reads_file(task)}
    for task in filed.values():
        start(task, b"", build(task.spec, images[task.data].classes))


def _reads_file(task: Task) -> bool:
    """Tell whether a run starts from a file of the target's own weights; those of its library may be downloaded yet."""
    name, _, argument = task.initialization.partition(":")
    return name in ("pretrained", "predicted") and bool(task.weights or argument) and task.weights != "pretrained"
