"""What torch's own layers write down of their widths, set to those of their tensors: one literal table."""

from __future__ import annotations

__all__ = ["LAYERS", "write_down"]

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from torchgraft.axes.terms import Prod, Term, resolve
from torchgraft.morph.edits.sizes import Sizes, sized

Axes = tuple[Term, ...]


def write_down(module: Any, axes: Axes, sizes: Sizes) -> bool:
    """Set the widths that a layer of torch keeps as attributes; tell whether it is one.

    Args:
        module: whose tensors have their new shapes.
        axes: of its weight, as they were.
        sizes: new sizes of groups.
    """
    for types, write in LAYERS.items():
        if isinstance(module, types):
            write(module, axes, sizes)
            return True
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # of transformers, stored (in, out)
        module.nx, module.nf = (sized(term, sizes) for term in axes)
    return type(module).__name__ == "Conv1D"


def _convolution(module: Any, axes: Axes, sizes: Sizes) -> None:
    module.groups = _groups(module.groups, axes[0], sizes)
    module.out_channels = sized(axes[0], sizes)
    module.in_channels = sized(axes[1], sizes) * module.groups


def _transposed(module: Any, axes: Axes, sizes: Sizes) -> None:
    module.groups = _groups(module.groups, axes[0], sizes)
    module.in_channels = sized(axes[0], sizes)
    module.out_channels = sized(axes[1], sizes) * module.groups


def _linear(module: Any, axes: Axes, sizes: Sizes) -> None:
    module.out_features, module.in_features = (sized(term, sizes) for term in axes)


def _group_norm(module: Any, axes: Axes, sizes: Sizes) -> None:
    module.num_groups = _groups(module.num_groups, axes[0], sizes)
    module.num_channels = sized(axes[0], sizes)


def _statistics(module: Any, axes: Axes, sizes: Sizes) -> None:
    module.num_features = sized(axes[0], sizes)


def _last_axes(module: Any, axes: Axes, sizes: Sizes) -> None:
    module.normalized_shape = tuple(sized(term, sizes) for term in axes)


def _embedding(module: Any, axes: Axes, sizes: Sizes) -> None:
    module.num_embeddings, module.embedding_dim = (sized(term, sizes) for term in axes)


def _slopes(module: Any, axes: Axes, sizes: Sizes) -> None:
    module.num_parameters = sized(axes[0], sizes)


#: What sets the attributes of a layer of torch from the axes of its weight; the first type that fits counts.
LAYERS: Mapping[type[nn.Module], Callable[[Any, Axes, Sizes], None]] = {
    _ConvTransposeNd: _transposed,
    _ConvNd: _convolution,
    nn.Linear: _linear,
    nn.GroupNorm: _group_norm,
    _NormBase: _statistics,
    nn.LayerNorm: _last_axes,
    nn.RMSNorm: _last_axes,
    nn.Embedding: _embedding,
    nn.EmbeddingBag: _embedding,
    nn.PReLU: _slopes,
}


def _groups(count: int, term: Term, sizes: Sizes) -> int:
    """Return the new number of groups: the leading factors of an axis that were as many."""
    found = resolve(term)
    if count == 1:
        return 1
    if count == sized(found, {}):
        return sized(found, sizes)
    held = made = 1
    for factor in found.factors if isinstance(found, Prod) else ():
        held, made = held * sized(factor, {}), made * sized(factor, sizes)
        if held == count:
            return made
    return count
