"""``python -m benchmarks.axes_sweep.pruning``: torchgraft's axis groups beside Torch-Pruning's dependency graph.

The same freshly built models in one run: the cheapest of every family. Torch-Pruning is no dependency of this project:
``pip install torch-pruning`` where it should run.
"""

from __future__ import annotations

__all__ = ["Side", "main"]

import argparse
import datetime
import importlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.axes_sweep.page import machine
from benchmarks.axes_sweep.store import Key, Size, load
from benchmarks.zoo.models import LIBRARIES, Case, _suppress_in_python, build, cases, silence
from torchgraft.axes import axis_groups, example_inputs
from torchgraft.axes.outputs import outputs_of

_LIMIT = 8  # seconds for each side


@dataclass(frozen=True, slots=True)
class Side:
    """What one tool made of one model: its groups, the seconds it took, and why it failed."""

    groups: int = 0
    seconds: float = 0.0
    failure: str = ""


def main(arguments: Sequence[str]) -> int:
    """Run both tools on every chosen model and write the page.

    Args:
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.axes_sweep.pruning", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="page to write (markdown)")
    parser.add_argument("--store", type=Path, default=Path("build/axes_sweep.jsonl"), help="sizes, from the sweep")
    parser.add_argument("--largest", type=float, default=3e7, metavar="PARAMETERS", help="of the models")
    parser.add_argument("--budget", type=float, default=30, metavar="MINUTES", help="stop after this long")
    chosen = parser.parse_args(arguments)
    try:
        pruning = importlib.import_module("torch_pruning")
    except ImportError:
        parser.error("torch_pruning is not installed: pip install torch-pruning into the environment that runs this")
    silence()
    end = time.monotonic() + 60 * chosen.budget
    made: dict[Key, tuple[Side, Side]] = {}
    for case in _chosen(load(chosen.store)[0], chosen.largest):
        if time.monotonic() > end:
            break
        made[case.library, case.name] = ours, theirs = _both(case, pruning)
        print(f"{case.library}:{case.name} {ours} {theirs}", file=sys.stderr)
    command = shlex.join(["python", "-m", "benchmarks.axes_sweep.pruning", *arguments])
    chosen.output.write_text("\n".join(_page(made, command)) + "\n", encoding="utf-8")
    return 0


def _chosen(sizes: Mapping[Key, Size], largest: float) -> list[Case]:
    """The cheapest of every family, from cheap to expensive."""
    first: dict[tuple[str, str], tuple[float, Case]] = {}
    for case in cases():
        size = sizes.get((case.library, case.name))
        if size is not None and size.parameters <= largest:
            family = size.library, size.family
            first[family] = min(first.get(family, (size.cost, case)), (size.cost, case), key=lambda pair: pair[0])
    return [case for _, case in sorted(first.values(), key=lambda pair: pair[0])]


def _both(case: Case, pruning: Any) -> tuple[Side, Side]:
    _suppress_in_python()
    try:
        model = build(case)
        arguments, options = example_inputs(model, 0)
    except Exception as error:
        failed = Side(failure=f"the model does not run: {_told(error)}")
        return failed, failed
    given = options or list(arguments)
    return _timed(lambda: len(axis_groups(model).free())), _theirs(model, given, pruning)


def _theirs(model: nn.Module, given: Any, pruning: Any) -> Side:
    """Count Torch-Pruning's groups, then let its pruner halve all widths of the model, and run what is left."""
    options = {"output_transform": outputs_of}

    def count() -> int:
        graph = pruning.DependencyGraph().build_dependency(model, given, **options, verbose=False)
        return len(list(graph.get_all_groups()))

    def cut() -> int:
        importance = pruning.importance.MagnitudeImportance(p=2)
        pruning.pruner.MagnitudePruner(model, given, importance, pruning_ratio=0.5, **options).step()
        with torch.no_grad():
            model(**given) if isinstance(given, dict) else model(*given)
        return 1

    found = _timed(count)
    failure = "" if found.failure else _timed(cut).failure
    return Side(found.groups, found.seconds, f"after a cut: {failure}") if failure else found


def _timed(work: Callable[[], int]) -> Side:
    start = time.perf_counter()
    try:
        with _limited():
            groups = work()
    except Exception as error:
        return Side(seconds=time.perf_counter() - start, failure=_told(error))
    return Side(groups, time.perf_counter() - start)


@contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {_LIMIT} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]


def _page(made: Mapping[Key, tuple[Side, Side]], command: str) -> Iterator[str]:
    yield "# Axis groups beside Torch-Pruning's dependency graph"
    yield ""
    yield (
        "The cheapest architecture of every family, freshly built, on the inputs that torchgraft guesses. "
        "Torch-Pruning's groups are those of `get_all_groups()` with its defaults (outputs of convolutions and linear "
        "layers, the last layer's among them); its magnitude pruner, told nothing but the model either, then halves "
        f"all widths, and what is left has to run. A step that takes more than {_LIMIT} s counts as a failure. "
        "torchgraft's groups are the free ones, whose proof stands in [axes.md](axes.md). The two counts are not of "
        "the same things: torchgraft counts heads and the size of a head as two groups, and no "
        "outputs."
    )
    yield ""
    yield (
        f"`{command}`, {datetime.date.today().isoformat()}, torch-pruning {version('torch-pruning')}, one process on "
        f"{machine()}."
    )
    yield ""
    yield "| library | models | tool | groups found | runs after a cut | failures | groups, median | seconds, median |"
    yield "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    for library in LIBRARIES:
        mine = [pair for key, pair in made.items() if key[0] == library]
        for tool, sides in (("torchgraft", [pair[0] for pair in mine]), ("Torch-Pruning", [pair[1] for pair in mine])):
            if sides:
                ran = [one for one in sides if one.groups]
                good = sum(not one.failure for one in sides)
                cells = (
                    library, len(sides), tool, len(ran), "" if tool == "torchgraft" else good, len(sides) - good,
                    median(one.groups for one in ran) if ran else 0, f"{median(one.seconds for one in sides):.2f}",
                )  # fmt: skip
                yield "| " + " | ".join(map(str, cells)) + " |"
    yield ""
    for place, tool in enumerate(("torchgraft", "Torch-Pruning")):
        failed = {key: pair[place].failure for key, pair in made.items() if pair[place].failure}
        yield f"## Failures of {tool}: {len(failed) or 'none'}"
        yield ""
        for key, failure in failed.items():
            yield f"- `{key[0]}:{key[1]}`: {failure}"
        yield ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
