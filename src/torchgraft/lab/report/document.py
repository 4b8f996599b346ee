"""What a report consists of, before it is text, Markdown, LaTeX or a page."""

from __future__ import annotations

__all__ = ["Cell", "Document", "Figure", "Section", "Table", "cell", "grid_row"]

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cell:
    """A text; ``tone`` from -1 (a loss) over 0 to 1 (a gain) colours it where there are colours."""

    text: str
    tone: float = 0.0


@dataclass(frozen=True, slots=True)
class Table:
    """A table: the first ``stubs`` columns name the row, the others hold figures.

    ``note`` tells n and what ± means; where the table came from is told by the document for all of them.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str
    stubs: int = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture by the name of its file, without its ending; its bytes are drawn elsewhere."""

    name: str
    caption: str


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, sentences (or items of a list), tables and pictures."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    items: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report. ``origin`` is the line below every table: command and setting."""

    title: str
    subtitle: str
    origin: str
    sections: tuple[Section, ...]


def cell(value: object, tone: float = 0.0) -> Cell:
    """Return a cell of one line.

    >>> cell("two\\nlines")
    Cell(text='two lines', tone=0.0)
    """
    return Cell(" ".join(str(value).split()), tone)


def grid_row(values: Sequence[object]) -> tuple[Cell, ...]:
    """Return a row of cells, from cells and anything else."""
    return tuple(value if isinstance(value, Cell) else cell(value) for value in values)
