"""Rows → figures: effectiveness, significance, correlation with similarity, speed-up, curves, gradients,
ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchgraft.lab.analysis.ablation import Variant, ablation
from torchgraft.lab.analysis.curves import Curve, pair_curves, target_curves
from torchgraft.lab.analysis.effects import (
    Accuracy,
    Comparison,
    Effect,
    Overall,
    accuracies,
    compare,
    effects,
    overalls,
)
from torchgraft.lab.analysis.gradients import Gradients, gradients
from torchgraft.lab.analysis.runs import Case, Missing, Runs, collect, frame, rows_of, run_lines
from torchgraft.lab.analysis.significance import Pooled, Verdict, pooled, verdicts
from torchgraft.lab.analysis.similarity import Band, Correlation, Point, bands, correlations, points
from torchgraft.lab.analysis.speed import Speed, SpeedSummary, Time, first_reach, speed_lines, speeds, summarize, times
from torchgraft.lab.analysis.statistics import Estimate
from torchgraft.lab.records import Experiment, Row

__all__ = [
    "Accuracy",
    "Analysis",
    "Band",
    "Case",
    "Comparison",
    "Correlation",
    "Curve",
    "Effect",
    "Estimate",
    "Gradients",
    "Missing",
    "Overall",
    "Point",
    "Pooled",
    "Runs",
    "Speed",
    "SpeedSummary",
    "Time",
    "Variant",
    "Verdict",
    "analyse",
    "collect",
    "compare",
    "first_reach",
    "frame",
    "rows_of",
    "run_lines",
    "speed_lines",
]


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything that the report tells about the rows of one experiment."""

    runs: Runs
    accuracies: tuple[Accuracy, ...]
    effects: tuple[Effect, ...]
    overalls: tuple[Overall, ...]
    graft_over_dpiat: Comparison | None
    verdicts: tuple[Verdict, ...]
    pooled: tuple[Pooled, ...]
    points: tuple[Point, ...]
    correlations: tuple[Correlation, ...]
    bands: tuple[Band, ...]
    times: tuple[Time, ...]
    speeds: tuple[Speed, ...]
    speed_summaries: tuple[SpeedSummary, ...]
    pair_curves: tuple[Curve, ...]
    target_curves: tuple[Curve, ...]
    ablation: tuple[Variant, ...]
    gradients: tuple[Gradients, ...]


def analyse(experiment: Experiment, rows: Sequence[Row], seed: int = 0) -> Analysis:
    """Compute every figure of the report.

    Args:
        experiment: what was to be run.
        rows: what was run; several may be missing, and what is missing is told in ``runs.missing``.
        seed: of all bootstrap intervals; equal seeds give equal figures.

    Raises:
        LabError: two different runs claim the same place.
    """
    runs = collect(experiment, rows)
    found = effects(runs)
    whole = overalls(runs, found, seed)
    tested = verdicts(runs)
    placed = points(runs, found)
    taken = times(runs)
    faster = speeds(taken)
    return Analysis(
        runs=runs,
        accuracies=accuracies(runs),
        effects=found,
        overalls=whole,
        graft_over_dpiat=compare(runs, "graft", "dpiat", seed),
        verdicts=tested,
        pooled=pooled(tested),
        points=placed,
        correlations=correlations(placed, seed),
        bands=bands(placed, seed),
        times=taken,
        speeds=faster,
        speed_summaries=summarize(faster),
        pair_curves=pair_curves(runs),
        target_curves=target_curves(runs),
        ablation=ablation(whole),
        gradients=gradients(runs),
    )
