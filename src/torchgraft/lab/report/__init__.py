"""Rows → report: text, Markdown, LaTeX, pictures, one HTML page, and the figures for other programs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from torchgraft.errors import LabError
from torchgraft.io import atomic_write
from torchgraft.lab.analysis import Analysis, analyse, frame, run_lines, speed_lines
from torchgraft.lab.records import Experiment, Row
from torchgraft.lab.report.build import build
from torchgraft.lab.report.document import Document
from torchgraft.lab.report.latex import latex
from torchgraft.lab.report.markdown import markdown
from torchgraft.lab.report.page import page
from torchgraft.lab.report.plots import draw, is_ours
from torchgraft.lab.report.summary import summary
from torchgraft.lab.report.text import plain_text, tell

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["FORMATS", "tell_report", "write_report"]

Contents = Iterator[tuple[str, str | bytes]]


@dataclass(frozen=True)
class _Made:
    """What all formats draw from; the pictures are drawn once, and only if a format wants them."""

    analysis: Analysis
    document: Document
    command: str
    formats: tuple[str, ...]

    @cached_property
    def pictures(self) -> Mapping[str, bytes]:
        return draw(self.analysis)


def _txt(made: _Made) -> Contents:
    yield "report.txt", plain_text(made.document)


def _md(made: _Made) -> Contents:
    yield "report.md", markdown(made.document, pictures="png" in made.formats)


def _tex(made: _Made) -> Contents:
    yield "report.tex", latex(made.document)


def _png(made: _Made) -> Contents:
    yield from ((f"{name}.png", content) for name, content in made.pictures.items())


def _html(made: _Made) -> Contents:
    yield "report.html", page(made.document, made.pictures)


def _json(made: _Made) -> Contents:
    told = json.dumps(summary(made.analysis, made.command), indent=1, ensure_ascii=False, allow_nan=False)
    yield "summary.json", f"{told}\n"


def _csv(made: _Made) -> Contents:
    runs = made.analysis.runs
    rows = (*runs.sources, *(row for rows in runs.by_case.values() for row in rows), *runs.unmeasured)
    yield "runs.csv", str(frame(run_lines(rows)).to_csv(index=False, lineterminator="\n"))
    if made.analysis.speeds:
        yield "speed.csv", str(frame(speed_lines(made.analysis.speeds)).to_csv(index=False, lineterminator="\n"))


#: What a report can be written as: name -> function from the report to names and contents of files.
FORMATS: Mapping[str, Callable[[_Made], Contents]] = {
    "txt": _txt,
    "md": _md,
    "tex": _tex,
    "png": _png,
    "html": _html,
    "json": _json,
    "csv": _csv,
}


def write_report(
    experiment: Experiment,
    rows: Sequence[Row],
    folder: str | os.PathLike[str],
    *,
    formats: Sequence[str] = tuple(FORMATS),
    command: str = "",
    seed: int = 0,
) -> tuple[Path, ...]:
    """Write the report of an experiment into a folder; return the files, each of which is replaced as a whole.

    Pictures and ``speed.csv`` that an earlier report left there, and that this one has no more, are removed with it;
    what something else has made stays.

    Args:
        experiment: what was to be run.
        rows: what was run; what is missing is told in the report.
        folder: where to write, made where it is missing.
        formats: names from :data:`FORMATS`.
        command: the command that makes the runs, told below every table; ``torchgraft lab run NAME`` unless given.
        seed: of the bootstrap intervals.

    Raises:
        LabError: an unknown format, a missing package, rows of two settings, or a folder that cannot be made.
        CheckpointError: a file cannot be written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise LabError(f"unknown format {unknown[0]!r} of a report (valid: {', '.join(FORMATS)})")
    analysis = analyse(experiment, rows, seed)
    told = command or f"torchgraft lab run {experiment.name}"
    made = _Made(analysis, build(analysis, told), told, tuple(formats))
    # All is made before the first file is written: an error leaves the old report whole.
    contents = [content for name in dict.fromkeys(formats) for content in FORMATS[name](made)]
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"{place} cannot be made: {error.strerror or error}; give another folder") from None
    for name, content in contents:
        atomic_write(place / name, content)
    _forget(place, {name for name, _ in contents}, formats)
    return tuple(place / name for name, _ in contents)


def _forget(folder: Path, written: set[str], formats: Sequence[str]) -> None:
    """Remove what an earlier report has left in the formats that are written now."""
    found = [path for path in folder.glob("*.png") if "png" in formats and is_ours(_begin(path))]
    speed = folder / "speed.csv"
    if "csv" in formats and _begin(speed).startswith(b"threshold,initialization,"):
        found.append(speed)
    for path in found:
        if path.name not in written:
            path.unlink(missing_ok=True)


def _begin(path: Path) -> bytes:
    """Return the first bytes of a file, none of one that is not there."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(1024)


_SHORT = ("In short", "Effectiveness", "graft over dpiat", "Worse than random", "Explosions", "Missing")


def tell_report(
    console: Console,
    experiment: Experiment,
    rows: Sequence[Row],
    *,
    full: bool = False,
    command: str = "",
    seed: int = 0,
) -> None:
    """Print the report on a terminal: the main tables, or with ``full`` all of them.

    Raises:
        LabError: rows of two settings.
    """
    document = build(analyse(experiment, rows, seed), command or f"torchgraft lab run {experiment.name}")
    if not full:
        kept = tuple(section for section in document.sections if section.title in _SHORT)
        document = replace(document, sections=kept)
    tell(console, document)
