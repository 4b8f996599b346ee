"""The sweep itself: every architecture is surveyed as shapes, a choice of them is tried with real weights."""

from __future__ import annotations

__all__ = ["Survey", "Trial", "choose_trials", "survey", "sweep", "trial"]

import gc
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import TypeVar

from torch import nn

from benchmarks.zoo import laws
from benchmarks.zoo.models import SOURCES, Case, build, cases, family, silence, train_like
from torchgraft.network import read_module
from torchgraft.records import Network

# Trials take the cheapest model of each family and the second one where it is small: elements at most.
_FIRST, _SECOND = 100_000_000, 40_000_000

_Outcome = TypeVar("_Outcome")


@dataclass(frozen=True, slots=True)
class Survey:
    """What one architecture showed as shapes: its faults, and how much of it each source covers."""

    case: Case
    family: str
    faults: tuple[str, ...]
    tensors: int = 0
    elements: int = 0
    coverage: tuple[float, ...] = ()
    not_on_meta: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one architecture showed with real weights; ``skipped`` and ``refused`` say why something was not done."""

    case: Case
    source: str
    faults: tuple[str, ...]
    coverage: float = 0.0
    skipped: str = ""
    refused: str = ""


@cache
def _source(name: str) -> nn.Module:
    """A source as training would leave it, built once in each process."""
    return train_like(build(Case("timm", name)), seed=1)


@cache
def _source_network(name: str) -> Network:
    return read_module(_source(name))


def survey(case: Case) -> Survey:
    """Check the laws that need names and shapes alone; a crash is a fault like any other."""
    not_on_meta = ""
    try:
        try:
            model = build(case, meta=True)
        except Exception as error:
            not_on_meta = _told(error)
            model = build(case)
        network = read_module(model)
        faults = [*laws.standardizers(model, network), *laws.self_plan(model, network)]
        coverage = []
        for name in SOURCES:
            found, covered = laws.cross_plan(model, network, _source_network(name))
            faults += found
            coverage.append(covered)
        elements = sum(spec.size for key, spec in network.tensors.items() if key not in network.tied)
        size = len(network.tensors), elements
        return Survey(case, family(case), tuple(faults), *size, tuple(coverage), not_on_meta)
    except Exception as error:
        return Survey(case, family(case), (f"crash: {_told(error)}",), not_on_meta=not_on_meta)
    finally:
        gc.collect()


def trial(case: Case, source: str, on_meta: bool) -> Trial:
    """Transfer real weights: into a fresh copy of itself, from another network, and into a model on the meta device."""
    try:
        faults = laws.identity(case, seed=3)
        ran = laws.forward(case, _source(source))
        refused = laws.Materialized((), "the constructor fails there")
        meta = laws.materialized(case, _source(source)) if on_meta else refused
        faults = [*faults, *ran.faults, *meta.faults]
        return Trial(case, source, tuple(faults), ran.coverage, ran.skipped, meta.refused)
    except Exception as error:
        return Trial(case, source, (f"crash: {_told(error)}",))
    finally:
        gc.collect()


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def choose_trials(surveys: Iterable[Survey]) -> list[tuple[Case, str, bool]]:
    """Choose the cheapest architectures of every family, each with the source that covers more of it.

    The third entry says whether the model can be built on the meta device.

    Args:
        surveys: what the survey found; families whose cheapest member is too large have no trial.
    """
    families: defaultdict[tuple[str, str], list[Survey]] = defaultdict(list)
    for one in surveys:
        if one.coverage and one.elements <= _FIRST:
            families[one.case.library, one.family].append(one)
    chosen = []
    for members in families.values():
        first, *others = sorted(members, key=lambda member: (member.elements, member.case.name))
        for one in (first, *(other for other in others[:1] if other.elements <= _SECOND)):
            chosen.append((one.case, max(zip(one.coverage, SOURCES, strict=True))[1], not one.not_on_meta))
    return chosen


def sweep(only: str, workers: int) -> tuple[list[Survey], list[Trial]]:
    """Survey all architectures whose ``library:name`` matches ``only``, then try the chosen ones.

    Args:
        only: a regular expression; empty for all.
        workers: number of processes.
    """
    wanted = [case for case in cases() if re.search(only, f"{case.library}:{case.name}")]
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=silence) as pool:
        surveys = list(_finished(pool, "survey", survey, [(case,) for case in wanted]))
        order = {case: place for place, case in enumerate(wanted)}
        surveys.sort(key=lambda one: order[one.case])
        trials = list(_finished(pool, "trial", trial, choose_trials(surveys)))
    trials.sort(key=lambda one: order[one.case])
    return surveys, trials


def _finished(
    pool: ProcessPoolExecutor, what: str, work: Callable[..., _Outcome], jobs: Sequence[tuple[object, ...]]
) -> Iterator[_Outcome]:
    start, shown = time.monotonic(), 0.0
    futures = [pool.submit(work, *job) for job in jobs]
    for number, future in enumerate(as_completed(futures), 1):
        yield future.result()
        passed = time.monotonic() - start
        if passed - shown >= 10 or number == len(jobs):
            shown = passed
            left = passed / number * (len(jobs) - number)
            print(f"{what} {number}/{len(jobs)}, {passed:.0f} s, about {left:.0f} s left", file=sys.stderr, flush=True)
