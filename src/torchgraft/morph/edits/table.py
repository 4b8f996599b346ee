"""The edits by name, and how a row of them is applied."""

from __future__ import annotations

__all__ = ["EDITS", "apply_edits"]

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from torchgraft.errors import MorphError, choose
from torchgraft.morph.edits.changes import (
    add_branch,
    branch,
    deepen,
    expand_kernel,
    insert_block,
    resize_heads,
    resize_width,
    split,
    stack,
)
from torchgraft.morph.edits.draft import Draft, drafted
from torchgraft.morph.edits.finish import Options, certified, moved, plan_of, swap
from torchgraft.morph.edits.records import Edit, Edited
from torchgraft.transfer.narrowing import Narrowing


def _widen(draft: Draft, path: str, width: int) -> Iterator[Draft]:
    return resize_width(draft, path, width, larger=True)


def _narrow(draft: Draft, path: str, width: int, narrowing: str | Narrowing | None = None) -> Iterator[Draft]:
    return resize_width(draft, path, width, larger=False)


#: Every edit by name: a function of a draft, a path and arguments that yields changed drafts to try.
EDITS: Mapping[str, Callable[..., Iterator[Draft]]] = {
    "widen": _widen,
    "narrow": _narrow,
    "widen_heads": resize_heads,
    "deepen": deepen,
    "insert_block": insert_block,
    "stack": stack,
    "expand_kernel": expand_kernel,
    "branch": branch,
    "split": split,
    "add_branch": add_branch,
}


def apply_edits(
    model: nn.Module,
    edits: Sequence[Edit],
    *,
    inputs: Any = None,
    approximate: bool = False,
    certify: bool = True,
    inplace: bool = False,
    seed: int = 0,
) -> Edited:
    """Apply edits one after the other, and measure the whole.

    Args:
        model: left as it is, unless ``inplace``.
        edits: in order; each speaks of the model as those before it have left it.
        inputs: what the model runs on (a tensor, a tuple of arguments, a dict of keyword arguments); needed only where
            none can be guessed.
        approximate: allow a changed function, whose deviation the certificate tells.
        certify: measure the deviation; without it no edit is refused because it is not exact.
        inplace: make ``model`` the edited one, once everything has succeeded. Its parameters are new ones.
        seed: of the draws of new weights.

    Raises:
        SpecError: an unknown edit.
        MorphError: an edit that cannot be made, or not exactly; the model is as it was.
        InputsError: no inputs are found that the model runs on.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> edited = apply_edits(model, [Edit("widen", "0", {"width": 12}), Edit("deepen", "0")])
    >>> edited.exact, edited.model
    (True, Sequential(
      (0): Linear(in_features=4, out_features=12, bias=True)
      (1): ReLU()
      (2): Sequential(
        (0): Linear(in_features=12, out_features=12, bias=True)
        (1): ReLU()
      )
      (3): Linear(in_features=12, out_features=2, bias=True)
    ))
    """
    if not edits:
        raise MorphError("there is no edit to apply: give at least one")
    options = Options(inputs, approximate, certify, seed)
    whole: Draft | None = None
    reports = []
    for edit in edits:
        draft = drafted(model if whole is None else whole.model, inputs, seed)
        made, report = moved(_drafts(edit, draft), _for(edit, options), str(edit))
        reports.append(report)
        whole = made if whole is None else _through(whole, made)
    assert whole is not None
    what = str(edits[0]) if len(edits) == 1 else f"the {len(edits)} edits from {edits[0]} on"
    measured = reports[0] if len(edits) == 1 else plan_of(whole, options)
    certificate = certified(whole, measured, options, what)
    result = swap(model, whole.model) if inplace else whole.model
    return Edited(result, tuple(edits), tuple(reports), certificate)


def _for(edit: Edit, options: Options) -> Options:
    return replace(options, narrowing=edit.arguments.get("narrowing"))


def _drafts(edit: Edit, draft: Draft) -> Iterator[Draft]:
    """Return the drafts of an edit, whose arguments are checked first."""
    change = choose(EDITS, edit.name, "edit")
    try:
        inspect.signature(change).bind(draft, edit.path, **edit.arguments)
    except TypeError as error:
        names = ", ".join(list(inspect.signature(change).parameters)[2:])
        raise MorphError(f"{edit}: {error} (its arguments: {names})") from error
    return change(draft, edit.path, **edit.arguments)


def _through(first: Draft, second: Draft) -> Draft:
    """Return two drafts as one, from the source of the first to the copy of the second."""
    between = dict(first.model.named_modules())
    origin = {
        part: first.origin[between[path]]
        for part, path in second.origin.items()
        if path in between and between[path] in first.origin
    }
    return replace(
        second,
        source=first.source,
        source_groups=first.source_groups,
        origin=origin,
        coupled=first.coupled and second.coupled,
        computed=first.computed or second.computed,
    )
