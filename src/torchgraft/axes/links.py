"""Layers in a row: what stands between a layer that mixes units and the one before it, and behind it."""

from __future__ import annotations

__all__ = ["Link", "links"]

from dataclasses import dataclass
from math import log2

from torch import nn

from torchgraft.axes.flow import Flow
from torchgraft.axes.operators import BATCH_NORMS, LAYER_NORMS, LAYOUT, PRODUCTS
from torchgraft.axes.reads import Read, read_norm

_ACTIVATIONS = frozenset((
    *("relu", "hardtanh", "hardswish", "silu", "gelu", "leaky_relu", "tanh", "sigmoid", "hardsigmoid", "mish", "elu"),
    *("softplus", "clamp", "clamp_min", "softmax", "_prelu_kernel", "celu", "selu"),
))  # fmt: skip
_POOLS = frozenset((
    *("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "mean", "avg_pool1d"),
    *("max_pool3d_with_indices", "avg_pool3d", "_adaptive_avg_pool3d"),
))  # fmt: skip
# What may read a value without making something else of its units.
_TAKES = LAYOUT | _POOLS | PRODUCTS.keys() | BATCH_NORMS | LAYER_NORMS | {"add", "cat"}


@dataclass(frozen=True, slots=True)
class Norm:
    """A batch norm by the keys of its gain, shift, mean and variance, and its epsilon."""

    keys: tuple[str, str, str, str]
    epsilon: float


@dataclass(frozen=True, slots=True)
class Link:
    """A layer that mixes units: the keys of its weight and bias, and what stands around it.

    ``norm`` is the batch norm behind it, ``after`` the activation behind both, ``before`` the last one that its input
    went through (empty where there is none); ``level`` tells that its output has as many places as its input,
    ``halved`` how often they are half as many as at most in the run. ``follows`` is the weight of the layer before
    it, if nothing but its batch norm, its activation and a product with a gate stand between them; ``gate`` is the
    weight of the last layer of that gate. ``history`` says what its input is made of, as far as batch norms tell:
    their gain and shift, ``relu`` and ``+`` behind what they apply to; ``reads`` which norm its input is a function of,
    if of one alone.
    """

    weight: str
    bias: str
    norm: Norm | None
    before: str
    after: str
    level: bool
    halved: int
    follows: str
    gate: str
    history: tuple[tuple[str, ...], ...]
    reads: Read | None


def links(flow: Flow, module: nn.Module) -> tuple[Link, ...]:
    """Return the layers of a run that mix units, in its order.

    Args:
        flow: of a run of ``module``.
        module: holds the settings of the norms.
    """
    found: dict[str, Link] = {}
    again: set[str] = set()
    widest = max((step.shape[-1] for step in flow.steps if step.name == "convolution"), default=1)
    for step in flow.steps:
        product, keys = flow.product(step), flow.factors(step)
        if product is None or keys is None or not _is_plain(module, keys[0]):
            continue
        weight, bias = keys
        again |= {weight} & found.keys()
        norm, after = _behind(flow, module, step.outputs[0])
        value = product.value
        follows, gate = _follows(flow, value)
        made = flow.step(value)
        shape = made.shape if made is not None and made.outputs[0] == value else None
        level = shape is not None and (step.name != "convolution" or shape[2:] == step.shape[2:])
        history, reads = ((), None) if norm is None else (_history(flow, value), read_norm(flow, value))
        before = _activation(flow, value)
        halved = round(log2(widest / max(1, step.shape[-1]))) if step.name == "convolution" else 0
        found[weight] = Link(weight, bias or "", norm, before, after, level, halved, follows, gate, history, reads)
    return tuple(link for key, link in found.items() if key not in again)


def _is_plain(module: nn.Module, weight: str) -> bool:
    """Tell whether a weight is stored as ``(out, in, ...)``."""
    owner = module.get_submodule(weight.rpartition(".")[0])
    return isinstance(owner, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)


def _behind(flow: Flow, module: nn.Module, value: int) -> tuple[Norm | None, str]:
    """Return the batch norm and the activation that alone read a value; ``?`` where something else makes more of it."""
    norm = None
    while len(readers := flow.readers(value)) == 1:
        step = readers[0]
        if step.name in BATCH_NORMS and norm is None:
            keys = [key for one in step.inputs[1:5] if (key := flow.parameter(one)) is not None]
            if len(keys) < 4:  # an instance norm, say
                return None, "?"
            epsilon = getattr(module.get_submodule(keys[0].rpartition(".")[0]), "eps", None)
            if not isinstance(epsilon, float):
                return None, "?"
            norm = Norm((keys[0], keys[1], keys[2], keys[3]), epsilon)
        elif step.operator in _ACTIVATIONS:
            return norm, step.operator
        elif step.name not in LAYOUT:
            break
        value = step.outputs[0]
    return norm, "" if all(step.operator in _TAKES for step in flow.readers(value)) else "?"


def _activation(flow: Flow, value: int) -> str:
    """Return the last activation that a value, or every part of it, went through, if only pooling came after it."""
    while (step := flow.step(flow.plain(value))) is not None and step.name in _POOLS:
        value = step.inputs[0]
    if step is not None and step.name == "cat":
        parts = {_activation(flow, one) for one in step.inputs}
        return parts.pop() if len(parts) == 1 else ""
    name = "" if step is None else step.operator
    return name if name in _ACTIVATIONS else ""


def _follows(flow: Flow, value: int) -> tuple[str, str]:
    """Return the weight of the layer that a value comes from, and of the gate that multiplies it."""
    value, gate = flow.plain(value), ""
    pairs = flow.operands(value, "mul")
    for one, other in pairs:
        made = flow.gate(one)
        if made is not None and not gate:
            gate, value = _weight(flow, flow.plain(made.inputs[0])), flow.plain(other)
    if pairs and not gate:
        return "", ""
    step = flow.step(value)
    for names in (_ACTIVATIONS, BATCH_NORMS):
        if step is not None and step.operator in names:
            value = flow.plain(step.inputs[0])
            step = flow.step(value)
    return _weight(flow, value), gate


def _weight(flow: Flow, value: int) -> str:
    """Return the key of the weight whose product a value is."""
    factors = flow.factors(flow.step(value))
    return "" if factors is None else factors[0]


def _history(flow: Flow, value: int) -> tuple[tuple[str, ...], ...]:
    """Return what a value is made of, operands first; empty where something else than batch norms takes part."""
    step = flow.step(flow.plain(value))
    if step is None:
        return ()
    name = step.operator
    if step.name in BATCH_NORMS:
        gain, shift = (flow.parameter(one) for one in step.inputs[1:3])
        return () if gain is None or shift is None else ((gain, shift),)
    if name in ("relu", "hardtanh") or step.name in _POOLS:
        inner = _history(flow, step.inputs[0])
        return (*inner, ("relu",)) if inner and step.name not in _POOLS else inner
    if name == "add" and len(step.inputs) == 2:
        parts = [_history(flow, one) for one in step.inputs]
        return (*parts[0], *parts[1], ("+",)) if all(parts) else ()
    return ()
