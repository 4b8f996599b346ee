"""Tables of effectiveness: overall, source × target as the paper prints them, and pair by pair."""

from __future__ import annotations

__all__ = ["ablation_tables", "case_tables", "comparison_table", "effect_grids", "overall_table", "worse_table"]

from collections.abc import Callable, Mapping, Sequence

from torchgraft.lab.analysis import Analysis, Case, Comparison, Effect, Variant, Verdict
from torchgraft.lab.report.document import Cell, Table, cell, grid_row
from torchgraft.lab.report.words import MARKS, NONE, count, interval, number, p_value, spread, tone

_EFFECT = "Effectiveness: mean accuracy after the last epoch over the mean accuracy of the same target from random."
_BOOTSTRAP = "[95 % interval: percentile bootstrap over pairs, which takes pairs for independent]"


def overall_table(analysis: Analysis) -> Table:
    """Return one line per initialization: mean effectiveness, wins, tests."""
    pooled = {test.initialization: test for test in analysis.pooled}
    rows = []
    for whole in analysis.overalls:
        tested = [v for v in analysis.verdicts if v.case.initialization == whole.initialization]
        test = pooled.get(whole.initialization)
        rows.append(
            grid_row(
                (
                    whole.initialization,
                    cell(interval(whole.mean), tone(whole.mean.value if whole.mean else None)),
                    number(whole.median),
                    number(whole.geometric),
                    f"{whole.wins} of {whole.pairs}",
                    _counted(tested, "better"),
                    _counted(tested, "worse"),
                    number(test.median if test else None),
                    p_value(test.p if test else None),
                    len(whole.undefined) or NONE,
                )
            )
        )
    columns = ("initialization", "mean", "median", "geometric", "beats random", "better*", "worse*", "points")
    note = (
        f"{_EFFECT} Over pairs (n: the second number of “beats random”); {_BOOTSTRAP}. better*, worse*: pairs with "
        "p < 0.05 in the paired t-test over seeds, in brackets after Holm's correction. points: median over pairs of "
        "the "
        "difference from random in points of accuracy, with its Wilcoxon signed-rank p. undefined: cases without a "
        "random baseline, or with one of 0 %."
    )
    return Table("Effectiveness by initialization", (*columns, "Wilcoxon p", "undefined"), tuple(rows), note)


def _counted(found: Sequence[Verdict], which: str) -> str:
    marked = [verdict for verdict in found if verdict.marked == which]
    return f"{len(marked)} ({sum(verdict.holds for verdict in marked)})"


def effect_grids(analysis: Analysis) -> tuple[Table, ...]:
    """Return the paper's table for every initialization: source columns, target rows, mean ± spread."""
    by_case = {effect.case: effect for effect in analysis.effects}
    verdicts = {verdict.case: verdict for verdict in analysis.verdicts}
    seeds = len(analysis.runs.experiment.seeds)
    note = (
        f"{_EFFECT} n = {seeds} per cell; ± is the sample standard deviation over seeds of accuracy over mean random "
        f"accuracy (the noise of random itself is in the intervals, further below). Marks: {MARKS}."
    )

    def told(case: Case) -> tuple[Cell, float | None] | None:
        effect = by_case.get(case)
        if effect is not None:
            return _effect_cell(effect, verdicts.get(case), seeds), effect.value
        return (Cell("no baseline"), None) if case in analysis.runs.by_case else None

    return tuple(
        _grid(analysis, name, f"Effectiveness of {name}", told, note)
        for name in dict.fromkeys(whole.initialization for whole in analysis.overalls)
    )


def _effect_cell(effect: Effect, verdict: Verdict | None, seeds: int) -> Cell:
    if effect.value is None:
        return Cell("undefined")
    mark = "" if verdict is None or not verdict.marked else "**" if verdict.holds else "*"
    mark += "†" if effect.exploded else ""
    few = f" (n={effect.n}/{effect.n_random})" if min(effect.n, effect.n_random) < seeds else ""
    return cell(spread(effect.value, effect.spread) + mark + few, tone(effect.value))


def _grid(
    analysis: Analysis,
    initialization: str,
    title: str,
    told: Callable[[Case], tuple[Cell, float | None] | None],
    note: str,
) -> Table:
    """Lay cells out by source and target, with means at the margins."""
    alone = all(not case.source for case in analysis.runs.cases(initialization))
    sources = ("",) if alone else analysis.runs.source_names
    columns: dict[str, list[float]] = {source: [] for source in sources}
    rows = []
    for target in analysis.runs.target_names:
        cells: list[object] = [target]
        values = []
        for source in sources:
            case = Case(initialization, source, target)
            found = told(case)
            cells.append(found[0] if found else Cell("missing" if analysis.runs.asked(case) else ""))
            if found and found[1] is not None:
                values.append(found[1])
                columns[source].append(found[1])
        rows.append(grid_row([*cells, *([] if alone else [_mean_cell(values)])]))
    if not alone:
        every = [value for values in columns.values() for value in values]
        rows.append(grid_row(["mean", *map(_mean_cell, columns.values()), _mean_cell(every)]))
    heads = ("no source",) if alone else (*sources, "mean")
    corner = "target" if alone else "target \\ source"
    return Table(title, (corner, *heads), tuple(rows), f"{note} Margins: means over pairs." if not alone else note)


def _mean_cell(values: Sequence[float]) -> Cell:
    value = sum(values) / len(values) if values else None
    return Cell(number(value), tone(value))


def comparison_table(analysis: Analysis, found: Comparison) -> Table:
    """Return the ratio of two initializations for every pair, source columns, target rows."""
    ratios = {(source, target): value for source, target, value in found.ratios}

    def told(case: Case) -> tuple[Cell, float | None] | None:
        value = ratios.get((case.source, case.target))
        if value is not None:
            return Cell(number(value), tone(value)), value
        return (Cell("undefined"), None) if (case.source, case.target) in found.undefined else None

    note = (
        f"Mean accuracy after the last epoch by {found.first} over that by {found.second}, same pair; "
        f"n = {count(len(analysis.runs.experiment.seeds), 'seed')} on each side; above 1 {found.first} is ahead."
    )
    return _grid(analysis, found.first, f"{found.first} over {found.second}", told, note)


def worse_table(analysis: Analysis) -> Table:
    """List every case that is worse than random at p < 0.05 without correction."""
    worse = [verdict for verdict in analysis.verdicts if verdict.marked == "worse"]
    rows = _case_rows(analysis, sorted(worse, key=lambda verdict: verdict.p or 0.0), initialization=True)
    return Table(
        "Significantly worse than random",
        ("initialization", "source", "target", *_CASE_COLUMNS),
        rows,
        f"All cases with p < 0.05 (paired t-test over seeds, uncorrected), smallest p first. {_CASE_NOTE}",
        stubs=3,
    )


_CASE_COLUMNS = ("effectiveness", "similarity", "points", "seeds", "p", "Holm p", "verdict")
_CASE_NOTE = (
    "[95 % interval over seeds: delta method on the logarithm, Welch's degrees of freedom, noise of both sides]. "
    "points: "
    "difference from random in points of accuracy. seeds: n, those that the case and random have in common. "
    "similarity: dpiat / graft. Holm: over the cases of one initialization."
)


def case_tables(analysis: Analysis) -> tuple[Table, ...]:
    """Return every case against random, one table per initialization."""
    families: dict[str, list[Verdict]] = {}
    for verdict in analysis.verdicts:
        families.setdefault(verdict.case.initialization, []).append(verdict)
    return tuple(
        Table(
            f"{name} against random",
            ("source", "target", *_CASE_COLUMNS),
            _case_rows(analysis, family),
            f"{_EFFECT} {_CASE_NOTE}",
            stubs=2,
        )
        for name, family in families.items()
    )


def _case_rows(
    analysis: Analysis, found: Sequence[Verdict], initialization: bool = False
) -> tuple[tuple[Cell, ...], ...]:
    by_case = {effect.case: effect for effect in analysis.effects}
    rows = []
    for verdict in found:
        case, effect = verdict.case, by_case[verdict.case]
        held = "" if effect.low is None else f" [{number(effect.low)}, {number(effect.high)}]"
        rows.append(
            grid_row(
                (
                    *([case.initialization] if initialization else []),
                    case.source or NONE,
                    case.target,
                    cell(f"{number(effect.value)}{held}{'†' if effect.exploded else ''}", tone(effect.value)),
                    _similar(analysis.runs.similarity.get((case.source, case.target), {})),
                    f"{verdict.difference:+.2f}",
                    verdict.seeds,
                    p_value(verdict.p),
                    p_value(verdict.holm),
                    _verdict(verdict),
                )
            )
        )
    return tuple(rows)


def _similar(found: Mapping[str, float]) -> str:
    return " / ".join(number(found[measure]) for measure in sorted(found)) or NONE


def _verdict(verdict: Verdict) -> str:
    if verdict.p is None:
        return "not testable"
    if not verdict.marked:
        return "not significant"
    return f"{verdict.marked}{' (holds)' if verdict.holds else ' (uncorrected)'}"


def ablation_tables(found: Sequence[Variant]) -> tuple[Table, ...]:
    """Return matchers × operators for every method with variants: mean effectiveness."""
    return tuple(
        _ablation_table(method, [variant for variant in found if variant.method == method])
        for method in dict.fromkeys(variant.method for variant in found)
    )


def _ablation_table(method: str, found: Sequence[Variant]) -> Table:
    matchers = list(dict.fromkeys(variant.matcher for variant in found))
    operators = list(dict.fromkeys(variant.operator for variant in found))
    cells = {(variant.matcher, variant.operator): variant.overall for variant in found}
    rows = []
    for matcher in matchers:
        row: list[object] = [matcher]
        for operator in operators:
            whole = cells.get((matcher, operator))
            told = f"{interval(whole.mean)} (n={whole.pairs})" if whole else ""
            row.append(cell(told, tone(whole.mean.value if whole and whole.mean else None)))
        rows.append(grid_row(row))
    note = f"Mean effectiveness over pairs; n: number of pairs; {_BOOTSTRAP}. Empty: not asked for."
    return Table(f"Ablation of {method}", ("matcher \\ operator", *operators), tuple(rows), note)
