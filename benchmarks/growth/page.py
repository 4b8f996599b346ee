"""The results page: one line for each pair, and the reasons of those that are not exact."""

from __future__ import annotations

__all__ = ["line", "render"]

import datetime
from collections.abc import Iterator, Sequence

from benchmarks.axes_sweep.page import machine
from benchmarks.growth.measure import Row

_INTRODUCTION = """\
# Exact growth

A source with random weights, a fresh larger target, `tg.transfer`, and then: does the target compute the source's
function? All tensors of both networks are drawn anew (weights by fan-in, gains about one, shifts about zero); the
statistics of the source's batch norms are near those of the inputs (mean off by 0.3 deviations, variance by a factor
between 0.5 and 1.5). Both models are float64. `tg.verify` runs them on the same two random examples in eval mode.

- *exact*: the largest deviation over the source's largest output is at most 1e-10 in float64 and 1e-4 in float32;
- *example to example*: how much the source's own output changes from one example to the next, in the same measure, so
  that a deviation means something;
- *plan first*: on architectures that were not met before, axis groups found; *again*: the same modules once more;
- *forecast*: the first `plan.exact`, which says before anything is written whether the target will be exact.
"""

_COLUMNS = (
    "pair", "exact", "float64", "float32", "train mode, float64", "example to example", "coverage", "tensors",
    "plan first, ms", "again, ms", "forecast, ms", "apply, ms",
)  # fmt: skip


def render(rows: Sequence[Row], command: str, minutes: float) -> str:
    """Return the page as markdown."""
    measured = [row for row in rows if not row.failure]
    lines = [
        _INTRODUCTION,
        f"`{command}`: {minutes:.0f} minutes in one process on {machine()}, {datetime.date.today().isoformat()}.",
        "",
        f"**{sum(row.exact for row in rows)} of {len(rows)} pairs are exact.** Of these, the largest deviation is "
        f"{max((row.double for row in measured if row.exact), default=float('nan')):.1e} in float64 and "
        f"{max((row.single for row in measured if row.exact), default=float('nan')):.1e} in float32.",
    ]
    lines += ["", *_forecasts(rows)]
    for section in dict.fromkeys(row.section for row in rows):
        lines += ["", *_table(section, [row for row in rows if row.section == section])]
    lines += ["", *_reasons(rows)]
    return "\n".join(lines).rstrip() + "\n"


def _forecasts(rows: Sequence[Row]) -> Iterator[str]:
    """What the plans foretold beside what was measured."""
    yield "## What the plan foretells"
    yield ""
    yield "| `plan.exact` | exact | not exact |"
    yield "|---|---:|---:|"
    for foretold, name in ((True, "yes"), (False, "no"), (None, "not known")):
        measured = [row.exact for row in rows if row.foretold == foretold and not row.failure]
        yield f"| {name} | {sum(measured)} | {len(measured) - sum(measured)} |"
    wrong = [row.name for row in rows if row.foretold and not row.exact]
    if wrong:
        yield ""
        yield f"Foretold exact, and not: {', '.join(wrong)}."


def _table(section: str, rows: Sequence[Row]) -> Iterator[str]:
    yield f"## {section}: {sum(row.exact for row in rows)} of {len(rows)} exact"
    yield ""
    yield f"| {' | '.join(_COLUMNS)} |"
    yield "|---|---|" + "---:|" * (len(_COLUMNS) - 2)
    for row in rows:
        if row.failure:
            yield f"| {row.name} | failed |" + " |" * (len(_COLUMNS) - 2)
            continue
        counts = ", ".join(f"{count} {status}" for status, count in row.counts.items())
        yield (
            f"| {row.name} | {'yes' if row.exact else '**no**'} | {row.double:.1e} | {row.single:.1e} | "
            f"{row.training:.1e} | {row.varied:.2f} | {row.coverage:.1%} | {counts} | {row.first:,.0f} | "
            f"{row.again:,.0f} | {row.forecast:,.0f} | {row.apply:,.0f} |"
        )


def _reasons(rows: Sequence[Row]) -> Iterator[str]:
    yield "## What is not exact, and why"
    yield ""
    yield "The first layer at which the two computations part, and the certificate's reasons, the nearest first."
    for row in rows:
        if row.failure:
            yield f"- **{row.name}** failed: {row.failure}"
        elif not row.exact:
            told = "; ".join(row.reasons[:3])
            yield f"- **{row.name}**, at `{row.place}`: {told}"
    changed = [(row, note) for row in rows for note in row.notes if "epsilon" in note and row.exact]
    if changed:
        yield ""
        yield "## Exact with a changed setting"
        yield ""
        yield from (f"- {row.name}: {note}" for row, note in changed)


def line(row: Row) -> str:
    """Return one pair as a line of a terminal."""
    if row.failure:
        return f"FAILED {row.name}: {row.failure}"
    told = f"{'exact' if row.exact else 'NOT  '} {row.name}: {row.double:.1e} {row.single:.1e} train {row.training:.1e}"
    told += f" varied {row.varied:.2f} coverage {row.coverage:.3f} {dict(row.counts)}"
    told += f" plan {row.first:.0f} {row.again:.0f} apply {row.apply:.0f} foretold {row.foretold} {row.forecast:.0f}"
    return told if row.exact else f"{told}\n      at {row.place}: {'; '.join(row.reasons[:3])} | {row.notes}"
