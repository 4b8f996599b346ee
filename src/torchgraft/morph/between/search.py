"""The search: depth, then kernels, then widths, and the comparison of what came out with the target."""

from __future__ import annotations

__all__ = ["between"]

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchgraft.axes.holes import Arguments
from torchgraft.axes.inputs import arguments_of
from torchgraft.axes.shadow import copy_of
from torchgraft.errors import GraftError, MorphError
from torchgraft.io import resolve
from torchgraft.morph.between.alignment import Alignment, Insertion, align
from torchgraft.morph.between.compare import compare
from torchgraft.morph.between.proof import ruled_out
from torchgraft.morph.between.runs import Run, agreed_runs, parts_of, run_of
from torchgraft.morph.between.script import TARGET, Script, with_blocks
from torchgraft.morph.between.sizes import kernel_edits, width_edits
from torchgraft.morph.edits import Edit, Edited, apply_edits
from torchgraft.morph.edits.texts import text_of
from torchgraft.network import unwrap
from torchgraft.plan import Report

_MOST = 3  # misfits that are told

ModelLike = nn.Module | str | os.PathLike[str]


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """Where a search stands: the run after ``edits`` of the source, and what no edit was found for.

    ``target`` is the target with values, whose blocks may be taken.
    """

    run: Run
    source: nn.Module
    target: nn.Module
    inputs: Arguments
    seed: int
    edits: tuple[Edit, ...] = ()
    obstacles: tuple[str, ...] = ()


def between(source: ModelLike, target: ModelLike, *, inputs: Any = None, certify: bool = True, seed: int = 0) -> Script:
    """Find the edits that make the source the target's architecture and keep its function, or say why there are none.

    Args:
        source: a model or its spec (``"timm:resnet18"``), left as it is.
        target: the same; only its architecture counts, and names play no part.
        inputs: a tensor, a tuple of arguments or a dict of keyword arguments that both run on; guessed where ``None``.
        certify: measure, on the source's weights, that the edits keep the function.
        seed: of the draws of new weights.

    Raises:
        SpecError: a spec names no model.
        InputsError: no inputs are found that both models run on.

    >>> small = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> large = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 2))
    >>> print(between(small, large))
    # Sequential → Sequential: 2 edits
    deepen 0 kind=identity
    widen 2.0 width=12
    """
    models = _opened(source, "source", seed), _opened(target, "target", seed)
    given = zip((source, target), models, strict=True)
    name, wanted = (type(model).__name__ if isinstance(one, nn.Module) else str(one) for one, model in given)
    script = Script(name, wanted, None)
    model = _valued(models[0], seed)
    mine, other, found = agreed_runs(model, models[1], None if inputs is None else arguments_of(inputs))
    impossible = ruled_out(mine, other)
    if impossible:
        return replace(script, reachable=False, obstacles=impossible)
    search = _searched(Search(mine, model, _valued(models[1], seed), found, seed), other)
    if search.obstacles:
        return replace(script, obstacles=search.obstacles)
    if certify and search.edits:
        try:
            apply_edits(model, with_blocks(search.edits, search.target), inputs=inputs, seed=seed)
        except MorphError as error:
            return replace(script, obstacles=(str(error),))
    return replace(script, reachable=True, edits=search.edits)


def _opened(model: ModelLike, role: Any, seed: int) -> nn.Module:
    if isinstance(model, nn.Module):
        return unwrap(model)
    module = resolve(model, role=role, seed=seed).module
    if module is None:
        raise MorphError(f"{model} has weights but no code: give the spec of its model, as in timm:resnet18")
    return module


def _valued(model: nn.Module, seed: int) -> nn.Module:
    """Return a model that has values: which ones does not matter to the search."""
    if not any(tensor.is_meta for tensor in model.parameters()):
        return model
    generator = torch.Generator().manual_seed(seed)

    def drawn(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        return torch.rand(tensor.shape, generator=generator).to(tensor.dtype) + 0.5

    return copy_of(model, drawn)


def _searched(search: Search, target: Run) -> Search:
    """Edit until the run is the target's, or no edit is known that helps."""
    for stage in (_deeper, _larger_kernels, _wider):
        search = stage(search, target)
        if search.obstacles:
            return search
    found = compare(search.run, target)
    if found.differences and search.edits and not compare(search.run, target, epsilons=False).differences:
        found = compare(_replayed(search), target)  # a target may have the epsilons that the edits make
    return replace(search, obstacles=found.differences)


def _deeper(search: Search, target: Run) -> Search:
    """Insert what the target has more of, from the end, so that what stands before keeps its path."""
    refused: set[Insertion] = set()
    reasons: list[str] = []
    found = align(search.run, target)
    while found.whole and found.insertions:
        last = found.insertions[-1]
        row = Insertion("stack", last.path.rpartition(".")[0], "")
        edit = _insertion(search.run, found, stacked=row not in refused)
        try:
            made = _edited(search, edit)
            left = align(made.run, target, refused)
            if len(left.insertions) >= len(found.insertions):
                raise MorphError("it does not bring the target nearer")
        except GraftError as error:
            refused.add(row if edit.name == "stack" else last)
            reasons.append(f"{text_of(edit)}: {error}")
            found = align(search.run, target, refused)
        else:
            search, found = made, left
    return search if found.whole else replace(search, obstacles=tuple(reasons or _told(found)))


def _insertion(run: Run, found: Alignment, *, stacked: bool) -> Edit:
    """Return the edit for the last insertion; where blocks are ``stacked``, for all others in its row, too."""
    last = found.insertions[-1]
    if last.name == "deepen":
        return Edit("deepen", last.path, {"kind": last.kind})
    if last.name == "graft":
        return Edit("insert_block", last.path, {"block": TARGET + last.kind})
    row = last.path.rpartition(".")[0]
    parts = parts_of(run.model, row)
    copies = [one for one in found.insertions if one.name == "copy" and one.path in parts]
    if stacked and copies and all(one.kind == one.path for one in copies):
        return Edit("stack", row, {"depth": len(parts) + len(copies)})
    return Edit("insert_block", last.path, {"block": last.kind})


def _told(found: Alignment) -> Iterator[str]:
    """Say what is left over, in the order of the run."""
    rows = [
        (found.new, "the target's {} is new, and no part of the source makes it"),
        (found.gone, "the source's {} has no counterpart in order"),
    ]
    for uses, text in rows:
        if uses:
            more = f" and {len(uses) - 1} more" if len(uses) > 1 else ""
            yield text.format(f"{uses[0]}{more}")
    yield from (f"{mine} would have to become {other}" for mine, other in found.smaller[:_MOST])


def _larger_kernels(search: Search, target: Run) -> Search:
    for edit in kernel_edits(search.run, target):
        try:
            search = _edited(search, edit)
        except GraftError as error:
            return replace(search, obstacles=(str(error),))
    return search


def _wider(search: Search, target: Run) -> Search:
    """Widen layer by layer; an edit that fails waits until others have been made."""
    while edits := list(width_edits(search.run, target)):
        reasons = []
        for edit in edits:
            try:
                if edit in search.edits:
                    told = "the same units are in layers that have other widths in the target"
                    raise MorphError(f"{text_of(edit)} is undone by what is coupled with it: {told}")
                search = _edited(search, edit)
                break
            except GraftError as error:
                reasons.append(str(error))
        else:
            return replace(search, obstacles=tuple(dict.fromkeys(reasons)))
    return search


def _replayed(search: Search) -> Run:
    """Return the run of the source after all edits, with the epsilons that wider norms need."""
    return run_of(_made(search, search.source, search.edits).model, search.inputs)


def _edited(search: Search, edit: Edit) -> Search:
    """Make one edit, without measuring it.

    Raises:
        MorphError: it cannot be made, or would change the function.
    """
    made = _made(search, search.run.model, [edit])
    coupled = edit.name != "deepen" or edit.arguments.get("kind") == "identity"
    if coupled and made.report.plan.exact is False:
        raise MorphError(f"{text_of(edit)} would change the function: {'; '.join(made.report.plan.obstacles)}")
    _restore(search.run.model, made.model, made.report)
    return replace(search, run=run_of(made.model, search.inputs), edits=(*search.edits, edit))


def _made(search: Search, model: nn.Module, edits: Sequence[Edit]) -> Edited:
    """Apply edits, without measuring them."""
    positional, named = search.inputs
    blocks = with_blocks(edits, search.target)
    return apply_edits(model, blocks, inputs=named or positional, certify=False, seed=search.seed)


def _restore(before: nn.Module, after: nn.Module, report: Report) -> None:
    """Undo what a wider norm's epsilon became: the architecture is compared with that of the source's own."""
    sources = {one.target: one.source for one in report.plan.transfers}
    for one in report.plan.settings:
        home = before.get_submodule(sources[one.path])
        setattr(after.get_submodule(one.path), one.attribute, getattr(home, one.attribute))
