"""Axes as rows of spans: each the product of a few groups, in the order in which they stand in the tensor."""

from __future__ import annotations

__all__ = ["Leaf", "Span", "locked", "size_of_leaf", "spans_of"]

from dataclasses import dataclass
from math import prod

from torchgraft.axes.terms import Atom, Cat, Prod, Term, atoms_of, fuse, resolve, size_of

#: The groups of which a span is the product, the slowest first. A concatenation inside a product (the halves of a
#: rotary embedding inside a head) counts as one group.
Leaf = tuple[Atom | Cat, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """``size`` places of an axis from ``start`` on: as many as ``leaf`` has."""

    start: int
    leaf: Leaf
    size: int


def size_of_leaf(leaf: Leaf) -> int:
    """Return the number of places."""
    return prod(map(size_of, leaf))


def locked(group: Atom | Cat) -> bool:
    """Tell whether some units of a group have to stay where they are."""
    if isinstance(group, Atom):
        return bool(group.locked)
    return any(atom.locked for atom in atoms_of(group))


def spans_of(term: Term) -> tuple[Span, ...]:
    """Return the spans of an axis."""
    found: list[Span] = []
    start = 0
    for part in _parts(resolve(term)):
        leaf = part.factors if isinstance(part, Prod) else (part,)
        size = size_of(part)
        found.append(Span(start, tuple(factor for factor in leaf if not isinstance(factor, Prod)), size))
        start += size
    return tuple(found)


def _parts(term: Term) -> tuple[Term, ...]:
    """The parts of a concatenation; one that is the slowest factor of a product is that of the products."""
    if isinstance(term, Cat):
        return tuple(inner for part in term.parts for inner in _parts(resolve(part)))
    if isinstance(term, Prod) and term.factors:
        first = resolve(term.factors[0])
        if isinstance(first, Cat):
            return tuple(fuse((part, *term.factors[1:])) for part in first.parts)
    return (term,)
