"""The report as Markdown (GitHub's flavour)."""

from __future__ import annotations

__all__ = ["escaped", "markdown"]

import re

from torchgraft.lab.report.document import Document, Table


def markdown(document: Document, *, pictures: bool = True) -> str:
    """Return the report as Markdown; ``pictures`` are linked as files beside it.

    >>> print(markdown(Document("Title", "a_b", "origin", ())), end="")
    # Title
    <BLANKLINE>
    a_b
    """
    parts = [f"# {escaped(document.title)}\n\n{escaped(document.subtitle)}\n"]
    for section in document.sections:
        parts.append(f"\n## {escaped(section.title)}\n")
        between = "" if section.items else "\n"
        parts.append("\n" if section.items else "")
        parts += [f"{between}{'- ' if section.items else ''}{escaped(paragraph)}\n" for paragraph in section.paragraphs]
        for table in section.tables:
            parts.append(f"\n### {escaped(table.title)}\n\n{_table(table)}\n")
            parts.append(f"{escaped(table.note)}\n\n{escaped(document.origin)}\n")
        for figure in section.figures if pictures else ():
            caption = escaped(figure.caption)
            parts.append(f"\n![{caption}]({figure.name}.png)\n\n{caption}\n")
    return "".join(parts)


def escaped(text: str) -> str:
    """Return text in which nothing is Markdown or HTML.

    >>> escaped("a|b <i> *x* mobile_net_v2 _y_")
    'a\\\\|b \\\\<i> \\\\*x\\\\* mobile_net_v2 \\\\_y\\\\_'
    """
    text = re.sub(r"([\\`*\[\]|<&#$~])", r"\\\1", text)
    # An underscore within a word is only itself, and reads better without a backslash.
    return re.sub(r"(?<![A-Za-z0-9_])_|_(?![A-Za-z0-9_])", r"\\_", text)


def _table(table: Table) -> str:
    lines = [
        _line([escaped(name) for name in table.columns]),
        _line(["---" if index < table.stubs else "---:" for index in range(len(table.columns))]),
        *(_line([escaped(cell.text) for cell in row]) for row in table.rows),
    ]
    return "".join(f"{line}\n" for line in lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
