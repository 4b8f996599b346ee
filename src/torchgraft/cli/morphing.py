"""The command that edits a trained model and keeps its function."""

from __future__ import annotations

__all__ = ["morph"]

import json
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
from torchgraft.io import save_safetensors
from torchgraft.morph import EDITS, Edit, Edited, apply_edits, edit_of


@click.command(short_help="Edit a trained model and keep its function.")
@click.argument("source", metavar="SOURCE")
@weights_option("Where to write the edited model's state dict; its metadata holds the edits.")
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
    metavar="FILE.json",
    help="A list of edits, as --json prints them and as the metadata of an edited file holds them.",
)
@input_option
@click.option("--approximate", is_flag=True, help="Allow edits that change the function, and tell by how much.")
@click.option("--allow-nonfinite", is_flag=True, help="Accept NaN and infinite weights in the file SOURCE.")
@seed_option
@json_option
@quiet_option
def morph(source: str, output: Path, texts: tuple[str, ...], file: Path | None, **given: Any) -> None:
    """Edit the trained model SOURCE, measure that it computes what it did, and write its weights.

    An edit that would change the function is refused with the reason, and nothing is written.

    \b
    Examples:
      torchgraft morph timm:resnet18,pretrained=True --edit 'widen layer1.0.conv1 width=96' -o wide.safetensors
      torchgraft morph run.pth --source timm:resnet18 --edit 'deepen conv1' --edits more.json -o deep.safetensors

    \b
    The architecture is rebuilt by the same edits:
      edits = [morph.Edit.from_dict(one) for one in json.loads(metadata["torchgraft.edits"])]
      model = morph.apply_edits(model, edits, certify=False).model
    """
    check_format(output)
    check_destinations({"--output": output}, source, file)
    edits = [*(_stored(file) if file else ()), *map(edit_of, texts)]
    if not edits:
        raise MorphError("there is no edit to make: give --edit 'widen layer1.0.conv1 width=96', or --edits FILE.json")
    with progress(given["quiet"]) as steps:
        steps.begin(f"opening {source}")
        name, model = opened(source, given["factory"], given["seed"], given["allow_nonfinite"])
        steps.begin("editing and measuring")
        inputs = inputs_of(given["inputs"], given["seed"])
        edited = apply_edits(model, edits, inputs=inputs, approximate=given["approximate"], seed=given["seed"])
        steps.begin(f"writing {output.name}")
        save_safetensors(output, state_of(edited.model, name), _metadata(edited, name))
    if given["as_json"]:
        emit(json.dumps(_told(edited, name, output), indent=1) + "\n")
    elif not given["quiet"]:
        results(*map(aligned, str(edited).splitlines()), plain(f"wrote {output}"))


def _stored(file: Path) -> list[Edit]:
    try:
        found = json.loads(read_json_file(file))
    except (ValueError, RecursionError):  # no JSON at all, or nested without end
        found = None
    if not isinstance(found, list):
        raise MorphError(f"{file} holds no list of edits: write them as --json prints them")
    return [Edit.from_dict(one) for one in found]


def _metadata(edited: Edited, name: str) -> dict[str, str]:
    rows = [edit.to_dict() for edit in edited.edits]
    told = {"source": name, "edits": json.dumps(rows), "version": torchgraft.__version__}
    return {f"torchgraft.{key}": value for key, value in told.items()}


def _told(edited: Edited, name: str, output: Path) -> dict[str, Any]:
    certificate = None if edited.certificate is None else edited.certificate.to_dict()
    rows = [edit.to_dict() for edit in edited.edits]
    return {"source": name, "output": str(output), "edits": rows, "certificate": certificate}
