"""The changes of structure behind every edit: each yields drafts to try, the one that changes least first."""

from __future__ import annotations

__all__ = [
    "add_branch",
    "branch",
    "deepen",
    "expand_kernel",
    "insert_block",
    "resize_heads",
    "resize_width",
    "split",
    "stack",
]

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from torchgraft.errors import MorphError, choose
from torchgraft.morph.build import module as morph_module
from torchgraft.morph.edits.branching import WAYS, Division, divided
from torchgraft.morph.edits.chain import chain_behind, is_identity, pair_factor, regular_blocks, shapes_at
from torchgraft.morph.edits.draft import Draft, insert_into, insertions, module_at, put
from torchgraft.morph.edits.heads import Heads, head_choices, with_heads
from torchgraft.morph.edits.neutral import NEUTRAL, default_kind
from torchgraft.morph.edits.resize import resize
from torchgraft.morph.edits.sizes import Sizes, output_of, sized, width_choices


def resize_width(draft: Draft, path: str, width: int, *, larger: bool) -> Iterator[Draft]:
    """Yield drafts in which the layer at ``path`` gives ``width`` units, and all that is coupled follows."""
    groups = draft.source_groups
    term = output_of(draft.source, groups, path)
    old = sized(term, {})
    if larger != (width > old) and width != old:
        other = "narrow" if larger else "widen"
        raise MorphError(f"{path} is {old} wide, and {width} is {'less' if larger else 'more'}: use morph.{other}")
    plain = list(width_choices(groups, term, path, width))
    grown = [one for sizes in plain if (one := with_heads(groups, sizes, old, width)) is not None]
    yield from _resized(draft, [(sizes, None) for sizes in (*plain, *grown)])


def resize_heads(draft: Draft, path: str, heads: int | None = None, head_size: int | None = None) -> Iterator[Draft]:
    """Yield drafts in which the attention at ``path`` has other heads."""
    module_at(draft.source, path)
    yield from _resized(draft, head_choices(draft.source_groups, path, heads, head_size))


def _resized(draft: Draft, choices: Iterable[tuple[Sizes, Heads | None]]) -> Iterator[Draft]:
    """Yield a draft for each choice of sizes in which the model runs; raise the first problem where one did not."""
    problem: MorphError | None = None
    tried = list(choices)
    for number, (sizes, heads) in enumerate(tried):
        draft = draft.again() if number else draft
        try:
            resize(draft, sizes, heads)
        except MorphError as error:
            problem = problem or error
        else:
            yield replace(draft, last=number + 1 == len(tried))
    if problem is not None:
        raise problem


def deepen(draft: Draft, path: str, kind: str | None = None) -> Iterator[Draft]:
    """Yield drafts with a new layer behind the activation of the layer at ``path``."""
    layer = module_at(draft.source, path)
    if kind is not None:
        choose(NEUTRAL, kind, "kind of new layer")
    chain = chain_behind(draft, path)
    function = chain.function or _any_activation(draft.source)
    norm = draft.source.get_submodule(chain.norm) if chain.norm else None
    kind = kind or (default_kind(function) if chain.function is not None else "pair")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draft.seed)
        made = NEUTRAL[kind](layer, norm, function)
    # An identity still takes the statistics of its batch norm from the norm before it; what else is new is right as
    # it is, and must not be taken for a branch to close.
    draft = replace(draft, coupled=kind == "identity", computed=True)
    place = chain.activation
    if not chain.alone:
        if kind == "blend":
            raise MorphError(f"the activation behind {path} is no module of its own: use kind='pair' or 'residual'")
        if kind == "identity":
            made = [made[-1], *made[:-1]]  # the old activation comes after the new layer
        place = chain.last
    yield from insertions(draft, place, _ready(made, draft.model, layer))


def _any_activation(model: nn.Module) -> nn.Module:
    """Return an activation of the model that comes in pairs; an identity does, too, and is none."""
    parts = (part for part in model.modules() if not any(part.children()) and not is_identity(part))
    return next(filter(pair_factor, parts), nn.ReLU())


def _ready(parts: Sequence[nn.Module], model: nn.Module, layer: Any) -> nn.Module:
    block = parts[0] if len(parts) == 1 else nn.Sequential(*parts)
    return block.to(layer.weight.device, layer.weight.dtype).train(model.training)


def insert_block(draft: Draft, path: str, block: nn.Module | str) -> Iterator[Draft]:
    """Yield drafts with a module of the user's own, or a copy of the model's at a path, behind the one at ``path``."""
    module_at(draft.source, path)
    block = module_at(draft.source, block) if isinstance(block, str) else block
    if not isinstance(block, nn.Module):
        raise MorphError(f"a block is a torch module, not {type(block).__name__}")
    like = next((one for one in draft.source.parameters() if one.is_floating_point()), torch.empty(()))
    made = copy.deepcopy(block).to(like.device, like.dtype).train(draft.model.training)
    yield from insertions(draft, path, made)


#: Names under which configurations of transformers count their layers.
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def stack(draft: Draft, path: str, depth: int) -> Iterator[Draft]:
    """Yield a draft whose row at ``path`` has ``depth`` blocks, each new one behind the one it is a copy of."""
    row = module_at(draft.model, path)
    if type(row) not in (nn.Sequential, nn.ModuleList):
        raise MorphError(f"{_named(path)} is no nn.Sequential and no nn.ModuleList: give the path of a row of blocks")
    names = list(row._modules)
    if depth <= len(names):
        raise MorphError(f"{_named(path)} has {len(names)} blocks: give a depth above that")
    regular = [names.index(one.rpartition(".")[2]) for one in regular_blocks(draft, path)]
    if not regular:
        raise MorphError(f"no block of {_named(path)} gives what it reads in the same shape, so none can be repeated")
    places = [regular[number % len(regular)] for number in range(depth - len(names))]
    for place in sorted(places, reverse=True):  # what stands behind moves on
        insert_into(row, names[place], copy.deepcopy(row.get_submodule(names[place])))
    _count(draft.model, row, len(names), depth)
    yield draft


def _named(path: str) -> str:
    return path or "the model"


def _count(model: nn.Module, row: nn.Module, old: int, new: int) -> None:
    """Tell the configurations of transformers how many layers there are, and the layers their numbers."""
    for number, part in enumerate(row.children()):
        for inner in part.modules():
            if isinstance(vars(inner).get("layer_idx"), int):
                vars(inner)["layer_idx"] = number
    for config in {id(one): one for part in model.modules() if (one := getattr(part, "config", None))}.values():
        held = getattr(config, "__dict__", {})
        for name in _DEPTHS:
            if held.get(name) == old:
                held[name] = new
        kinds = held.get("layer_types")
        if isinstance(kinds, list) and len(kinds) == old and len(set(kinds)) == 1:
            held["layer_types"] = kinds[:1] * new


def expand_kernel(draft: Draft, path: str, size: int | Sequence[int]) -> Iterator[Draft]:
    """Yield a draft in which a convolution has a larger kernel, and as much more padding."""
    layer: Any = module_at(draft.model, path)
    if not isinstance(layer, _ConvNd) or layer.transposed:
        raise MorphError(f"{path} ({type(layer).__name__}) is no convolution with a kernel to enlarge")
    old = layer.kernel_size
    new = (size,) * len(old) if isinstance(size, int) else tuple(size)
    if len(new) != len(old) or any(b < a or (b - a) % 2 for a, b in zip(old, new, strict=True)) or new == old:
        raise MorphError(
            f"the kernel of {path} is {old}, and {new} is no larger one with the same centre: add 2, 4, ... taps"
        )
    more = tuple((b - a) // 2 * by for a, b, by in zip(old, new, layer.dilation, strict=True))
    weight = layer.weight.new_zeros(*layer.weight.shape[:2], *new)
    layer.weight = nn.Parameter(weight, layer.weight.requires_grad)
    layer.kernel_size = new
    if not isinstance(layer.padding, str):
        layer.padding = tuple(a + b for a, b in zip(layer.padding, more, strict=True))
    if hasattr(layer, "_reversed_padding_repeated_twice"):
        pads = layer._reversed_padding_repeated_twice
        layer._reversed_padding_repeated_twice = [
            pad + more[len(old) - 1 - place // 2] for place, pad in enumerate(pads)
        ]
    yield draft


def add_branch(draft: Draft, path: str, graph: str) -> Iterator[Draft]:
    """Yield a draft in which a layer is itself beside further paths (:func:`torchgraft.morph.module`)."""
    text = f"{_as_edge(module_at(draft.source, path), path)} {graph}"
    yield from split(draft, path, text)


def split(draft: Draft, path: str, graph: str) -> Iterator[Draft]:
    """Yield a draft in which a layer is the module of a graph (:func:`torchgraft.morph.module`)."""
    put(draft.model, path, morph_module(module_at(draft.source, path), graph, seed=draft.seed))
    yield replace(draft, coupled=False, computed=True)


def branch(
    draft: Draft,
    path: str,
    parts: int = 2,
    allocate: str = "replicate",
    merge: str = "add",
    shares: Sequence[float] | None = None,
) -> Iterator[Draft]:
    """Yield a draft in which the module at ``path`` is divided among several branches."""
    layer = module_at(draft.source, path)
    for chosen, place, what in ((allocate, 0, "allocation"), (merge, 1, "merge")):
        choose({way[place]: way for way in WAYS}, chosen, what)
    read, gave = shapes_at(draft, path)
    division = Division(path, read, gave, _shares(draft, path, parts, shares))
    put(draft.model, path, divided(layer, division, allocate, merge))
    yield replace(draft, coupled=False, computed=True)


def _shares(draft: Draft, path: str, parts: int, given: Sequence[float] | None) -> tuple[float, ...]:
    """Return each branch's share of the whole: as given, or drawn, so that no two branches are alike."""
    if type(parts) is not int or parts < 2:
        raise MorphError(f"{path} is divided among 2 branches or more, not {parts}")
    if given is None:
        drawn = 0.5 + torch.rand(parts, generator=torch.Generator().manual_seed(draft.seed), dtype=torch.float64)
        given = (drawn / drawn.sum()).tolist()
    if len(given) != parts or abs(sum(given) - 1) > 1e-9 or 0 in given:
        raise MorphError(f"shares={list(given)}: give {parts} numbers that add up to one, none of them zero")
    return tuple(given)


def _as_edge(layer: Any, path: str) -> str:
    """Return the text of an edge that is like a layer."""
    if isinstance(layer, nn.Linear):
        return "s>t:1x1"
    if not isinstance(layer, _ConvNd) or layer.transposed:
        raise MorphError(f"{path} ({type(layer).__name__}) is no convolution and no linear layer")
    told = [("stride", layer.stride), ("dilation", layer.dilation)]
    options = "".join(f",{name}={'x'.join(map(str, value))}" for name, value in told if set(value) != {1})
    options += f",groups={layer.groups}" if layer.groups > 1 else ""
    return f"s>t:{'x'.join(map(str, layer.kernel_size))}{options}"
