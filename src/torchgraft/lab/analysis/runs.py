"""Rows → runs by case: what belongs to the experiment, what is missing, what exploded."""

from __future__ import annotations

__all__ = ["Case", "Missing", "Runs", "collect", "frame", "rows_of", "run_lines"]

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torchgraft.errors import LabError
from torchgraft.lab.initializations import needs_source
from torchgraft.lab.packages import optional
from torchgraft.lab.records import Experiment, Row
from torchgraft.lab.tasks import pairs_of, tasks_of

#: Every effectiveness is over this initialization.
RANDOM = "random"


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """What is repeated over seeds: a target, an initialization, and a source (empty where none is needed)."""

    initialization: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Missing:
    """Runs of a case that the experiment asks for and the rows do not hold."""

    case: Case
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of one experiment by case, in the order of their seeds.

    ``foreign`` counts rows of targets that are not in the experiment, ``repeated`` rows with a key that came before,
    and ``unmeasured`` lists runs that have no point on their curve.
    """

    experiment: Experiment
    by_case: Mapping[Case, tuple[Row, ...]]
    sources: tuple[Row, ...] = ()
    missing: tuple[Missing, ...] = ()
    foreign: int = 0
    repeated: int = 0
    unmeasured: tuple[Row, ...] = ()
    similarity: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """All ``(source, target)`` of the experiment."""
        return tuple(dict.fromkeys(pairs_of(self.experiment)))

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of all sources that stand in a pair, in the experiment's order."""
        return tuple(_sources(self.experiment))

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of all targets, in the experiment's order."""
        return tuple(dict.fromkeys(self.experiment.targets))

    def asked(self, case: Case) -> bool:
        """Tell whether the experiment asks for runs of the case."""
        return case in self.by_case or any(missing.case == case for missing in self.missing)

    @property
    def exploded(self) -> tuple[Row, ...]:
        """All runs of targets and sources that exploded."""
        rows = (*self.sources, *(row for case in self.by_case.values() for row in case))
        return tuple(row for row in rows if row.exploded)

    def of(self, initialization: str, source: str, target: str) -> tuple[Row, ...]:
        """Return the runs of one initialization; those that need no source are the same for every source."""
        found = self.by_case.get(Case(initialization, source, target))
        return found or self.by_case.get(Case(initialization, "", target), ())

    def random(self, target: str) -> tuple[Row, ...]:
        """Return the runs of a target from random initialization."""
        return self.of(RANDOM, "", target)

    def cases(self, initialization: str) -> tuple[Case, ...]:
        """Return the cases of one initialization that have a run, in the experiment's order."""
        return tuple(case for case in self.by_case if case.initialization == initialization)


def rows_of(experiment: Experiment, rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return the rows of an experiment out of a store that may hold others, under the experiment's own names.

    Rows are chosen by their keys, so that none of another recipe or of other data is among them. A run that was first
    done for another experiment may bear other short names of the same networks, which are replaced.

    Raises:
        LabError: the experiment is impossible.
    """
    sources, targets = tasks_of(experiment)
    tasks = {task.key: task for task in (*sources, *targets)}
    chosen = ((row, tasks[row.key]) for row in rows if row.key in tasks)
    return tuple(
        replace(row, network=task.network, source=task.source.name if task.source else "") for row, task in chosen
    )


def collect(experiment: Experiment, rows: Sequence[Row]) -> Runs:
    """Sort rows into the cases of an experiment.

    Args:
        experiment: what was to be run.
        rows: what was run, of this experiment or of others, in any order; some may be missing or there twice.

    Raises:
        LabError: two different runs claim the same place (the store holds two settings, and the caller did not choose).
    """
    distinct = {row.key: row for row in reversed(rows)}
    places: dict[tuple[str, str, str, int], Row] = {}
    sources: list[Row] = []
    unmeasured: list[Row] = []
    foreign = 0
    for row in reversed(distinct.values()):
        if row.kind == "source":
            sources.append(row)
        elif not _belongs(experiment, row):
            foreign += 1
        elif not row.curve:
            unmeasured.append(row)
        else:
            place = (row.initialization, _source(row), row.network, row.seed)
            if place in places:
                raise LabError(
                    f"runs {places[place].key} and {row.key} are both {_told(row)}, but with different settings: "
                    "give the rows of one experiment only"
                )
            places[place] = row
    by_case = _ordered(experiment, places)
    measured = tuple(row for row in sources if row.curve)
    unmeasured += [row for row in sources if not row.curve]
    missing = _missing(experiment, by_case)
    similarity = _similarities(by_case)
    repeated = len(rows) - len(distinct)
    return Runs(experiment, by_case, measured, missing, foreign, repeated, tuple(unmeasured), similarity)


def _told(row: Row) -> str:
    source = f" from {row.source}" if row.source else ""
    return f"{row.network} by {row.initialization}{source} with seed {row.seed}"


def _belongs(experiment: Experiment, row: Row) -> bool:
    if row.initialization not in (RANDOM, *experiment.initializations) or row.seed not in experiment.seeds:
        return False
    source = _source(row)
    if row.network not in experiment.targets:
        return False
    return not source or (source, row.network) in pairs_of(experiment)


def _source(row: Row) -> str:
    return row.source if needs_source(row.initialization) else ""


def _sources(experiment: Experiment) -> list[str]:
    paired = dict.fromkeys(source for source, _ in pairs_of(experiment))
    return [name for name in dict.fromkeys((*(s.name for s in experiment.sources), *paired)) if name in paired]


def _ordered(experiment: Experiment, places: Mapping[tuple[str, str, str, int], Row]) -> dict[Case, tuple[Row, ...]]:
    """Group by case; cases in the experiment's order of initializations, targets and sources, runs by seed."""
    found: dict[Case, list[Row]] = defaultdict(list)
    for (initialization, source, target, _), row in sorted(places.items(), key=lambda item: item[0][3]):
        found[Case(initialization, source, target)].append(row)
    names = list(dict.fromkeys((RANDOM, *experiment.initializations)))
    sources = ["", *_sources(experiment)]
    targets = experiment.targets

    def rank(case: Case) -> tuple[int, int, int]:
        return names.index(case.initialization), targets.index(case.target), sources.index(case.source)

    return {case: tuple(found[case]) for case in sorted(found, key=rank)}


def _missing(experiment: Experiment, by_case: Mapping[Case, Sequence[Row]]) -> tuple[Missing, ...]:
    missing = []
    pairs = [(source, target) for source, target in pairs_of(experiment) if target in experiment.targets]
    for initialization in dict.fromkeys(experiment.initializations):
        wanted = list(pairs) if needs_source(initialization) else [("", target) for target in experiment.targets]
        if initialization == "pretrained":
            wanted = [(source, target) for source, target in wanted if target in experiment.pretrained]
        for source, target in wanted:
            case = Case(initialization, source, target)
            there = {row.seed for row in by_case.get(case, ())}
            absent = tuple(seed for seed in experiment.seeds if seed not in there)
            if absent:
                missing.append(Missing(case, absent))
    return tuple(missing)


def _similarities(by_case: Mapping[Case, Sequence[Row]]) -> dict[tuple[str, str], dict[str, float]]:
    """Return the similarities of every pair by measure, as any of its runs recorded them."""
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for case, rows in by_case.items():
        for row in rows if case.source else ():
            found[case.source, case.target].update(row.start.similarity)
    return dict(found)


def run_lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one line per run, for ``runs.csv`` and for a notebook."""
    measures = Counter(measure for row in rows for measure in row.start.similarity)
    return [
        {
            "key": row.key,
            "kind": row.kind,
            "network": row.network,
            "source": row.source,
            "initialization": row.initialization,
            "seed": row.seed,
            "epochs": row.curve[-1].epoch if row.curve else None,
            "steps": row.curve[-1].step if row.curve else None,
            "accuracy": row.accuracy if row.curve else None,
            "best": row.best if row.curve else None,
            "zero_shot": row.zero_shot if row.curve else None,
            "gradient": row.gradient,
            "coverage": row.start.coverage,
            **{f"similarity_{measure}": row.start.similarity.get(measure) for measure in sorted(measures)},
            "parameters": row.parameters,
            "seconds": row.seconds,
            "exploded": row.exploded,
            "plan_hash": row.start.plan_hash,
            "note": row.start.note,
            "finished": row.finished,
        }
        for row in rows
    ]


def frame(lines: Sequence[Mapping[str, Any]]) -> Any:
    """Return lines as a pandas DataFrame.

    Raises:
        LabError: pandas is not installed.
    """
    return optional("pandas", "a table for other programs").DataFrame(lines)
