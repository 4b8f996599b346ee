"""Analysis → document: which sections a report has, and in which order."""

from __future__ import annotations

__all__ = ["build"]

from dataclasses import fields

from torchgraft.lab.analysis import Analysis
from torchgraft.lab.records import Data, Experiment, Recipe
from torchgraft.lab.report import effect_tables as effect
from torchgraft.lab.report import other_tables as other
from torchgraft.lab.report.document import Document, Figure, Section, Table, grid_row
from torchgraft.lab.report.findings import compared, findings, large_gradients, settings
from torchgraft.lab.report.plots import figures
from torchgraft.lab.report.words import NONE, count

_SHORT = 3  # so many values of a setting are told, the most frequent first


def build(analysis: Analysis, command: str) -> Document:
    """Assemble the report.

    Args:
        analysis: what was found.
        command: the command that makes the runs, told below every table.
    """
    experiment = analysis.runs.experiment
    pictures = figures(analysis)
    sections = (
        Section("In short", findings(analysis), items=True),
        _effectiveness(analysis, pictures),
        _comparison(analysis, pictures),
        _losses(analysis),
        _similarity(analysis, pictures),
        _time(analysis),
        Section("Learning curves", tables=_filled(other.curve_table(analysis)), figures=_of(pictures, "curves")),
        Section("Ablation", tables=effect.ablation_tables(analysis.ablation)),
        Section("Accuracies", tables=other.accuracy_tables(analysis)),
        Section("Every pair against random", tables=effect.case_tables(analysis)),
        Section("Sources", tables=_filled(other.source_table(analysis))),
        _explosions(analysis),
        _missing(analysis),
        _setting(analysis, command),
    )
    kept = tuple(section for section in sections if section.paragraphs or section.tables or section.figures)
    return Document(experiment.title or experiment.name, _subtitle(experiment), _origin(analysis, command), kept)


def _of(pictures: tuple[Figure, ...], prefix: str) -> tuple[Figure, ...]:
    return tuple(figure for figure in pictures if figure.name.startswith(prefix))


def _filled(*tables: Table) -> tuple[Table, ...]:
    return tuple(table for table in tables if table.rows)


def _subtitle(experiment: Experiment) -> str:
    return (
        f"{experiment.name}: {count(len(experiment.targets), 'target')}, {count(len(experiment.sources), 'source')}, "
        f"{count(len(experiment.initializations), 'initialization')}, {count(len(experiment.seeds), 'seed')}; "
        f"{_data(experiment.data)}; {_recipe(experiment.recipe)}"
    )


def _data(data: Data) -> str:
    limits = [f"{value:,} {name}" for name, value in (("training", data.train), ("test", data.test)) if value]
    return f"{data.name} at {data.size} px" + (f" ({' and '.join(limits)} images)" if limits else "")


def _recipe(recipe: Recipe) -> str:
    return (
        f"{count(recipe.epochs, 'epoch')}, batch {recipe.batch}, {recipe.optimizer} {recipe.rate:g} to "
        f"{recipe.final_rate:g} over {recipe.horizon} epochs"
    )


def _origin(analysis: Analysis, command: str) -> str:
    """Return one line for below every table: command, data, recipe, and what the runs agree on most."""
    experiment = analysis.runs.experiment
    parts = [f"Made by: {command}", _data(experiment.data), _recipe(experiment.recipe)]
    wanted = ("torchgraft", "torch", "device", "commit")
    for name, values in settings(analysis).items():
        short, told = name.rsplit(".", maxsplit=1)[-1], values[0][0]
        if short in wanted and told:
            more = f" and {len(values) - 1} other" if len(values) > 1 else ""
            parts.append(f"{short} {told[:12] if short == 'commit' else told}{more}")
        if short == "dirty" and any(value == "True" for value, _ in values):
            parts.append("with changes that are not committed")
    return "; ".join(parts) + "."


def _effectiveness(analysis: Analysis, pictures: tuple[Figure, ...]) -> Section:
    tables = (*_filled(effect.overall_table(analysis)), *effect.effect_grids(analysis))
    told = () if tables else ("No initialization has a run next to a random baseline yet.",)
    return Section("Effectiveness", told, tables, _of(pictures, "heat-"))


def _comparison(analysis: Analysis, pictures: tuple[Figure, ...]) -> Section:
    found = analysis.graft_over_dpiat
    if found is None:
        return Section("graft over dpiat")
    return Section(
        "graft over dpiat", (compared(found),), (effect.comparison_table(analysis, found),), _of(pictures, "ratio-")
    )


def _losses(analysis: Analysis) -> Section:
    table = effect.worse_table(analysis)
    tested = sum(verdict.p is not None for verdict in analysis.verdicts)
    if not tested:
        return Section("Worse than random", ("No case could be tested: that takes two seeds with runs of both.",))
    told = (
        f"{count(len(table.rows), 'case is', 'cases are')} significantly worse than random before correction, of "
        f"{tested} tested. By chance alone one expects about {0.025 * tested:.1f}."
    )
    return Section("Worse than random", (told,), _filled(table))


def _similarity(analysis: Analysis, pictures: tuple[Figure, ...]) -> Section:
    tables = _filled(other.correlation_table(analysis), other.band_table(analysis))
    return Section("Similarity and effectiveness", (), tables, _of(pictures, "similarity"))


def _time(analysis: Analysis) -> Section:
    if not analysis.runs.experiment.thresholds:
        return Section(
            "Time to a fixed accuracy",
            ("The experiment names no accuracy: --threshold does, or thresholds in its file.",),
        )
    tables = (*_filled(other.speed_summary_table(analysis)), *other.speed_tables(analysis))
    return Section("Time to a fixed accuracy", tables=tables)


def _explosions(analysis: Analysis) -> Section:
    number = len(analysis.runs.exploded)
    told = f"{count(number, 'run')} exploded." if number else "No run exploded."
    tables = _filled(other.explosion_table(analysis), other.gradient_table(analysis))
    return Section("Explosions", (f"{told} {large_gradients(analysis)}".rstrip(),), tables)


def _missing(analysis: Analysis) -> Section:
    number = sum(len(missing.seeds) for missing in analysis.runs.missing)
    told = f"{count(number, 'run is', 'runs are')} missing." if number else "No run is missing."
    return Section("Missing", (told,), _filled(other.missing_table(analysis)))


def _setting(analysis: Analysis, command: str) -> Section:
    experiment = analysis.runs.experiment
    rows = [("command", command), ("experiment", experiment.name)]
    rows += [(f"network {name}", spec) for name, spec in experiment.networks.items()]
    rows += [(f"source {s.name}", _source(s.network, s.weights, s.seed)) for s in experiment.sources]
    rows += [
        ("initializations", ", ".join(experiment.initializations)),
        ("seeds", ", ".join(map(str, experiment.seeds))),
    ]
    rows += [("data", _record(experiment.data)), ("recipe", _record(experiment.recipe))]
    rows += [("data of sources", _record(experiment.source_data or experiment.data))]
    rows += [("recipe of sources", _record(experiment.source_recipe))]
    rows += [("pairs", str(len(analysis.runs.pairs)))]
    for name, values in settings(analysis).items():
        told = ", ".join(
            (value or NONE) + (f" ({runs} runs)" if len(values) > 1 else "") for value, runs in values[:_SHORT]
        )
        rows.append((name, told + (f" and {len(values) - _SHORT} more" if len(values) > _SHORT else "")))
    note = "Where runs differ, the number of runs stands behind each value."
    return Section("Setting", tables=(Table("Setting", ("what", "value"), tuple(map(grid_row, rows)), note, stubs=2),))


def _source(network: str, weights: str, seed: int) -> str:
    return f"{network}, {f'weights {weights}' if weights else f'trained by the lab, seed {seed}'}"


def _record(record: Data | Recipe) -> str:
    return ", ".join(f"{field.name}={getattr(record, field.name)}" for field in fields(record))
