"""One run from start to end: open the data, build, initialize, train, and write down what happened."""

from __future__ import annotations

__all__ = ["start", "work"]

import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime

from torch import nn

from torchgraft.errors import LabError
from torchgraft.lab.data import open_data
from torchgraft.lab.initializations import initialize, load_pretrained
from torchgraft.lab.networks import build, check_answers
from torchgraft.lab.records import Epoch, Initialized, Outcome, Row, Task
from torchgraft.lab.setting import contents, setting
from torchgraft.lab.setting import threads as using
from torchgraft.lab.training import Trained, train
from torchgraft.lab.weights import load_network, read_state, write_state

# A source and a target of equal seed must not draw equal weights, which would be a head start of its own kind.
_SOURCE_SEED = 1_000_003
# Nor must what an initialization draws repeat what the target's own library drew.
_START_SEED = 2_000_003


def work(
    task: Task,
    weights: bytes = b"",
    *,
    device: str = "cpu",
    threads: int | None = None,
    tick: Callable[[Epoch], object] = lambda point: None,
) -> Outcome:
    """Do one run; equal tasks give equal curves on the CPU.

    Under one seed all initializations start from the same random network and see the images in the same order, so that
    they may be compared in pairs. Nothing that a source draws is drawn again by a target.

    Args:
        task: what to do.
        weights: the weights of the task's source as safetensors bytes, where the lab trains it (``task.source_key``).
        device: ``cpu``, ``cuda``, ``cuda:1``, ...
        threads: of torch, for this run; ``None`` leaves them as they are.
        tick: called with every point of the learning curve.

    Raises:
        GraftError: the data, a network, the weights or the recipe is at fault; the message names it.
    """
    begun = time.perf_counter()
    with using(threads):
        images = open_data(task.data)
        seed = task.seed + (_SOURCE_SEED if task.kind == "source" else 0)
        network = build(task.spec, images.classes, seed)
        check_answers(task.spec, network, images.classes, task.data.size, seed)
        began = start(task, weights, network)
        trained = train(network, images, task.recipe, seed=seed, device=device, tick=tick, shares=began.shares)
        described = {
            **setting(device),
            "data": images.fingerprint,
            "note": images.note,
            "files": contents(_files(task)),
        }
    row = Row(
        key=task.key,
        kind=task.kind,
        network=task.network,
        source=task.source.name if task.source else "",
        initialization=task.initialization,
        seed=task.seed,
        task=dataclasses.asdict(task),
        curve=trained.curve,
        start=dataclasses.replace(began, shares={}),  # the initialization's name says it
        exploded=trained.exploded,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        seconds=time.perf_counter() - begun,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        setting=described,
    )
    return Outcome(row, _weights_of(task, trained))


def _files(task: Task) -> tuple[str, ...]:
    """Return what may be a file of weights in a task: the source's, the target's own, an initialization's argument."""
    argument = task.initialization.partition(":")[2]
    return (task.source.weights if task.source else "", task.weights, argument)


def start(task: Task, weights: bytes, target: nn.Module) -> Initialized:
    """Initialize the target as the task says."""
    if task.weights and task.weights != "pretrained":
        return load_pretrained(target, task.weights)
    if task.weights:  # the library's own, whose head has other classes
        own = load_network(task.spec, task.weights)
        return dataclasses.replace(
            initialize("name_shape", own, target, seed=task.seed + _START_SEED), note="pretrained"
        )
    return initialize(task.initialization, _source(task, weights), target, seed=task.seed + _START_SEED)


def _source(task: Task, weights: bytes) -> nn.Module | None:
    """Return the trained source, or nothing where the task has none."""
    if task.source is None:
        return None
    if task.source.weights:
        return load_network(task.source_spec, task.source.weights, task.source.seed + _SOURCE_SEED)
    if not weights:
        raise LabError(f"the source {task.source.name!r} has no weights: its run {task.source_key} comes first")
    classes = open_data(task.source_data or task.data).classes
    network = build(task.source_spec, classes, task.source.seed + _SOURCE_SEED)
    check_answers(task.source_spec, network, classes, (task.source_data or task.data).size)
    return read_state(network, weights, f"the source {task.source.name!r}")


def _weights_of(task: Task, trained: Trained) -> bytes:
    """Return the weights of a trained source; a target's are nobody's start."""
    if task.kind != "source":
        return b""
    if trained.state is None:
        raise LabError(f"the source {task.network!r} was never finite ({trained.exploded}): give it a smaller rate")
    return write_state(trained.state)
