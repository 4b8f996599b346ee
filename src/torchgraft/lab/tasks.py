"""From an experiment to its runs: one task each, under a key that depends on what decides the result alone."""

from __future__ import annotations

__all__ = ["check_experiment", "key_of", "pairs_of", "tasks_of"]

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torchgraft.errors import LabError
from torchgraft.lab.initializations import check, needs_source
from torchgraft.lab.recipes import check_recipe
from torchgraft.lab.records import Data, Experiment, Source, Task

# What a run is called in an experiment, and does not decide how it ends.
_NAMES = ("key", "network")


def tasks_of(experiment: Experiment) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """Return the runs of an experiment: those that train a source, and those of the targets, seed by seed.

    An initialization without a source (``random``, ``pretrained``) is one run per target and seed, whatever the number
    of sources. A source that has weights, or that no initialization asks for, is not trained. ``pretrained`` is left
    out for a target to which ``experiment.pretrained`` gives no weights.

    Raises:
        LabError: the experiment is impossible; see :func:`check_experiment`.
        SpecError: an unknown optimizer or precision.

    >>> networks = {"a": "timm:mobilenetv2_035", "b": "timm:mnasnet_050"}
    >>> grid = Experiment("e", "E", networks, (Source("a", "a"),), ("a", "b"), ("random", "graft"), seeds=(0, 1))
    >>> sources, targets = tasks_of(grid)
    >>> [task.network for task in sources]
    ['a']
    >>> [(task.network, task.initialization, task.seed) for task in targets][:3]
    [('a', 'random', 0), ('b', 'random', 0), ('b', 'graft', 0)]
    """
    check_experiment(experiment)
    named = {source.name: source for source in experiment.sources}
    targets = tuple(
        _target_task(experiment, target, initialization, seed, named.get(source))
        for seed in experiment.seeds
        for target in experiment.targets
        for initialization in experiment.initializations
        for source in _sources_for(experiment, target, initialization)
    )
    used = {task.source_key for task in targets}
    trained = (_source_task(experiment, source) for source in experiment.sources if not source.weights)
    return tuple(task for task in trained if task.key in used), targets


def key_of(task: Task) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of what decides a run's result.

    The short names of networks and sources are left out. A checkpoint counts by its path, not by what it holds.

    >>> experiment = Experiment("e", "E", {"a": "timm:mnasnet_050"}, (), ("a",), ("random",))
    >>> key_of(tasks_of(experiment)[1][0]) == tasks_of(experiment)[1][0].key
    True
    """
    values: dict[str, Any] = dataclasses.asdict(task)
    for name in _NAMES:
        del values[name]
    if values["source"] is not None:
        del values["source"]["name"], values["source"]["network"]  # the spec says it
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pairs_of(experiment: Experiment) -> tuple[tuple[str, str], ...]:
    """Return the pairs ``(source, target)``: those of the experiment, or all of different networks."""
    return experiment.pairs or tuple(
        (source.name, target)
        for target in experiment.targets
        for source in experiment.sources
        if source.network != target
    )


def _sources_for(experiment: Experiment, target: str, initialization: str) -> Iterator[str]:
    """Yield the names of the sources that a target is started from; an empty one where it needs none."""
    if needs_source(initialization):
        yield from (source for source, other in pairs_of(experiment) if other == target)
    elif initialization != "pretrained" or target in experiment.pretrained:
        yield ""


def _target_task(experiment: Experiment, target: str, initialization: str, seed: int, source: Source | None) -> Task:
    trained = source is not None and not source.weights
    task = Task(
        key="",
        kind="target",
        network=target,
        spec=experiment.networks[target],
        initialization=initialization,
        seed=seed,
        data=experiment.data,
        recipe=experiment.recipe,
        source=source,
        source_spec=experiment.networks[source.network] if source else "",
        source_key=_source_task(experiment, source).key if source and trained else "",
        source_data=_source_data(experiment) if trained else None,
        weights=experiment.pretrained[target] if initialization == "pretrained" else "",
    )
    return dataclasses.replace(task, key=key_of(task))


def _source_task(experiment: Experiment, source: Source) -> Task:
    task = Task(
        key="",
        kind="source",
        network=source.network,
        spec=experiment.networks[source.network],
        initialization="random",
        seed=source.seed,
        data=_source_data(experiment),
        recipe=experiment.source_recipe,
    )
    return dataclasses.replace(task, key=key_of(task))


def _source_data(experiment: Experiment) -> Data:
    return experiment.source_data or experiment.data


def check_experiment(experiment: Experiment) -> None:
    """Check that the parts of an experiment fit together, without building a network or opening data.

    Raises:
        LabError: nothing to run, a name that does not exist or comes twice, two names for one spec, an unknown
            initialization, or an initialization that lacks its source or its weights.
        SpecError: an unknown optimizer or precision.
    """
    where = f"experiment {experiment.name!r}"
    for what, names in (
        ("network", experiment.networks.values()),
        ("source", [source.name for source in experiment.sources]),
        ("target", experiment.targets),
        ("initialization", experiment.initializations),
        ("pair", experiment.pairs),
        ("seed", experiment.seeds),
    ):
        _check_once(where, what, names)
    for what in ("targets", "initializations", "seeds"):
        if not getattr(experiment, what):
            raise LabError(f"{where} has no {what}: give at least one")
    for seed in (*experiment.seeds, *(source.seed for source in experiment.sources)):
        if seed < 0:
            raise LabError(f"{where}: the seed {seed} is negative: give 0 or more")
    _check_names(where, experiment)
    for recipe in (experiment.recipe, experiment.source_recipe):
        check_recipe(recipe)
    for name in experiment.initializations:
        check(name)
        if needs_source(name) and not pairs_of(experiment):
            raise LabError(f"{where}: {name} needs a source, and no target has one: give sources or pairs")
        if name == "pretrained" and not experiment.pretrained:
            raise LabError(f"{where}: pretrained needs weights: name them by target in its table 'pretrained'")


def _check_once(where: str, what: str, values: Iterable[object]) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise LabError(f"{where} has the {what} {value!r} {count} times: leave one")


def _check_names(where: str, experiment: Experiment) -> None:
    sources = [source.name for source in experiment.sources]
    networks = list(experiment.networks)
    for what, names, valid in (
        ("source", [source.network for source in experiment.sources], networks),
        ("target", experiment.targets, networks),
        ("target of 'pretrained'", experiment.pretrained, experiment.targets),
        ("source of a pair", [source for source, _ in experiment.pairs], sources),
        ("target of a pair", [target for _, target in experiment.pairs], experiment.targets),
    ):
        _check_known(where, what, list(names), list(valid))


def _check_known(where: str, what: str, names: Sequence[str], valid: Sequence[str]) -> None:
    for name in names:
        if name not in valid:
            raise LabError(f"{where}: unknown {what} {name!r} (valid: {', '.join(valid) or 'none'})")
