"""The results page: counts, and every exception with its reason."""

from __future__ import annotations

__all__ = ["machine", "render"]

import datetime
import os
import platform
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from statistics import median

from benchmarks.axes_sweep.store import Key, Result, Size
from benchmarks.zoo.models import LIBRARIES, Case

_INTRODUCTION = """\
# Axis groups of every architecture

Which axes of which tensors must be changed together, found without being told anything but the model: its inputs are
guessed and tried, and it is run once without values (with values where its way depends on them).

Proof, in float64, with all weights drawn anew and the statistics of norms set to what the drawn weights make of the
inputs:

- the units of **all** free groups are permuted at once, in every member: no output may change by more than 1e-10 of its
  largest number; where a model (linear attention, say) enlarges roundings, by no more than 16 times what one rounding
  of every weight does;
- up to four groups, chosen at random, are then moved in **one** member alone, and another one until it shows: an
  output must change by a hundred times that. Two kinds of groups cannot show, and count as such: *idle* ones, which no
  output is computed from (a pooler that is thrown away), and *alike* ones, whose units count but stand in any order in
  each member for itself (summands). Where no group that was tried can show, nothing is proven.

A fault shows with any weights, so that one proof is enough: where the first weights give none, others are drawn, up to
twice. A detector whose boxes have equal scores but for rounding puts them in another order for any change.

An architecture of timm that is made for one size of pictures, of 224 or more, may be built for about 112 instead, where
its free groups (their sizes and all of their members) are then the same ones: what is claimed of both is proven of one.

"unmovable" is the share of parameters of which no axis may move: all of their axes are inputs, outputs, places of a
kernel, looked up by number, or locked since something about them is not known.
"""


def render(every: Sequence[Case], sizes: Mapping[Key, Size], results: Mapping[Key, Result], command: str) -> str:
    """Return the page as markdown.

    Args:
        every: all architectures, tried or not.
        sizes: of those that were measured.
        results: of those that were tried.
        command: the last one of those that made the store.
    """
    tried = [results[case.library, case.name] for case in every if (case.library, case.name) in results]
    lines = [
        _INTRODUCTION,
        f"The last of several calls, each of which went on where the one before stopped: `{command}`, "
        f"{datetime.date.today().isoformat()}, one process at low priority on {machine()}. Time in all: "
        f"{sum(one.proof_seconds or one.seconds for one in tried) / 60:.0f} minutes.",
        "",
        *_table(every, sizes, tried),
        "",
        *_proofs(tried, len(every)),
        *_left_out(every, sizes, results),
        *_exceptions(tried),
    ]
    return "\n".join(lines).rstrip() + "\n"


def machine() -> str:
    """Name the machine and the versions of what was run."""
    packages = ("torch", "torchvision", "timm", "transformers", "numpy")
    versions = ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])
    return f"a shared machine with {os.cpu_count()} cores ({platform.processor() or platform.machine()}), {versions}"


def _table(every: Sequence[Case], sizes: Mapping[Key, Size], tried: Sequence[Result]) -> Iterator[str]:
    columns = (
        "library", "architectures", "families", "families tried", "tried", "run", "probed", "proven",
        "free groups, median", "groups, median", "unmovable, median", "seconds to find, median", "seconds, largest",
    )  # fmt: skip
    yield _row(columns)
    yield "| --- |" + " ---: |" * (len(columns) - 1)
    for library in LIBRARIES:
        mine = [one for one in tried if one.library == library]
        ran = [one for one in mine if not one.error]
        if not ran:
            continue
        probed = [one for one in mine if one.reason != "not probed"]
        proven = sum(one.proven for one in probed)
        families = {size.family for size in sizes.values() if size.library == library}
        met = {sizes[one.library, one.name].family for one in mine}
        yield _row((
            library, sum(case.library == library for case in every), len(families), len(met), len(mine), len(ran),
            len(probed), f"{proven:,} ({proven / max(1, len(probed)):.1%})", int(median(one.free for one in ran)),
            int(median(one.groups for one in ran)), f"{median(one.unmovable for one in ran):.1%}",
            f"{median(one.seconds for one in ran):.2f}", f"{max(one.seconds for one in ran):.1f}",
        ))  # fmt: skip


def _proofs(tried: Sequence[Result], count: int) -> Iterator[str]:
    proven = [one for one in tried if one.proven]
    if proven:
        groups, idle, alike = (sum(len(row) for row in rows) for rows in (
            [range(one.probed) for one in proven], [one.idle for one in proven], [one.alike for one in proven]
        ))  # fmt: skip
        yield f"**Proven: {len(proven):,} of all {count:,} ({len(proven) / count:.1%}).**"
        yield ""
        yield (
            f"Largest deviation of a proven architecture: {max(one.deviation for one in proven):.1e} "
            f"(median {median(one.deviation for one in proven):.1e}). Moved alone: {groups:,} groups, "
            f"of which {idle} are idle and {alike} alike; all others show. "
            f"Proven with the second or third weights: {sum(one.seed > 0 for one in proven)}. "
            f"With roundings enlarged: {sum(one.deviation > 1e-10 for one in proven)}. "
            f"Built for smaller pictures: {sum(one.side > 0 for one in proven)}."
        )
        yield ""


def _left_out(every: Sequence[Case], sizes: Mapping[Key, Size], results: Mapping[Key, Result]) -> Iterator[str]:
    """What was not tried, counted by library and size."""
    keys = [(case.library, case.name) for case in every]
    missing = [key for key in keys if key not in results]
    found_only = [one for one in results.values() if one.reason == "not probed"]
    yield f"## Not tried: {len(missing) or 'none'}; groups found but not probed: {len(found_only) or 'none'}"
    yield ""
    for name, some in (("not tried", missing), ("not probed", [(one.library, one.name) for one in found_only])):
        parts = [sizes[key].parameters for key in some if key in sizes]
        if parts:
            counts = ", ".join(f"{library} {count}" for library, count in Counter(key[0] for key in some).items())
            yield (
                f"- {name} ({counts}): {min(parts) / 1e6:.1f} to {max(parts) / 1e6:.0f} million parameters, "
                f"median {median(parts) / 1e6:.0f}; the sweep goes from cheap to expensive, one of every family first"
            )
    yield ""


def _exceptions(tried: Sequence[Result]) -> Iterator[str]:
    yield from _listing("No groups", [(one, one.error) for one in tried if one.error])
    yield from _listing("Not proven", [(one, one.reason) for one in tried if one.reason and one.reason != "not probed"])
    known: defaultdict[str, list[Result]] = defaultdict(list)
    for one in tried:
        for operator in one.unknown:
            known[operator].append(one)
    yield from _listing(
        "Operators without a rule, whose axes are locked",
        [(one, f"`{operator}`") for operator, some in known.items() for one in some],
    )
    reasons: Counter[str] = Counter()
    for one in tried:
        reasons.update(one.locks)
    yield "## Locked groups by reason"
    yield ""
    yield _row(("reason", "groups"))
    yield "| --- | ---: |"
    for reason, count in reasons.most_common():
        yield _row((reason, count))


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells) + " |"


def _listing(title: str, found: Sequence[tuple[Result, str]]) -> Iterator[str]:
    """One line for each reason, numbers aside, with all the architectures that it holds for."""
    yield f"## {title}: {len({(one.library, one.name) for one, _ in found}) or 'none'}"
    yield ""
    by_reason: defaultdict[str, list[tuple[Result, str]]] = defaultdict(list)
    for one, reason in found:
        by_reason[re.sub(r"[\d.e+-]+", "#", reason)].append((one, reason))
    for some in sorted(by_reason.values(), key=len, reverse=True):
        yield f"- {some[0][1]}: {', '.join(f'`{one.library}:{one.name}`' for one, _ in some)}"
    if found:
        yield ""
