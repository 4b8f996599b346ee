"""How a grid tells how far it is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

__all__ = ["Progress", "describe", "progress"]

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, final

import rich.progress as bars
from rich.console import Console
from rich.text import Text

from torchgraft.lab.engines.jobs import Failure, Finished
from torchgraft.lab.records import Task

_EVERY = 30.0  # seconds between two lines where there is no terminal


class Progress(Protocol):
    """Told of every run that has finished."""

    def step(self, finished: Finished, done: int) -> None:
        """Take note of a finished run; ``done`` runs of all are now there."""

    def say(self, text: str) -> None:
        """Print a line."""


def describe(task: Task) -> str:
    """Name a run for people: ``graft b0→mixnet_m seed 1``."""
    if task.kind == "source":
        return f"source {task.network} seed {task.seed}"
    pair = f"{task.source.name}→{task.network}" if task.source else task.network
    return f"{task.initialization} {pair} seed {task.seed}"


@contextmanager
def progress(console: Console, total: int, before: int) -> Iterator[Progress]:
    """Show the progress of ``total`` runs, of which ``before`` are there already, until the context ends."""
    if not console.is_terminal:
        yield _Lines(console, total, before)
        return
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        _Left(),
    )
    with bars.Progress(*columns, console=console, transient=True) as bar:
        yield _Bar(bar, bar.add_task("runs", total=total, completed=before), _Pace(total, before))


@final
class _Pace:
    """How long the rest will take, from how long this call's runs took.

    Not rich's own estimate: it leaves out the time up to the first run's end, which is most of it in a small grid.
    """

    def __init__(self, total: int, before: int) -> None:
        self._total = total
        self._before = before
        self._began = time.monotonic()

    def left(self, done: int, finished: Finished) -> float:
        """Return the seconds that are left when ``done`` of all runs are there, the newest of them being this.

        The start of the workers, before the first run, is not counted: it does not come again.
        """
        if done - self._before <= 1 and not isinstance(finished.result, Failure):
            self._began = max(self._began, time.monotonic() - finished.result.row.seconds)
        each = (time.monotonic() - self._began) / max(1, done - self._before)
        return each * (self._total - done)


@final
class _Left(bars.ProgressColumn):
    """Counts down from the last estimate."""

    def render(self, task: bars.Task) -> Text:
        until = task.fields.get("until")
        return Text(f"about {_duration(max(0.0, until - time.monotonic()))} left" if until else "")


@final
class _Bar:
    def __init__(self, bar: bars.Progress, task: bars.TaskID, pace: _Pace) -> None:
        self._bar = bar
        self._task = task
        self._pace = pace

    def step(self, finished: Finished, done: int) -> None:
        if isinstance(finished.result, Failure):
            self.say(_result(finished))
        until = time.monotonic() + self._pace.left(done, finished)
        self._bar.update(self._task, completed=done, description=describe(finished.task), until=until)

    def say(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)


@final
class _Lines:
    """The first run, every failure, the last run, and otherwise a line every half a minute."""

    def __init__(self, console: Console, total: int, before: int) -> None:
        self._console = console
        self._total = total
        self._pace = _Pace(total, before)
        self._last = -_EVERY

    def step(self, finished: Finished, done: int) -> None:
        now = time.monotonic()
        if now - self._last < _EVERY and done < self._total and not isinstance(finished.result, Failure):
            return
        self._last = now
        left = f", about {_duration(self._pace.left(done, finished))} left" if done < self._total else ""
        self.say(f"{done}/{self._total}{left}: {_result(finished)}")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _result(finished: Finished) -> str:
    again = f" (begun {finished.attempts} times)" if finished.attempts > 1 else ""
    name = describe(finished.task) + again
    if isinstance(finished.result, Failure):
        return f"{name} FAILED: {finished.result.line}"
    row = finished.result.row
    note = f", {row.exploded}" if row.exploded else ""
    return f"{name}: {row.accuracy:.2f} % in {_duration(row.seconds)}{note}"


def _duration(seconds: float) -> str:
    """Say a time in its two largest units.

    >>> _duration(42.4), _duration(200), _duration(7320)
    ('42 s', '3 min 20 s', '2 h 2 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
