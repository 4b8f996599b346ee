"""Runs in this process, one after another."""

from __future__ import annotations

__all__ = ["inline"]

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from torchgraft.lab.engines.jobs import Finished, Job, Options, Pool, Work, attempt, gpus_here
from torchgraft.lab.setting import threads


@contextmanager
def inline(work: Work, options: Options) -> Iterator[Pool]:
    """Open a pool of one worker: this process; nothing is imported anew and a debugger sees everything."""
    if options.device == "cuda":
        gpus_here()
    with threads(options.threads or None):
        yield _Inline(work, options.device)


@final
class _Inline:
    """Does its one job when it is waited for."""

    def __init__(self, work: Work, device: str) -> None:
        self._work = work
        self._device = device
        self._job: Job | None = None

    def free(self) -> int:
        return int(self._job is None)

    def running(self) -> int:
        return int(self._job is not None)

    def submit(self, job: Job) -> None:
        self._job = job

    def wait(self, seconds: float) -> list[Finished]:
        if self._job is None:
            return []
        job, self._job = self._job, None
        return [Finished(job.task, attempt(self._work, job.task, job.weights(), self._device))]
