"""What goes to an engine and what comes back: jobs, options, outcomes, and the protocol of a pool of workers."""

from __future__ import annotations

__all__ = [
    "Engine",
    "Failure",
    "Finished",
    "Job",
    "Options",
    "Pool",
    "Work",
    "attempt",
    "cores_here",
    "environment",
    "first_line",
    "gpus_here",
    "no_weights",
]

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from torchgraft.errors import GraftError, LabError
from torchgraft.lab.records import Outcome, Task


class Work(Protocol):
    """One run from start to end; a function at the top level of a module, so that a worker can import it."""

    def __call__(self, task: Task, weights: bytes, *, device: str) -> Outcome:
        """Return the run's row and, of a source, its weights.

        Args:
            task: what to do.
            weights: the weights of the task's source as safetensors bytes; empty where the lab trained none.
            device: ``cpu`` or ``cuda``; a worker sees only the GPU that it is meant to use.
        """


def no_weights() -> bytes:
    """Provide no weights: for a run without a source that the lab trains."""
    return b""


@dataclass(frozen=True, slots=True)
class Job:
    """One run to do: its task, and what reads the weights of its source when a worker is free for it."""

    task: Task
    weights: Callable[[], bytes] = no_weights


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run has no outcome: one line, and the traceback behind it."""

    line: str
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """What came of a job; ``attempts`` is above one where a worker was killed on the way."""

    task: Task
    result: Outcome | Failure
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Options:
    """How an engine works.

    Attributes:
        workers: runs at once; ``None`` is what the machine or the cluster has cores (or GPUs) for.
        device: ``cpu`` or ``cuda``.
        per_gpu: independent runs on one GPU at once.
        threads: of torch per run; ``None`` is 1 in a worker, and leaves ``inline`` as it is.
        address: of a running Ray cluster (``auto``, ``HOST:PORT``, ``ray://HOST:10001``); empty takes the environment's
            ``RAY_ADDRESS``, and starts Ray on this machine where there is none.
        attempts: how often a run is begun whose worker is killed.

    Raises:
        LabError: a number below one, or an unknown device.
    """

    workers: int | None = None
    device: str = "cpu"
    per_gpu: int = 1
    threads: int | None = None
    address: str = ""
    attempts: int = 3

    def __post_init__(self) -> None:
        for name in ("workers", "per_gpu", "threads", "attempts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise LabError(f"{name} is {value}: give at least 1")
        if self.device not in ("cpu", "cuda"):
            raise LabError(f"unknown device {self.device!r}: give cpu or cuda")


class Pool(Protocol):
    """Workers that are up; leaving its context ends them at once, whatever they are doing."""

    def free(self) -> int:
        """Return how many more jobs can be taken now."""

    def running(self) -> int:
        """Return how many jobs have been taken and not been handed back."""

    def submit(self, job: Job) -> None:
        """Take a job; only where :meth:`free` is above zero."""

    def wait(self, seconds: float) -> list[Finished]:
        """Hand back what is finished, each once, waiting at most about so long for the first."""


class Engine(Protocol):
    """Opens a pool of workers that do ``work``."""

    def __call__(self, work: Work, options: Options) -> AbstractContextManager[Pool]:
        """Return a context that yields the pool.

        Raises:
            LabError: the workers cannot be started, or a package is missing.
        """


def attempt(work: Work, task: Task, weights: bytes, device: str) -> Outcome | Failure:
    """Do a run, and turn an error of its own into a :class:`Failure`.

    An exception is told as text, where it arises: not every exception survives being pickled on its way back.
    """
    try:
        outcome = work(task, weights, device=device)
    except (Exception, SystemExit) as error:  # a model factory may well call sys.exit; that must not end a worker
        return Failure(first_line(error), traceback.format_exc())
    if outcome.row.key != task.key:
        return Failure(f"the work returned the row of another run ({outcome.row.key})")
    return outcome


def first_line(error: BaseException) -> str:
    """Return the first line of an error, with its class unless it is one of ours."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, GraftError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def cores_here() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus_here() -> tuple[str, ...]:
    """Return the GPUs of this machine as ``CUDA_VISIBLE_DEVICES`` names them.

    Raises:
        LabError: there is none.
    """
    count = torch.cuda.device_count()
    if not count:
        raise LabError("there is no GPU here that torch can use: take the device cpu, or install torch with CUDA")
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(named[:count]) if len(named) >= count else tuple(str(index) for index in range(count))


@contextmanager
def environment(settings: dict[str, str]) -> Iterator[None]:
    """Start processes with other settings; those that torch reads must be there while it is imported."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
