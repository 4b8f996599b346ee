"""The results page: counts, and every exception with its reason."""

from __future__ import annotations

__all__ = ["render"]

import os
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from statistics import median

from benchmarks.zoo.models import LIBRARIES, SOURCES
from benchmarks.zoo.sweep import Survey, Trial

_INTRODUCTION = """\
# The zoo sweep

Every architecture of timm and torchvision, and small random-weight configurations of transformers, each built fresh.

As shapes (on the meta device where the model can be built there):

1. both standardizers run; every tensor stands in exactly one layer;
2. planned from itself, every tensor is `copied` from its own key and the coverage is exactly 1;
3. planned from `resnet50` and from `vit_tiny_patch16_224`, every key of the state dict has exactly one status and the
   element totals are those of the state dict, tied tensors counted once.

With real weights (the two cheapest models of every family of timm and torchvision, all of transformers):

4. a model with changed weights, statistics and counters, transferred into a freshly built copy: bitwise equal state
   dicts, buffers included;
5. a transfer from `resnet50` or `vit_tiny_patch16_224` (whichever covers more), then a forward pass: finite outputs;
6. the same transfer into the model on the meta device: nothing left on meta, nothing unset, computed buffers equal to
   those of a model built in memory, finite outputs; or one clear error and the target untouched.
"""


def render(surveys: Sequence[Survey], trials: Sequence[Trial], command: str, minutes: float) -> str:
    """Return the page as markdown.

    Args:
        surveys: one for each architecture.
        trials: one for each architecture that was tried with real weights.
        command: what was run.
        minutes: how long it took.
    """
    lines = [
        _INTRODUCTION,
        f"`{command}`: {minutes:.0f} minutes on {os.cpu_count()} cores ({_processor()}), {_versions()}.",
        "",
        *_survey_table(surveys),
        "",
        *_trial_table(trials),
        "",
        *_exceptions(surveys, trials),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _processor() -> str:
    return platform.processor() or platform.machine()


def _versions() -> str:
    packages = ("torch", "torchvision", "timm", "transformers", "numpy")
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])


def _survey_table(surveys: Sequence[Survey]) -> Iterator[str]:
    columns = "".join(f" median coverage from {source} |" for source in SOURCES)
    yield f"| shapes | architectures | tensors | without a fault | built on the CPU |{columns}"
    yield "| --- |" + " ---: |" * (4 + len(SOURCES))
    for library in LIBRARIES:
        mine = [one for one in surveys if one.case.library == library]
        if mine:
            good, built = sum(not one.faults for one in mine), sum(bool(one.not_on_meta) for one in mine)
            shares = [median(one.coverage[i] if one.coverage else 0.0 for one in mine) for i in range(len(SOURCES))]
            cells = [library, len(mine), sum(one.tensors for one in mine), good, built, *(f"{s:.0%}" for s in shares)]
            yield _row(cells)


def _trial_table(trials: Sequence[Trial]) -> Iterator[str]:
    yield "| real weights | architectures | identical to itself | finite forward passes | filled on meta | refused |"
    yield "| --- |" + " ---: |" * 5
    for library in LIBRARIES:
        mine = [one for one in trials if one.case.library == library]
        if mine:
            broken = [{fault.partition(":")[0] for fault in one.faults} for one in mine]
            crashed = sum("crash" in faults for faults in broken)
            same = sum("identity" not in faults for faults in broken) - crashed
            ran = sum(not (faults & {"forward", "transfer", "crash"}) and not one.skipped
                      for one, faults in zip(mine, broken, strict=True))  # fmt: skip
            refused = sum(bool(one.refused) for one in mine)
            filled = sum("meta" not in faults for faults in broken) - refused - crashed
            yield _row([library, len(mine), same, ran, filled, refused])


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells) + " |"


def _exceptions(surveys: Sequence[Survey], trials: Sequence[Trial]) -> Iterator[str]:
    both: list[Survey | Trial] = [*surveys, *trials]
    yield from _listing("Faults", [
        (f"{one.case.library}:{one.case.name}", "; ".join(dict.fromkeys(one.faults))) for one in both if one.faults
    ])  # fmt: skip
    yield from _listing("Built on the CPU, because the constructor fails on the meta device", [
        (f"{one.case.library}:{one.case.name}", one.not_on_meta) for one in surveys if one.not_on_meta
    ])  # fmt: skip
    yield from _listing("No forward pass", [
        (f"{one.case.library}:{one.case.name}", one.skipped) for one in trials if one.skipped
    ])  # fmt: skip
    yield from _listing("Refused on the meta device", [
        (f"{one.case.library}:{one.case.name}", one.refused) for one in trials if one.refused
    ])  # fmt: skip


def _listing(title: str, found: Sequence[tuple[str, str]]) -> Iterator[str]:
    """One line for each reason, with all the architectures that it holds for."""
    yield f"## {title}: {len(found) or 'none'}"
    yield ""
    for reason, _ in Counter(reason for _, reason in found).most_common():
        names = ", ".join(f"`{name}`" for name, other in found if other == reason)
        yield f"- {reason}: {names}"
    if found:
        yield ""
