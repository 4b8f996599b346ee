"""One function for each command: read the arguments, call the library, print what came of it."""

from __future__ import annotations

__all__ = ["COMMANDS"]

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

import torchgraft
from torchgraft import Plan, Report, TensorPlan
from torchgraft.cli.lab import lab
from torchgraft.cli.models import some, state_of
from torchgraft.cli.morphing import morph
from torchgraft.cli.options import (
    PLANNING,
    check_destinations,
    check_format,
    exponent_option,
    json_option,
    library_options,
    method_option,
    planning_options,
    quiet_option,
    read_json_file,
    result_only_option,
    seed_option,
    source_option,
    target_option,
    weights_option,
)
from torchgraft.cli.terminal import Progress, emit, plain, progress, results, spoken, stdout_console
from torchgraft.cli.verifying import verify
from torchgraft.errors import CheckpointError, GraftError, PlanError
from torchgraft.io import atomic_write, resolve, resolve_source, save_safetensors
from torchgraft.similarity import MEASURES
from torchgraft.view.text import summary_line, tensor_table


@click.command(short_help="Warm-start a model and write its weights.")
@click.argument("source", metavar="SOURCE")
@target_option
@weights_option("Where to write the target's state dict; an existing file is replaced, at once and as a whole.")
@source_option
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    metavar="PLAN.json",
    help="Carry out a plan that `torchgraft plan -o` wrote instead of making one.",
)
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE.json", help="Write the report as JSON, too.")
@planning_options
@click.option("--allow-nonfinite", is_flag=True, help="Accept NaN and infinite weights in the file SOURCE.")
@click.option(
    "--repeat-tied", is_flag=True, help="Store a tied tensor under every name it has, for readers that want them all."
)
@json_option
@quiet_option
@click.pass_context
def transfer(context: click.Context, /, source: str, target: str, output: Path, **given: Any) -> None:
    """Warm-start a model from SOURCE and write its weights.

    SOURCE is a checkpoint or a model (`torchgraft --help` lists the kinds). Every tensor of the target is written:
    what SOURCE cannot serve keeps the initialization of the target's own code.

    \b
    Examples:
      torchgraft transfer old.safetensors --target timm:efficientnet_b2 -o warm.safetensors
      torchgraft transfer run.pth --source timm:resnet50 --target timm:resnet101 -o warm.safetensors
      torchgraft transfer timm:resnet50,pretrained=True --target python:my.models:build -o warm.safetensors
      torchgraft transfer old.npz --target timm:resnet50 --pin layer3=body.stage3 -o warm.safetensors

    \b
    Load the result with
      model.load_state_dict(safetensors.torch.load_file("warm.safetensors"))
    """
    check_format(output)
    check_destinations({"--output": output, "--report": given["report"]}, source, given["plan_file"], given["labels"])
    with progress(given["quiet"]) as steps, _blaming(given["plan_file"]):
        made = _stored_plan(context, given["plan_file"]) if given["plan_file"] else None
        report, notes, state = _warm_start(source, target, made, given, steps)
        told = [*_told(report, notes), plain(f"wrote {output}")]
        steps.begin(f"writing {output.name}")
        save_safetensors(output, state, _metadata(report), repeat_tied=given["repeat_tied"])
        if given["report"]:
            atomic_write(given["report"], json.dumps(report.to_dict(), indent=1))
    if given["as_json"]:
        emit(json.dumps({"output": str(output), "notes": notes, **report.to_dict()}, indent=1) + "\n")
    elif not given["quiet"]:
        results(*told)


def _warm_start(
    source: str, target: str, made: Plan | None, given: Mapping[str, Any], steps: Progress
) -> tuple[Report, tuple[str, ...], dict[str, torch.Tensor]]:
    """Build the target, plan unless there is a plan, apply it; return the report, the notes and the state dict."""
    seed, loose = given["seed"], given["allow_nonfinite"]
    steps.begin(f"opening {source}")
    origin = resolve_source(source, given["factory"], seed=seed, allow_nonfinite=loose)
    steps.begin(f"building {target}")
    built = resolve(target, role="target", seed=seed)
    assert built.module is not None
    weights: Any = origin.module if origin.table is None else origin.table
    factory = None if origin.table is None else origin.module
    if made is None:
        steps.begin("planning")
        options = library_options(given, factory)
        made = replace(torchgraft.plan(weights, built.module, **options), source=origin.name, target=built.name)
    steps.begin(f"{made.source} → {made.target}", total=len(made.transfers))
    report = torchgraft.apply(
        made, weights, built.module, factory=factory, seed=seed, allow_nonfinite=loose, progress=steps.advance
    )
    return report, made.notes, state_of(built.module, target)


def _stored_plan(context: click.Context, path: Path) -> Plan:
    """Read a plan file; options that would have shaped the plan come too late and are refused."""
    shaping = set(PLANNING) - {"seed"}
    for option in context.command.params:
        name = option.name or ""
        if name in shaping and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{path} is a plan already: drop {option.opts[0]}, or plan anew with it", context)
    try:
        return Plan.from_json(read_json_file(path))
    except (PlanError, RecursionError) as error:
        raise PlanError(f"{path}: {error}") from None


@contextmanager
def _blaming(path: Path | None) -> Iterator[None]:
    """Trace what fails in the block to the plan file, if there is one: anybody may have edited it."""
    try:
        yield
    except (GraftError, click.ClickException, OSError, MemoryError):
        raise
    except Exception as error:
        if path is None:
            raise
        reason = plain(f"{type(error).__name__}: {error}")[:120]
        raise PlanError(f"{path} does not hold together ({reason}): make it anew with `torchgraft plan -o`") from error


def _metadata(report: Report) -> dict[str, str]:
    told = {"plan": report.fingerprint, "source": report.source, "target": report.target, "method": report.method}
    return {f"torchgraft.{key}": value for key, value in {**told, "version": torchgraft.__version__}.items()}


def _told(report: Report, notes: tuple[str, ...]) -> list[str]:
    """What a transfer came to: the totals, the tensors that the source does not serve, what the plan left open."""
    lines = [f"{report.source} → {report.target} by {report.method}", report.summary()]
    unserved: dict[str, list[str]] = {}
    for tensor in report.tensors:
        if tensor.status in ("kept", "initialised"):
            unserved.setdefault(f"{tensor.status} ({tensor.reason})", []).append(tensor.key)
    lines += [f"{what}: {some(keys)}" for what, keys in unserved.items()]
    return [plain(line) for line in (*lines, *(f"note: {spoken(note)}" for note in notes))]


@click.command(short_help="Show what a transfer would do to every tensor.")
@click.argument("source", metavar="SOURCE")
@target_option
@source_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PLAN.json",
    help="Write the plan, for `torchgraft transfer --plan`.",
)
@planning_options
@json_option
@quiet_option
def plan(source: str, target: str, output: Path | None, **given: Any) -> None:
    """Show what a transfer would do to every tensor of the target, without reading or writing a weight.

    Of a checkpoint only the header is read, and models are built without memory for their weights. The last lines say
    whether the target will compute the source's function, and if not, why not.

    \b
    Examples:
      torchgraft plan timm:resnet18 timm:resnet34
      torchgraft plan old.safetensors --target timm:efficientnet_b2
      torchgraft plan timm:vit_tiny_patch16_224 --target timm:vit_base_patch16_384 --method dpiat
      torchgraft plan old.npz --target timm:resnet50 --exclude-target fc -o plan.json
    """
    check_destinations({"--output": output}, source, given["labels"])
    with progress(given["quiet"]) as steps:
        steps.begin(f"planning {source} → {target}")
        made = torchgraft.plan(source, target, **library_options(given, given["factory"]))
        if output is not None:
            atomic_write(output, made.to_json())
    if given["as_json"]:
        totals = {"fingerprint": made.fingerprint(), "coverage": made.coverage, "counts": made.counts()}
        emit(json.dumps({**totals, **made.to_dict()}, indent=1) + "\n")
    elif not given["quiet"]:
        head = plain(f"{made.source} → {made.target} by {made.method}")
        notes = [plain(one) for one in (*made.forecast.lines(), *(f"note: {spoken(note)}" for note in made.notes))]
        written = [plain(f"wrote {output}")] if output is not None else []
        results(head, tensor_table(_printable(made.tensors)), summary_line(made.tensors), *notes, *written)


def _printable(tensors: Sequence[TensorPlan]) -> list[TensorPlan]:
    """Take control characters out of the names: a file may hold any, and a terminal obeys them."""
    return [replace(one, key=plain(one.key), source=tuple(map(plain, one.source))) for one in tensors]


@click.command(short_help="Say how alike two networks are.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--measure",
    type=click.Choice(list(MEASURES)),
    default="sim",
    show_default=True,
    help="sim is symmetric, the geometric mean of both directions; F is the share of B that A serves (eq. 4).",
)
@method_option
@exponent_option
@json_option
@result_only_option
def similarity(a: str, b: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Say how alike two networks are, from 0 to 1, by kinds and shapes alone.

    A and B are checkpoints or models (`torchgraft --help` lists the kinds).

    \b
    Examples:
      torchgraft similarity timm:resnet18 timm:resnet34
      torchgraft similarity old.safetensors timm:efficientnet_b2 --measure F
    """
    with progress(quiet) as steps:
        steps.begin(f"comparing {a} with {b}")
        value = torchgraft.similarity(a, b, **options)
    if as_json:
        emit(json.dumps({"a": a, "b": b, **options, "similarity": value}) + "\n")
    else:
        results(f"{value:.6f}")


@click.command(short_help="Rank sources for a target, best first.")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--target", required=True, metavar="SPEC", help="The model to warm-start, as in timm:efficientnet_b2.")
@method_option
@json_option
@result_only_option
def rank(sources: tuple[str, ...], target: str, method: str, as_json: bool, quiet: bool) -> None:
    """Rank sources for a target, best first.

    \b
    similarity      symmetric, the geometric mean of the next two
    serves target   share of the target's layers that the source serves
    served by it    share of the source's layers that the target would serve
    coverage        share of the target's elements that a transfer would determine

    \b
    Example:
      torchgraft rank --target timm:efficientnet_b2 timm:efficientnet_b0 timm:resnet50 old.safetensors
    """
    with progress(quiet) as steps:
        steps.begin(f"ranking {len(sources)} sources for {target}")
        ranking = torchgraft.rank(target, sources, method=method)
    if as_json:
        rows = [{"source": sources[entry.index], **asdict(entry)} for entry in ranking]
        emit(json.dumps({"target": target, "method": method, "ranking": rows}, indent=1) + "\n")
        return
    table = Table("", "source", box=None, pad_edge=False, header_style="bold")
    for column in ("similarity", "serves target", "served by it", "coverage"):
        table.add_column(column, justify="right", no_wrap=True)
    table.columns[1].overflow = "fold"
    for place, entry in enumerate(ranking, 1):
        values = (entry.similarity, entry.serves_target, entry.served_by_target, entry.coverage)
        table.add_row(str(place), Text(plain(sources[entry.index])), *(f"{value:.4f}" for value in values))
    results(table)


@click.command(short_help="See it work on real digits.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    metavar="FOLDER",
    help="Where the plot and the numbers are written.",
)
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="How many repetitions.")
@click.option("--epochs", type=click.IntRange(1), help="Epochs of fine-tuning.  [default: the demo's own]")
@seed_option
@json_option
@quiet_option
def demo(output: Path, seeds: int, epochs: int | None, seed: int, as_json: bool, quiet: bool) -> None:
    """Train a small network on real digits, warm-start a different one from it, and show what that is worth.

    Needs the extra of that name: pip install 'torchgraft[demo]'. No network access, under two minutes.

    \b
    Example:
      torchgraft demo --output demo-output
    """
    if output.exists() and not output.is_dir():
        raise CheckpointError(f"{output} is a file: give the name of a folder to --output")
    try:
        from torchgraft.demo import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("torchgraft"):
            raise
        raise CheckpointError(f"{error.name} is not installed: pip install 'torchgraft[demo]'") from None
    console = Console(quiet=True) if quiet else Console(stderr=True) if as_json else stdout_console()
    options: dict[str, int] = {} if epochs is None else {"epochs": epochs}
    outcome = run(output, seeds=seeds, seed=seed, console=console, **options)
    if as_json:
        emit(json.dumps(outcome.to_dict(), indent=1) + "\n")


#: Commands by name.
COMMANDS: Mapping[str, click.Command] = {
    "transfer": transfer,
    "plan": plan,
    "verify": verify,
    "morph": morph,
    "similarity": similarity,
    "rank": rank,
    "demo": demo,
    "lab": lab,
}
