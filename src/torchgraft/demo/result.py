"""What the demo found, and what may be said about it."""

from __future__ import annotations

__all__ = ["CARRIED", "Curve", "DemoResult", "rounded"]

from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

#: The start by graft that moves the optimizer's state as well.
CARRIED = "graft + optimizer"


def rounded(percent: float) -> str:
    """Round to whole numbers where that claims neither all nor nothing.

    >>> rounded(99.6), rounded(98.6), rounded(100.0)
    ('99.6', '99', '100')
    """
    return f"{percent:.1f}" if 99 < percent < 100 or 0 < percent < 1 else f"{percent:.0f}"


@dataclass(frozen=True, slots=True)
class Curve:
    """One initialization: test accuracies in percent, ``accuracy[seed][epoch]``, epoch 0 being before any training.

    ``similarity`` and ``coverage`` belong to the transfer (0 without one); ``recalibrated`` holds, by seed, the
    accuracy at epoch 0 once the BatchNorm statistics are measured anew and nothing else is changed.
    """

    initialization: str
    similarity: float
    coverage: float
    accuracy: tuple[tuple[float, ...], ...]
    recalibrated: tuple[float, ...]

    @property
    def means(self) -> tuple[float, ...]:
        """Mean over the seeds, by epoch."""
        return tuple(mean(column) for column in zip(*self.accuracy, strict=True))

    @property
    def spreads(self) -> tuple[float, ...]:
        """Standard deviation over the seeds, by epoch; 0 for one seed."""
        return tuple(stdev(column) if len(column) > 1 else 0.0 for column in zip(*self.accuracy, strict=True))


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Everything the demo measured.

    ``source_accuracy`` is the trained source's, in percent; ``transfer_ms`` the time of one graft transfer (plan and
    apply), ``seconds`` that of the whole demo; ``files`` are the names of what was written into the output folder.
    """

    seed: int
    seeds: int
    epochs: int
    source_accuracy: float
    source_parameters: int
    target_parameters: int
    curves: tuple[Curve, ...]
    transfer_ms: float
    seconds: float
    files: tuple[str, ...]

    def curve(self, initialization: str) -> Curve:
        """Return the curve of ``"random"``, ``"dpiat"``, ``"graft"`` or :data:`CARRIED`."""
        return next(curve for curve in self.curves if curve.initialization == initialization)

    def lead(self, epoch: int, over: str = "dpiat", start: str = "graft") -> tuple[float, float]:
        """Return a start's lead in points at ``epoch``: mean over the seeds, each with itself, and standard error."""
        ours, theirs = self.curve(start).accuracy, self.curve(over).accuracy
        gaps = [a[epoch] - b[epoch] for a, b in zip(ours, theirs, strict=True)]
        return mean(gaps), (stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("inf"))

    def leads(self, epoch: int, over: str = "dpiat", start: str = "graft") -> bool:
        """Tell whether a start is clearly ahead: by at least one point and by two standard errors."""
        gap, error = self.lead(epoch, over, start)
        return gap >= 1 and gap > 2 * error

    def headline(self) -> str:
        """Return the finding in one line; it claims no more than the numbers hold."""
        values = [f"{name} {rounded(self.curve(name).means[0])} %" for name in ("graft", "dpiat", "random")]
        if self.leads(0) and self.leads(0, "random"):
            return f"Before any training: {values[0]}, {values[1]}, {values[2]}"
        return "Accuracy by initialization of the target"

    def verdicts(self) -> tuple[str, ...]:
        """Say for the first two epochs and the last how graft stands against both others."""
        lines = []
        for epoch in sorted({0, 1, self.epochs}):
            when = "before any training" if epoch == 0 else f"after epoch {epoch}"
            lines.append(f"{when}: graft " + "; ".join(self._against(epoch, over) for over in ("dpiat", "random")))
        last = "; ".join(self._against(self.epochs, over, CARRIED) for over in ("graft", "dpiat"))
        return (*lines, f"with the optimizer's state moved too, after epoch {self.epochs}: {CARRIED} {last}")

    def _against(self, epoch: int, over: str, start: str = "graft") -> str:
        gap, error = self.lead(epoch, over, start)
        if self.seeds == 1:
            return f"{gap:+.1f} points against {over} (one seed: no spread, no claim)"
        number = f"{gap:+.1f} ± {error:.1f} points"
        ahead = self.leads(epoch, over, start)
        return f"leads {over} by {number}" if ahead else f"is not clearly ahead of {over} ({number})"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data, with means and spreads."""
        curves = [{**asdict(curve), "mean": curve.means, "spread": curve.spreads} for curve in self.curves]
        return {**asdict(self), "curves": curves, "headline": self.headline(), "verdicts": self.verdicts()}
