"""The main figures as JSON, for the next program to read."""

from __future__ import annotations

__all__ = ["summary"]

import math
from dataclasses import asdict
from typing import Any

from torchgraft.lab.analysis import Analysis, Overall, Verdict
from torchgraft.lab.report.findings import settings


def summary(analysis: Analysis, command: str) -> dict[str, Any]:
    """Return the main figures as dicts, lists, numbers and strings that JSON knows; no figure is ``None``."""
    runs = analysis.runs
    told: dict[str, Any] = {
        "experiment": runs.experiment.name,
        "command": command,
        "runs": sum(map(len, runs.by_case.values())),
        "missing": [
            {**asdict(missing.case), "seeds": list(missing.seeds)} for missing in runs.missing
        ],
        "exploded": [
            {"key": row.key, "initialization": row.initialization, "source": row.source, "target": row.network,
             "seed": row.seed, "what": row.exploded}
            for row in runs.exploded
        ],
        "graft_over_dpiat": asdict(analysis.graft_over_dpiat) if analysis.graft_over_dpiat else None,
        "effectiveness": {whole.initialization: _whole(analysis, whole) for whole in analysis.overalls},
        "pairs": [{**asdict(e.case), **{k: v for k, v in asdict(e).items() if k != "case"}} for e in analysis.effects],
        "correlation": [asdict(found) for found in analysis.correlations],
        "by_similarity": [asdict(found) for found in analysis.bands],
        "speed_up": [asdict(found) for found in analysis.speed_summaries],
        "setting": {name: dict(values) for name, values in settings(analysis).items()},
    }  # fmt: skip
    plain: dict[str, Any] = _finite(told)
    return plain


def _whole(analysis: Analysis, whole: Overall) -> dict[str, Any]:
    mine = [verdict for verdict in analysis.verdicts if verdict.case.initialization == whole.initialization]
    test = next((test for test in analysis.pooled if test.initialization == whole.initialization), None)
    return {
        **{name: value for name, value in asdict(whole).items() if name != "initialization"},
        "wilcoxon_p": test.p if test else None,
        "median_points": test.median if test else None,
        "worse": [_verdict(verdict) for verdict in mine if verdict.marked == "worse"],
        "better": [_verdict(verdict) for verdict in mine if verdict.marked == "better"],
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "source": verdict.case.source,
        "target": verdict.case.target,
        "points": verdict.difference,
        "seeds": verdict.seeds,
        "p": verdict.p,
        "holm": verdict.holm,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
