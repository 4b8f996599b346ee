"""The algebra of axes: unification, splitting and cutting, on cases worked out by hand and on random ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchgraft.axes.groups import _index
from torchgraft.axes.terms import ONE, Atom, Cat, Prod, Term, atoms_of, cut, fuse, lock, resolve, size_of, split, unify


def test_two_atoms_become_one() -> None:
    a, b = Atom(4), Atom(4)
    unify(a, b)
    assert resolve(a) is resolve(b)


def test_an_atom_takes_the_structure_it_meets() -> None:
    flat, channels, places = Atom(12), Atom(3), Atom(4, "positions")
    unify(flat, Prod((channels, places)))
    assert resolve(flat) == Prod((channels, places))
    assert [atom.locked for atom in atoms_of(flat)] == ["", "positions"]


def test_a_lock_holds_for_what_an_atom_turns_out_to_be() -> None:
    outer, inner = Atom(6), Atom(3)
    lock(outer, "an input")
    unify(outer, Prod((Atom(2), inner)))
    assert inner.locked == "an input"


def test_products_are_split_at_each_others_borders() -> None:
    queries, keys, repeats, size = Atom(12), Atom(3), Atom(4), Atom(64)
    unify(Prod((queries, size)), Prod((keys, repeats, Atom(64))))  # grouped queries
    assert resolve(queries) == resolve(Prod((keys, repeats)))


def test_concatenations_are_cut_at_each_others_borders() -> None:
    whole, a, b = Atom(10), Atom(4), Atom(6)
    unify(whole, Cat((a, b)))
    unify(Cat((Atom(4), Atom(2), Atom(4))), whole)
    assert [size_of(part) for part in resolve(whole).parts] == [4, 2, 4]  # type: ignore[union-attr]


def test_what_cannot_be_brought_together_is_locked() -> None:
    row = [Atom(4), Atom(6), Atom(6), Atom(4)]
    unify(Prod(tuple(row[:2])), Prod(tuple(row[2:])))
    assert all(atom.locked for term in row for atom in atoms_of(term))


def test_an_axis_that_meets_a_part_of_itself_is_locked() -> None:
    a = Atom(8)
    halves = cut(a, (4, 4))
    assert halves is not None
    b = Atom(4)
    unify(a, Prod((Atom(2), b)))
    unify(halves[0], Cat((b,)))
    unify(b, Prod((Atom(2), Atom(2))))
    assert size_of(a) == 8


def test_turns_of_a_product_are_cut_and_stay_in_place() -> None:
    three, width = Atom(3), Atom(5)
    parts = cut(Prod((three, width)), (5, 10))
    assert parts is not None and [size_of(part) for part in parts] == [5, 10]
    assert three.locked and not width.locked


@pytest.mark.parametrize(("term", "sizes"), [(Atom(6), (4, 2)), (Prod((Atom(2), Atom(3))), (3, 2)), (Atom(6), (2, 2))])
def test_a_split_that_does_not_divide(term: Term, sizes: tuple[int, ...]) -> None:
    found = split(term, sizes)
    assert found is None or np.prod([size_of(factor) for factor in found]) == size_of(term)


def test_a_product_of_ones_is_one() -> None:
    assert fuse((ONE, ONE)) == ONE
    assert split(Atom(5), (1, 5, 1))[0] == ONE  # type: ignore[index]


factorings = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(factorings, st.data())
def test_a_split_multiplies_to_the_whole_and_keeps_the_order(sizes: list[int], data: st.DataObject) -> None:
    total = int(np.prod(sizes))
    whole = Atom(total)
    factors = split(whole, sizes)
    assert factors is not None and [size_of(factor) for factor in factors] == sizes
    assert np.array_equal(_index(resolve(whole), {}), np.arange(total))
    wide = [factor for factor in factors if isinstance(factor, Atom)]
    if wide:
        atom = data.draw(st.sampled_from(wide))
        order = np.array(data.draw(st.permutations(range(atom.size))))
        index = _index(resolve(whole), {atom.number: order})
        place = [factor is atom for factor in factors].index(True)
        expected = np.take(np.arange(total).reshape(sizes), order, axis=place).reshape(-1)
        assert np.array_equal(index, expected)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_unified_chains_have_equal_indices(first: list[int], second: list[int]) -> None:
    short = sum(first) - sum(second)
    first, second = [*first, *([-short] if short < 0 else [])], [*second, *([short] if short > 0 else [])]
    a, b = Cat(tuple(map(Atom, first))), Cat(tuple(map(Atom, second)))
    unify(a, b)
    atoms = list(dict.fromkeys(atoms_of(a)))
    assert set(atoms) == set(atoms_of(b)) and not any(atom.locked for atom in atoms)
    chosen = {atom.number: np.arange(atom.size)[::-1] for atom in atoms}
    assert np.array_equal(_index(resolve(a), chosen), _index(resolve(b), chosen))
