"""The heads of attention as groups of units: their number and their size."""

from __future__ import annotations

__all__ = ["Heads", "declare_sizes", "head_choices", "with_heads"]

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from torch import nn

from torchgraft.attention import HEAD_COUNTS, HEAD_SIZES, KEY_VALUE_COUNTS, heads_of
from torchgraft.axes import AxisGroups
from torchgraft.axes.terms import Atom, Prod, atoms_of, size_of
from torchgraft.errors import MorphError
from torchgraft.morph.edits.sizes import Sizes

#: What libraries write down of an attention, by name: of its query heads, its key and value heads, and their size.
_NUMBERS: Mapping[tuple[str, ...], Callable[[int, int, int], float]] = {
    HEAD_COUNTS: lambda query, _, size: query,
    KEY_VALUE_COUNTS: lambda query, key, size: key,
    ("num_key_value_groups", "n_rep"): lambda query, key, size: query // key,
    HEAD_SIZES: lambda q, k, size: size,
    ("all_head_size", "attn_dim", "inner_dim", "split_size"): lambda query, _, size: query * size,
    ("scale", "scaling", "softmax_scale"): lambda query, _, size: size**-0.5,
}


@dataclass(frozen=True, slots=True)
class Heads:
    """What the attention at ``path`` has before and after: query heads, key and value heads, their size."""

    path: str
    before: tuple[int, int, int]
    after: tuple[int, int, int]

    def write_down(self, model: nn.Module) -> None:
        """Set what the attention says of its heads; it gets a configuration of its own, since others share it."""
        for part in model.get_submodule(self.path).modules():
            held = [vars(part)]
            if hasattr(vars(part).get("config"), "__dict__"):
                vars(part)["config"] = copy.copy(vars(part)["config"])
                held.append(vars(vars(part)["config"]))
            for names, number in _NUMBERS.items():
                for attributes in held:
                    for name in names:
                        if attributes.get(name) == number(*self.before):
                            attributes[name] = number(*self.after)


def with_heads(groups: AxisGroups, sizes: Sizes, old: int, new: int) -> Sizes | None:
    """Return sizes in which the heads grow as a stream does, of code that divides its width among them.

    Args:
        groups: of the model.
        sizes: of the stream.
        old: its units as they were.
        new: its units as they will be.
    """
    roles = {group.number: group.role for group in groups.groups}
    found: dict[int, int] = {}
    for row in groups.axes.values():
        for term in row:
            for part in _products(term):
                heads = [one for one in part.factors if isinstance(one, Atom) and roles[one.number] == "heads"]
                if heads and size_of(part) == old:
                    found[heads[0].number] = heads[0].size
    grown = {number: size * new // old for number, size in found.items() if size * new % old == 0}
    return {**sizes, **grown} if found and len(grown) == len(found) else None


def declare_sizes(source: nn.Module, model: nn.Module) -> None:
    """Let an attention that only says how many heads it has say how large they are, before its width changes."""
    for path, part in source.named_modules():
        linear = next((one for one in part.children() if isinstance(one, nn.Linear)), None)
        heads = None if linear is None or "head_dim" in vars(part) else heads_of(part, linear.in_features)
        if heads is not None and linear is not None and heads_of(part, 2 * linear.in_features) != heads:
            vars(model.get_submodule(path))["head_dim"] = heads.size


def head_choices(
    groups: AxisGroups, path: str, heads: int | None, head_size: int | None
) -> Iterator[tuple[Sizes, Heads]]:
    """Yield the sizes of groups with which the attention at ``path`` has so many heads of such a size.

    Raises:
        MorphError: no attention is found there, or its heads may not change so.
    """
    counts, units = _found(groups, path)
    if not counts or not units:
        raise MorphError(f"{path or 'the model'} holds no heads that were found: give the path of an attention")
    if heads is None and head_size is None:
        raise MorphError("say how many heads, or of which size: heads=, head_size=")
    query, size = prod(atom.size for atom in counts), max(atom.size for atom in units)
    wanted = query if heads is None else heads
    inner: dict[int, int] = {}
    if head_size is not None:
        locked = next((atom for atom in units if atom.locked), None)
        if locked is not None:
            raise MorphError(f"the size of the heads of {path} cannot change: their units are {locked.locked}")
        inner = {atom.number: head_size for atom in units}
    if wanted < query or (head_size or size) < size:
        raise MorphError(f"{path} has {query} heads of {size}: fewer or smaller ones are not built in yet")
    before = query, counts[0].size, size
    made = False
    for atom in reversed(counts) if wanted != query else counts[:1]:
        others = query // atom.size
        if wanted % others == 0:
            made = True
            key = wanted // others if atom is counts[0] else counts[0].size
            grown = {} if wanted == query else {atom.number: wanted // others}
            yield inner | grown, Heads(path, before, (wanted, key, head_size or size))
    if not made:
        told = " · ".join(str(atom.size) for atom in counts)
        raise MorphError(f"{path} has {told} heads, which cannot become {wanted}: take a multiple of one of them")


def _found(groups: AxisGroups, path: str) -> tuple[list[Atom], list[Atom]]:
    """Return the groups that count the heads of an attention, and those that are units of a head."""
    roles = {group.number: group.role for group in groups.groups}
    prefix = f"{path}." if path else ""
    counts: dict[Atom, None] = {}
    units: dict[Atom, None] = {}
    for key, row in groups.axes.items():
        for term in row if key.startswith(prefix) else ():
            for part in _products(term):
                heads = [one for one in part.factors if isinstance(one, Atom) and roles[one.number] == "heads"]
                counts |= dict.fromkeys(heads)
                if heads and part.factors[-1] is not heads[-1]:
                    units |= dict.fromkeys(atoms_of(part.factors[-1]))
    return list(counts), list(units)


def _products(term: object) -> Iterator[Prod]:
    if isinstance(term, Prod):
        yield term
    for part in getattr(term, "parts", ()):
        yield from _products(part)
