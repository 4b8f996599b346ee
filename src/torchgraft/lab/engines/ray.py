"""Runs on a Ray cluster, or on a Ray of this machine alone.

A worker needs torchgraft and the experiment's data, under the same path; it needs no folder shared with the driver, for
the weights of sources travel to it. Modules of one's own (``python:MODULE:FACTORY``) reach a cluster by
``ray job submit --working-dir . -- torchgraft lab run ...``.
"""

from __future__ import annotations

__all__ = ["SETTINGS", "ray"]

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, final

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
    first_line,
    gpus_here,
)
from torchgraft.lab.packages import optional
from torchgraft.lab.records import Outcome, Task

SETTINGS = {  # for Ray while it starts, unless the environment has others
    "RAY_USAGE_STATS_ENABLED": "0",  # tell nobody
    # What later versions do, and this one warns of: leave the visible GPUs alone where a run asks for none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_PATIENCE = 10.0  # seconds for a cluster to answer at all
_log = logging.getLogger(__name__)


@contextmanager
def ray(work: Work, options: Options) -> Iterator[Pool]:
    """Open a pool on the Ray that this process is connected to, that an address names, or that is started for it.

    A run whose worker or node is lost is begun again, on whatever is left. As many runs are begun at once as the
    cluster has cores (or GPUs) for, also when it grows or shrinks meanwhile.

    Raises:
        LabError: Ray is not installed, cannot be reached, or has no room for a single run.
    """
    api = optional("ray", "the engine ray", "Ray", "ray")
    ours = not api.is_initialized()
    if ours:
        _connect(api, options)
    pool = _Ray(api, work, options)
    try:
        if not pool.capacity():
            what = "GPU" if options.device == "cuda" else "core"
            raise LabError(f"this Ray has no {what} now: give the number of workers if it grows on demand")
        yield pool
    finally:
        if ours:
            api.shutdown()  # ends our runs, and Ray itself where it was started for them
        else:
            pool.cancel()


def _connect(api: Any, options: Options) -> None:
    """Connect to the Ray that is asked for, or start one here."""
    address = options.address or os.environ.get("RAY_ADDRESS", "")
    _check_listening(address)
    where: dict[str, Any] = {"address": address}
    if not address or address == "local":
        gpus = len(gpus_here()) if options.device == "cuda" else 0
        threads = options.threads or 1
        cores = (options.workers or max(1, cores_here() // threads)) * threads
        where = {"address": "local", "num_cpus": cores, "num_gpus": gpus, "include_dashboard": False}
    try:
        with environment({name: os.environ.get(name, value) for name, value in SETTINGS.items()}):
            api.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, OSError, TimeoutError) as error:
        name = f"the Ray at {address}" if address else "Ray on this machine"
        raise LabError(f"{name} cannot be reached or started: {first_line(error)}") from None


def _check_listening(address: str) -> None:
    """Refuse at once an address at which nothing listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise LabError(f"no Ray can be reached at {address} ({error}): check the address, or start it there") from None


@final
class _Ray:
    """One task of Ray per job.

    Ray could repeat lost tasks by itself, but would do so without end where a run needs more memory than there is.
    """

    def __init__(self, api: Any, work: Work, options: Options) -> None:
        self._api = api
        self._work = work
        self._options = options
        self._threads = options.threads or 1
        share = 1 / options.per_gpu if options.device == "cuda" else 0
        self._remote = api.remote(_attempt).options(num_cpus=self._threads, num_gpus=share, max_retries=0)
        self._jobs: dict[Any, tuple[Job, int]] = {}
        self._weights: dict[str, Any] = {}

    def capacity(self) -> int:
        """Return how many runs the cluster has room for when it does nothing else."""
        if self._options.workers:
            return self._options.workers
        there = self._api.cluster_resources()
        runs = int(there.get("CPU", 0) // self._threads)
        return min(runs, int(there.get("GPU", 0) * self._options.per_gpu)) if self._options.device == "cuda" else runs

    def free(self) -> int:
        return max(0, self.capacity() - len(self._jobs))

    def running(self) -> int:
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        self._begin(job, 1)

    def wait(self, seconds: float) -> list[Finished]:
        if not self._jobs:
            return []
        references = list(self._jobs)
        ready, _ = self._api.wait(references, num_returns=1, timeout=seconds)
        if ready:
            ready, _ = self._api.wait(references, num_returns=len(references), timeout=0)
        return [finished for reference in ready if (finished := self._fetch(reference))]

    def cancel(self) -> None:
        """End what is still running on a Ray that goes on without us."""
        for reference in self._jobs:
            with suppress(self._api.exceptions.RayError):  # it may be over, or the cluster gone
                self._api.cancel(reference, force=True)

    def _begin(self, job: Job, attempts: int) -> None:
        reference = self._remote.remote(self._work, job.task, self._put(job), self._options.device, self._threads)
        self._jobs[reference] = (job, attempts)

    def _put(self, job: Job) -> Any:
        """Return the weights of the job's source, which go to the cluster once and to each node at most once."""
        key = job.task.source_key
        if not key:
            return job.weights()
        if key not in self._weights:
            self._weights[key] = self._api.put(job.weights())
        return self._weights[key]

    def _fetch(self, reference: Any) -> Finished | None:
        """Return the result of a run, or begin it again where its worker was lost."""
        job, attempts = self._jobs.pop(reference)
        errors = self._api.exceptions
        try:
            return Finished(job.task, self._api.get(reference), attempts)
        except errors.RayTaskError as error:  # not the run's own error, which comes back as a Failure
            return Finished(job.task, Failure(first_line(error.cause or error), str(error)), attempts)
        except errors.RayError as error:
            if attempts >= self._options.attempts:
                line = f"its worker was lost {attempts} times (the last time: {first_line(error)})"
                return Finished(job.task, Failure(line, str(error)), attempts)
            _log.warning("a worker was lost; its run is begun again (%s)", first_line(error))
            self._begin(job, attempts + 1)
            return None


def _attempt(work: Work, task: Task, weights: bytes, device: str, threads: int) -> Outcome | Failure:
    """Do one run in a worker of Ray."""
    torch.set_num_threads(threads)
    return attempt(work, task, weights, device)
