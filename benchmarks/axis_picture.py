"""Draw the axis groups of a small network: ``python -m benchmarks.axis_picture docs/axis-groups.png``.

Every weight is a box of outputs (downwards) and inputs (to the right). A side has the colour of its group: sides of one
colour are the same units and are cut, placed and filled alike.
"""

from __future__ import annotations

import sys

import torch
from matplotlib import pyplot
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from torchgraft.axes import AxisGroups, axis_groups

UNIT, EDGE, GAP = 0.14, 0.1, 0.75


class Example(nn.Module):
    """A residual block, then a concatenation with a second branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.enter, self.leave = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 1)
        self.side = nn.Conv2d(3, 5, 3, padding=1)
        self.head = nn.Linear(13, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Run on pictures ``(n, 3, h, w)``."""
        stream = self.stem(x).relu()
        stream = stream + self.leave(self.enter(stream).relu())
        both = torch.cat([stream, self.side(x).relu()], 1)
        return self.head(both.mean((2, 3)))


def colours(groups: AxisGroups) -> dict[object, str]:
    """Give every group of more than one unit a colour; locked ones are grey."""
    free = iter(pyplot.rcParams["axes.prop_cycle"].by_key()["color"])
    found: dict[object, str] = {}
    for key, rows in groups.spans.items():
        for span in (span for row in rows[:2] for span in row if key.endswith("weight")):
            for atom in span.leaf:
                if atom not in found:
                    found[atom] = "0.75" if getattr(atom, "locked", "") else next(free)
    return found


def main(path: str) -> None:
    """Write the picture."""
    model = Example()
    groups = axis_groups(model, [torch.zeros(1, 3, 8, 8)])
    colour = colours(groups)
    figure, axes = pyplot.subplots(figsize=(8.6, 2.9), dpi=160)
    left = 0.0
    for name, text in [
        ("stem", "stem\n3 → 8"), ("enter", "block, enter\n8 → 12"), ("leave", "block, leave\n12 → 8"),
        ("side", "second branch\n3 → 5"), ("head", "head, reads both\n8 + 5 → 4"),
    ]:  # fmt: skip
        out, into = model.get_parameter(f"{name}.weight").shape[:2]
        axes.add_patch(Rectangle((left, -out * UNIT), into * UNIT, out * UNIT, facecolor="0.95", edgecolor="0.6"))
        rows = groups.spans[f"{name}.weight"]
        for span in rows[0]:
            size = span.leaf[0].size
            box = (left - EDGE, -(span.start + size) * UNIT), EDGE, size * UNIT
            axes.add_patch(Rectangle(*box, facecolor=colour[span.leaf[0]]))
        for span in rows[1]:
            size = span.leaf[0].size
            axes.add_patch(Rectangle((left + span.start * UNIT, 0), size * UNIT, EDGE, facecolor=colour[span.leaf[0]]))
        axes.text(left + into * UNIT / 2, 0.28, text, ha="center", va="bottom", fontsize=9)
        left += into * UNIT + GAP
    legend = "down: outputs   across: inputs   grey: channels of the picture, and classes, which stay in place"
    axes.text(0, -13.6 * UNIT, legend, fontsize=8, color="0.35")
    axes.set_xlim(-0.3, left - GAP + 0.3)
    axes.set_ylim(-14.5 * UNIT, 1.0)
    axes.set_aspect("equal")
    axes.axis("off")
    figure.savefig(path, bbox_inches="tight")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "docs/axis-groups.png")
