"""The demo: a trained network warm-starts a different one, three ways, on real handwritten digits."""

from __future__ import annotations

__all__ = ["Curve", "DemoResult", "run"]

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.optim import Adam

from torchgraft._api import apply, plan, similarity
from torchgraft.demo.networks import source_network, target_network
from torchgraft.demo.plot import draw
from torchgraft.demo.report import markdown, tell_findings, tell_plan, tell_source
from torchgraft.demo.result import CARRIED, Curve, DemoResult
from torchgraft.demo.training import (
    FINE_RATE,
    RATE,
    Digits,
    load_digits,
    recalibrated_accuracy,
    seeded,
    single_thread,
    train,
)
from torchgraft.errors import CheckpointError, SpecError
from torchgraft.io import atomic_write
from torchgraft.optim import transfer_optimizer
from torchgraft.plan import Plan

_METHODS = ("random", "dpiat", "graft")
# Every start, and the method that makes it: the last one moves what Adam knows of the source's weights as well.
_STARTS = {**{method: method for method in _METHODS}, CARRIED: "graft"}
_SOURCE_EPOCHS = 12
_FILES = ("demo.png", "report.md", "results.json", "plan.txt", "plan.json")
Step = Callable[[str], object]
# Accuracies by seed and epoch, and the recalibrated ones before training, by seed.
Measured = tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]


def run(
    output: str | os.PathLike[str],
    *,
    seeds: int = 5,
    epochs: int = 3,
    seed: int = 0,
    console: Console | None = None,
    limit: int | None = None,
) -> DemoResult:
    """Train a network on digits, warm-start a different one by ``random``, ``dpiat`` and ``graft``, and compare.

    ``graft`` comes twice: with a new optimizer, as the others have, and with the moments of the source's.

    Args:
        output: folder for the plot, the report, the plan and the numbers; made where it is missing.
        seeds: how often every fine-tuning is repeated, each time from another initialization.
        epochs: length of a fine-tuning.
        seed: seed of the split, of the source and of the first repetition; equal seeds give equal accuracies.
        console: where to tell the story; silent without one.
        limit: use only so many of the 1,797 images.

    Raises:
        SpecError: a number below its least value, or scikit-learn or matplotlib is not installed.
        CheckpointError: the folder cannot be written.
    """
    _check(seeds=(seeds, 1), epochs=(epochs, 1), seed=(seed, 0), limit=(limit, 100))
    started = time.perf_counter()
    folder = _folder(output)
    digits = load_digits(seed, limit)
    told = console or Console(quiet=True)
    with single_thread():
        source, adam, accuracy = _trained_source(digits, seed, told)
        blank = seeded(target_network, seed)
        plans = {method: plan(source, blank, method=method) for method in _METHODS[1:]}
        alike = {method: similarity(source, blank, method=method) for method in _METHODS[1:]}
        milliseconds = _time_transfer(source, blank)
        tell_plan(told, plans["graft"], alike["graft"], milliseconds)
        with _progress(told, len(_STARTS) * seeds * epochs) as step:
            found = _fine_tune(_Trained(source, adam, plans), digits, range(seed, seed + seeds), epochs, step)
    result = DemoResult(
        seed,
        seeds,
        epochs,
        accuracy,
        _count(source),
        _count(blank),
        tuple(_curve(start, plans.get(method), alike.get(method, 0.0), found) for start, method in _STARTS.items()),
        milliseconds,
        time.perf_counter() - started,
        _FILES,
    )
    _write(folder, result, plans["graft"])
    tell_findings(told, result, str(output))
    return result


def _check(**numbers: tuple[int | None, int]) -> None:
    for name, (value, least) in numbers.items():
        if value is not None and value < least:
            raise SpecError(f"{name} is {value}: give at least {least}")
    for module, package in (("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")):
        if find_spec(module) is None:  # said before the work, not after a minute of it
            raise SpecError(f"the demo needs {package}, which is not installed: pip install torchgraft[demo]")


def _folder(output: str | os.PathLike[str]) -> Path:
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be made: {error.strerror or error}; give another folder") from None
    if not os.access(folder, os.W_OK):
        raise CheckpointError(f"{folder} cannot be written: give another folder")
    return folder


def _trained_source(digits: Digits, seed: int, console: Console) -> tuple[nn.Module, Adam, float]:
    """Train the small network; return it with its optimizer and its test accuracy in percent."""
    source = seeded(source_network, seed)
    adam = Adam(source.parameters(), lr=RATE)
    with _progress(console, _SOURCE_EPOCHS) as step:
        accuracy = train(source, digits, _SOURCE_EPOCHS, RATE, seed, lambda: step("training the source"), adam)[-1]
    tell_source(console, accuracy, _count(source))
    return source, adam, accuracy


def _curve(start: str, planned: Plan | None, alike: float, found: Mapping[str, Measured]) -> Curve:
    return Curve(start, alike, planned.coverage if planned else 0.0, *found[start])


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _time_transfer(source: nn.Module, target: nn.Module) -> float:
    """Time one transfer, in milliseconds; the target is overwritten."""
    before = time.perf_counter()
    apply(plan(source, target), source, target)
    return 1000 * (time.perf_counter() - before)


@dataclass(frozen=True, slots=True)
class _Trained:
    """The source, its optimizer, and the plans by method."""

    network: nn.Module
    adam: Adam
    plans: Mapping[str, Plan]

    def start(self, name: str, seed: int) -> tuple[nn.Module, Adam]:
        """Build the target, the same for every start under one seed, and an optimizer; warm-start both as named."""
        target = seeded(target_network, seed + 1000)  # another seed than the source's, which would share its draws
        adam = Adam(target.parameters(), lr=FINE_RATE)
        plan = self.plans.get(_STARTS[name])
        if plan is not None:
            apply(plan, self.network, target, seed=seed)
        if plan is not None and name == CARRIED:
            transfer_optimizer(plan, self.adam, adam, source=self.network, target=target)
        return target, adam


def _fine_tune(trained: _Trained, digits: Digits, seeds: Sequence[int], epochs: int, step: Step) -> dict[str, Measured]:
    """Return what was measured, by start.

    Runs go side by side, one thread each. Networks are built before, in one thread, so that no draw depends on timing.
    """

    def work(target: nn.Module, adam: Adam, seed: int) -> tuple[tuple[float, ...], float]:
        measured = recalibrated_accuracy(target, digits)
        told = partial(step, "fine-tuning the target")
        return tuple(train(target, digits, epochs, FINE_RATE, seed, told, adam)), measured

    jobs = [(name, (*trained.start(name, seed), seed)) for seed in seeds for name in _STARTS]
    pool = ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1))
    try:
        futures = [(name, pool.submit(work, *job)) for name, job in jobs]
        outcomes = [(name, future.result()) for name, future in futures]
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt or an error does not wait for what has not begun
    found = {name: [outcome for one, outcome in outcomes if one == name] for name in _STARTS}
    return {name: (tuple(a for a, _ in rows), tuple(b for _, b in rows)) for name, rows in found.items()}


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Step]:
    """Show a bar with the time left, on a terminal; the yielded function moves it by one."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("starting", total=total)
    with nullcontext() if bar.disable else bar:  # before rich 15 a disabled bar still prints an empty line
        yield lambda what: bar.update(task, advance=1, description=what)


def _write(folder: Path, result: DemoResult, planned: Plan) -> None:
    contents: dict[str, str | bytes] = {
        "demo.png": draw(result),
        "report.md": markdown(result, planned),
        "results.json": json.dumps(result.to_dict(), indent=1) + "\n",
        "plan.txt": f"{planned}\n",
        "plan.json": planned.to_json() + "\n",
    }
    for name in result.files:
        atomic_write(folder / name, contents[name])
