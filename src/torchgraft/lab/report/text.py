"""The report as plain text, for a file or a terminal."""

from __future__ import annotations

__all__ = ["plain_text", "tell", "tell_table"]

from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from textwrap import fill
from typing import TYPE_CHECKING

from torchgraft.lab.report.document import Document, Section, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

_WIDTH = 120  # of sentences; tables in files are as wide as they need to be
_GAP = 3  # between two columns of a table
_GAIN, _LOSS = "green", "red"


def plain_text(document: Document) -> str:
    """Return the whole report as text without colours; tables are never cut or folded.

    >>> print(plain_text(Document("Title", "subtitle", "origin", (Section("Part", ("A sentence.",)),))), end="")
    Title
    =====
    subtitle
    <BLANKLINE>
    Part
    ----
    A sentence.
    """
    from rich.console import Console

    parts = [f"{document.title}\n{'=' * len(document.title)}\n{_filled(document.subtitle)}\n"]
    for section in document.sections:
        parts.append(f"\n{section.title}\n{'-' * len(section.title)}\n")
        parts += [f"{paragraph}\n" for paragraph in _paragraphs(section)]
        for table in section.tables:
            buffer = StringIO()
            console = Console(file=buffer, width=10_000, color_system=None, highlight=False)
            console.print(_rich(table, colours=False))
            lines = "\n".join(line.rstrip() for line in buffer.getvalue().rstrip("\n").split("\n"))
            notes = f"{_filled(table.note)}\n{_filled(document.origin)}"
            parts.append(f"\n{table.title}\n\n{lines}\n\n{notes}\n")
        parts += [f"\n{_filled(f'[{figure.name}.png] {figure.caption}')}\n" for figure in section.figures]
    return "".join(parts)


def tell(console: Console, document: Document) -> None:
    """Print a report, gains green and losses red; sentences keep a width that can be read, in a pipe too."""
    from rich.rule import Rule
    from rich.text import Text

    width = min(_WIDTH, console.width)
    console.print(Rule(Text(document.title, "bold"), align="left"), width=width)
    console.print(Text(document.subtitle, "dim"), width=width)
    for section in document.sections:
        console.print()
        console.print(Text(section.title, "bold"))
        for paragraph in _paragraphs(section, width):
            console.print(Text(paragraph))
        for table in section.tables:
            console.print()
            tell_table(console, table)
    console.print()
    console.print(Text(document.origin, "dim"), width=width)


def tell_table(console: Console, table: Table) -> None:
    """Print one table with its note; where it is wider than the console, in parts one below the other."""
    from rich.text import Text

    console.print(Text(table.title, "underline"))
    for number, part in enumerate(_parts(table, console.width)):
        if number:
            console.print()
        console.print(_rich(part, colours=True))
    console.print(Text(table.note, "dim"), width=min(_WIDTH, console.width))


def _paragraphs(section: Section, width: int = _WIDTH) -> Iterator[str]:
    for paragraph in section.paragraphs:
        yield _filled(paragraph, "* ", "  ", width) if section.items else _filled(paragraph, width=width)


def _filled(text: str, first: str = "", next_: str = "", width: int = _WIDTH) -> str:
    return fill(text, width, initial_indent=first, subsequent_indent=next_, break_long_words=False)


def _parts(table: Table, width: int) -> Iterator[Table]:
    """Yield the table in parts that fit ``width``, each with the columns that name its rows and some of the others.

    A column too wide even alone is folded within its cells, as is a table of names alone.
    """
    from rich.cells import cell_len

    cells = [(name, *(row[index].text for row in table.rows)) for index, name in enumerate(table.columns)]
    wide = [_GAP + max(map(cell_len, column)) for column in cells]
    stubs = range(table.stubs)
    room = width + _GAP - sum(wide[index] for index in stubs)
    groups: list[list[int]] = [[]]
    for index in range(table.stubs, len(wide)):
        if groups[-1] and sum(wide[other] for other in groups[-1]) + wide[index] > room:
            groups.append([])
        groups[-1].append(index)
    for group in groups:
        chosen = (*stubs, *group)
        columns = tuple(table.columns[index] for index in chosen)
        yield replace(table, columns=columns, rows=tuple(tuple(row[index] for index in chosen) for row in table.rows))


def _rich(table: Table, colours: bool) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold" if colours else "")
    for index, name in enumerate(table.columns):
        stub = index < table.stubs
        # A name that is folded is whole; one that is cut with an ellipsis is not.
        drawn.add_column(Text(name), justify="left" if stub else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(cell.text, _style(cell.tone) if colours else "") for cell in row))
    return drawn


def _style(tone: float) -> str:
    return _GAIN if tone > 0.005 else _LOSS if tone < -0.005 else ""
