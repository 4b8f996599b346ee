"""Which pictures a report has, and their captions. They are drawn off screen, without pyplot's globals."""

from __future__ import annotations

__all__ = ["draw", "figures", "is_ours"]

import re
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from typing import Any

from torchgraft.lab.analysis import Analysis, Correlation
from torchgraft.lab.packages import optional
from torchgraft.lab.report.document import Figure
from torchgraft.lab.report.heat import draw_effects, draw_ratios
from torchgraft.lab.report.lines import BANDED, draw_curves, draw_similarity, draw_targets
from torchgraft.lab.report.words import count, interval

Drawing = Callable[[], Any]
_MARK = "torchgraft lab"  # in every picture, as the software that made it


def figures(analysis: Analysis) -> tuple[Figure, ...]:
    """Return the names and captions of all pictures that the rows are enough for."""
    return tuple(_plan(analysis))


def draw(analysis: Analysis) -> dict[str, bytes]:
    """Draw all pictures as PNG, by name.

    Raises:
        LabError: matplotlib is not installed.
    """
    optional("matplotlib.figure", "the picture of a report")
    return {figure.name: _png(drawing()) for figure, drawing in _plan(analysis).items()}


def _png(figure: Any) -> bytes:
    picture = BytesIO()
    mark = {"Software": _MARK}
    figure.savefig(picture, format="png", dpi=130, bbox_inches="tight", facecolor="white", metadata=mark)
    return picture.getvalue()


def is_ours(picture: bytes) -> bool:
    """Tell whether a PNG file (its first bytes are enough) was drawn for a report.

    >>> is_ours(b"\\x89PNG another program's")
    False
    """
    return f"Software\0{_MARK}".encode() in picture


def _plan(analysis: Analysis) -> Mapping[Figure, Drawing]:
    """Return every picture with the function that draws it, in the order of the report."""
    planned: dict[Figure, Drawing] = {}
    seeds = count(len(analysis.runs.experiment.seeds), "seed")
    several = len(analysis.runs.pairs) > 1  # of one pair a map or a scatter shows nothing that the table does not
    found = [effect.case for effect in analysis.effects if several and effect.value is not None and effect.case.source]
    for name in dict.fromkeys(case.initialization for case in found):
        caption = (
            f"Effectiveness of {name}: source columns, target rows, mean over {seeds}. Blue is a gain over "
            "random "
            "initialization, red a loss, white is 1; the scale is logarithmic and the same for all initializations."
        )
        planned[Figure(_slug("heat", name, planned), caption)] = partial(draw_effects, analysis, name)
    watched = analysis.graft_over_dpiat
    if several and watched is not None and watched.ratios:
        caption = f"{watched.first} over {watched.second}: ratio of mean accuracies; blue: {watched.first} leads."
        name = _slug("ratio", f"{watched.first}-over-{watched.second}", planned)
        planned[Figure(name, caption)] = partial(draw_ratios, analysis, watched)
    if several and analysis.points:
        own = [correlation for correlation in analysis.correlations if correlation.own]
        planned[Figure("similarity", _correlated(own))] = partial(draw_similarity, analysis)
    if analysis.pair_curves:
        drawn = len(analysis.pair_curves) <= BANDED
        band = "; bands: ± one sample standard deviation" if drawn else "; too many lines for bands of their spread"
        caption = (
            f"Test accuracy by epoch (0: before training), mean over pairs of means over seeds{band} over pairs. "
            "Exploded runs count as they were last measured."
        )
        planned[Figure("curves", caption)] = partial(draw_curves, analysis)
        caption = (
            f"Test accuracy by epoch for every target, mean over all its runs (sources and seeds){band} over these "
            "runs."
        )
        planned[Figure("curves-by-target", caption)] = partial(draw_targets, analysis)
    return planned


def _correlated(found: list[Correlation]) -> str:
    parts = [
        f"{c.initialization} (similarity by {c.measure}): r = {interval(c.pearson)}, ρ = {interval(c.spearman)}, n = "
        f"{c.pairs}"
        for c in found
    ]
    return (
        "Similarity against effectiveness, one point per pair, with the least-squares line; dotted: 0.45 and 0.6, the "
        f"authors' limits of losses and gains. [95 % intervals] {'; '.join(parts)}."
    )


def _slug(prefix: str, name: str, taken: Mapping[Figure, Drawing]) -> str:
    """Return a file name for an initialization, unlike all others."""
    plain = f"{prefix}-{re.sub(r'[^A-Za-z0-9_.=]+', '-', name).strip('-.')[:60]}"
    names = {figure.name for figure in taken}
    return next(slug for slug in (plain, *(f"{plain}-{i}" for i in range(2, len(names) + 3))) if slug not in names)
