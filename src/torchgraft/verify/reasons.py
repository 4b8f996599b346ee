"""Why two computations part: what the plan foretold and what the rules find, the nearest to the place first."""

from __future__ import annotations

__all__ = ["reasons_for"]

from collections.abc import Iterator, Sequence
from math import inf

from torchgraft.forecast import told
from torchgraft.records import Obstacle
from torchgraft.verify.places import Evidence
from torchgraft.verify.rules import MEASURED, RULES, Finding, moment_of, placed, rounding_of

_MOST = 5  # reasons that are told


def reasons_for(evidence: Evidence, limit: float, known: Sequence[str]) -> tuple[str, ...]:
    """Return why the computations part, the nearest to the place first, then what differs further on.

    Where the plan foretold something, rules add only what they see in the values. Differences before the last layer
    that agrees have done no harm; they are named where nothing else is found.

    Args:
        evidence: what was measured.
        limit: deviation from which on a layer counts as parted.
        known: reasons that were found elsewhere, which come first.
    """
    number = evidence.parting(limit)
    agreeing = evidence.found if number is None else evidence.found[:number]
    first = evidence.position(agreeing[-1][0]) if agreeing else -1
    name, last, rounded = "the output", inf, False
    if number is not None:
        pair, deviation, _ = evidence.found[number]
        name, last = pair.target, evidence.position(pair)
        rounded = deviation <= max((rounding_of(move.target.dtype) for move in pair.transfer.moves), default=0.0)
    found = sorted(_all(evidence), key=lambda one: one.position)
    near = [one for one in found if first < one.position <= last]
    near = near or [one for one in reversed(found) if one.position <= first]
    later = [one for one in found if one.position > last]
    if not known and not near:
        why = "what the transfer computed was rounded when it was stored" if rounded else "no rule explains it"
        known = (f"{why}, at {name}",)
    return (*known, *told(Obstacle(one.what, one.where) for one in (*near, *later)))[:_MOST]


def _all(evidence: Evidence) -> Iterator[Finding]:
    """Yield what the plan foretold and what a rule sees in the values; all that rules find where that is not all."""
    foretold = list(_foretold(evidence))
    yield from foretold
    for name, rule in RULES.items():
        if name in MEASURED or not foretold:
            yield from rule(evidence)


def _foretold(evidence: Evidence) -> Iterator[Finding]:
    """Yield the obstacles that the plan knew of, and when they come to bear."""
    order, home = evidence.target_course.order, placed(evidence)
    for one in evidence.obstacles:
        path = one.where.removeprefix("the source's ")
        if path != one.where:
            at = home(evidence.source_course.order.get(path, 0))
        elif path in order:
            at = order[path]
        else:
            at = inf if path == "the output" else moment_of(path, evidence)
        yield Finding(at, one.what, one.where)
