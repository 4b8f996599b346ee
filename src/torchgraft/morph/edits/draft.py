"""A copy of a model whose structure may change, and which of its modules are modules of the model."""

from __future__ import annotations

__all__ = ["Draft", "drafted", "insert_into", "insertions", "module_at", "put"]

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from torchgraft.axes import AxisGroups, axis_groups
from torchgraft.axes.holes import Arguments
from torchgraft.axes.inputs import arguments_of, example_inputs
from torchgraft.axes.shadow import copy_of, hollow
from torchgraft.errors import MorphError, RunError
from torchgraft.fingerprint import Look, look_of
from torchgraft.match.blocks import Elements
from torchgraft.match.matchers import Matcher
from torchgraft.network import unwrap
from torchgraft.recent import Recent
from torchgraft.records import Match, Pair
from torchgraft.score import Scorer


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A model and a copy of it whose structure has been, or is to be, changed.

    ``origin`` tells of every module of the copy that is one of the source where it stood there. ``inputs`` are on the
    meta device unless a run needs values. ``coupled``: the weights of new units and layers follow from those of the
    source; otherwise they are right already. ``computed``: some were computed, so that storing them rounds. ``last``:
    there is no other way to try after this one. ``seed``: of all draws.
    """

    source: nn.Module
    model: nn.Module
    origin: Mapping[nn.Module, str]
    inputs: Arguments
    source_groups: AxisGroups
    coupled: bool = True
    computed: bool = False
    last: bool = True
    seed: int = 0

    def groups(self) -> AxisGroups:
        """Return the axis groups of the copy as it is now."""
        return axis_groups(self.model, *self.inputs)

    def again(self) -> Draft:
        """Return a draft with a fresh copy, for another try."""
        return replace(self, **_copied(self.source))

    def matcher(self) -> Matcher:
        """Return what matches every layer of the copy with what it is a copy of, wherever it stands by now."""
        return partial(_match, self._paths())

    def own(self) -> Callable[[str, str], bool]:
        """Return what tells whether the first path, of a layer of the copy, is a copy of the second, of the source."""
        paths = self._paths()
        return lambda target, source: _translated(target, paths) == source

    def _paths(self) -> dict[str, str | None]:
        return {path: self.origin.get(part) for path, part in self.model.named_modules()}


def drafted(model: nn.Module, inputs: Any = None, seed: int = 0) -> Draft:
    """Return a draft of a model whose structure is still the same.

    Args:
        model: left as it is.
        inputs: a tensor, a tuple of positional or a dict of keyword arguments that it runs on; found where ``None``.
        seed: of the draws of new weights.

    Raises:
        MorphError: the model has no values.
        InputsError: no inputs are found that it runs on.
    """
    model = unwrap(model)
    if any(tensor.is_meta for tensor in model.parameters()):
        raise MorphError(f"{type(model).__name__} is on the meta device and has no values: load its weights first")
    found = tree_map_only(Tensor, hollow, _guessed(model) if inputs is None else arguments_of(inputs))
    try:
        groups = axis_groups(model, *found)
    except RunError:  # its way may depend on values
        found = example_inputs(model, seed) if inputs is None else arguments_of(inputs)
        groups = axis_groups(model, *found)
    return Draft(model, inputs=found, source_groups=groups, seed=seed, **_copied(model))


def _copied(model: nn.Module) -> dict[str, Any]:
    made = copy_of(model)
    return {"model": made, "origin": {part: path for path, part in made.named_modules()}}


# Inputs that were guessed before, by architecture.
_KEPT = Recent[Look, Arguments](64)


def _guessed(model: nn.Module) -> Arguments:
    look = look_of(model)
    kept = _KEPT.get(look) if look is not None else None
    if kept is not None:
        return kept
    found = example_inputs(model)
    if look is not None:
        _KEPT[look] = found
    return found


def _match(
    origin: Mapping[str, str | None],
    target: Elements,
    source: Elements,
    scorer: Scorer,
    *,
    exponent: float,
    mixed: bool,
    seed: int,
) -> Match:
    """Pair every layer of the target with the one of the source that it is a copy of."""
    layers: Sequence[Any] = [layer for element in source for layer in element.layers]
    places = {(layer.path, layer.kind): number for number, layer in enumerate(layers)}
    pairs = []
    for number, layer in enumerate(layer for element in target for layer in element.layers):
        path = _translated(layer.path, origin)
        place = None if path is None else places.get((path, layer.kind))
        if place is not None:
            pairs.append(Pair(number, place, 1.0))
    return Match(tuple(pairs), float(len(pairs)))


def _translated(path: str, origin: Mapping[str, str | None]) -> str | None:
    """Return the path of a layer in the source: that of the module that holds it, and the layer's own name behind."""
    owner = path
    while owner not in origin:
        owner = owner[: max(owner.rfind("."), owner.rfind("["), 0)]
    held = origin[owner]
    return None if held is None else (held + path[len(owner) :]).lstrip(".")


def module_at(model: nn.Module, path: str) -> nn.Module:
    """Return the module at a path. Raises :class:`MorphError` where there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise MorphError(f"{type(model).__name__} has no module {path!r}: see model.named_modules()") from error


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of another one, under all names that it has."""
    old = module_at(model, path)
    if not path:
        raise MorphError("the path is empty, which is the whole model: give the path of one of its modules")
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[name] = module


def insertions(draft: Draft, path: str, block: nn.Module) -> Iterator[Draft]:
    """Yield drafts with a block after the module at ``path``: as a part of the row that it is in, then around it."""
    if not path:
        raise MorphError("the path is empty, which is the whole model: give the path of one of its modules")
    parent = module_at(draft.model, path.rpartition(".")[0])
    module = module_at(draft.model, path)
    if type(parent) in (nn.Sequential, nn.ModuleList):
        insert_into(parent, path.rpartition(".")[2], copy.deepcopy(block))
        yield replace(draft, last=False)
        draft = draft.again()
        module = module_at(draft.model, path)
    put(draft.model, path, nn.Sequential(module, block).train(module.training))
    yield draft


def insert_into(row: nn.Module, name: str, block: nn.Module) -> None:
    """Insert a module behind one of a row; where the names are numbers those behind it move on."""
    held = list(row._modules.items())
    place = [one for one, _ in held].index(name) + 1
    numbered = all(one.isdigit() for one, _ in held)
    free = next(one for n in range(2, len(held) + 3) if (one := f"{name}_{n}") not in row._modules)
    held.insert(place, (free, block))
    row._modules.clear()
    row._modules.update((str(n), part) if numbered else (one, part) for n, (one, part) in enumerate(held))
