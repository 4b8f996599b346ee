"""The options that several commands share, and how they become arguments of the library."""

from __future__ import annotations

__all__ = [
    "PLANNING",
    "check_destinations",
    "check_format",
    "exponent_option",
    "input_option",
    "inputs_of",
    "json_option",
    "library_options",
    "method_option",
    "planning_options",
    "quiet_option",
    "read_json_file",
    "result_only_option",
    "seed_option",
    "source_option",
    "target_option",
    "weights_option",
]

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click
import torch
from torch import Tensor

from torchgraft._api import Options
from torchgraft.errors import CheckpointError, SpecError
from torchgraft.match import MATCHERS
from torchgraft.names import unique
from torchgraft.transfer.methods import METHODS
from torchgraft.transfer.narrowing import NARROWING, RULE_NAMES
from torchgraft.transfer.operators import OPERATORS

Command = TypeVar("Command", bound=Callable[..., Any])


def _pins(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Read ``TARGET=SOURCE`` pairs of dotted paths."""
    pins: dict[str, str] = {}
    for value in values:
        target, sign, source = (part.strip() for part in value.partition("="))
        if not sign:
            raise click.BadParameter(f"{value!r} is not TARGET=SOURCE, as in backbone.layer3=body.stage3")
        if pins.setdefault(target, source) != source:
            raise click.BadParameter(f"{target!r} is pinned to {pins[target]!r} and to {source!r}: keep one of the two")
    return pins


def _explained(table: Mapping[str, Callable[..., Any]]) -> str:
    """Say what each strategy of a table does, in the first sentence of its own documentation."""
    told = []
    for name, function in table.items():
        summary = " ".join((function.__doc__ or "").partition("\n\n")[0].split())
        sentence = re.split(r"(?<=\.)\s+(?=[A-Z])", summary)[0]
        told.append(f"{name}: {sentence[:1].lower()}{sentence[1:]}")
    return " ".join(told)


method_option = click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    default="graft",
    show_default=True,
    help="graft serves every tensor of any network; dpiat is the published method (arXiv:2212.13970) to the letter; "
    "fna takes first units, and the last block of a stage again (arXiv:2006.12986).",
)
exponent_option = click.option(
    "--exponent",
    type=float,
    metavar="X",
    help="Weight a source layer that serves d target layers in a row by d**-X, 0 < X < 1.  [default: 0.5]",
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Seed of every random draw, the target's own initialization included.",
)
source_option = click.option(
    "--source",
    "factory",
    metavar="SPEC",
    help="The model whose weights the file SOURCE holds, as in timm:resnet50. "
    "Without it kinds and blocks are inferred from the file's names and shapes.",
)


def target_option(command: Command) -> Command:
    """Take the target as a second argument or by ``--target``."""

    @wraps(command)
    def chosen(*arguments: Any, target: str | None, named: str | None, **given: Any) -> Any:
        if target is not None and named is not None:
            raise click.UsageError(f"the target is given twice, as {target} and as --target {named}: drop one")
        if target is None and named is None:
            raise click.UsageError("Missing argument 'TARGET' (or option '--target'), as in timm:efficientnet_b2")
        return command(*arguments, target=target if named is None else named, **given)

    told = "The model to warm-start, as in timm:efficientnet_b2; the same as TARGET."
    option = click.option("--target", "named", metavar="SPEC", help=told)
    return cast(Command, click.argument("target", metavar="TARGET", required=False)(option(chosen)))


def weights_option(told: str, *, required: bool = True) -> Callable[[Command], Command]:
    """Take the file that weights are written to; ``told`` is the help."""
    kind = click.Path(path_type=Path)
    return click.option("-o", "--output", required=required, type=kind, metavar="OUT.safetensors", help=told)


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but warnings and errors.")

result_only_option = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")

input_option = click.option(
    "--input-shape",
    "inputs",
    multiple=True,
    metavar="SHAPE",
    help="What the models can be run on, where that is not found by trying: 1x3x224x224 for pictures, 1x128:int64 "
    "for tokens, mask=1x128:bool for an argument of that name. Repeatable, in the order of the arguments.",
)

_PLANNING = (
    method_option,
    click.option(
        "--matcher",
        type=click.Choice(list(MATCHERS)),
        help=f"How layers are paired, if not as the method does it. {_explained(MATCHERS)}",
    ),
    click.option(
        "--operator",
        type=click.Choice(list(OPERATORS)),
        help=f"How a tensor is written into one of another shape, likewise. {_explained(OPERATORS)}",
    ),
    click.option(
        "--narrowing",
        type=click.Choice(RULE_NAMES),
        help=f"Which units are kept where there are fewer.  [default: readers] {_explained(NARROWING)} "
        "centre and even: by their number.",
    ),
    click.option(
        "--least-similarity",
        type=click.FloatRange(0, 1),
        metavar="F",
        help="Of networks less alike than this, take only what reads the input; 0 takes all.  [default: 0.15 by graft]",
    ),
    exponent_option,
    click.option(
        "--pin",
        "pins",
        callback=_pins,
        multiple=True,
        metavar="TARGET=SOURCE",
        help="Match these two paths, whole subtrees too, with each other and nothing else. Repeatable.",
    ),
    click.option(
        "--exclude-target",
        multiple=True,
        metavar="PATH",
        help="Leave this part of the target as it is. Repeatable.",
    ),
    click.option(
        "--exclude-source",
        multiple=True,
        metavar="PATH",
        help="Take nothing from this part of the source. Repeatable.",
    ),
    click.option(
        "--labels",
        type=click.Path(path_type=Path),
        metavar="FILE.json",
        help='Which target class is which source class, as {"0": 281, "1": 207}. Without it rows of the head '
        "correspond by position.",
    ),
    input_option,
    click.option(
        "--trainable",
        is_flag=True,
        help="Give up the same function where that has trained better: new gates keep their own initialization.",
    ),
    seed_option,
)

_SHAPE = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<sizes>\d+(?:[x×,]\d+)*)(?::(?P<dtype>\w+))?")
_MOST = 8  # whole numbers below this are words or classes of any model


def inputs_of(shapes: Sequence[str], seed: int = 0) -> tuple[Tensor, ...] | dict[str, Tensor] | None:
    """Draw tensors of the shapes that ``--input-shape`` names; ``None`` where there are none.

    Raises:
        UsageError: a shape that cannot be read, or named ones beside others.

    >>> [tuple(one.shape) for one in inputs_of(["1x3x8x8"])], inputs_of(["ids=1x4:int64"])["ids"].dtype
    ([(1, 3, 8, 8)], torch.int64)
    """
    generator = torch.Generator().manual_seed(seed)
    found: list[tuple[str | None, Tensor]] = []
    for shape in shapes:
        read = _SHAPE.fullmatch(shape)
        dtype = getattr(torch, read["dtype"] or "float32", None) if read else None
        if read is None or not isinstance(dtype, torch.dtype):
            raise click.UsageError(
                f"--input-shape {shape!r} is no shape: write 1x3x224x224, 1x128:int64 or name=1x128:int64"
            )
        sizes = [int(size) for size in re.split("[x×,]", read["sizes"])]
        drawn = torch.randn(sizes, generator=generator) if dtype.is_floating_point else torch.zeros(())
        if not dtype.is_floating_point:
            drawn = torch.randint(0, 2 if dtype == torch.bool else _MOST, sizes, generator=generator)
        found.append((read["name"], drawn.to(dtype)))
    names = [name for name, _ in found if name is not None]
    if names and len(names) < len(found):
        raise click.UsageError("--input-shape names some arguments and not others: name all of them, or none")
    return {name: one for name, one in found if name} if names else tuple(one for _, one in found) or None


#: The names of :func:`planning_options`: what the library lets a caller choose and a command line can say of a plan.
PLANNING = tuple(
    name for name in Options.__annotations__ if name not in ("standardizer", "scorer", "factory", "allow_nonfinite")
)


def planning_options(command: Command) -> Command:
    """Add the options that decide what a plan looks like."""
    for option in reversed(_PLANNING):
        command = option(command)
    return command


def library_options(given: Mapping[str, Any], factory: Any = None) -> Options:
    """Turn the values of :func:`planning_options`, among others, into keyword arguments of :func:`torchgraft.plan`.

    Raises:
        SpecError: the label file is no map of classes.
    """
    chosen = {**{name: given[name] for name in PLANNING}, "factory": factory}
    options = {name: value for name, value in chosen.items() if value not in (None, (), {})}
    if "inputs" in options:
        options["inputs"] = inputs_of(options["inputs"], given["seed"])
    if "labels" in options:
        options["labels"] = _labels(options["labels"])
    return cast(Options, options)


def read_json_file(path: Path) -> str:
    """Return the text of a small file that the user wrote or an earlier command did.

    Raises:
        CheckpointError: it is not there, is a folder, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"{path} is no text file: give a file of JSON") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}: check the path") from None


def _labels(path: Path) -> dict[int, int]:
    text = read_json_file(path)
    try:
        content = json.loads(text, object_pairs_hook=unique)
        if not isinstance(content, dict) or not content or not all(type(value) is int for value in content.values()):
            raise ValueError("not an object of integers")
        return unique([(int(target), source) for target, source in content.items()])
    except (KeyError, ValueError, RecursionError) as error:
        told = f"class {error.args[0]} is there twice" if isinstance(error, KeyError) else error
        raise SpecError(f'{path} is no map of classes ({told}): write {{"target class": source class, ...}}') from None


def check_format(output: Path) -> None:
    """Refuse to write weights to a file of another format.

    Raises:
        CheckpointError: its name does not end in .safetensors.
    """
    if output.suffix.lower() != ".safetensors":
        raise CheckpointError(f"{output} does not end in .safetensors, the one format that is written: rename it")


def check_destinations(outputs: Mapping[str, Path | None], *inputs: str | Path | None) -> None:
    """Refuse, before any work is done, to write where it cannot be done or where it would destroy an input.

    Raises:
        CheckpointError: a folder stands there or is missing, or the file is also read or named twice.
    """
    seen: dict[str, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder: give the name of a file to {option}")
        if not path.parent.is_dir():
            raise CheckpointError(f"{path} cannot be written: the folder {path.parent} does not exist; create it first")
        if not os.access(path.parent, os.W_OK):
            raise CheckpointError(f"{path} cannot be written: no permission in {path.parent}; give another place")
        if any(_is_read(path, given) for given in inputs):
            raise CheckpointError(f"{path} is read from, and {option} would destroy it: give another name")
        other = seen.setdefault(os.path.realpath(path), option)
        if other != option:
            raise CheckpointError(f"{path} is named by both {other} and {option}: give two names")


def _is_read(path: Path, given: str | Path | None) -> bool:
    """Tell whether an existing file is the input, or lies in the folder where the input's parts lie."""
    if given is None or not path.exists():
        return False
    text = os.fspath(given)
    candidates = [Path(text), Path(text.rpartition("#")[0] or text), Path(text.removeprefix("hf:").partition(",")[0])]
    for file in candidates:
        folder = file if file.is_dir() else file.parent if file.name.endswith(".index.json") else None
        if (file.is_file() and path.samefile(file)) or (folder is not None and path.parent.samefile(folder)):
            return True
    return False
