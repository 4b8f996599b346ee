"""Norms of a run that couple the units they read (layer norms, root mean square norms), and who reads them."""

from __future__ import annotations

__all__ = ["EPSILONS", "Norm", "PostNorm", "Reader", "norms", "post_norms", "readers"]

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from torchgraft.axes.closing import Closing
from torchgraft.axes.flow import Flow
from torchgraft.axes.steps import Step

#: Names of the attribute of a norm that holds its epsilon, in torch and elsewhere.
EPSILONS = ("eps", "variance_epsilon", "epsilon")


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm over all units of a group.

    ``kind`` is ``layer``, ``rms`` or ``group`` (all channels, over all of their places, where only copies leave the
    statistics as they are), ``shift`` the key of its bias if it has one, ``epsilon`` the name and value of the
    attribute of its module that keeps it from dividing by zero, if it is found; ``offset`` is what the code adds to
    the stored gain.
    """

    kind: str
    shift: str | None
    epsilon: tuple[str, float] | None
    offset: float = 0.0


def norms(flow: Flow, module: nn.Module) -> dict[str, Norm]:
    """Return the norms of a run by the key of their gain."""
    found = {}
    for step in flow.steps:
        name = step.operator
        keys = [flow.parameter(value) for value in step.inputs]
        if name == "native_layer_norm" and len(keys) > 1 and keys[1] is not None:
            found[keys[1]] = Norm("layer", keys[2] if len(keys) > 2 else None, _epsilon(module, keys[1]))
        elif name == "native_group_norm" and len(keys) > 2 and keys[1] is not None and step.groups == 1:
            found[keys[1]] = Norm("group", keys[2], _epsilon(module, keys[1]))
        elif name == "addcmul" and len(keys) > 2 and keys[1] is not None and _is_response(flow, step.inputs[2]):
            found[keys[1]] = Norm("group", keys[0], _epsilon(module, keys[1]))
        for gain, value in step.operands("mul"):
            held, kind = _gain(flow, gain), _written_out(flow, value)
            if held is not None and kind:
                found[held[0]] = Norm(kind, None, _epsilon(module, held[0]), held[1])
    return found


def _is_response(flow: Flow, value: int) -> bool:
    """Tell whether a value is ``x * norm(x) / (mean(norm(x)) + epsilon)`` (Woo et al. 2023)."""
    made = flow.step(flow.plain(value))
    factors = made.inputs if made is not None and made.operator == "mul" else ()
    return any(_follows(flow, one, ["div", "linalg_vector_norm"]) for one in factors)


def _gain(flow: Flow, value: int) -> tuple[str, float] | None:
    """Return the key of a stored gain and the number that is added to it."""
    step = flow.step(flow.plain(value))
    if step is not None and step.operator == "add" and len(step.inputs) == 1:
        key, number = flow.parameter(step.inputs[0]), step.settings[0]
        return (key, float(number)) if key is not None and isinstance(number, int | float) else None
    key = flow.parameter(value)
    return None if key is None else (key, 0.0)


def _written_out(flow: Flow, value: int) -> str:
    """Return the kind of norm that code makes of single operators: ``x * rsqrt(mean(x ** 2) + epsilon)``, or none.

    A layer norm is the same of ``x - mean(x)``.
    """
    for one, other in flow.operands(flow.plain(value), "mul"):
        if _follows(flow, one, ["rsqrt", "add", "mean", "pow"]):
            centred = flow.step(flow.plain(other))
            means = centred is not None and centred.operator == "sub" and len(centred.inputs) == 2
            return "layer" if means and centred and _follows(flow, centred.inputs[1], ["mean"]) else "rms"
    return ""


def _follows(flow: Flow, value: int, names: list[str]) -> bool:
    """Tell whether a value was made by these operators, the last one first."""
    for name in names:
        step = flow.step(flow.plain(value))
        if step is None or step.operator != name:
            return False
        value = step.inputs[0]
    return True


def _epsilon(module: nn.Module, key: str) -> tuple[str, float] | None:
    owner = module.get_submodule(key.rpartition(".")[0])
    return next(
        ((name, float(held)) for name in EPSILONS if isinstance(held := getattr(owner, name, None), float)), None
    )


@dataclass(frozen=True, slots=True)
class Reader:
    """A weight that reads what norms give, each by the key of its gain, times a number."""

    gains: frozenset[str]
    scale: float


def _gains(flow: Flow, step: Step | None, found: Mapping[str, Norm]) -> frozenset[str]:
    held = () if step is None else (_gain(flow, value) for value in step.inputs)
    return frozenset(one[0] for one in held if one is not None and one[0] in found)


def readers(flow: Flow, found: Mapping[str, Norm]) -> dict[str, Reader]:
    """Return the weights that read what norms give and nothing else."""
    reads: dict[str, Reader] = {}
    others: set[str] = set()
    for step in flow.steps:
        product = flow.product(step)
        key = None if product is None else flow.parameter(product.weight)
        if product is None or key is None:
            continue
        value, scale = flow.scaled(product.value)
        made = flow.step(value)
        gains = _gains(flow, made, found)
        if not gains or (key in reads and reads[key].scale != scale):
            others.add(key)
        reads[key] = Reader(gains | (reads[key].gains if key in reads else frozenset()), scale)
    return {key: reader for key, reader in reads.items() if key not in others}


@dataclass(frozen=True, slots=True)
class PostNorm:
    """A layer norm of the sum of what another one gives, ``before`` (the key of its gain), and a branch.

    ``closing`` are the tensors that make the branch add nothing when they are zero.
    """

    before: str
    closing: tuple[str, ...]


def post_norms(flow: Flow, found: Mapping[str, Norm], closing: Closing) -> dict[str, PostNorm]:
    """Return the layer norms of sums, by the key of their gain, whose stream comes from a layer norm itself."""
    made: dict[str, PostNorm] = {}
    for step in flow.steps:
        gain = flow.parameter(step.inputs[1]) if step.name == "native_layer_norm" and len(step.inputs) > 1 else None
        if gain is None:
            continue
        for stream, inner in flow.operands(flow.plain(step.inputs[0]), "add"):
            before = _gains(flow, flow.step(flow.plain(stream)), found)
            closed = closing.get(inner, ())
            if closed and len(before) == 1:
                made[gain] = PostNorm(next(iter(before)), closed)
    return made
