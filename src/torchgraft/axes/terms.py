"""A small algebra of axes: what an axis of a tensor is made of, and what follows when two axes are the same.

An axis is an *atom*, a product of axes (heads × head size, channels × rows × columns: the first factor varies slowest)
or a concatenation of axes (query, key, value; the inputs of a dense block). Two axes that must be equal are unified:
an atom becomes the other term, products and concatenations are cut at each other's borders. What cannot be brought
together (``4 × 6`` with ``6 × 4``) is locked: its units have to stay where they are.
"""

from __future__ import annotations

__all__ = [
    "ONE",
    "Atom",
    "Cat",
    "Prod",
    "Term",
    "atoms_of",
    "cut",
    "fuse",
    "lock",
    "resolve",
    "size_of",
    "split",
    "unify",
]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from math import prod
from typing import final

_numbers = count()


@final
class Atom:
    """An axis without known inner structure, until unification gives it one; ``locked`` says why it may not move."""

    __slots__ = ("locked", "marks", "number", "size", "value")

    def __init__(self, size: int, locked: str = "") -> None:
        self.size = size
        self.locked = locked
        self.marks: set[str] = set()
        self.value: Term | None = None  # what it turned out to be
        self.number = next(_numbers)

    def __repr__(self) -> str:
        return f"#{self.number}({self.size}{', ' + self.locked if self.locked else ''})"


@dataclass(frozen=True, slots=True)
class Prod:
    """The product of axes, the slowest first; without factors an axis of one."""

    factors: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Cat:
    """The concatenation of axes."""

    parts: tuple[Term, ...]


Term = Atom | Prod | Cat

#: The axis of one unit.
ONE = Prod(())


def size_of(term: Term) -> int:
    """Return the number of units.

    >>> size_of(Cat((Atom(2), Prod((Atom(3), Atom(4))))))
    14
    """
    if isinstance(term, Atom):
        return term.size
    if isinstance(term, Prod):
        return prod(map(size_of, term.factors))
    return sum(map(size_of, term.parts))


def resolve(term: Term) -> Term:
    """Return what a term is by now: bound atoms replaced, nested products and concatenations flattened."""
    if isinstance(term, Atom):
        last = term
        while isinstance(last.value, Atom):
            last = last.value
        if last is not term:
            term.value = last  # the next one finds it at once
        return last if last.value is None else resolve(last.value)
    if isinstance(term, Prod):
        return fuse(term.factors)
    return _chain(term.parts)


def fuse(factors: Sequence[Term]) -> Term:
    """Return the product of axes."""
    flat: list[Term] = []
    for factor in map(resolve, factors):
        flat += factor.factors if isinstance(factor, Prod) else [factor]
    flat = [factor for factor in flat if size_of(factor) != 1]
    return flat[0] if len(flat) == 1 else Prod(tuple(flat))


def _chain(parts: Sequence[Term]) -> Term:
    flat: list[Term] = []
    for part in map(resolve, parts):
        flat += part.parts if isinstance(part, Cat) else [part]
    flat = [part for part in flat if size_of(part)]
    return flat[0] if len(flat) == 1 else Cat(tuple(flat))


def atoms_of(term: Term) -> Iterator[Atom]:
    """Yield the atoms that a term is made of."""
    found = resolve(term)
    if isinstance(found, Atom):
        yield found
    else:
        for inner in found.factors if isinstance(found, Prod) else found.parts:
            yield from atoms_of(inner)


def lock(term: Term, reason: str) -> None:
    """Say of all atoms of a term that their units stay where they are; the first reason counts."""
    for atom in atoms_of(term):
        atom.locked = atom.locked or reason


def _bind(atom: Atom, term: Term) -> None:
    if any(inner is atom for inner in atoms_of(term)):
        lock(term, "an axis that meets itself in another layout")
        return
    atom.value = term
    if atom.locked:
        lock(term, atom.locked)
    for inner in atoms_of(term):
        inner.marks |= atom.marks


def unify(a: Term, b: Term) -> None:
    """Make two axes of equal size one and the same."""
    a, b = resolve(a), resolve(b)
    if a is b:
        return
    if isinstance(a, Atom):
        _bind(a, b)
    elif isinstance(b, Atom):
        _bind(b, a)
    elif isinstance(a, Prod) and isinstance(b, Prod):
        _zip_factors(list(a.factors), list(b.factors))
    else:
        _zip_parts(list(_parts(a)), list(_parts(b)))


def _parts(term: Term) -> tuple[Term, ...]:
    return term.parts if isinstance(term, Cat) else (term,)


def _zip_factors(a: list[Term], b: list[Term]) -> None:
    """Unify two products of equal size from the slowest factor on, splitting whichever is larger."""
    while a and b:
        x, y = resolve(a.pop(0)), resolve(b.pop(0))
        if size_of(x) == size_of(y):
            unify(x, y)
            continue
        (large, rest), (small, _) = ((x, a), (y, b)) if size_of(x) > size_of(y) else ((y, b), (x, a))
        pieces = split(large, (size_of(small), size_of(large) // size_of(small)))
        if pieces is None:
            for term in (x, y, *a, *b):
                lock(term, "factors that do not fit each other")
            return
        unify(small, pieces[0])
        rest.insert(0, pieces[1])


def _zip_parts(a: list[Term], b: list[Term]) -> None:
    """Unify two concatenations of equal size from the start on, cutting whichever is longer."""
    while a and b:
        x, y = resolve(a.pop(0)), resolve(b.pop(0))
        if size_of(x) == size_of(y):
            unify(x, y) if isinstance(x, Atom) or isinstance(y, Atom) or type(x) is type(y) else _lay_out(x, y)
            continue
        (long, rest), (short, _) = ((x, a), (y, b)) if size_of(x) > size_of(y) else ((y, b), (x, a))
        pieces = cut(long, (size_of(short), size_of(long) - size_of(short)))
        if pieces is None:
            for term in (x, y, *a, *b):
                lock(term, "parts that do not fit each other")
            return
        unify(short, pieces[0])
        rest[:0] = _parts(resolve(pieces[1]))


def _lay_out(x: Term, y: Term) -> None:
    """Unify a product with a concatenation: every part is one turn of the slowest factor."""
    product, chain = (x, y) if isinstance(x, Prod) else (y, x)
    pieces = cut(product, tuple(map(size_of, _parts(chain))))
    if pieces is None:
        lock(product, "a product that meets a concatenation")
        lock(chain, "a product that meets a concatenation")
        return
    for piece, part in zip(pieces, _parts(chain), strict=True):
        unify(piece, part)


def split(term: Term, sizes: Sequence[int]) -> tuple[Term, ...] | None:
    """Return the factors of a term of the given sizes, the slowest first, or ``None`` where it has no such factors.

    >>> heads = Atom(12)
    >>> [size_of(factor) for factor in split(heads, (3, 4))], resolve(heads)
    ([3, 4], Prod(factors=(#..., #...)))
    """
    term = resolve(term)
    if prod(sizes) != size_of(term):
        return None
    if len([size for size in sizes if size != 1]) <= 1:
        return tuple(term if size == size_of(term) and size != 1 else ONE for size in sizes)
    if isinstance(term, Atom):
        made = tuple(ONE if size == 1 else Atom(size) for size in sizes)
        _bind(term, Prod(made))
        return made
    if isinstance(term, Cat):
        return _split_chain(term, sizes)
    return _split_product(list(term.factors), sizes)


def _split_chain(term: Cat, sizes: Sequence[int]) -> tuple[Term, ...] | None:
    """A chain of equally long parts is a product where all its parts are the same; only its turns stay in place."""
    turns = next(size for size in sizes if size != 1)
    lengths = {size_of(part) for part in term.parts}
    if len(lengths) != 1 or len(term.parts) % turns:
        return None
    step = len(term.parts) // turns
    pieces = [_chain(term.parts[start : start + step]) for start in range(0, len(term.parts), step)]
    for piece in pieces[1:]:
        unify(pieces[0], piece)
    place = list(sizes).index(turns)
    rest = split(pieces[0], sizes[place + 1 :])
    return None if rest is None else (*(ONE,) * place, Atom(turns, "the turns of a concatenation"), *rest)


def _split_product(factors: list[Term], sizes: Sequence[int]) -> tuple[Term, ...] | None:
    found: list[Term] = []
    for size in sizes:
        taken: list[Term] = []
        have = 1
        while have < size:
            factor = resolve(factors.pop(0))
            want = size // have
            if size_of(factor) > want:
                pieces = split(factor, (want, size_of(factor) // want)) if size % have == 0 else None
                if pieces is None:
                    return None
                factors.insert(0, pieces[1])
                factor = pieces[0]
            taken.append(factor)
            have *= size_of(factor)
        if have != size:
            return None
        found.append(fuse(taken))
    return tuple(found)


def cut(term: Term, sizes: Sequence[int]) -> tuple[Term, ...] | None:
    """Return the parts of a term of the given sizes, in order, or ``None`` where it cannot be cut there.

    A product is cut between turns of its slowest factor, which then has to stay in place.

    >>> gates = Atom(8)
    >>> [size_of(part) for part in cut(gates, (2, 6))]
    [2, 6]
    """
    term = resolve(term)
    if sum(sizes) != size_of(term):
        return None
    if len([size for size in sizes if size]) <= 1:
        return tuple(term if size else Cat(()) for size in sizes)
    if isinstance(term, Atom):
        made = tuple(Atom(size) for size in sizes)
        _bind(term, Cat(made))
        return made
    if isinstance(term, Prod):
        turns, rest = term.factors[0], fuse(term.factors[1:])
        if any(size % size_of(rest) for size in sizes):
            return None
        lock(turns, "cut into parts")
        return tuple(fuse((Atom(size // size_of(rest), "cut into parts"), rest)) for size in sizes)
    return _cut_chain(list(term.parts), sizes)


def _cut_chain(parts: list[Term], sizes: Sequence[int]) -> tuple[Term, ...] | None:
    found: list[Term] = []
    for size in sizes:
        taken: list[Term] = []
        have = 0
        while have < size:
            part = resolve(parts.pop(0))
            if size_of(part) > size - have:
                pieces = cut(part, (size - have, size_of(part) - size + have))
                if pieces is None:
                    return None
                parts.insert(0, pieces[1])
                part = pieces[0]
            taken.append(part)
            have += size_of(part)
        found.append(_chain(taken))
    return tuple(found)
