"""The ablation: mean effectiveness by matcher and operator, from names such as ``dpiat:bipartite:full``."""

from __future__ import annotations

__all__ = ["Variant", "ablation", "stages"]

from collections.abc import Sequence
from dataclasses import dataclass

from torchgraft.lab.analysis.effects import Overall
from torchgraft.lab.initializations.ours import parse_start
from torchgraft.match import MATCHERS
from torchgraft.transfer.methods import METHODS


@dataclass(frozen=True, slots=True)
class Variant:
    """One cell of the grid of a method; another exponent than the method's own stands with the matcher."""

    method: str
    matcher: str
    operator: str
    overall: Overall


def stages(initialization: str) -> tuple[str, str, str] | None:
    """Return method, matcher and operator of a variant; ``None`` for an initialization that is none.

    >>> stages("dpiat"), stages("dpiat:full:bipartite"), stages("dpiat:x=0.25")
    (('dpiat', 'dp', 'clip'), ('dpiat', 'bipartite', 'full'), ('dpiat', 'dp, x=0.25', 'clip'))
    >>> stages("graft:keep=even"), stages("graft:rate=auto")
    (('graft', 'graft', 'embed, keep=even'), ('graft', 'graft', 'embed, rate=auto'))
    >>> stages("random") is None
    True
    """
    name, _, argument = initialization.partition(":")
    if name not in METHODS:
        return None
    method, (options, share) = METHODS[name], parse_start(argument)
    own = next((matcher for matcher, function in MATCHERS.items() if function is method.match), "its own")
    matcher = str(options.get("matcher", own))
    exponent = options.get("exponent", method.exponent)
    told = matcher if exponent == method.exponent else f"{matcher}, x={exponent}"
    keep = options.get("narrowing", method.narrowing)
    operator = [str(options.get("operator", method.operator_name()))]
    operator += [] if keep == method.narrowing else [f"keep={keep}"]
    operator += [] if share == 1 else ["rate=auto" if share is None else f"rate={share:g}"]
    return name, told, ", ".join(operator)


def ablation(found: Sequence[Overall]) -> tuple[Variant, ...]:
    """Return the cells of all grids; a method of which there is only one variant has none."""
    cells: dict[tuple[str, str, str], Variant] = {}
    for overall in found:
        place = stages(overall.initialization)
        if place:
            cells.setdefault(place, Variant(*place, overall))  # `dpiat` and `dpiat:dp:clip` are one and the same
    methods = [method for method, _, _ in cells]
    return tuple(cell for cell in cells.values() if methods.count(cell.method) > 1)
