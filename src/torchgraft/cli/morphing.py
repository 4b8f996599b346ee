"""The command that edits a trained model and keeps its function."""

from __future__ import annotations

__all__ = ["morph"]

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

import torchgraft
from torchgraft.cli.models import opened, state_of
from torchgraft.cli.options import (
    check_destinations,
    check_format,
    input_option,
    inputs_of,
    json_option,
    quiet_option,
    read_json_file,
    seed_option,
    source_option,
    weights_option,
)
from torchgraft.cli.terminal import aligned, emit, plain, progress, results
from torchgraft.errors import MorphError
from torchgraft.io import resolve, save_safetensors
from torchgraft.morph import EDITS, Edit, Edited, Script, apply_edits, between, edit_of
from torchgraft.morph.edits import read_edits


@click.command(short_help="Edit a trained model and keep its function.")
@click.argument("source", metavar="SOURCE")
@weights_option("Where to write the edited model's state dict; its metadata holds the edits.", required=False)
@source_option
@click.option(
    "--edit",
    "texts",
    multiple=True,
    metavar="'NAME PATH ARGUMENT=VALUE…'",
    help=f"An edit; repeatable, in order. Names: {', '.join(EDITS)}.",
)
@click.option(
    "--edits",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Edits from a file: one a line, as --to prints them, or JSON, as --json and an edited file's metadata hold.",
)
@click.option(
    "--to",
    metavar="TARGET",
    help="A model to arrive at: without --edit the edits are found; with -o it gets the weights, under its own names.",
)
@input_option
@click.option("--approximate", is_flag=True, help="Allow edits that change the function, and tell by how much.")
@click.option("--allow-nonfinite", is_flag=True, help="Accept NaN and infinite weights in the file SOURCE.")
@seed_option
@json_option
@quiet_option
def morph(
    source: str, output: Path | None, texts: tuple[str, ...], file: Path | None, to: str | None, **given: Any
) -> int:
    """Edit the trained model SOURCE, measure that it computes what it did, and write its weights.

    An edit that would change the function is refused with the reason, and nothing is written.

    \b
    Examples:
      torchgraft morph timm:resnet18,pretrained=True --edit 'widen layer1.0.conv1 width=96' -o wide.safetensors
      torchgraft morph run.pth --source timm:resnet18 --edit 'deepen conv1' --edits more.json -o deep.safetensors
      torchgraft morph timm:resnet18 --to timm:resnet34
      torchgraft morph run.pth --source timm:resnet18 --to timm:resnet34 -o warm.safetensors

    \b
    The architecture is rebuilt by the same edits:
      edits = [morph.Edit.from_dict(one) for one in json.loads(metadata["torchgraft.edits"])]
      model = morph.apply_edits(model, edits, certify=False).model

    Exit codes: 0 done, 1 no edits lead to --to, 2 refused with one line on stderr.
    """
    edits = [*(read_edits(read_json_file(file)) if file else ()), *map(edit_of, texts)]
    _check(output, source, file, edits, to, given["approximate"])
    with progress(given["quiet"]) as steps:
        steps.begin(f"opening {source}")
        name, model = opened(source, given["factory"], given["seed"], given["allow_nonfinite"])
        inputs, seed = inputs_of(given["inputs"], given["seed"]), given["seed"]
        target = None if to is None else resolve(to, role="target", seed=seed).module
        steps.begin("editing and measuring" if target is None or edits else f"{name} → {to}")
        script = Script(name, to or "", True, tuple(edits))
        if target is not None and not edits:
            found = between(model, target, inputs=inputs, certify=output is None, seed=seed)
            script = replace(found, source=name, target=to or "")
        edited = None
        if target is None:
            edited = apply_edits(model, edits, inputs=inputs, approximate=given["approximate"], seed=seed)
        elif output is not None and script.reachable:
            edited = script.into(model, target, inputs=inputs, seed=seed)
        if edited is not None and output is not None:
            steps.begin(f"writing {output.name}")
            save_safetensors(output, state_of(edited.model, to or name), _metadata(edited, name, to))
    _tell(script, edited, output, given)
    return 0 if script.reachable else _NO_EDITS


_NO_EDITS = 1


def _check(
    output: Path | None, source: str, file: Path | None, edits: Sequence[Edit], to: str | None, approximate: bool
) -> None:
    """Refuse, before any work is done, what cannot be meant."""
    if not edits and to is None:
        told = "give --edit 'widen layer1.0.conv1 width=96', --edits FILE, or a model to arrive at, --to timm:resnet34"
        raise MorphError(f"there is no edit to make: {told}")
    if output is None and (edits or to is None):
        raise MorphError("there is nowhere to write the edited model: give -o OUT.safetensors")
    if to is not None and approximate:
        raise MorphError("--to keeps the function: leave --approximate out, or use torchgraft transfer")
    if output is not None:
        check_format(output)
        check_destinations({"--output": output}, source, file)


def _metadata(edited: Edited, name: str, to: str | None) -> dict[str, str]:
    rows = [edit.to_dict() for edit in edited.edits]
    told = {"source": name, "edits": json.dumps(rows), "version": torchgraft.__version__}
    told |= {} if to is None else {"target": to}
    return {f"torchgraft.{key}": value for key, value in told.items()}


def _tell(script: Script, edited: Edited | None, output: Path | None, given: Mapping[str, Any]) -> None:
    """Print what was found and done: the script where a target was given, the edits, and what was measured."""
    wrote = edited is not None
    if given["as_json"]:
        certificate = None if edited is None or edited.certificate is None else edited.certificate.to_dict()
        told = script.to_dict() if script.target else {"source": script.source, "edits": script.to_dict()["edits"]}
        emit(
            json.dumps({**told, "output": str(output) if wrote else None, "certificate": certificate}, indent=1) + "\n"
        )
    elif not given["quiet"]:
        lines = str(script).splitlines() if script.target else []
        if edited is not None:
            lines += str(edited).splitlines()[len(edited.edits) if script.target else 0 :]
        results(*map(aligned, lines), *([plain(f"wrote {output}")] if wrote else []))
