"""Tables of accuracies, of similarity, of time, of sources, and of what went wrong."""

from __future__ import annotations

__all__ = [
    "accuracy_tables",
    "band_table",
    "correlation_table",
    "curve_table",
    "explosion_table",
    "gradient_table",
    "missing_table",
    "source_table",
    "speed_summary_table",
    "speed_tables",
]

from collections.abc import Sequence

from torchgraft.lab.analysis import Accuracy, Analysis, Case, Speed, Time
from torchgraft.lab.analysis.gradients import FAR
from torchgraft.lab.analysis.runs import RANDOM
from torchgraft.lab.report.document import Cell, Table, cell, grid_row
from torchgraft.lab.report.words import NONE, count, interval, norm, number, p_value, pair, spread, tone

_WIDE = 7  # columns of initializations side by side; more go into a further table
_MEASURES = (("last", "after the last epoch"), ("best", "at the best epoch"), ("zero_shot", "before any training"))


def accuracy_tables(analysis: Analysis) -> tuple[Table, ...]:
    """Return accuracies by pair and initialization: after the last epoch, at the best one, before training."""
    names = list(dict.fromkeys(case.initialization for case in analysis.runs.by_case))
    parts = [names[first : first + _WIDE] for first in range(0, len(names), _WIDE)]
    return tuple(_accuracy_table(analysis, *measure, part) for measure in _MEASURES for part in parts)


def _accuracy_table(analysis: Analysis, measure: str, told: str, names: Sequence[str]) -> Table:
    by_case = {found.case: found for found in analysis.accuracies}
    seeds = len(analysis.runs.experiment.seeds)
    rows = []
    for source, target in _by_target(analysis):
        row: list[object] = [source, target]
        for name in names:
            found = by_case.get(Case(name, source, target)) or by_case.get(Case(name, "", target))
            row.append(_accuracy_cell(found, measure, seeds) if found else NONE)
        rows.append(grid_row(row))
    note = (
        f"Test accuracy in percent {told}; n = {count(seeds, 'seed')} per cell, fewer are marked (n=…); ± is the "
        "sample "
        "standard "
        "deviation over seeds; † a run exploded and counts as it was last measured. An initialization without a source "
        "has the same figure in all rows of a target."
    )
    more = (
        f" ({names[0]} to {names[-1]})" if len(names) < len({c.initialization for c in analysis.runs.by_case}) else ""
    )
    return Table(f"Accuracy {told}{more}", ("source", "target", *names), tuple(rows), note, stubs=2)


def _by_target(analysis: Analysis) -> list[tuple[str, str]]:
    """Return all pairs, those of a target together."""
    runs = analysis.runs
    return [(source, target) for target in runs.target_names for source in runs.source_names
            if (source, target) in runs.pairs]  # fmt: skip


def _accuracy_cell(found: Accuracy, measure: str, seeds: int) -> Cell:
    text = spread(getattr(found, measure), getattr(found, f"{measure}_spread"))
    return cell(text + ("†" if found.exploded else "") + (f" (n={found.n})" if found.n < seeds else ""))


def correlation_table(analysis: Analysis) -> Table:
    """Return the correlations of effectiveness with similarity."""
    rows = [
        grid_row(
            (
                found.initialization,
                found.measure + (" (own)" if found.own else ""),
                found.pairs,
                interval(found.pearson),
                p_value(found.pearson_p),
                interval(found.spearman),
                p_value(found.spearman_p),
            )
        )
        for found in analysis.correlations
    ]
    columns = ("initialization", "similarity by", "pairs", "Pearson r", "p", "Spearman ρ", "p")
    note = (
        "n: pairs. [95 % interval: Fisher's transformation for r, percentile bootstrap over pairs for ρ]; both take "
        "pairs "
        "for independent. –: fewer than three pairs, or no variation. (own): the measure used below."
    )
    return Table("Correlation of effectiveness with similarity", columns, tuple(rows), note, stubs=2)


def band_table(analysis: Analysis) -> Table:
    """Return mean effectiveness and wins above, between and below the authors' thresholds of similarity."""
    rows = [
        grid_row(
            (
                found.initialization,
                found.measure,
                found.name,
                found.pairs,
                cell(interval(found.mean), tone(found.mean.value if found.mean else None)),
                f"{found.wins} of {found.pairs}" if found.pairs else NONE,
            )
        )
        for found in analysis.bands
    ]
    note = (
        "n: pairs. [95 % interval: percentile bootstrap over pairs]. The authors: gains above 0.6, losses below 0.45."
    )
    columns = ("initialization", "similarity by", "similarity", "pairs", "mean effectiveness", "beats random")
    return Table("Effectiveness by similarity", columns, tuple(rows), note, stubs=3)


def speed_summary_table(analysis: Analysis) -> Table:
    """Return, for every threshold and initialization, how many pairs are faster and by how much."""
    rows = []
    for found in analysis.speed_summaries:
        counts = found.counts
        same = [s for s in analysis.speeds if s.time.threshold == found.threshold]
        mine = [s for s in same if s.time.case.initialization == found.initialization]
        faster = sum(speed.faster for speed in mine)
        figures = (number(found.mean), counts["="], counts["at least"], counts["at most"], counts["at once"])
        share = f"{faster} of {len(mine)}"
        rows.append(
            grid_row((f"{found.threshold:g} %", found.initialization, *figures, counts["open"], share)),
        )
    columns = ("accuracy", "initialization", "speed-up", "both reach", "only it", "only random", "at once", "neither")
    note = (
        "Speed-up: epochs from random over epochs with the initialization, means over seeds, linear interpolation "
        "between "
        "epochs; geometric mean over the pairs in which both sides reach the accuracy in every seed (both reach). only "
        "it, only random: the other side does not reach it in every seed. at once: reached before any training. "
        "n: sum of a row's counts."
    )
    return Table("Speed-up to a fixed accuracy", (*columns, "faster"), tuple(rows), note, stubs=2)


def speed_tables(analysis: Analysis) -> tuple[Table, ...]:
    """Return the epochs of every pair to every threshold, with the speed-up over random; one table per threshold."""
    names = list(dict.fromkeys(speed.time.case.initialization for speed in analysis.speeds))
    parts = [names[first : first + _WIDE] for first in range(0, len(names), _WIDE)]
    thresholds = dict.fromkeys(speed.time.threshold for speed in analysis.speeds)
    return tuple(_speed_table(analysis, threshold, part) for threshold in thresholds for part in parts)


def _speed_table(analysis: Analysis, threshold: float, names: Sequence[str]) -> Table:
    found = {speed.time.case: speed for speed in analysis.speeds if speed.time.threshold == threshold}
    times = {time.case: time for time in analysis.times if time.threshold == threshold}
    rows = []
    for source, target in _by_target(analysis):
        row: list[object] = [source, target, _epochs(times.get(Case(RANDOM, "", target)))]
        for name in names:
            speed = found.get(Case(name, source, target)) or found.get(Case(name, "", target))
            row.append(_speed_cell(speed) if speed else NONE)
        rows.append(grid_row(row))
    note = (
        "Epochs to the accuracy, means over seeds, linear interpolation between epochs, and in brackets the speed-up: "
        "epochs from random over epochs. “>”: not reached in every seed, a lower bound, as runs that never reach it "
        "count with their whole length; so ≥ and ≤ are bounds too. Neither side reaches it: no speed-up. at once: "
        f"before any training. n = {count(len(analysis.runs.experiment.seeds), 'seed')}; steps and seconds stand in "
        "speed.csv."
    )
    more = (
        f" ({names[0]} to {names[-1]})"
        if len(names) < len({speed.time.case.initialization for speed in analysis.speeds})
        else ""
    )
    columns = ("source", "target", RANDOM, *names)
    return Table(f"Epochs to {threshold:g} % accuracy{more}", columns, tuple(rows), note, stubs=2)


_RELATIONS = {"=": "", "at least": "≥ ", "at most": "≤ "}


def _epochs(time: Time | None) -> str:
    return NONE if time is None else ("> " if time.reached < time.n else "") + number(time.epoch)


def _speed_cell(speed: Speed) -> Cell:
    if speed.value is not None:
        return cell(f"{_epochs(speed.time)} ({_RELATIONS[speed.relation]}{number(speed.value)}×)", tone(speed.value))
    if speed.relation == "at once":
        return Cell("0.00 (at once)", 1.0)
    return Cell(_epochs(speed.time))


def curve_table(analysis: Analysis) -> Table:
    """Return the mean accuracy over all pairs by epoch; of many epochs, a dozen."""
    curves = analysis.pair_curves
    epochs = curves[0].epochs if curves else ()
    step = max(1, -(-len(epochs) // 12))
    kept = [index for index in range(len(epochs)) if index % step == 0 or index == len(epochs) - 1]
    rows = [
        grid_row((curve.initialization, curve.n, *(spread(curve.means[i], curve.spreads[i], 1) for i in kept)))
        for curve in curves
    ]
    note = (
        "Test accuracy in percent by epoch (0: before training), mean over pairs (n) of means over seeds; ± is the "
        "sample "
        "standard deviation over pairs. Exploded runs count as they were last measured."
    )
    heads = tuple(f"epoch {epochs[i]}" for i in kept)
    return Table("Accuracy by epoch, over all pairs", ("initialization", "pairs", *heads), tuple(rows), note)


def source_table(analysis: Analysis) -> Table:
    """List the sources that the lab trained."""
    rows = [
        grid_row(
            (
                row.source or row.network,
                row.network,
                row.seed,
                row.curve[-1].epoch,
                number(row.accuracy) + ("†" if row.exploded else ""),
                number(row.best),
                f"{row.parameters:,}",
                number(row.seconds, 0),
            )
        )
        for row in analysis.runs.sources
    ]
    columns = ("source", "network", "seed", "epochs", "last accuracy", "best accuracy", "parameters", "seconds")
    note = "Test accuracy in percent on the source's data; n = 1 run each; † exploded."
    return Table("Sources", columns, tuple(rows), note, stubs=2)


def explosion_table(analysis: Analysis) -> Table:
    """List every run that broke."""
    rows = [
        grid_row((row.kind, row.initialization, row.source or NONE, row.network, row.seed, row.exploded, row.key))
        for row in analysis.runs.exploded
    ]
    columns = ("kind", "initialization", "source", "network", "seed", "what broke", "run")
    note = (
        "n = 1 run per line. Such a run keeps its curve up to there, and its accuracy counts as it was last measured."
    )
    return Table("Exploded runs", columns, tuple(rows), note, stubs=7)


def gradient_table(analysis: Analysis) -> Table:
    """Return how large the gradients of every initialization became, and the runs far beyond random's."""
    rows = []
    for found in analysis.gradients:
        worst = max(found.far, key=lambda row: row.gradient or 0.0, default=None)
        named = (
            f"{pair(worst.source, worst.network)} seed {worst.seed}, then {number(worst.accuracy)} %" if worst else NONE
        )
        figures = (found.runs, norm(found.median), norm(found.largest), len(found.far), named)
        rows.append(grid_row((found.initialization, *figures)))
    note = (
        "The largest norm of the gradient over all steps of a run: median and maximum over runs. far: runs beyond "
        f"{FAR:g} times the largest of the same target from random initialization; the largest of them is named, with "
        "its accuracy after the last epoch. Every epoch's stands in the store, every run's in runs.csv."
    )
    columns = ("initialization", "runs", "median", "maximum", "far", "farthest, and its accuracy")
    return Table("Largest gradients", columns, tuple(rows), note)


def missing_table(analysis: Analysis) -> Table:
    """List every run that the experiment asks for and the store does not hold."""
    rows = [
        grid_row((m.case.initialization, m.case.source or NONE, m.case.target, ", ".join(map(str, m.seeds))))
        for m in analysis.runs.missing
    ]
    note = "The same `lab run` again does these and nothing else."
    return Table("Missing runs", ("initialization", "source", "target", "seeds"), tuple(rows), note, stubs=4)
