"""Heat maps of source × target: blue above 1, red below, one logarithmic scale for all."""

from __future__ import annotations

__all__ = ["draw_effects", "draw_ratios"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torchgraft.lab.analysis import Analysis, Comparison

_LEAST, _MOST = math.log2(1.25), 2.0  # limits of the scale, in powers of two


def draw_effects(analysis: Analysis, initialization: str) -> Any:
    """Draw the effectiveness of one initialization."""
    every = [effect.value for effect in analysis.effects if effect.value is not None]
    cells = {
        (effect.case.source, effect.case.target): effect.value
        for effect in analysis.effects
        if effect.case.initialization == initialization
    }
    return _heat(analysis, cells, f"Effectiveness of {initialization}", every)


def draw_ratios(analysis: Analysis, found: Comparison) -> Any:
    """Draw the ratio of two initializations."""
    cells: dict[tuple[str, str], float | None] = {(source, target): value for source, target, value in found.ratios}
    cells |= dict.fromkeys(found.undefined)
    return _heat(analysis, cells, f"{found.first} over {found.second}", [value for _, _, value in found.ratios])


def _limit(values: Sequence[float]) -> float:
    """Return the end of the scale: the largest step away from 1, within reason."""
    return min(_MOST, max(_LEAST, *(abs(math.log2(value)) for value in values if value > 0), _LEAST))


def _heat(analysis: Analysis, cells: Mapping[tuple[str, str], float | None], title: str, scale: Sequence[float]) -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    sources, targets = analysis.runs.source_names, analysis.runs.target_names
    limit = _limit(scale)
    colours, norm = colormaps["RdBu"], Normalize(-limit, limit)
    figure = Figure(figsize=(2.4 + 0.72 * len(sources), 1.6 + 0.44 * len(targets)))
    axes = figure.add_subplot()
    for row, target in enumerate(targets):
        for column, source in enumerate(sources):
            if (source, target) in cells:
                _cell(axes, column, row, cells[source, target], colours, norm)
            elif (source, target) in analysis.runs.pairs:
                _note(axes, column, row, "missing", "white")
            else:
                axes.add_patch(_square(column, row, "#ececec"))
    _frame(axes, sources, targets)
    axes.set_title(_plain(title), loc="left", fontsize=11, weight="bold", pad=10)
    _bar(figure, axes, colours, norm, limit)
    return figure


def _square(column: int, row: int, colour: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor="white", linewidth=1.5)


def _cell(axes: Any, column: int, row: int, value: float | None, colours: Any, norm: Any) -> None:
    if value is None:
        _note(axes, column, row, "undefined", "white")
        return
    place = norm(math.log2(value)) if value > 0 else 0.0
    axes.add_patch(_square(column, row, colours(min(max(place, 0.0), 1.0))))
    ink = "white" if abs(place - 0.5) > 0.29 else "#111111"
    axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=9)


def _note(axes: Any, column: int, row: int, text: str, colour: str) -> None:
    axes.add_patch(_square(column, row, colour))
    axes.text(column, row, text, ha="center", va="center", color="#777777", fontsize=7, style="italic")


def _frame(axes: Any, sources: Sequence[str], targets: Sequence[str]) -> None:
    axes.set_xlim(-0.5, len(sources) - 0.5)
    axes.set_ylim(len(targets) - 0.5, -0.5)
    turned = max(map(len, sources)) > 7
    axes.set_xticks(range(len(sources)), [_plain(name) for name in sources])
    axes.tick_params(axis="x", labelrotation=40 if turned else 0)
    for label in axes.get_xticklabels() if turned else ():
        label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(targets)), [_plain(name) for name in targets])
    axes.tick_params(length=0, labelsize=9)
    axes.set_xlabel("source", fontsize=9)
    axes.set_ylabel("target", fontsize=9)
    axes.spines[:].set_visible(False)


def _bar(figure: Any, axes: Any, colours: Any, norm: Any, limit: float) -> None:
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, fraction=0.06, pad=0.03, aspect=18)
    ticks = [-limit, -limit / 2, 0.0, limit / 2, limit]
    bar.set_ticks(ticks, labels=[f"{2**tick:.2f}" for tick in ticks])
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)


def _plain(name: str) -> str:
    """Keep a dollar sign from starting a formula."""
    return name.replace("$", r"\$")
