"""Runs that do next to nothing, for tests of what happens around them; a worker process can import them."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from torchgraft.lab.records import Data, Epoch, Experiment, Initialized, Outcome, Recipe, Row, Source, Task

_SMALL = Recipe(epochs=1, batch=64)
#: An experiment that really trains, on few digits.
PAIR = Experiment(
    name="tiny",
    title="Two networks on few digits",
    networks={"a": "timm:mobilenetv2_035", "b": "timm:mnasnet_small"},
    sources=(Source("a", "a"),),
    targets=("b",),
    initializations=("random", "graft"),
    data=Data(size=16, train=64, test=32),
    recipe=_SMALL,
    source_recipe=_SMALL,
    seeds=(0,),
)


def fake_task(
    key: str,
    does: str = "",
    *,
    journal: Path | None = None,
    source: str = "",
    kind: str = "target",
) -> Task:
    """Return a task for :func:`fake_work`; ``does`` is what the run does, ``journal`` where it writes that it began."""
    return Task(
        key=key,
        kind=kind,
        network="b",
        spec=does,
        initialization="random",
        seed=0,
        data=Data(),
        recipe=Recipe(),
        source=Source("a", "a") if source else None,
        source_key=source,
        weights=str(journal or ""),
    )


def fake_row(key: str, accuracy: float = 50.0) -> Row:
    """Return a row with one point."""
    return Row(key, "target", "b", "a", "random", 0, {}, (Epoch(0, 0, accuracy, 1.0),), Initialized())


def begun(journal: Path) -> list[tuple[str, int]]:
    """Return which runs have begun, and in which processes."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [(key, int(pid)) for key, pid, _ in (line.split() for line in lines)]


def gpus_seen(journal: Path) -> set[str]:
    """Return the GPUs that the runs were shown."""
    return {line.split()[2] for line in journal.read_text().splitlines()}


def fake_work(task: Task, weights: bytes, *, device: str) -> Outcome:
    """Do what the task's spec says; a source returns its own key as its weights, and a target wants to see that."""
    if task.weights:
        with open(task.weights, "a") as journal:
            journal.write(f"{task.key} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '-')}\n")
    earlier = [key for key, _ in begun(Path(task.weights))].count(task.key) if task.weights else 0
    if task.source_key and weights != task.source_key.encode():
        raise ValueError(f"weights of {task.source_key} wanted, {weights!r} given")
    verb, _, value = task.spec.partition(" ")
    _DO[verb](value, earlier)
    row = replace(fake_row(task.key), setting={"device": device, "threads": torch.get_num_threads()})
    return Outcome(row, task.key.encode() if task.kind == "source" else b"")


def _sleep(value: str, _: int) -> None:
    time.sleep(float(value))


def _sleep_once(value: str, earlier: int) -> None:
    """Sleep so long the first time that only being killed ends it."""
    if earlier == 1:
        time.sleep(float(value))


def _fail(value: str, _: int) -> None:
    raise _Awkward(value, 2)


def _exit(value: str, _: int) -> None:
    sys.exit(value)


def _die(value: str, earlier: int) -> None:
    """Be killed, the first so many times."""
    if earlier <= int(value):
        os.kill(os.getpid(), signal.SIGKILL)


class _Awkward(Exception):
    """An error that cannot be pickled and read back."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(f"{text}\nsecond line")


_DO = {
    "": lambda value, earlier: None,
    "sleep": _sleep,
    "sleep-once": _sleep_once,
    "fail": _fail,
    "exit": _exit,
    "die": _die,
}
