"""The command that measures whether a warm-started model computes what its source does."""

from __future__ import annotations

__all__ = ["verify"]

import json
from typing import Any

import click

import torchgraft
from torchgraft.cli.models import opened
from torchgraft.cli.options import (
    inputs_of,
    json_option,
    library_options,
    planning_options,
    quiet_option,
    source_option,
    target_option,
)
from torchgraft.cli.terminal import aligned, emit, plain, progress, results
from torchgraft.io import resolve

_NOT_EXACT = 1


@click.command(short_help="Measure whether the target computes the source's function.")
@click.argument("source", metavar="SOURCE")
@target_option
@source_option
@planning_options
@click.option("--allow-nonfinite", is_flag=True, help="Accept NaN and infinite weights in the file SOURCE.")
@json_option
@quiet_option
def verify(source: str, target: str, **given: Any) -> int:
    """Warm-start TARGET from SOURCE in memory, run both, and say by how much they deviate, from where on, and why.

    SOURCE is a model, or a checkpoint with the model that it belongs to (--source). Nothing is written.
    `torchgraft plan` foretells the same from shapes.

    \b
    Examples:
      torchgraft verify timm:resnet18 timm:resnet34
      torchgraft verify run.pth --source timm:resnet50 --target timm:resnet101 --json
      torchgraft verify python:my.models:small python:my.models:large --input-shape 2x16x8

    Exit codes: 0 exact, 1 not exact, 2 refused with one line on stderr.
    """
    seed, loose = given["seed"], given["allow_nonfinite"]
    inputs = inputs_of(given["inputs"], seed)
    with progress(given["quiet"]) as steps:
        steps.begin(f"opening {source}")
        name, old = opened(source, given["factory"], seed, loose)
        steps.begin(f"building {target}")
        new = resolve(target, role="target", seed=seed).module
        assert new is not None
        steps.begin(f"{name} → {target}")
        report = torchgraft.transfer(old, new, **library_options(given))
        steps.begin("running both")
        found = torchgraft.verify(old, new, report, inputs)
    if given["as_json"]:
        emit(json.dumps({**found.to_dict(), "source": name, "target": target}, indent=1) + "\n")
    elif not given["quiet"]:
        lines = str(found).splitlines()
        verdict = "exact" if found.exact else "not exact"
        results(plain(f"{name} → {target}: {verdict}, measured on {found.inputs}"), *map(aligned, lines[1:]))
    return 0 if found.exact else _NOT_EXACT
