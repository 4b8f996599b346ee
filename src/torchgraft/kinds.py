"""Kinds: which layers may exchange weights, and what the axes of their tensors mean.

One literal table maps torch's module types to kinds; subclasses inherit the kind. Modules of other libraries that hold
the same tensors (a root mean square norm, a frozen batch norm) and layers read from a bare table of arrays get their
kind from the names and ranks of their own tensors.
"""

from __future__ import annotations

__all__ = [
    "DIMENSIONAL",
    "GATES",
    "PAPER_KINDS",
    "compatible",
    "family",
    "input_axis",
    "kind_of_tensors",
    "kind_of_type",
    "output_axis",
]

from collections.abc import Mapping
from functools import cache

from torch import nn

# Order matters only where a type is a subclass of another one in the table: the first entry that fits wins.
TYPES: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Conv1d, "conv1d"),
    (nn.Conv2d, "conv2d"),
    (nn.Conv3d, "conv3d"),
    (nn.ConvTranspose1d, "convtranspose1d"),
    (nn.ConvTranspose2d, "convtranspose2d"),
    (nn.ConvTranspose3d, "convtranspose3d"),
    (nn.BatchNorm1d, "batchnorm1d"),
    (nn.BatchNorm2d, "batchnorm2d"),
    (nn.BatchNorm3d, "batchnorm3d"),
    (nn.Linear, "linear"),
    (nn.SyncBatchNorm, "batchnorm"),
    (nn.InstanceNorm1d, "instancenorm"),
    (nn.InstanceNorm2d, "instancenorm"),
    (nn.InstanceNorm3d, "instancenorm"),
    (nn.LayerNorm, "layernorm"),
    (nn.GroupNorm, "groupnorm"),
    (nn.RMSNorm, "rmsnorm"),
    (nn.Embedding, "embedding"),
    (nn.EmbeddingBag, "embedding"),
    (nn.MultiheadAttention, "attention"),
    (nn.LSTM, "lstm"),
    (nn.GRU, "gru"),
    (nn.RNN, "rnn"),
    (nn.LSTMCell, "lstm"),
    (nn.GRUCell, "gru"),
    (nn.RNNCell, "rnn"),
    (nn.Bilinear, "bilinear"),
    (nn.PReLU, "prelu"),
)

#: The ten types that the paper scores (arXiv:2212.13970, section 3.2).
PAPER_KINDS = frozenset(kind for _, kind in TYPES[:10])

#: Kinds that mix units: they vote as "conv/linear layers" when modules are grouped into blocks.
DIMENSIONAL = frozenset(kind for _, kind in TYPES[:6]) | {"linear", "bilinear"}

#: Number of gates stacked along the first axis of a recurrent layer's tensors. A layer that reads its sequence
#: backwards is of a kind of its own.
GATES: Mapping[str, int] = {
    "lstm": 4,
    "gru": 3,
    "rnn": 1,
    "lstm reverse": 4,
    "gru reverse": 3,
    "rnn reverse": 1,
}

# Kinds whose tensors mean the same although their names differ. "norm" is a gain and a shift of unknown origin.
_FAMILIES: tuple[frozenset[str], ...] = (
    frozenset({"batchnorm", "batchnorm1d", "batchnorm2d", "batchnorm3d"}),
    frozenset({"norm", "layernorm"}),
    frozenset({"norm", "groupnorm"}),
    frozenset({"norm", "instancenorm"}),
    frozenset({"matrix", "linear"}),
    frozenset({"matrix", "embedding"}),
    frozenset({"rmsnorm", "vector"}),
    frozenset({"prelu", "vector"}),
    frozenset({"parameter", "vector"}),
)


@cache
def kind_of_type(type_: type[nn.Module]) -> str | None:
    """Return the kind of a module type, or ``None`` for a type the table does not know.

    >>> kind_of_type(nn.Conv2d), kind_of_type(nn.ReLU)
    ('conv2d', None)
    """
    return next((kind for known, kind in TYPES if issubclass(type_, known)), None)


@cache
def kind_of_tensors(ranks: tuple[tuple[str, int], ...]) -> str | None:
    """Infer a kind from the ``(name, rank)`` of a module's own tensors, or ``None`` where they are free parameters.

    >>> kind_of_tensors((("weight", 4),)), kind_of_tensors((("weight", 1), ("bias", 1), ("running_mean", 1)))
    ('conv2d', 'batchnorm')
    """
    rank = dict(ranks)
    weight = rank.get("weight", 0)
    if "running_mean" in rank or "running_var" in rank:
        return "batchnorm"
    if "in_proj_weight" in rank:
        return "attention"
    if "weight_ih_l0" in rank or "weight_ih" in rank:
        return "recurrent"
    if set(rank) - {"weight", "bias"} or not weight:
        return None
    if weight == 1:
        return "norm" if "bias" in rank else "vector"
    if weight == 2:
        return "linear" if "bias" in rank else "matrix"
    return {3: "conv1d", 4: "conv2d", 5: "conv3d"}.get(weight)


@cache
def compatible(a: str, b: str) -> bool:
    """Tell whether layers of the two kinds may exchange weights in ``graft``.

    >>> compatible("batchnorm1d", "batchnorm2d"), compatible("conv2d", "linear")
    (True, False)
    """
    return a == b or any(a in family and b in family for family in _FAMILIES)


@cache
def family(kind: str) -> str:
    """Name the kinds that a bare table cannot tell apart alike, so that equal layers of both look equal.

    >>> family("batchnorm2d"), family("layernorm"), family("conv2d")
    ('batchnorm', 'norm', 'conv2d')
    """
    if kind.startswith("batchnorm"):
        return "batchnorm"
    if kind in ("layernorm", "groupnorm", "instancenorm"):
        return "norm"
    return {"matrix": "linear", "rmsnorm": "vector", "prelu": "vector"}.get(kind, kind)


def output_axis(kind: str, role: str) -> int | None:
    """Axis of the tensor that counts the layer's outputs, ``None`` where it has none."""
    if kind.startswith("convtranspose") and role == "weight":
        return 1
    if kind == "embedding":
        return 1
    return 0


def input_axis(kind: str, role: str) -> int | None:
    """Axis of the tensor that counts the layer's inputs, ``None`` where it has none (norms, biases, depth)."""
    if kind.startswith("convtranspose") and role == "weight":
        return 0
    if kind == "embedding":
        return 0
    if (kind in DIMENSIONAL or kind == "matrix") and role == "weight":
        return 1
    if kind in GATES and role.startswith(("weight_ih", "weight_hh", "weight_hr")):
        return 1
    return None
