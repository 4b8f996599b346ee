"""Rows of the benchmark table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured figure, the goal it is held against, and the limit or published figure beside it."""

    what: str
    figure: str
    goal: str = ""
    beside: str = ""


def table(rows: list[Row]) -> list[str]:
    """Format rows as a Markdown table."""
    head = ["| what | measured | goal | beside |", "|---|---|---|---|"]
    return head + [f"| {row.what} | {row.figure} | {row.goal} | {row.beside} |" for row in rows]
