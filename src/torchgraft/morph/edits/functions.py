"""The public functions: one for every edit."""

from __future__ import annotations

__all__ = [
    "add_branch",
    "branch",
    "deepen",
    "expand_kernel",
    "insert_block",
    "narrow",
    "split",
    "stack",
    "widen",
    "widen_heads",
]

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

from torch import nn

from torchgraft.morph.edits.records import Edit, Edited
from torchgraft.morph.edits.table import apply_edits
from torchgraft.morph.graph import Graph
from torchgraft.transfer.narrowing import Narrowing


class EditOptions(TypedDict, total=False):
    """Keyword arguments that all edits share; :func:`apply_edits` says what they mean."""

    inputs: Any
    approximate: bool
    certify: bool
    inplace: bool
    seed: int


def _edited(model: nn.Module, name: str, path: str, options: EditOptions, **arguments: Any) -> Edited:
    given = {key: value for key, value in arguments.items() if value is not None}
    return apply_edits(model, [Edit(name, path, given)], **options)


def widen(model: nn.Module, path: str, width: int, **options: Unpack[EditOptions]) -> Edited:
    """Give a layer more units, and every layer that is coupled with it, without changing the function.

    Args:
        model: left as it is, unless ``inplace=True``.
        path: of a convolution, a linear layer, an embedding, or a norm: where its outputs are added to others (a
            stream), all of these widen together.
        width: how many outputs it has then.
        options: see :func:`apply_edits`.

    Raises:
        MorphError: the width is locked (inputs, classes), cannot be had, the model's code does not run in it, or no
            weights keep the function.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 4, 3, groups=4))
    >>> print(*(tuple(one.weight.shape) for one in widen(model, "0", 12).model if hasattr(one, "weight")))
    (12, 3, 3, 3) (12,) (4, 3, 3, 3)
    """
    return _edited(model, "widen", path, options, width=width)


def narrow(
    model: nn.Module,
    path: str,
    width: int,
    *,
    narrowing: str | Narrowing | None = None,
    **options: Unpack[EditOptions],
) -> Edited:
    """Give a layer fewer units, and every layer that is coupled with it; ``approximate=True`` where units were in use.

    Args:
        model: left as it is, unless ``inplace=True``.
        path: of the layer.
        width: how many outputs it has then.
        narrowing: which units stay: ``"readers"`` (default), ``"magnitude"``, ``"norm_scale"``, ``"even"``,
            ``"centre"``, or a function (see :func:`torchgraft.transfer`).
        options: see :func:`apply_edits`.

    Raises:
        MorphError: as :func:`widen`; also where the function changes and ``approximate`` is not set.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> narrow(model, "0", 6, approximate=True).exact
    False
    """
    return _edited(model, "narrow", path, options, width=width, narrowing=narrowing)


def widen_heads(
    model: nn.Module,
    path: str,
    *,
    heads: int | None = None,
    head_size: int | None = None,
    **options: Unpack[EditOptions],
) -> Edited:
    """Give an attention more heads, or larger ones, without changing the function.

    Args:
        model: left as it is, unless ``inplace=True``.
        path: of the module that holds the projections.
        heads: how many query heads; those of keys and values follow where they have to.
        head_size: units of each; rotary embeddings leave no other.
        options: see :func:`apply_edits`.

    Raises:
        MorphError: there are no heads, they are locked, or the code does not run with them.
    """
    return _edited(model, "widen_heads", path, options, heads=heads, head_size=head_size)


def deepen(model: nn.Module, path: str, *, kind: str | None = None, **options: Unpack[EditOptions]) -> Edited:
    """Put a new layer of the same width and sort behind the activation of a layer, without changing the function.

    Args:
        model: left as it is, unless ``inplace=True``.
        path: of a convolution or a linear layer.
        kind: ``"identity"``: layer, batch norm where the old one has one, and activation; needs an activation that
            leaves its own values as they are. ``"pair"``: a layer twice as wide, activation, a layer; needs one with
            ``f(x) - f(-x) = c·x`` (ReLU, LeakyReLU, GELU, SiLU, Hardswish, softplus). ``"residual"``: ``x + body(x)``
            whose last layer is zero; always. ``"blend"``: an identity and a :class:`Blend` (arXiv:1603.01670). By
            default the first of them that is exact.
        options: see :func:`apply_edits`.

    Raises:
        MorphError: ``path`` is no such layer, or the activation does not allow the kind.
        SpecError: an unknown kind.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    >>> [type(one).__name__ for one in deepen(model, "0").model[2]]
    ['Linear', 'GELU', 'Linear']
    """
    return _edited(model, "deepen", path, options, kind=kind)


def insert_block(model: nn.Module, path: str, block: nn.Module | str, **options: Unpack[EditOptions]) -> Edited:
    """Put a module of your own behind another one; the transfer makes it add nothing, where its structure allows that.

    Args:
        model: left as it is, unless ``inplace=True``.
        path: of the module that it comes after: in an ``nn.Sequential`` or ``nn.ModuleList`` as its next part,
            elsewhere in an ``nn.Sequential`` with it.
        block: a residual block, or layers behind an activation that lets them be the identity; copied. By a path, the
            model's own.
        options: see :func:`apply_edits`.

    Raises:
        MorphError: no weights of the block keep the function.
    """
    return _edited(model, "insert_block", path, options, block=block)


def stack(model: nn.Module, path: str, depth: int, **options: Unpack[EditOptions]) -> Edited:
    """Repeat the blocks of a row; each new one adds nothing at first.

    Args:
        model: left as it is, unless ``inplace=True``.
        path: of an ``nn.Sequential`` or ``nn.ModuleList`` of residual blocks.
        depth: how many blocks it has then.
        options: see :func:`apply_edits`.

    Raises:
        MorphError: it is no such row, or its blocks cannot be made to add nothing.
    """
    return _edited(model, "stack", path, options, depth=depth)


def expand_kernel(model: nn.Module, path: str, size: int | Sequence[int], **options: Unpack[EditOptions]) -> Edited:
    """Give a convolution a larger kernel around the old one, and as much more padding.

    Args:
        model: left as it is, unless ``inplace=True``.
        path: of the convolution.
        size: of the kernel, for all axes or for each; larger by an even number.
        options: see :func:`apply_edits`.

    Raises:
        MorphError: it is no convolution, or the size has another centre.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))
    >>> expand_kernel(model, "0", 5).model[0].padding
    (2, 2)
    """
    return _edited(model, "expand_kernel", path, options, size=size)


def branch(
    model: nn.Module,
    path: str,
    parts: int = 2,
    *,
    allocate: str = "replicate",
    merge: str = "add",
    shares: Sequence[float] | None = None,
    **options: Unpack[EditOptions],
) -> Edited:
    """Divide a layer among several branches that compute it together (path-level transformations, arXiv:1806.02639).

    ``replicate`` and ``add``: every branch is the layer times its share; for any module. ``replicate`` and ``concat``:
    every branch gives a slice of the outputs; ``split`` and ``add``: reads a slice of the inputs; both for linear
    layers and convolutions without groups. ``split`` and ``concat``: every branch is the layer on a slice of the
    channels; for what computes each channel, or group of channels, from itself: grouped convolutions, batch and group
    norms, poolings, activations, identities.

    Args:
        model: left as it is, unless ``inplace=True``.
        path: of the layer; its branches are at ``path.0``, ``path.1``, ..., and can be edited on.
        parts: how many branches.
        allocate: ``"replicate"``: every branch reads the whole input; ``"split"``: a slice of its channels.
        merge: ``"add"``: outputs are summed; ``"concat"``: put side by side.
        shares: what each branch counts where outputs are added, adding up to one; drawn by default, so that no two
            branches are alike.
        options: see :func:`apply_edits`.

    Raises:
        MorphError: such branches cannot compute the layer.
        SpecError: an unknown allocation or merge.

    >>> model = nn.Sequential(nn.Conv2d(6, 8, 3))
    >>> [tuple(one.weight.shape) for one in branch(model, "0", 3, allocate="split").model[0]]
    [(8, 2, 3, 3), (8, 2, 3, 3), (8, 2, 3, 3)]
    """
    given = None if shares is None else list(shares)
    return _edited(model, "branch", path, options, parts=parts, allocate=allocate, merge=merge, shares=given)


def split(model: nn.Module, path: str, graph: str | Graph, **options: Unpack[EditOptions]) -> Edited:
    """Split a convolution or linear layer into the module of a graph, in series and in parallel.

    Args:
        model: left as it is, unless ``inplace=True``.
        path: of the layer.
        graph: from ``s`` to ``t``, as :func:`module` takes it: ``"s>a:3x3 a>t:1x1"``.
        options: see :func:`apply_edits`.

    Raises:
        MorphError: the graph cannot compute the layer.
    """
    return _edited(model, "split", path, options, graph=str(graph))


def add_branch(model: nn.Module, path: str, graph: str | Graph, **options: Unpack[EditOptions]) -> Edited:
    """Put further paths beside a convolution or linear layer, which makes up for what they add.

    Args:
        model: left as it is, unless ``inplace=True``.
        path: of the layer.
        graph: paths from ``s`` to ``t``, as :func:`module` takes them: ``"s>a:1x1 a>t:3x3"``.
        options: see :func:`apply_edits`.

    Raises:
        MorphError: the graph does not fit the layer.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))
    >>> print(add_branch(model, "0", "s>t:1x1").model[0].text)
    s>t:3x3 s>t:1x1
    """
    return _edited(model, "add_branch", path, options, graph=str(graph))
