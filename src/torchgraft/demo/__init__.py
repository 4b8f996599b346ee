"""The demo: a trained network warm-starts a different one, three ways, on real handwritten digits."""

from __future__ import annotations

__all__ = ["Curve", "DemoResult", "run"]

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from torchgraft._api import apply, plan, similarity
from torchgraft.demo.networks import source_network, target_network
from torchgraft.demo.plot import draw
from torchgraft.demo.report import markdown, tell_findings, tell_plan, tell_source
from torchgraft.demo.result import Curve, DemoResult
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
from torchgraft.plan import Plan

_METHODS = ("random", "dpiat", "graft")
_SOURCE_EPOCHS = 12
_FILES = ("demo.png", "report.md", "results.json", "plan.txt", "plan.json")
Step = Callable[[str], object]


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
        source, accuracy = _trained_source(digits, seed, told)
        blank = seeded(target_network, seed)
        plans = {method: plan(source, blank, method=method) for method in _METHODS[1:]}
        alike = {method: similarity(source, blank, method=method) for method in _METHODS[1:]}
        milliseconds = _time_transfer(source, blank)
        tell_plan(told, plans["graft"], alike["graft"], milliseconds)
        with _progress(told, len(_METHODS) * seeds * epochs) as step:
            found = _fine_tune(source, plans, digits, range(seed, seed + seeds), epochs, step)
    covered = {method: planned.coverage for method, planned in plans.items()}
    result = DemoResult(
        seed,
        seeds,
        epochs,
        accuracy,
        _count(source),
        _count(blank),
        tuple(Curve(method, alike.get(method, 0.0), covered.get(method, 0.0), *found[method]) for method in _METHODS),
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


def _trained_source(digits: Digits, seed: int, console: Console) -> tuple[nn.Module, float]:
    """Train the small network; return it with its test accuracy in percent."""
    source = seeded(source_network, seed)
    with _progress(console, _SOURCE_EPOCHS) as step:
        accuracy = train(source, digits, _SOURCE_EPOCHS, RATE, seed, lambda: step("training the source"))[-1]
    tell_source(console, accuracy, _count(source))
    return source, accuracy


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _time_transfer(source: nn.Module, target: nn.Module) -> float:
    """Time one transfer, in milliseconds; the target is overwritten."""
    before = time.perf_counter()
    apply(plan(source, target), source, target)
    return 1000 * (time.perf_counter() - before)


def _fine_tune(
    source: nn.Module, plans: dict[str, Plan], digits: Digits, seeds: Sequence[int], epochs: int, step: Step
) -> dict[str, tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]]:
    """Return, by method, the accuracies by seed and epoch and the recalibrated ones before training.

    Runs go side by side, one thread each. Networks are built before, in one thread, so that no draw depends on timing.
    """

    def work(method: str, target: nn.Module, seed: int) -> tuple[tuple[float, ...], float]:
        measured = recalibrated_accuracy(target, digits)
        return tuple(train(target, digits, epochs, FINE_RATE, seed, lambda: step("fine-tuning the target"))), measured

    jobs = [(method, _start(source, plans, method, seed), seed) for seed in seeds for method in _METHODS]
    pool = ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1))
    try:
        futures = [(job[0], pool.submit(work, *job)) for job in jobs]
        outcomes = [(method, *future.result()) for method, future in futures]
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt or an error does not wait for what has not begun
    return {
        method: (tuple(o[1] for o in outcomes if o[0] == method), tuple(o[2] for o in outcomes if o[0] == method))
        for method in _METHODS
    }


def _start(source: nn.Module, plans: dict[str, Plan], method: str, seed: int) -> nn.Module:
    """Build the target, the same for every method under one seed, and warm-start it where there is a plan."""
    target = seeded(target_network, seed + 1000)  # another seed than the source's, which would share its draws
    if method in plans:
        apply(plans[method], source, target, seed=seed)
    return target


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
