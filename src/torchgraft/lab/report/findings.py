"""The sentences at the top of the report: what came out, good or bad, in the same words."""

from __future__ import annotations

__all__ = ["compared", "findings", "large_gradients", "settings"]

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torchgraft.lab.analysis import Analysis, Case, Comparison, Overall
from torchgraft.lab.analysis.gradients import FAR
from torchgraft.lab.records import Row
from torchgraft.lab.report.words import count, interval, listed, number, p_value, pair

_NAMED = 10  # so many pairs are named in a sentence
_FEW = 5  # up to so many seeds, the tests of single pairs are called weak


def findings(analysis: Analysis) -> tuple[str, ...]:
    """Return the main results, one sentence or two each."""
    told = _watched(analysis)
    told += [_against_random(analysis, whole) for whole in analysis.overalls]
    told += [*_zero_shot(analysis), *_times(analysis), *_similarity(analysis)]
    told += [_caution(analysis), *_unlike(analysis), _missing(analysis), _exploded(analysis)]
    return tuple(told)


def _watched(analysis: Analysis) -> list[str]:
    if not {"graft", "dpiat"} <= set(analysis.runs.experiment.initializations):
        return []
    found = analysis.graft_over_dpiat
    return [compared(found) if found else "graft over dpiat: no pair has runs of both yet."]


def compared(found: Comparison) -> str:
    """Say how one initialization stands to another."""
    lost = f" Undefined, as {found.second} reached 0 %: " if found.undefined else ""
    lost += ", ".join(pair(*names) for names in found.undefined) + "." if found.undefined else ""
    pairs = len(found.ratios) + len(found.undefined)
    held = " (95 % interval by bootstrap over pairs)" if found.mean and found.mean.low is not None else ""
    return (
        f"{found.first} over {found.second}: mean ratio of accuracies {interval(found.mean, 3)} over "
        f"{count(len(found.ratios), 'pair')}{held}, geometric mean "
        f"{number(found.geometric, 3)}; {found.first} is ahead on {found.wins} of {pairs}, Wilcoxon p "
        f"{_is(found.p)}.{lost}"
    )


def _is(p: float | None) -> str:
    text = p_value(p)
    return "undefined" if p is None else text.replace("<", "< ") if text.startswith("<") else f"= {text}"


def _against_random(analysis: Analysis, whole: Overall) -> str:
    mine = [verdict for verdict in analysis.verdicts if verdict.case.initialization == whole.initialization]
    worse = [verdict for verdict in mine if verdict.marked == "worse"]
    held = [verdict.case for verdict in worse if verdict.holds]
    untested = [verdict.case for verdict in mine if verdict.p is None]
    told = (
        f"{whole.initialization}: mean effectiveness {interval(whole.mean)}, beats random on {whole.wins} of "
        f"{count(whole.pairs, 'case')}."
    )
    if len(untested) < len(mine):  # of none there is nothing to say but that, which is said once for all
        told += (
            f" Significantly worse than random: {_first([verdict.case for verdict in worse])} (p < 0.05, uncorrected); "
            f"after Holm's correction: {_first(held)}."
        )
    if untested and len(untested) < len(mine):
        told += f" Not testable, for one seed or the same difference in every seed: {listed(untested)}."
    if whole.undefined:
        told += f" Without a figure, for want of a random baseline above 0 %: {listed(whole.undefined)}."
    return told


def _first(cases: Sequence[Case]) -> str:
    more = f" and {len(cases) - _NAMED} more (all stand in the table)" if len(cases) > _NAMED else ""
    return listed(cases[:_NAMED]) + more


def _zero_shot(analysis: Analysis) -> list[str]:
    before = [f"{curve.initialization} {number(curve.means[0], 1)} %" for curve in analysis.pair_curves]
    return [f"Accuracy before any training, mean over pairs: {', '.join(before)}."] if before else []


def _times(analysis: Analysis) -> list[str]:
    told = []
    for threshold in dict.fromkeys(speed.time.threshold for speed in analysis.speeds):
        counts: dict[str, list[bool]] = {}
        for speed in analysis.speeds:
            if speed.time.threshold == threshold:
                counts.setdefault(speed.time.case.initialization, []).append(speed.faster)
        parts = (f"{name} on {sum(faster)} of {len(faster)}" for name, faster in counts.items())
        told.append(f"Sooner at {threshold:g} % accuracy than random: {', '.join(parts)} cases.")
    return told


def _similarity(analysis: Analysis) -> list[str]:
    told = []
    for found in analysis.correlations:
        if not found.own or found.pearson is None or ":" in found.initialization:
            continue  # of a method's variants only the table tells
        parts = [
            f"{band.name}: {interval(band.mean)}, {band.wins} of {count(band.pairs, 'pair')} beat random"
            if band.pairs
            else f"{band.name}: no pair"
            for band in analysis.bands
            if band.initialization == found.initialization
        ]
        told.append(
            f"Similarity ({found.measure}) against effectiveness of {found.initialization}: r = "
            f"{interval(found.pearson)}, ρ = {interval(found.spearman)} over {count(found.pairs, 'pair')}. Mean "
            f"effectiveness by similarity: {'; '.join(parts)}."
        )
    return [*told, "The authors saw gains above a similarity of 0.6 and losses below 0.45."] if told else []


def _caution(analysis: Analysis) -> str:
    seeds = len(analysis.runs.experiment.seeds)
    if seeds < 2:
        return "One seed: there is no spread and no test of single pairs; differences may be chance."
    if seeds > _FEW:
        return f"{seeds} seeds per case."
    return (
        f"{seeds} seeds are few: the paired t-test of a single pair has {count(seeds - 1, 'degree')} of freedom and "
        "finds "
        "only large and steady differences, so “not significant” is no proof of equality; the tests pooled over pairs "
        "say more."
    )


def _unlike(analysis: Analysis) -> list[str]:
    """Warn where runs that are compared saw different images, read one file with other contents, or ran other code."""
    rows = [row for rows in analysis.runs.by_case.values() for row in rows]
    seen: dict[str, set[str]] = {}
    for row in rows:
        if "data" in row.setting:
            seen.setdefault(f"images of {analysis.runs.experiment.data.name}", set()).add(str(row.setting["data"]))
        for path, content in row.setting.get("files", {}).items():
            seen.setdefault(path, set()).add(str(content))
    changed = [name for name, contents in seen.items() if len(contents) > 1]
    told = _commits(rows)
    if changed:
        told.append(
            f"The runs are not comparable: {', '.join(changed)} changed between them. The store knows files by their "
            "names: repeat the experiment in a new store."
        )
    return told


def _commits(rows: Sequence[Row]) -> list[str]:
    """Say where runs are of several states of the code, which a run's key does not know."""
    found = Counter(str(row.setting.get("commit", ""))[:8] or "none" for row in rows)
    if len(found) < 2:
        return []
    parts = ", ".join(f"{commit}: {number}" for commit, number in found.most_common(_FEW))
    return [
        f"Runs are of {len(found)} commits of torchgraft ({parts}): what changed in it between them is part of every "
        "difference."
    ]


def _missing(analysis: Analysis) -> str:
    runs = analysis.runs
    absent, there = sum(len(m.seeds) for m in runs.missing), sum(map(len, runs.by_case.values()))
    told = f"{there:,} of {count(there + absent, 'run')} are there"
    told += f", {absent:,} are missing and listed below." if absent else ", none is missing."
    if runs.unmeasured:
        told += f" {count(len(runs.unmeasured), 'run')} ended before the first measurement: "
        told += ", ".join(f"{row.network} by {row.initialization} ({row.key})" for row in runs.unmeasured) + "."
    if runs.foreign:
        told += f" {count(runs.foreign, 'row')} of the store belong to other experiments and are left out."
    if runs.repeated:
        told += f" {count(runs.repeated, 'row')} stood there twice and counted once."
    return told


def _exploded(analysis: Analysis) -> str:
    rows = analysis.runs.exploded
    large = large_gradients(analysis)
    if not rows:
        return f"No run exploded. {large}".rstrip()
    by_name = Counter("source" if row.kind == "source" else row.initialization for row in rows)
    parts = ", ".join(f"{name} {number}" for name, number in by_name.items())
    return (
        f"{count(len(rows), 'run')} exploded ({parts}); they count as they were last measured, and are listed "
        f"below. {large}"
    ).rstrip()


def large_gradients(analysis: Analysis) -> str:
    """Say in how many runs a gradient was far beyond random's and yet finite; nothing where it was in none."""
    counts = {found.initialization: len(found.far) for found in analysis.gradients if found.far}
    if not counts:
        return ""
    parts = ", ".join(f"{name} {number}" for name, number in counts.items())
    return (
        f"In {count(sum(counts.values()), 'run')} ({parts}) a gradient was more than {FAR:g} times as large as any of "
        "the same target from random initialization."
    )


def settings(analysis: Analysis) -> dict[str, tuple[tuple[str, int], ...]]:
    """Return what the runs recorded of their surroundings: name -> values, each with the number of its runs."""
    found: dict[str, Counter[str]] = {}
    rows = (*analysis.runs.sources, *(row for rows in analysis.runs.by_case.values() for row in rows))
    for row in rows:
        for name, value in _flat(row.setting):
            found.setdefault(name, Counter())[value] += 1
    return {name: tuple(values.most_common()) for name, values in sorted(found.items())}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    told: list[tuple[str, str]] = []
    for name, value in values.items():
        told += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", str(value))]
    return told
