"""The demo's plot: one line per initialization, with its spread, its start and its end in numbers."""

from __future__ import annotations

__all__ = ["draw"]

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from torchgraft.demo.result import CARRIED, DemoResult, rounded
from torchgraft.errors import SpecError

_COLOURS = {CARRIED: "#1f5fbf", "graft": "#0b7a53", "dpiat": "#c2570c", "random": "#666666"}
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
_GAP = 6.5  # least distance of two labels, in points of accuracy


def draw(result: DemoResult) -> bytes:
    """Draw the accuracies by epoch as a PNG.

    Raises:
        SpecError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SpecError("the demo needs matplotlib, which is not installed: pip install torchgraft[demo]") from None
    figure = Figure(figsize=(8, 4.8), dpi=120)
    axes = figure.add_axes((0.1, 0.14, 0.88, 0.7))
    epochs = list(range(result.epochs + 1))
    for curve in result.curves:
        colour, means = _COLOURS[curve.initialization], curve.means
        low = [max(0.0, m - s) for m, s in zip(means, curve.spreads, strict=True)]
        high = [min(100.0, m + s) for m, s in zip(means, curve.spreads, strict=True)]
        axes.fill_between(epochs, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(epochs, means, color=colour, linewidth=2.4, marker="o", markersize=5)
        axes.plot(0, means[0], color=colour, marker="o", markersize=10, markeredgecolor="white", zorder=5)
    _label(axes, result, 0, -0.05 * result.epochs, "right", "{name} {short} %")
    _label(axes, result, result.epochs, 1.05 * result.epochs, "left", "{name} {value:.1f} %")
    _frame(axes, result)
    _head(figure, result)
    picture = BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _label(axes: Any, result: DemoResult, epoch: int, x: float, align: str, text: str) -> None:
    """Write every curve's value at ``epoch`` beside its point, moved apart where the values are close."""
    curves = sorted(result.curves, key=lambda curve: curve.means[epoch])
    values = [curve.means[epoch] for curve in curves]
    for curve, value, y in zip(curves, values, _spread(values), strict=True):
        colour = _COLOURS[curve.initialization]
        axes.plot([epoch, x * 0.98 + epoch * 0.02], [value, y], color=colour, linewidth=0.8, alpha=0.6, clip_on=False)
        told = text.format(name=curve.initialization, value=value, short=rounded(value))
        axes.text(x, y, told, color=colour, ha=align, va="center", weight="bold", fontsize=11, bbox=_PAPER)


def _spread(values: Sequence[float]) -> list[float]:
    """Move ascending values apart to the least distance of two labels, and keep them between 2 and 100.

    >>> _spread([98.0, 99.0, 99.5])
    [87.0, 93.5, 100.0]
    >>> _spread([10.0, 50.0, 60.0])
    [10.0, 50.0, 60.0]
    """
    places: list[float] = []
    for value in values:
        places.append(max(value, places[-1] + _GAP if places else 2.0))
    ceiling = 100.0
    for index in reversed(range(len(places))):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - _GAP
    return places


def _frame(axes: Any, result: DemoResult) -> None:
    axes.axhline(10, color="#999999", linewidth=0.8, linestyle=(0, (4, 4)), zorder=0)
    axes.text(0.8 * result.epochs, 10.8, "chance", color="#777777", fontsize=9, ha="center", va="bottom")
    axes.set_xlim(-0.36 * result.epochs, 1.37 * result.epochs)
    axes.set_ylim(0, 102)
    axes.set_xticks(range(result.epochs + 1), ["0\n(no training yet)", *map(str, range(1, result.epochs + 1))])
    axes.set_yticks(range(0, 101, 20), [f"{value} %" for value in range(0, 101, 20)])
    axes.set_xlabel("epochs of fine-tuning", x=0.5)
    axes.set_ylabel("test accuracy")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _head(figure: Any, result: DemoResult) -> None:
    seeds = "1 seed" if result.seeds == 1 else f"mean ± deviation of {result.seeds} seeds"
    figure.text(0.022, 0.935, result.headline(), weight="bold", fontsize=15)
    subtitle = f"A trained ResNet warm-starts a deeper, wider SE-ResNet (5×5 kernels). Digits; {seeds}."
    figure.text(0.022, 0.885, subtitle, fontsize=9.5, color="#555555")
