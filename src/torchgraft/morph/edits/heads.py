"""The heads of attention as groups of units: their number and their size."""

from __future__ import annotations

__all__ = ["head_choices", "with_heads"]

from collections.abc import Iterator
from math import prod

from torchgraft.axes import AxisGroups
from torchgraft.axes.terms import Atom, Prod, atoms_of
from torchgraft.errors import MorphError
from torchgraft.morph.edits.sizes import Sizes


def with_heads(groups: AxisGroups, sizes: Sizes, old: int, new: int) -> Sizes | None:
    """Return sizes in which the heads grow as a stream does, of code that divides its width among them.

    Args:
        groups: of the model.
        sizes: of the stream.
        old: its units as they were.
        new: its units as they will be.
    """
    found = {group.number: group.size for group in groups.free() if group.role == "heads" and group.size > 1}
    grown = {number: size * new // old for number, size in found.items() if size * new % old == 0}
    return {**sizes, **grown} if found and len(grown) == len(found) else None


def head_choices(groups: AxisGroups, path: str, heads: int | None, head_size: int | None) -> Iterator[Sizes]:
    """Yield the sizes of groups with which the attention at ``path`` has so many heads of such a size.

    Raises:
        MorphError: no attention is found there, or its heads may not change so.
    """
    counts, sizes = _found(groups, path)
    if not counts:
        raise MorphError(f"{path} holds no heads that were found: give the path of an attention")
    number = prod(atom.size for atom in counts)
    wanted = number if heads is None else heads
    if heads is None and head_size is None:
        raise MorphError("say how many heads, or of which size: heads=, head_size=")
    inner: dict[int, int] = {}
    if head_size is not None:
        locked = next((atom for atom in sizes if atom.locked), None)
        if locked is not None:
            raise MorphError(f"the size of the heads of {path} cannot change: their units are {locked.locked}")
        inner = {atom.number: head_size for atom in sizes}
    made = 0
    for atom in reversed(counts) if wanted != number else counts[:1]:
        others = number // atom.size
        if wanted % others == 0:
            made += 1
            yield inner | ({} if wanted == number else {atom.number: wanted // others})
    if not made:
        told = " · ".join(str(atom.size) for atom in counts)
        raise MorphError(f"{path} has {told} heads, of which {wanted} is no multiple that can be made")


def _found(groups: AxisGroups, path: str) -> tuple[list[Atom], list[Atom]]:
    """Return the groups that count the heads of an attention, and those that are units of a head."""
    roles = {group.number: group.role for group in groups.groups}
    prefix = f"{path}." if path else ""
    counts: dict[Atom, None] = {}
    sizes: dict[Atom, None] = {}
    for key, row in groups.axes.items():
        for term in row if key.startswith(prefix) else ():
            for part in _products(term):
                heads = [one for one in part.factors if isinstance(one, Atom) and roles[one.number] == "heads"]
                if heads:
                    counts |= dict.fromkeys(heads)
                    last = part.factors[-1]
                    sizes |= dict.fromkeys(() if last is heads[-1] else atoms_of(last))
    return list(counts), list(sizes)


def _products(term: object) -> Iterator[Prod]:
    if isinstance(term, Prod):
        yield term
    for part in getattr(term, "parts", ()):
        yield from _products(part)
