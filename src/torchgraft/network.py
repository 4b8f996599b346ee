"""Stage 0: read a module as names, kinds and shapes. No tensor data is touched, so meta tensors serve as well."""

from __future__ import annotations

__all__ = ["read_module", "unwrap"]

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from math import prod

import torch
from torch import nn

from torchgraft.attention import Heads, heads_of
from torchgraft.errors import PlanError
from torchgraft.fingerprint import LAZY, Look, look_of
from torchgraft.kinds import kind_of_type
from torchgraft.layers import Own, Structure, layers_of, linear_structures
from torchgraft.recent import Recent
from torchgraft.records import Layer, Network, Node, TensorSpec


@cache
def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel`` wrappers."""
    while True:
        inner = module._modules.get("_orig_mod")
        if inner is None and isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if inner is None:
            return module
        module = inner


@dataclass(slots=True)
class _Reader:
    """What a walk gathers beside the tree: all tensors, ties, and the modules already met."""

    tensors: dict[str, TensorSpec] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    first_key: dict[int, str] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)

    def own_tensors(self, module: nn.Module, prefix: str, role_prefix: str = "") -> Own:
        """Specs of the tensors that ``module`` itself puts into the state dict, by local name."""
        own: Own = {}
        for tensors, buffer in ((module._parameters, False), (module._buffers, True)):
            for name, tensor in tensors.items():
                if tensor is None or (buffer and name in module._non_persistent_buffers_set):
                    continue
                key, role = prefix + name, role_prefix + name
                if tensor.__class__ in LAZY:
                    raise PlanError(f"{key} belongs to a lazy module that has no shape yet: run one forward pass first")
                spec = TensorSpec(key, role, tuple(tensor.shape), _dtype_name(tensor.dtype), buffer)
                first = self.first_key.setdefault(id(tensor), key)
                if first != key:
                    self.tied[key] = first
                self.tensors[key] = own[role] = spec
        return own


def read_module(module: nn.Module, name: str = "") -> Network:
    """Read ``module`` into a :class:`~torchgraft.records.Network`.

    Raises:
        PlanError: the module is lazy, or holds no tensor at all.

    >>> read_module(nn.Linear(3, 2)).root.layers[0].shape
    (2, 3)
    """
    name = name or type(module).__name__
    look = look_of(module)
    known = _KNOWN.get((name, look)) if look is not None else None
    if known is None:
        reader = _Reader()
        root = _walk(reader, module, "", None)
        if not reader.tensors:
            raise PlanError(f"{name} holds no parameter and no buffer: there is nothing to transfer")
        known = Network(name, root, reader.tensors, reader.tied, look)
        if look is not None:
            _KNOWN[name, look] = known
    return known


# Networks by name and look: a second model of an architecture is not read again.
_KNOWN = Recent[tuple[str, Look], Network](64)


def _walk(reader: _Reader, module: nn.Module, path: str, structure: Structure | None) -> Node:
    kind = kind_of_type(type(module)) or ""  # type: ignore[arg-type]  # mypy doubts that a class can be hashed
    if not (module._parameters or module._buffers or module._modules):
        return Node(path, kind)
    shared = id(module) in reader.seen
    reader.seen.add(id(module))
    prefix = f"{path}." if path else ""
    own = reader.own_tensors(module, prefix)
    parametrized = module._modules.get("parametrizations")
    if parametrized is not None:
        own |= _parametrized_tensors(reader, parametrized, prefix)
    layers: tuple[Layer, ...] = ()
    if own:
        heads = heads_of(module, 0) if kind == "attention" else None
        if kind.startswith("conv") and "weight" in own:
            stride = module.__dict__["stride"]
            patchify = stride == module.__dict__["kernel_size"] and prod(stride) > 1
            layers = (Layer(path, kind, own["weight"].shape, tuple(own.values()), patchify, stride),)
        else:
            layers = layers_of(path, kind, own, structure, heads)
    children = tuple(_children(reader, module, prefix)) if module._modules else ()
    weight = own.get("weight")
    return Node(path, kind, layers, children, weight.shape if weight else None, shared)


def _parametrized_tensors(reader: _Reader, parametrized: nn.Module, prefix: str) -> Own:
    """Tensors behind parametrized ones, and the computed tensor itself, which is no entry of the state dict.

    Computing it would advance spectral norm's power iteration, so its shape is that of its largest original.
    """
    own: Own = {}
    for name, originals in parametrized._modules.items():
        if originals is None:
            continue
        stored: Own = {}
        for inner, part in originals.named_modules(prefix=f"parametrizations.{name}"):
            stored |= reader.own_tensors(part, f"{prefix}{inner}.", f"{inner}.")
        largest = max((spec for spec in stored.values() if not spec.buffer), key=lambda spec: spec.size, default=None)
        if largest is not None:
            own[name] = TensorSpec(prefix + name, name, largest.shape, largest.dtype)
        own |= stored
    return own


def _children(reader: _Reader, module: nn.Module, prefix: str) -> Iterator[Node]:
    structures = _structures(module)
    met: set[int] = set()
    for name, child in module._modules.items():
        if child is None or name == "parametrizations":
            continue
        node = _walk(reader, child, prefix + name, structures.get(name))
        if id(child) not in met:  # a module once per parent, as children() does; its further names are only ties
            met.add(id(child))
            yield node


def _structures(parent: nn.Module) -> dict[str, Structure]:
    widths: dict[str, tuple[int, int, bool]] = {}
    met: set[int] = set()
    for name, child in parent._modules.items():
        storage = _linear_storage(type(child))  # type: ignore[arg-type]
        if child is None or not storage or id(child) in met:
            continue
        met.add(id(child))
        weight = child._parameters.get("weight")
        if weight is not None and not isinstance(weight, LAZY) and weight.ndim == 2:
            rows, columns = weight.shape
            widths[name] = (columns, rows, True) if storage == "in, out" else (rows, columns, False)
    if not widths:
        return {}
    heads: Heads | None = heads_of(parent, next(iter(widths.values()))[1])
    return linear_structures(widths, heads, complete=isinstance(parent, nn.MultiheadAttention))


@cache
def _linear_storage(type_: type[nn.Module]) -> str:
    """How a type of linear layer stores its weight; empty for other types. GPT-2's ``Conv1D`` stores ``(in, out)``."""
    if issubclass(type_, nn.Linear):
        return "out, in"
    return "in, out" if type_.__name__ == "Conv1D" and type_.__module__.startswith("transformers.") else ""
