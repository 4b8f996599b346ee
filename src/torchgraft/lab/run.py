"""The driver of a grid: what is missing goes to an engine, what comes back goes to the store."""

from __future__ import annotations

__all__ = ["Summary", "run_experiment", "run_tasks"]

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

from rich.console import Console

from torchgraft.errors import LabError, choose
from torchgraft.lab.engines import ENGINES, Engine, Failure, Finished, Job, Options, Work
from torchgraft.lab.engines.jobs import no_weights
from torchgraft.lab.progress import Progress, describe, progress
from torchgraft.lab.records import Experiment, Outcome, Task
from torchgraft.lab.store import Claim, Store
from torchgraft.lab.tasks import tasks_of
from torchgraft.lab.work import work as lab_work

_POLL = 0.5  # seconds between two looks at what other drivers have done


@dataclass(frozen=True, slots=True)
class Summary:
    """What a call has done: of ``total`` runs, how many were there before, were done now, or were done by others.

    ``left`` were not begun because the budget of time was spent. ``notes`` are the store's, on rows it had to skip.
    """

    total: int
    before: int
    now: int
    others: int
    left: int
    seconds: float
    notes: tuple[str, ...] = ()


def run_experiment(
    experiment: Experiment,
    folder: str | os.PathLike[str],
    *,
    engine: str = "inline",
    options: Options | None = None,
    console: Console | None = None,
    budget: float | None = None,
) -> Summary:
    """Do the runs of an experiment that the store in ``folder`` does not have yet.

    Interrupted in any way, the same call goes on where it stopped; two of them at once share the work.

    Args:
        experiment: the grid that is wanted; its record is kept in the folder for the report.
        folder: the store; made where it is missing.
        engine: ``inline``, ``cores`` or ``ray``.
        options: of the engine.
        console: where to tell the progress; silent without one.
        budget: seconds after which no more runs are begun.

    Raises:
        SpecError: an unknown engine.
        LabError: the store or the engine cannot be used, or runs have failed; all others are then done nevertheless.
    """
    opened = choose(ENGINES, engine, "engine")
    sources, targets = tasks_of(experiment)
    store = Store(folder)
    store.save_experiment(experiment)
    return run_tasks((*sources, *targets), store, opened, lab_work, options=options, console=console, budget=budget)


def run_tasks(
    tasks: Sequence[Task],
    store: Store,
    engine: Engine,
    work: Work,
    *,
    options: Options | None = None,
    console: Console | None = None,
    budget: float | None = None,
) -> Summary:
    """Do the tasks that the store does not have yet: each as soon as its source is there, in the given order otherwise.

    Raises:
        LabError: as :func:`run_experiment`.
    """
    began = time.monotonic()
    grid = _Grid(tasks, store)
    with progress(console or Console(quiet=True), grid.total, grid.before) as told:
        try:
            if grid.pending:
                with engine(work, options or Options()) as pool:
                    while True:
                        late = budget is not None and time.monotonic() - began >= budget
                        while not late and pool.free() and (job := grid.next_job()):
                            pool.submit(job)
                        if pool.running():
                            for finished in pool.wait(1.0):
                                grid.take(finished, told)
                        elif late or not grid.pending:
                            break
                        else:  # the rest is in the hands of other drivers
                            time.sleep(_POLL)
        except KeyboardInterrupt:
            told.say(f"stopped: {grid.now} runs are done; the same command goes on from here")
            raise
        finally:
            grid.let_go()
    summary = Summary(
        grid.total, grid.before, grid.now, grid.others, len(grid.pending), time.monotonic() - began, store.notes
    )
    if grid.failures:
        raise LabError(grid.complaint())
    return summary


@final
class _Grid:
    """The state of a grid: what is still to do, what this driver has claimed, what has failed."""

    def __init__(self, tasks: Sequence[Task], store: Store) -> None:
        unique = {task.key: task for task in tasks}
        self._store = store
        self._claims: dict[str, Claim] = {}
        self._wanted = {task.source_key for task in unique.values() if task.source_key and task.key not in store}
        self.failures: list[tuple[Task, str]] = []
        self.blocked = 0
        self.now = self.others = 0
        self.pending = {key: task for key, task in unique.items() if not self._done(task)}
        self.total = len(unique)
        self.before = self.total - len(self.pending)

    def next_job(self) -> Job | None:
        """Claim and return a run that can begin now, or ``None``."""
        for task in list(self.pending.values()):
            if task.key in self._claims or task.source_key in self.pending:
                continue
            claim = None if self._done(task) else self._store.claim(task.key)
            if self._done(task):  # perhaps between the first look and the claim
                self.others += 1
                del self.pending[task.key]
                if claim:
                    claim.release()
            elif claim:
                self._claims[task.key] = claim
                return Job(task, partial(self._store.weights, task.source_key) if task.source_key else no_weights)
        return None

    def take(self, finished: Finished, told: Progress) -> None:
        """Put what has come back into the store; the claim ends when that is done."""
        task, result = finished.task, finished.result
        if isinstance(result, Outcome) and task.kind == "source" and not result.weights:
            result = Failure("the source was trained, but its weights did not come back")
        if isinstance(result, Outcome):
            self._keep(task, result)
        else:
            self._fail(task, result)
        del self.pending[task.key]
        self._claims.pop(task.key).release()
        told.step(finished, done=self.before + self.now + self.others)

    def let_go(self) -> None:
        """Release what is still claimed, for others and for the next time."""
        while self._claims:
            self._claims.popitem()[1].release()

    def complaint(self) -> str:
        """Say which runs failed and why, equal reasons together."""
        reasons: dict[str, list[Task]] = {}
        for task, line in self.failures:
            reasons.setdefault(line, []).append(task)
        waiting = f", and {self.blocked} wait for a source that failed" if self.blocked else ""
        where = self._store.folder / "failed"
        lines = [
            f"{len(self.failures)} of {self.total} runs failed{waiting}; tracebacks are in {where}, run again to retry"
        ]
        for line, tasks in reasons.items():
            named = ", ".join(describe(task) for task in tasks[:3])
            more = f" and {len(tasks) - 3} more" if len(tasks) > 3 else ""
            lines.append(f"  {named}{more}: {line}")
        return "\n".join(lines)

    def _done(self, task: Task) -> bool:
        """Tell whether there is nothing to do; a source that is still needed must have its weights."""
        if task.key not in self._store:
            return False
        return task.key not in self._wanted or self._store.weights_path(task.key).is_file()

    def _keep(self, task: Task, outcome: Outcome) -> None:
        if outcome.weights:
            self._store.save_weights(task.key, outcome.weights)  # first: a source's row says that its weights are there
        self._store.append(outcome.row)
        self._store.forget_failure(task.key)
        self.now += 1

    def _fail(self, task: Task, failure: Failure) -> None:
        self._store.save_failure(task.key, f"{describe(task)}\n{failure.line}\n\n{failure.trace}")
        self.failures.append((task, failure.line))
        for key in [other.key for other in self.pending.values() if other.source_key == task.key]:
            del self.pending[key]
            self.blocked += 1
