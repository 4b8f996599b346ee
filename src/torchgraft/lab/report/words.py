"""Numbers and names as the report writes them."""

from __future__ import annotations

__all__ = ["MARKS", "NONE", "count", "interval", "listed", "norm", "number", "p_value", "pair", "spread", "tone"]

import math
from collections.abc import Sequence

from torchgraft.lab.analysis import Case, Estimate

#: What stands where there is no figure.
NONE = "–"
#: How cells are marked.
MARKS = (
    "* differs from random at p < 0.05 (paired t-test over seeds, uncorrected), ** also after Holm's correction over "
    "the cases of the initialization, † a run exploded, (n=a/b) fewer seeds than asked for: a runs of it, b from random"
)


def number(value: float | None, digits: int = 2) -> str:
    """Format a number.

    >>> number(1.0), number(None), number(-0.001)
    ('1.00', '–', '0.00')
    """
    if value is None or math.isnan(value):
        return NONE
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def norm(value: float | None) -> str:
    """Format a norm, which may be of any size, in three digits.

    >>> norm(0.01234), norm(56.3), norm(151955.7), norm(None)
    ('0.0123', '56.3', '1.52e+05', '–')
    """
    return NONE if value is None else f"{value:.3g}"


def spread(value: float | None, deviation: float | None, digits: int = 2) -> str:
    """Format a mean with its spread, where there is one.

    >>> spread(1.234, 0.05), spread(1.234, None)
    ('1.23 ± 0.05', '1.23')
    """
    if value is None:
        return NONE
    return number(value, digits) + (f" ± {number(deviation, digits)}" if deviation is not None else "")


def interval(value: Estimate | None, digits: int = 2) -> str:
    """Format an estimate with its interval, where there is one.

    >>> interval(Estimate(1.5, 1.25, 2.0, 3)), interval(Estimate(1.5, None, None, 1))
    ('1.50 [1.25, 2.00]', '1.50')
    """
    if value is None:
        return NONE
    if value.low is None or value.high is None:
        return number(value.value, digits)
    return f"{number(value.value, digits)} [{number(value.low, digits)}, {number(value.high, digits)}]"


def p_value(value: float | None) -> str:
    """Format a probability.

    >>> p_value(0.0004), p_value(0.012), p_value(None)
    ('<0.001', '0.012', '–')
    """
    if value is None:
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def pair(source: str, target: str) -> str:
    """Name a pair.

    >>> pair("a", "b"), pair("", "b")
    ('a → b', 'b')
    """
    return f"{source} → {target}" if source else target


def listed(cases: Sequence[Case]) -> str:
    """Name the pairs of cases in one line; ``none`` where there are none."""
    return ", ".join(pair(case.source, case.target) for case in cases) or "none"


def count(number: int, one: str, many: str = "") -> str:
    """Format a number of things.

    >>> count(1, "pair"), count(2, "pair"), count(0, "case")
    ('1 pair', '2 pairs', '0 cases')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def tone(ratio: float | None) -> float:
    """Return the tone of a ratio's cell: the logarithm, full at 4 and at a quarter.

    >>> tone(1.0), tone(2.0), tone(0.1), tone(None)
    (0.0, 0.5, -1.0, 0.0)
    """
    if ratio is None:
        return 0.0
    return max(-1.0, min(1.0, math.log2(ratio) / 2)) if ratio > 0 else -1.0
