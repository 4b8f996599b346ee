"""A copy of a model in other widths: tensors, what layers write down of them, and the proof by a run."""

from __future__ import annotations

__all__ = ["resize"]

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from torchgraft.axes import AxisGroups
from torchgraft.errors import GraftError, MorphError
from torchgraft.morph.edits.attributes import write_down
from torchgraft.morph.edits.draft import Draft
from torchgraft.morph.edits.heads import Heads, declare_sizes
from torchgraft.morph.edits.settings import Changed, settings
from torchgraft.morph.edits.sizes import Sizes, sized, weight_axes


def resize(draft: Draft, sizes: Sizes, heads: Heads | None = None) -> None:
    """Give groups of the draft's source other sizes in its copy, and prove by a run that all else is as it was.

    Args:
        draft: whose copy is changed.
        sizes: new sizes of groups of the source, by their number.
        heads: of the attention that they are of, whose own attributes alone may change then.

    Raises:
        MorphError: the copy does not run in these sizes, or not as before.
    """
    groups = draft.source_groups
    generator = torch.Generator().manual_seed(draft.seed)
    changed: set[str] = set()
    shapes = {key: tuple(sized(term, sizes) for term in row) for key, row in groups.axes.items()}
    homes = _homes(draft.model)
    for key, shape in shapes.items():
        old = _tensor(draft.model, key)
        if tuple(old.shape) != shape:
            changed.add(key)
            made = _redrawn(old, shape, key.rpartition(".")[2], generator)
            for owner, name in homes[id(old)]:
                held: dict[str, Any] = owner._parameters if name in owner._parameters else owner._buffers
                held[name] = made
    _write_down(draft.model, groups, changed, sizes)
    declare_sizes(draft.source, draft.model)
    if heads is not None:
        heads.write_down(draft.model)
    told = Changed(changed, _values(groups, changed, sizes), "" if heads is None else heads.path)
    _settle(draft, groups, sizes, told)


def _settle(draft: Draft, groups: AxisGroups, sizes: Sizes, changed: Changed) -> None:
    """Set attributes of the modules' own code, as few as let the copy run as the source does."""
    expected = _parts(groups, sizes)
    first = _outcome(draft, expected)
    if not first:
        return
    for tried in settings(draft.model, changed):
        kept = [(one, one.read()) for one in tried]
        for one in tried:
            one.write(one.value)
        if not _outcome(draft, expected):
            return
        for one, value in kept:
            one.write(value)
    places = sorted({key.rpartition(".")[0].rpartition(".")[0] for key in changed.keys})
    where = changed.within or next((path for path in places if path), "")
    kind = type(draft.model.get_submodule(where)).__name__
    raise MorphError(
        f"the code of {where or 'the model'} ({kind}) does not run in the new widths ({first}): "
        "build the wider model with its own constructor and use tg.transfer"
    )


def _outcome(draft: Draft, expected: Mapping[frozenset[object], tuple[int, ...]]) -> str:
    """Run the copy without values; return what is wrong, or nothing."""
    try:
        groups = draft.groups()
    except GraftError as error:
        return str(error)
    found = _parts(groups, {})
    if found == expected:
        return ""
    odd = next(iter((expected.items() - found.items()) or (found.items() - expected.items())))
    keys = sorted(str(getattr(member, "key", member)) for member in odd[0])
    return f"the units of {keys[0]} are not coupled as before" if keys else "other units are coupled"


def _parts(groups: AxisGroups, sizes: Sizes) -> dict[frozenset[object], tuple[int, ...]]:
    """Return the sizes of the free groups by the members that they are in, which no renumbering changes."""
    found: dict[frozenset[object], tuple[int, ...]] = {}
    for group in groups.free():
        members = frozenset(group.members)
        found[members] = tuple(sorted((*found.get(members, ()), sizes.get(group.number, group.size))))
    return found


def _values(groups: AxisGroups, keys: set[str], sizes: Sizes) -> dict[int, set[int]]:
    """Return what numbers become: sizes of groups and of whole axes that change."""
    found: dict[int, set[int]] = {}
    pairs = [(group.size, sizes[group.number]) for group in groups.groups if group.number in sizes]
    pairs += [(sized(term, {}), sized(term, sizes)) for key in keys for term in groups.axes[key]]
    for old, new in pairs:
        if old != new and old > 1:
            found.setdefault(old, set()).add(new)
    return found


def _write_down(model: nn.Module, groups: AxisGroups, changed: set[str], sizes: Sizes) -> None:
    written: set[str] = set()
    for key in changed:
        path = key.rpartition(".")[0].partition(".parametrizations.")[0]
        axes = weight_axes(groups, path, "running_mean")
        if path not in written and axes is not None:
            written.add(path)
            write_down(model.get_submodule(path), axes, sizes)


Home = tuple[nn.Module, str]


def _homes(model: nn.Module) -> dict[int, list[Home]]:
    """Return which modules hold a tensor, and under which names."""
    found: dict[int, list[Home]] = {}
    for part in model.modules():
        for held in (part._parameters, part._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    found.setdefault(id(tensor), []).append((part, name))
    return found


def _tensor(model: nn.Module, key: str) -> Tensor:
    path, _, name = key.rpartition(".")
    owner = model.get_submodule(path)
    found: Tensor | None = owner._parameters.get(name)
    found = owner._buffers.get(name) if found is None else found
    if found is None:
        raise MorphError(f"{key} is no parameter and no buffer of {type(owner).__name__}")
    return found


def _redrawn(old: Tensor, shape: tuple[int, ...], name: str, generator: torch.Generator) -> Tensor:
    """Return a tensor of another shape with values as those of the old one: what is new keeps them."""
    with torch.no_grad():
        values = _drawn(old, shape, name, generator).to(old.device, old.dtype)
    return nn.Parameter(values, old.requires_grad) if isinstance(old, nn.Parameter) else values


_NEUTRAL: Mapping[str, float] = {"running_mean": 0.0, "running_var": 1.0, "bias": 0.0}


def _drawn(old: Tensor, shape: tuple[int, ...], name: str, generator: torch.Generator) -> Tensor:
    if not old.is_floating_point():
        return torch.zeros(shape)
    scale = float(old.detach().double().square().mean().sqrt())
    if len(shape) < 2 or not isinstance(old, nn.Parameter):
        return torch.full(shape, _NEUTRAL.get(name, scale or 1.0))
    return torch.randn(shape, generator=generator) * (scale or prod(shape[1:]) ** -0.5)
