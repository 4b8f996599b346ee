"""Learning curves, and similarity against effectiveness."""

from __future__ import annotations

__all__ = ["BANDED", "draw_curves", "draw_similarity", "draw_targets"]

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from torchgraft.lab.analysis import Analysis, Correlation, Curve, Point
from torchgraft.lab.report.words import interval

_KNOWN = {"random": "#555555", "graft": "#0b7a53", "dpiat": "#c2570c", "name_shape": "#2f6db3", "pretrained": "#7a3fa0"}
_OTHERS = (
    "#b0304f", "#8a6d00", "#1f9aa8", "#5b5fc7", "#a3468f", "#6b8e23", "#d08a00", "#3c6e71", "#c76d6d", "#7d8597",
)  # fmt: skip
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
#: Up to so many lines have a band of their spread; more would only be mud.
BANDED = 6


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Give every initialization a colour of its own; where the colours are used up, also another dash."""
    others = [name for name in names if name not in _KNOWN]
    styles: dict[str, dict[str, Any]] = {name: {"color": _KNOWN[name]} for name in names if name in _KNOWN}
    for index, name in enumerate(others):
        dash = _DASHES[index // len(_OTHERS) % len(_DASHES)]
        styles[name] = {"color": _OTHERS[index % len(_OTHERS)], "linestyle": dash}
    return styles


def draw_curves(analysis: Analysis) -> Any:
    """Draw the accuracy by epoch over all pairs, one line per initialization."""
    from matplotlib.figure import Figure

    curves = sorted(analysis.pair_curves, key=lambda curve: -curve.means[-1])
    styles = _styles([curve.initialization for curve in analysis.pair_curves])
    figure = Figure(figsize=(7.2, 4.4))
    axes = figure.add_subplot()
    for curve in curves:
        _line(
            axes,
            curve,
            styles,
            f"{curve.initialization}  {curve.means[-1]:.1f} %  (n={curve.n})",
            banded=len(curves) <= BANDED,
        )
    _frame(axes, curves)
    pairs = len(analysis.runs.pairs)
    axes.set_title(f"Test accuracy, mean over {pairs} pair{'s' * (pairs != 1)}", loc="left", fontsize=11, weight="bold")
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0), title="after the last epoch")
    return figure


def draw_targets(analysis: Analysis) -> Any:
    """Draw the accuracy by epoch for every target in a panel of its own."""
    targets = list(dict.fromkeys(curve.target for curve in analysis.target_curves))
    styles = _styles([curve.initialization for curve in analysis.pair_curves])
    figure, panels = _panels(len(targets), 3.6, 2.7)
    for axes, target in zip(panels, targets, strict=True):
        curves = [curve for curve in analysis.target_curves if curve.target == target]
        for curve in curves:
            _line(axes, curve, styles, curve.initialization, banded=len(styles) <= BANDED)
        _frame(axes, curves)
        axes.set_title(_plain(target), loc="left", fontsize=10, weight="bold")
    handles: dict[str, Any] = {}
    for axes in panels:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        list(handles.values()), list(handles), loc="lower center", ncols=min(4, len(handles)), frameon=False,
        fontsize=9, bbox_to_anchor=(0.5, 1.0),
    )  # fmt: skip
    return figure


def _line(axes: Any, curve: Curve, styles: dict[str, dict[str, Any]], label: str, banded: bool) -> None:
    style = styles.get(curve.initialization, {"color": "#555555"})
    dots = {"marker": "o", "markersize": 4} if len(curve.epochs) <= 20 else {}
    axes.plot(curve.epochs, curve.means, linewidth=1.9, label=_plain(label), **dots, **style)
    if banded and all(spread is not None for spread in curve.spreads):
        low = [max(0.0, m - (s or 0.0)) for m, s in zip(curve.means, curve.spreads, strict=True)]
        high = [min(100.0, m + (s or 0.0)) for m, s in zip(curve.means, curve.spreads, strict=True)]
        axes.fill_between(curve.epochs, low, high, color=style["color"], alpha=0.1, linewidth=0)


def _frame(axes: Any, curves: Sequence[Curve]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlabel("epoch (0: before training)", fontsize=9)
    axes.set_ylabel("test accuracy", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    end = max(1, *(curve.epochs[-1] for curve in curves), 1)
    axes.set_xlim(-0.02 * end, 1.02 * end)
    _rest(axes)


def _rest(axes: Any) -> None:
    axes.grid(color="#e8e8e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)


def _panels(count: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """Lay out panels, three in a row at most."""
    from matplotlib.figure import Figure

    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def draw_similarity(analysis: Analysis) -> Any:
    """Draw similarity against effectiveness, a panel per initialization, with regression line and correlation."""
    own = [correlation for correlation in analysis.correlations if correlation.own]
    styles = _styles([correlation.initialization for correlation in own])
    figure, panels = _panels(len(own), 4.0, 3.5)
    values = [1.0, *(point.effectiveness for point in analysis.points)]
    rim = 0.08 * max(0.1, max(values) - min(values))
    for axes, correlation in zip(panels, own, strict=True):
        _scatter(axes, list(_points(analysis, correlation)), styles[correlation.initialization]["color"])
        axes.set_ylim(max(0.0, min(values) - rim), max(values) + rim)
        axes.set_xlim(0, 1)
        axes.set_title(_plain(correlation.initialization), loc="left", fontsize=10, weight="bold", pad=20)
        told = f"r = {interval(correlation.pearson)}   ρ = {interval(correlation.spearman)}   n = {correlation.pairs}"
        axes.text(0, 1.02, told, transform=axes.transAxes, fontsize=8, color="#444444", va="bottom")
        axes.set_xlabel(f"similarity by {_plain(correlation.measure)}", fontsize=9)
        axes.set_ylabel("effectiveness", fontsize=9)
        _rest(axes)
    return figure


def _points(analysis: Analysis, correlation: Correlation) -> Iterator[Point]:
    for point in analysis.points:
        if point.case.initialization == correlation.initialization and point.measure == correlation.measure:
            yield point


def _scatter(axes: Any, points: Sequence[Point], colour: str) -> None:
    x, y = np.array([p.similarity for p in points]), np.array([p.effectiveness for p in points])
    axes.axhline(1, color="#888888", linewidth=1.2, zorder=1)
    for limit in (0.45, 0.6):
        axes.axvline(limit, color="#888888", linewidth=0.9, linestyle=":", zorder=1)
    axes.scatter(x, y, s=26, color=colour, alpha=0.75, edgecolor="white", linewidth=0.6, zorder=3)
    if len(points) > 2 and math.isfinite(np.ptp(x)) and np.ptp(x) > 1e-9:
        slope, offset = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, slope * ends + offset, color=colour, linewidth=1.6, zorder=2)


def _plain(name: str) -> str:
    """Keep a dollar sign from starting a formula."""
    return name.replace("$", r"\$")
