"""Which groups of units get which size, so that a layer gets the width that is asked for."""

from __future__ import annotations

__all__ = ["Sizes", "output_of", "sized", "weight_axes", "width_choices"]

from collections.abc import Iterator, Mapping
from math import prod

from torch import nn

from torchgraft.axes import AxisGroups
from torchgraft.axes.terms import Atom, Cat, Term, atoms_of
from torchgraft.errors import MorphError
from torchgraft.morph.edits.draft import module_at

#: New sizes of groups, by their number.
Sizes = Mapping[int, int]


def sized(term: Term, sizes: Sizes) -> int:
    """Return the number of units of an axis once its groups have these sizes.

    >>> channels, places = Atom(8), Atom(36)
    >>> from torchgraft.axes.terms import Prod
    >>> sized(Prod((channels, places)), {channels.number: 12})
    432
    """
    if isinstance(term, Atom):
        return sizes.get(term.number, term.size)
    if isinstance(term, Cat):
        return sum(sized(part, sizes) for part in term.parts)
    return prod(sized(factor, sizes) for factor in term.factors)


def output_of(model: nn.Module, groups: AxisGroups, path: str) -> Term:
    """Return the axis of what the layer at ``path`` gives, or of the free parameter of that name."""
    if path in groups.axes:
        return groups.axes[path][-1]
    module = module_at(model, path)
    prefix = f"{path}." if path else ""
    row = weight_axes(groups, path, "in_proj_weight")
    if row is None:
        inner = next((name for name, part in module.named_modules() if prefix + f"{name}.weight" in groups.axes), "")
        own = "its weights are of a kind that is not edited" if any(True for _ in module.parameters()) else "no weights"
        hint = f"give the path of one of its layers ({prefix}{inner})" if inner else own
        raise MorphError(f"{path or 'the model'} ({type(module).__name__}) has no width of its own: {hint}")
    return row[_axis_of(module, len(row))]


# A weight as it is, under torch's parametrizations, and under its older hooks.
_WEIGHTS = (
    "weight",
    "parametrizations.weight.original1",
    "parametrizations.weight.original",
    "weight_v",
    "weight_orig",
)


def weight_axes(groups: AxisGroups, path: str, instead: str) -> tuple[Term, ...] | None:
    """Return the axes of the weight of a layer, whatever torch calls it, or of the tensor that it has ``instead``."""
    keys = (f"{path}.{name}" if path else name for name in (*_WEIGHTS, instead))
    return next((groups.axes[key] for key in keys if key in groups.axes), None)


def _axis_of(module: nn.Module, rank: int) -> int:
    """Return the axis of a weight that counts outputs: the last one of embeddings and of weights stored (in, out)."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) or type(module).__name__ == "Conv1D":
        return rank - 1
    return 1 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 0


def width_choices(groups: AxisGroups, term: Term, path: str, width: int) -> Iterator[Sizes]:
    """Yield the ways in which an axis can get ``width`` units, the one that changes least first.

    Raises:
        MorphError: there is none, or the units may not move.
    """
    atoms = list(dict.fromkeys(atoms_of(term)))
    known = {group.number: group for group in groups.groups}
    free = [atom for atom in atoms if not atom.locked and known[atom.number].role != "heads"]
    if any(known[atom.number].role == "heads" for atom in atoms):
        raise MorphError(f"{path} holds attention heads: use morph.widen_heads on the attention that it is a part of")
    if not free:
        reason = atoms[0].locked if atoms else "a single unit"
        raise MorphError(f"the width of {path} cannot change: its units are {reason}")
    if width == sized(term, {}):
        raise MorphError(f"{path} is {width} wide already")
    found = [one for atom in free if (one := _solved(term, atom, width)) is not None]
    if not found:
        told = " · ".join(str(atom.size) for atom in atoms)
        raise MorphError(f"{path} cannot be {width} wide: its units come as {told}, one of which has to change alone")
    # Under a group norm whole groups are added; of a grouped convolution each group gets larger.
    shared = [one for one in found if "statistics" not in known[next(iter(one))].marks]
    yield from reversed(shared)
    yield from (one for one in found if one not in shared)


def _solved(term: Term, atom: Atom, width: int) -> dict[int, int] | None:
    """Return the size of one group with which an axis has ``width`` units; an axis is linear in each of its groups."""
    none, one = (sized(term, {atom.number: count}) for count in (0, 1))
    count, left = divmod(width - none, max(1, one - none))
    return {atom.number: count} if count > 0 and not left and sized(term, {atom.number: count}) == width else None
