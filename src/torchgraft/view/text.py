"""Plans and reports as text: one line per tensor of the target, then the totals."""

from __future__ import annotations

__all__ = ["STATUSES", "percent", "render", "summary_line", "tensor_table"]

from collections import Counter
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

from torchgraft.records import Shape, TensorPlan

if TYPE_CHECKING:  # rich takes a tenth of the time that importing torchgraft may take, and only printing needs it
    from rich.table import Table
    from rich.text import Text

#: The statuses of a target tensor, best first.
STATUSES = ("copied", "resized", "reused", "silenced", "initialised", "kept")

_STYLES = {
    "copied": "green",
    "resized": "cyan",
    "reused": "blue",
    "silenced": "magenta",
    "initialised": "yellow",
    "kept": "yellow",
}


def tensor_table(tensors: Sequence[TensorPlan]) -> Table:
    """Build the ledger: status, target tensor, source tensor, shapes and score."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("status", no_wrap=True)
    table.add_column("target tensor", overflow="fold")
    table.add_column("shape", no_wrap=True)
    table.add_column("from source tensor", overflow="fold")
    table.add_column("shape", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    for tensor in tensors:
        came = bool(tensor.source)
        table.add_row(
            Text(tensor.status, _STYLES[tensor.status]),
            Text(tensor.key),
            _shape(tensor.shape),
            _source(tensor),
            _shape(tensor.source_shape) if came and tensor.source_shape != tensor.shape else ("=" if came else ""),
            f"{tensor.score:.2f}" if came else "",
        )
    return table


def _source(tensor: TensorPlan) -> Text:
    from rich.text import Text

    if tensor.tied:
        return Text(f"tied to {tensor.tied}")
    if tensor.source:
        more = len(tensor.source) - 1
        return Text(tensor.source[0] + (f" and {more} more" if more else ""))
    return Text(tensor.reason, "dim")


def _shape(shape: Shape | None) -> str:
    return "×".join(map(str, shape)) if shape else ("scalar" if shape == () else "")


def percent(part: int, whole: int) -> str:
    """Format a share so that only all is 100 % and only none is 0 %.

    >>> percent(1, 1), percent(9999, 10000), percent(0, 3)
    ('100 %', '99.9 %', '0 %')
    """
    if part in (0, whole):
        return "0 %" if not part else "100 %"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f} %"


def summary_line(tensors: Sequence[TensorPlan]) -> str:
    """Say in one line how many tensors have which status, and which share of the elements the source determines."""
    counts = Counter(tensor.status for tensor in tensors)
    statuses = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    whole = sum(tensor.size for tensor in tensors if not tensor.tied)
    part = sum(tensor.elements for tensor in tensors)
    return f"{len(tensors)} tensors: {statuses}; coverage {percent(part, whole)} of {whole:,} elements"


def render(*parts: Table | str, width: int = 140) -> str:
    """Return plain text, the same wherever it is printed."""
    from rich.console import Console

    buffer = StringIO()
    console = Console(file=buffer, width=width, color_system=None, highlight=False)
    for part in parts:
        console.print(part, markup=False, soft_wrap=isinstance(part, str))
    return buffer.getvalue().rstrip("\n")
