"""The report as one HTML page: pictures inside, nothing loaded from elsewhere, readable in light and in dark."""

from __future__ import annotations

__all__ = ["page"]

import re
from base64 import b64encode
from collections.abc import Mapping
from importlib.resources import files

from torchgraft.lab.packages import optional
from torchgraft.lab.report.document import Cell, Document


def page(document: Document, pictures: Mapping[str, bytes]) -> str:
    """Return the page.

    Args:
        document: the report.
        pictures: PNG bytes by the name of the figure; a figure without one is left out.

    Raises:
        LabError: jinja2 is not installed.
    """
    jinja2 = optional("jinja2", "the report's page")
    template = files("torchgraft.lab.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"tint": _tint, "anchor": _anchor}
    inlined = {name: f"data:image/png;base64,{b64encode(content).decode()}" for name, content in pictures.items()}
    rendered: str = environment.from_string(template).render(document=document, pictures=inlined)
    return rendered


def _tint(cell: Cell) -> str:
    """Return the style of a cell: blue for a gain, red for a loss, fainter the smaller; over light or dark ground."""
    if abs(cell.tone) < 0.005:
        return ""
    colour = "33, 102, 172" if cell.tone > 0 else "178, 24, 43"
    return f"background: rgba({colour}, {min(0.5, 0.06 + 0.5 * abs(cell.tone)):.2f})"


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
