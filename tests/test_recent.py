"""A bounded table keeps what was used last, hashes a key once, and may be shared by threads."""

from __future__ import annotations

import sys
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from torchgraft.recent import Recent


@given(st.integers(1, 4), st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=40))
def test_it_holds_what_was_used_last(most: int, steps: list[tuple[bool, int]]) -> None:
    table, held = Recent[int, str](most), OrderedDict[int, str]()
    for number, (sets, key) in enumerate(steps):
        if sets:
            table[key] = held[key] = str(number)
        if key in held:
            held.move_to_end(key)
        assert table.get(key) == held.get(key)
        while len(held) > most:
            held.popitem(last=False)
        assert len(table) == len(held)
    table.clear()
    assert len(table) == 0 and table.get(0) is None


class Counted:
    """A key that counts how often it is hashed."""

    hashed = 0

    def __hash__(self) -> int:
        self.hashed += 1
        return 1


def test_a_key_is_hashed_once_for_a_question() -> None:
    table, key = Recent[Counted, int](1), Counted()
    table[key] = 5
    before = key.hashed
    assert table.get(key) == 5
    assert key.hashed == before + 1


def test_threads_get_the_right_values_and_no_error() -> None:
    interval = sys.getswitchinterval()
    table = Recent[int, int](3)

    def square(number: int) -> int:
        found = table.get(number)
        if found is None:
            found = table[number] = number * number
        return found

    numbers = [step * 7 % 11 for step in range(4000)]
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(square, numbers)) == [number * number for number in numbers]
    finally:
        sys.setswitchinterval(interval)
    assert 0 < len(table) <= 3
