"""Runs in processes of this machine, one run per process at a time, each in a process of its own.

Not a pool of ``concurrent.futures``: when one of its processes is killed it ends all the others too, and hours of runs
with them. Here every process has its own pipe, so that a death costs one run, and an interrupt can end them all.
"""

from __future__ import annotations

__all__ = ["cores"]

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import final

import torch

from torchgraft.errors import LabError
from torchgraft.lab.engines.jobs import (
    Failure,
    Finished,
    Job,
    Options,
    Pool,
    Work,
    attempt,
    cores_here,
    environment,
    gpus_here,
)
from torchgraft.lab.records import Outcome

_log = logging.getLogger(__name__)
_READY = "ready"


@contextmanager
def cores(work: Work, options: Options) -> Iterator[Pool]:
    """Open a pool of worker processes on this machine.

    A worker that is killed (by hand, or for its memory) is replaced, and its run begun again; the others go on
    unharmed. All workers end with the driver, even when that is killed.

    Raises:
        LabError: the workers cannot start.
    """
    gpus = gpus_here() if options.device == "cuda" else ()
    threads = options.threads or 1
    count = options.workers or (len(gpus) * options.per_gpu if gpus else max(1, cores_here() // threads))
    slots = [_Slot(work, options.device, threads, gpus[i % len(gpus)] if gpus else "") for i in range(count)]
    try:
        for slot in slots:
            slot.start()
        yield _Cores(slots, options.attempts)
    finally:
        for slot in slots:
            slot.kill()


@final
class _Cores:
    """One slot per worker; a death is noticed by the end of the worker's pipe."""

    def __init__(self, slots: list[_Slot], attempts: int) -> None:
        self._slots = slots
        self._attempts = attempts
        self._stillborn = 0  # workers in a row that died before they were ready

    def free(self) -> int:
        return sum(slot.job is None for slot in self._slots)

    def running(self) -> int:
        return len(self._slots) - self.free()

    def submit(self, job: Job) -> None:
        next(slot for slot in self._slots if slot.job is None).take(job)

    def wait(self, seconds: float) -> list[Finished]:
        pipes = {slot.pipe: slot for slot in self._slots}
        told = wait(list(pipes), timeout=seconds)
        finished = [self._hear(slot) for pipe, slot in pipes.items() if pipe in told]
        # A process that has itself forked another may be dead while its end of the pipe lives on.
        finished += [self._bury(slot) for pipe, slot in pipes.items() if pipe not in told and slot.is_lost()]
        return [each for each in finished if each]

    def _hear(self, slot: _Slot) -> Finished | None:
        try:
            message = slot.pipe.recv()
        except (EOFError, OSError):
            return self._bury(slot)
        if message == _READY:
            self._stillborn = 0
            slot.begin()
            return None
        return slot.finish(message)

    def _bury(self, slot: _Slot) -> Finished | None:
        """Replace a worker that has died, and begin its run again unless that has been done often enough."""
        was_ready, end = slot.ready, slot.death()
        if not was_ready:
            self._stillborn += 1
            if self._stillborn >= self._attempts:
                raise LabError(f"worker processes cannot start here (the last one {end}): see its message above")
        again = slot.job is not None and was_ready and slot.attempts < self._attempts
        _log.warning("a worker %s%s", end, "; its run is begun again" if again else "")
        slot.start()
        if slot.job is None or again or not was_ready:
            return None
        return slot.finish(Failure(f"its worker died {slot.attempts} times (the last one {end})"))


@final
class _Slot:
    """The place of one worker: the process that is there now, our end of its pipe, and the job it has."""

    pipe: Connection

    def __init__(self, work: Work, device: str, threads: int, gpu: str) -> None:
        self._arguments = (work, device, threads)
        self._settings = {"OMP_NUM_THREADS": str(threads), **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})}
        self._process: BaseProcess | None = None
        self.ready = False
        self.job: Job | None = None
        self.attempts = 0

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a forked process can use neither CUDA nor torch's threads
        self.pipe, theirs = context.Pipe()
        self.ready = False
        self._process = context.Process(target=_serve, args=(theirs, *self._arguments), name="torchgraft lab")
        with _without_main(), _without_interrupt(), environment(self._settings):
            try:
                self._process.start()
            except OSError as error:
                raise LabError(f"a worker process cannot be started: {error.strerror or error}") from None
        theirs.close()  # or the pipe would not end with the process

    def take(self, job: Job) -> None:
        self.job, self.attempts = job, 0
        if self.ready:
            self.begin()

    def begin(self) -> None:
        """Send the job, if there is one, to a worker that is ready."""
        self.ready = True
        if self.job is None:
            return
        self.attempts += 1
        content = (self.job.task, self.job.weights())
        with suppress(OSError):  # a worker that has just died is noticed at the next look
            self.pipe.send(content)

    def finish(self, result: Outcome | Failure) -> Finished:
        assert self.job is not None
        finished = Finished(self.job.task, result, self.attempts)
        self.job = None
        return finished

    def is_lost(self) -> bool:
        return self._process is not None and not self._process.is_alive() and not self.pipe.poll()

    def death(self) -> str:
        """Clear away a process that is ending, and say how it ended."""
        assert self._process is not None
        self._process.join(5)
        self.kill()
        code = self._process.exitcode or 0
        if code < 0:
            names = {member.value: member.name for member in signal.Signals}
            return f"was killed by {names.get(-code, f'signal {-code}')}"
        return f"ended with exit code {code}"

    def kill(self) -> None:
        if self._process is not None and self._process.pid is not None:
            self._process.kill()
            self._process.join()
            self.pipe.close()


def _serve(pipe: Connection, work: Work, device: str, threads: int) -> None:
    """Do one job after another, in the worker process, until the driver closes the pipe or ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(OSError):  # what a user's own network prints is no result of the command, and must not mix with one
        os.dup2(2, 1)
    torch.set_num_threads(threads)
    pipe.send(_READY)
    while True:
        try:
            task, weights = pipe.recv()
        except EOFError:
            return
        result = attempt(work, task, weights, device)
        try:
            pipe.send(result)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            pipe.send(Failure(f"the outcome cannot be sent to the driver: {error}"))


def _end_with_parent() -> None:
    """End this process as soon as the driver has: nobody would take its result, and a new driver needs the core."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep a new process from running the driver's script again.

    ``multiprocessing`` would import ``__main__`` anew: a script without ``if __name__ == "__main__"`` would start a
    second experiment, and a notebook or a script from standard input has no file to import. Work is never in there.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _without_interrupt() -> Iterator[None]:
    """Start processes that Ctrl-C in the terminal does not reach: the driver hears it, and ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new process starts with its parent's mask
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
