"""The report's tables as LaTeX, for ``\\input`` into a paper; they need no package."""

from __future__ import annotations

__all__ = ["escaped", "latex"]

import re
import unicodedata

from torchgraft.lab.report.document import Document, Table

_SIGNS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "*": r"{*}",  # a star behind \\ would be taken for its option
    "[": "{[}",  # and so would a bracket
    "]": "{]}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "→": r"$\to$",
    "−": "$-$",
    "–": "--",
    "†": r"$\dagger$",
    "ρ": r"$\rho$",
    "…": r"\ldots{}",
    "“": "``",
    "”": "''",
    "’": "'",
    "\N{NO-BREAK SPACE}": "~",
}
_SIZES = ((10, r"\tiny"), (7, r"\scriptsize"), (0, r"\small"))  # type by the least number of columns
_LONG = 45  # rows that fit a page


def latex(document: Document) -> str:
    """Return all tables as LaTeX ``table`` environments, long ones in several parts."""
    head = (
        f"% {_one_line(document.title)}: tables made by torchgraft.lab.\n"
        "% \\input this file. It needs no package: lines are \\hline, not booktabs.\n"
        "% Letters outside ASCII in names need a UTF-8 engine (any LaTeX since 2018).\n"
    )
    parts = [head]
    for section in document.sections:
        parts += [_table(table, document.origin) for table in section.tables]
    return "\n".join(parts)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def escaped(text: str) -> str:
    """Return text in which every sign stands for itself.

    >>> print(escaped("50 % of a_b & <c> ± -1.5"))
    50 \\% of a\\_b \\& $<$c$>$ $\\pm$ $-$1.5
    """
    plain = "".join(letter for letter in text if unicodedata.category(letter) != "Cc")
    told = "".join(_SIGNS.get(letter, letter) for letter in plain)
    return re.sub(r"(?<![\w$.-])-(?=\d)", "$-$", told)


def _table(table: Table, origin: str) -> str:
    parts = [table.rows[first : first + _LONG] for first in range(0, len(table.rows), _LONG)] or [()]
    size = next(size for least, size in _SIZES if len(table.columns) >= least)
    columns = "l" * table.stubs + "r" * (len(table.columns) - table.stubs)
    if columns == "ll":  # names and texts of any length: these are folded
        columns = r"lp{0.6\linewidth}"
    drawn = []
    for number, rows in enumerate(parts, 1):
        part = f" (part {number} of {len(parts)})" if len(parts) > 1 else ""
        drawn.append(
            "\\begin{table}[htbp]\n\\centering\n"
            f"\\caption{{{escaped(table.title + part)}. {escaped(table.note)} {escaped(origin)}}}\n"
            f"{size}\n\\setlength{{\\tabcolsep}}{{3pt}}\n\\begin{{tabular}}{{{columns}}}\n\\hline\n"
            + _line(list(table.columns))
            + "\\hline\n"
            + "".join(_line([cell.text for cell in row]) for row in rows)
            + "\\hline\n\\end{tabular}\n\\end{table}\n"
        )
    return "\n".join(drawn)


def _line(cells: list[str]) -> str:
    return f"{' & '.join(map(escaped, cells))} \\\\\n"
