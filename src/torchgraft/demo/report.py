"""What the demo tells: on the terminal, and as a Markdown page."""

from __future__ import annotations

__all__ = ["markdown", "tell_findings", "tell_plan", "tell_source"]

from dataclasses import replace
from statistics import fmean

from rich.console import Console
from rich.table import Table

from torchgraft.demo.networks import SOURCE_STORY, TARGET_STORY
from torchgraft.demo.result import CARRIED, Curve, DemoResult, rounded
from torchgraft.demo.training import BATCH, FINE_RATE, RATE
from torchgraft.plan import Plan
from torchgraft.records import TensorPlan
from torchgraft.view.text import percent, summary_line, tensor_table

_SHOWN = 13  # weights of the plan on the terminal

_MEANING = {
    "random": "no transfer: the target's own initialization",
    "dpiat": "the published method: weights and biases, cropped to the centre",
    "graft": "torchgraft's default: every unit of the source has a place, new units and blocks start silent",
    CARRIED: "the same, and what the source's Adam knows of its weights moves with them (`tg.transfer_optimizer`)",
}


def tell_source(console: Console, accuracy: float, parameters: int) -> None:
    """Say what was trained and what is wanted now."""
    console.print(f"[bold]Trained[/] {SOURCE_STORY}: {accuracy:.1f} % of the test digits, {parameters:,} weights.")
    console.print(f"[bold]Wanted[/]  another network: {TARGET_STORY}.")


def tell_plan(console: Console, plan: Plan, similarity: float, milliseconds: float) -> None:
    """Show the plan's weights (a screen of it), its totals, the similarity and the time of the transfer."""
    weights = [_short(tensor) for tensor in plan.tensors if len(tensor.shape) > 1]
    console.print("\n[bold]The plan[/] (graft): where the weights of the new network come from")
    console.print(tensor_table(weights[:_SHOWN]))
    hidden = len(weights[_SHOWN:])
    rest = f"{len(plan.tensors) - len(weights)} biases, norms and statistics"
    console.print(f"… {hidden} more weights and {rest}: all in plan.txt", style="dim", highlight=False)
    console.print(summary_line(plan.tensors), highlight=False)
    told = f"similarity {similarity:.2f}; planned and written in {milliseconds:.0f} ms, without data or training"
    console.print(told, highlight=False)


def _short(tensor: TensorPlan) -> TensorPlan:
    """Leave out ``.weight``, which all that are shown end in."""
    source = tuple(key.removesuffix(".weight") for key in tensor.source)
    return replace(tensor, key=tensor.key.removesuffix(".weight"), source=source)


def tell_findings(console: Console, result: DemoResult, folder: str) -> None:
    """Show accuracies by epoch, what follows from them, and where the files are."""
    spread = "" if result.seeds == 1 else f", mean ± deviation of {result.seeds} seeds"
    console.print(f"\n[bold]Test accuracy in % after every epoch[/]{spread}")
    console.print(_accuracy_table(result))
    console.print()
    for verdict in result.verdicts():
        console.print(f"• {verdict}", highlight=False)
    console.print(f"• {_why(result)}", highlight=False)
    console.print(f"\nWritten to {folder}: {', '.join(result.files)} ({result.seconds:.0f} s)", highlight=False)


def _accuracy_table(result: DemoResult) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("start")
    for epoch in range(result.epochs + 1):
        table.add_column(_heading(epoch), justify="right", no_wrap=True)
    for curve in result.curves:
        style = "bold" if curve.initialization == "graft" else ""
        table.add_row(curve.initialization, *_cells(curve, result.seeds), style=style)
    return table


def _heading(epoch: int) -> str:
    return str(epoch) if epoch else "0 (no training)"


def _cells(curve: Curve, seeds: int) -> list[str]:
    if seeds == 1:
        return [f"{mean:.1f}" for mean in curve.means]
    return [f"{mean:.1f} ± {spread:.1f}" for mean, spread in zip(curve.means, curve.spreads, strict=True)]


def _why(result: DemoResult) -> str:
    """Separate the two causes of an accuracy before training: the statistics of BatchNorm, and the weights."""
    shares = [
        f"{curve.initialization} {rounded(curve.means[0])} → {rounded(fmean(curve.recalibrated))} %"
        for curve in result.curves
    ]
    return (
        "why: with BatchNorm statistics measured anew (no weight changed) the accuracies before training move "
        f"{', '.join(shares)}; what still differs comes from the weights"
    )


def markdown(result: DemoResult, plan: Plan) -> str:
    """Write the report as a Markdown page."""
    head = ["start", *(_heading(epoch) for epoch in range(result.epochs + 1)), "similarity", "coverage"]
    rows = [
        [
            curve.initialization,
            *_cells(curve, result.seeds),
            f"{curve.similarity:.3f}" if curve.coverage else "",
            f"{100 * curve.coverage:.1f} %" if curve.coverage else "",
        ]
        for curve in result.curves
    ]
    table = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    lines = [
        f"# {result.headline()}",
        "",
        f"The source is {SOURCE_STORY}, trained on scikit-learn's handwritten digits to "
        f"{result.source_accuracy:.1f} % ({result.source_parameters:,} weights). The target has {TARGET_STORY} "
        f"({result.target_parameters:,} weights).",
        "",
        *(f"- **{name}**: {meaning}" for name, meaning in _MEANING.items()),
        "",
        "![accuracy by epoch](demo.png)",
        "",
        f"Test accuracy in %{'' if result.seeds == 1 else ', mean ± standard deviation'} over {_seeds(result)}, "
        "after every epoch of fine-tuning:",
        "",
        *table,
        "",
        *(f"- {verdict}" for verdict in (*result.verdicts(), _why(result))),
        "",
        f"Recipe, the same for all: Adam, rate {FINE_RATE:g} (one epoch of linear warm-up, then a cosine to "
        f"zero), batch {BATCH}; for every seed the same initialization of the target and the same order of images. "
        f"The source learned with rate {RATE:g}. A lead is called one where it is at least one point and two standard "
        "errors of the paired differences.",
        "",
        "Limits: one pair of networks and one recipe, picked from several that were tried, on an easy task. Both "
        "networks are residual. In trials from a plain convolutional network to a residual one, neither method started "
        "above chance, and graft was not ahead of dpiat after training either.",
        "",
        f"The plan covers {percent(*_covered(plan))} of the target's elements; all of it is in `plan.txt` "
        f"and `plan.json`. One transfer took {result.transfer_ms:.0f} ms, the whole demo {result.seconds:.0f} s.",
    ]
    return "\n".join(lines) + "\n"


def _seeds(result: DemoResult) -> str:
    return "1 seed" if result.seeds == 1 else f"{result.seeds} seeds"


def _covered(plan: Plan) -> tuple[int, int]:
    return sum(tensor.elements for tensor in plan.tensors), plan.total
