"""The command that measures whether a warm-started model computes what its source does."""

from __future__ import annotations

__all__ = ["verify"]

import json
from typing import Any

import click
from torch import nn

import torchgraft
from torchgraft.cli.options import (
    inputs_of,
    json_option,
    library_options,
    planning_options,
    quiet_option,
    source_option,
    target_option,
)
from torchgraft.cli.terminal import emit, plain, progress, results
from torchgraft.errors import SpecError
from torchgraft.io import resolve, resolve_source

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
        name, old = _opened(source, given["factory"], seed, loose)
        steps.begin(f"building {target}")
        new = resolve(target, role="target", seed=seed).module
        assert new is not None
        steps.begin(f"{name} → {target}")
        report = torchgraft.transfer(old, new, **library_options(_planning(given)))
        steps.begin("running both")
        found = torchgraft.verify(old, new, report, inputs)
    if given["as_json"]:
        emit(json.dumps({**found.to_dict(), "source": name, "target": target}, indent=1) + "\n")
    elif not given["quiet"]:
        lines = str(found).splitlines()
        verdict = "exact" if found.exact else "not exact"
        results(plain(f"{name} → {target}: {verdict}, measured on {found.inputs}"), *map(_line, lines[1:]))
    return 0 if found.exact else _NOT_EXACT


def _opened(source: str, factory: str | None, seed: int, loose: bool) -> tuple[str, nn.Module]:
    """Return the source as a module with its weights."""
    origin = resolve_source(source, factory, seed=seed, allow_nonfinite=loose)
    if origin.table is None:
        assert origin.module is not None
        return origin.name, origin.module
    if factory is None:
        raise SpecError(f"{source} has weights but no code to run: name its model, as in --source timm:resnet50")
    module = resolve(factory, role="target", seed=seed).module
    assert module is not None
    torchgraft.transfer(origin.table, module, factory=factory, allow_nonfinite=loose)
    return origin.name, module


def _planning(given: dict[str, Any]) -> dict[str, Any]:
    left = ("factory", "allow_nonfinite", "as_json", "quiet")
    return {name: value for name, value in given.items() if name not in left}


def _line(text: str) -> str:
    """Keep the spaces of a table, and take out what a terminal would obey."""
    return "".join(one for one in text if one.isprintable())
