"""Where weights come from: one view of a module, a state dict, an open table or a spec."""

from __future__ import annotations

__all__ = ["Factory", "ModelLike", "Origin", "Weights", "module_weights", "open_origin", "open_target"]

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchgraft.conventions import TurnedTable, readings, told
from torchgraft.errors import ApplyError, SpecError
from torchgraft.io import DictTable, TensorTable, resolve, resolve_source
from torchgraft.io.builders import BUILDERS
from torchgraft.network import read_module, unwrap
from torchgraft.records import Network, Node, Shape
from torchgraft.table import doubts, read_table
from torchgraft.transfer.apply import stored_tensors
from torchgraft.transfer.parametrized import combined, computed_value, determined_keys, needs_code

ModelLike = nn.Module | Mapping[str, Tensor] | TensorTable | str | os.PathLike[str]
Factory = str | Callable[[], nn.Module]


@dataclass(frozen=True, slots=True)
class Weights:
    """Values to apply, and their shapes, by key; ``checks`` asks to read all values before any is written."""

    values: Callable[[str], Tensor]
    shape_of: Callable[[str], Shape | None]
    checks: bool


@dataclass(frozen=True, slots=True)
class Origin:
    """A network to plan with; its weights are gathered when they are asked for.

    ``module`` is its code, which a bare table does not have; ``notes`` say what was inferred of one.
    """

    network: Network
    weights: Callable[[], Weights]
    module: nn.Module | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What messages and reports call it."""
        return self.network.name


def open_origin(
    source: ModelLike,
    *,
    factory: Factory | None = None,
    like: Network | None = None,
    meta: bool = False,
    seed: int = 0,
    allow_nonfinite: bool = False,
) -> Origin:
    """Open whatever holds weights.

    Args:
        source: a module, a state dict, an open table, a model spec or the path of a checkpoint.
        factory: for a state dict or a checkpoint: the model that it belongs to, as a spec or a function; without it
            kinds and blocks are inferred from names and shapes.
        like: a network whose names may order a table that has lost its order.
        meta: build a spec on the meta device, for planning alone.
        seed: seed of the initialization of a spec's model.
        allow_nonfinite: accept NaN and infinite weights in a file.

    Raises:
        SpecError: ``source`` is none of these.
        CheckpointError: the file cannot be read.
    """
    if isinstance(source, nn.Module):
        if factory is not None:
            raise SpecError("a module needs no factory: give one only with a state dict or a checkpoint")
        return _of_module(source)
    if isinstance(source, Mapping):
        source = DictTable(dict(source), name="state dict", allow_nonfinite=allow_nonfinite)
    if isinstance(source, str | os.PathLike):
        spec = factory if isinstance(factory, str) else None
        resolved = resolve_source(source, spec, seed=seed, meta=meta, allow_nonfinite=allow_nonfinite)
        if resolved.table is None:
            assert resolved.module is not None
            return _of_module(resolved.module, resolved.name)
        source, factory = resolved.table, resolved.module or factory
    if not isinstance(source, TensorTable):
        raise SpecError(
            f"a {type(source).__name__} is no source: give a module, a state dict, a model spec or a checkpoint's path"
        )
    return _of_table(source, factory, like)


def _of_module(module: nn.Module, name: str = "") -> Origin:
    module = unwrap(module)
    return Origin(read_module(module, name), lambda: module_weights(module), module)


def module_weights(module: nn.Module) -> Weights:
    """Give the values of a module, those that a parametrization computes too."""
    tensors = stored_tensors(module)

    def values(key: str) -> Tensor:
        value = tensors[key] if key in tensors else computed_value(module, key)
        if value.is_meta:
            raise ApplyError(
                f"the source's {key} is on the meta device and has no values: load the source's weights, or plan alone"
            )
        return value

    def shape_of(key: str) -> Shape | None:
        if key in tensors:
            return tensors[key].shape
        try:
            return tuple(computed_value(module, key).shape)
        except AttributeError:
            return None

    return Weights(values, shape_of, checks=any(tensor.is_meta for tensor in tensors.values()))


def _of_table(table: TensorTable, factory: Any, like: Network | None) -> Origin:
    infos = table.infos()
    shapes = {key: info.shape for key, info in infos.items()}
    if factory is None:
        read = readings(infos)
        network = read_table(infos, table.name, ordered=table.ordered, like=like, read=read)
        return Origin(
            network,
            lambda: _table_weights(TurnedTable(table, read), network),
            notes=(*told(read), *doubts(read, table.ordered)),
        )
    module = _built(factory)
    network = _only(read_module(unwrap(module), table.name), shapes)
    return Origin(network, lambda: _table_weights(table, network), module)


def _table_weights(table: TensorTable | TurnedTable, network: Network) -> Weights:
    """Give the values of a table, and the shapes of its tensors and of the weights that are computed from them."""
    shapes = {key: info.shape for key, info in table.infos().items()}
    for node in network.nodes:
        for spec in (spec for layer in node.layers for spec in layer.tensors):
            if spec.part is None and not spec.transpose:
                shapes.setdefault(spec.key, spec.shape)
    return Weights(_Combining(table), shapes.get, checks=True)


@dataclass(frozen=True, slots=True)
class _Combining:
    """Loads from a table; a weight that its module computes, a weight norm's say, is computed from what is stored."""

    table: TensorTable | TurnedTable

    def __call__(self, key: str) -> Tensor:
        infos = self.table.infos()
        if key in infos:
            return self.table.load(key)
        value = combined(lambda one: self.table.load(one) if one in infos else None, key)
        if value is None or needs_code(key, infos):
            raise ApplyError(
                f"{self.table.name} holds a parametrization of {key} that only its code can compute: "
                "build the model, load the weights into it, and give the module"
            )
        return value


def _built(factory: Any) -> nn.Module:
    if isinstance(factory, nn.Module):
        return factory
    if isinstance(factory, str):
        module = resolve(factory, role="target", meta=True).module
    elif callable(factory):
        with torch.device("meta"):
            module = factory()
    else:
        module = None
    if not isinstance(module, nn.Module):
        raise SpecError(f"the factory {factory!r} gives no module: pass a model spec or a function that returns one")
    return module


def _only(network: Network, shapes: Mapping[str, Shape]) -> Network:
    """Leave out the tensors that the table does not hold, or holds in another shape."""
    held = {key for key, spec in network.tensors.items() if shapes.get(key) == spec.shape}

    def prune(node: Node) -> Node:
        layers = tuple(replace(layer, tensors=tuple(s for s in layer.tensors if kept(s.key))) for layer in node.layers)
        layers = tuple(layer for layer in layers if layer.tensors)
        return replace(node, layers=layers, children=tuple(prune(child) for child in node.children))

    def kept(key: str) -> bool:
        return key in held or (key not in network.tensors and bool(determined_keys(key, held)))

    return replace(network, root=prune(network.root), tensors={k: s for k, s in network.tensors.items() if k in held})


def open_target(target: ModelLike, *, seed: int = 0, meta: bool = False) -> tuple[nn.Module | None, Network]:
    """Return the target's module, where it has code, and its network.

    Raises:
        SpecError: ``target`` is neither a module nor a spec of one (planning also takes a table of weights).
    """
    if isinstance(target, str | os.PathLike) and os.fspath(target).partition(":")[0] in BUILDERS:
        resolved = resolve(target, role="target", seed=seed, meta=meta)
        assert resolved.module is not None
        return resolved.module, read_module(resolved.module, resolved.name)
    if isinstance(target, nn.Module):
        return unwrap(target), read_module(unwrap(target))
    return None, open_origin(target).network
