"""Stage 2: how alike layers are, from kinds and shapes alone (arXiv:2212.13970 eq. 1)."""

from __future__ import annotations

__all__ = ["SCORERS", "Scorer", "flattened_shapes", "pairwise", "score_graft", "score_paper", "shape_score"]

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, product
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from torchgraft.kinds import DIMENSIONAL, PAPER_KINDS, compatible
from torchgraft.records import Layer, Shape

Floats = NDArray[np.float64]

# Less than any difference of shape: it only decides between layers that are equal otherwise.
_NEARLY = 1 - 2**-10

# A convolution with a bias gates or ends a network; one without stands before a norm.
_OTHER_PART = 0.75

# Kinds between which a layer may be the same map in another form.
_FLAT = frozenset({"linear", "matrix", "conv1d", "conv2d", "conv3d"})


class Scorer(Protocol):
    """Scores every target layer with every source layer: an ``(n targets, m sources)`` array of values in [0, 1].

    1 only for layers of equal shape, 0 for layers that cannot exchange weights. A score sees the ``look`` of
    a layer (kind, shape, stride, bias, heads) and nothing else: layers that look alike are scored once.
    """

    def __call__(self, target: Sequence[Layer], source: Sequence[Layer]) -> Floats: ...


def shape_score(target: Shape | None, source: Shape | None) -> float:
    """Return ``prod_i min(t_i/s_i, s_i/t_i)`` (eq. 1), 0 for different ranks.

    >>> shape_score((64, 32, 3, 3), (32, 32, 3, 3))
    0.5
    """
    if target == source:
        return 1.0
    if target is None or source is None or len(target) != len(source):
        return 0.0
    score = 1.0
    for t, s in zip(target, source, strict=True):
        if t != s:
            score *= min(t / s, s / t) if t and s else 0.0
    return score


def pairwise(score: Callable[[Layer, Layer], float]) -> Scorer:
    """Make a scorer of a function that scores one target layer with one source layer.

    >>> same_kind = pairwise(lambda target, source: float(target.kind == source.kind))
    >>> same_kind([Layer("a", "linear")], [Layer("b", "linear"), Layer("c", "conv2d")]).tolist()
    [[1.0, 0.0]]
    """

    def scorer(target: Sequence[Layer], source: Sequence[Layer]) -> Floats:
        return np.array([[score(t, s) for s in source] for t in target]).reshape(len(target), len(source))

    return scorer


def score_paper(target: Sequence[Layer], source: Sequence[Layer]) -> Floats:
    """Eq. 1 for the ten types of the paper; every other type scores 0."""
    return _by_kind(target, source, lambda t, s: t == s and t in PAPER_KINDS)


def score_graft(target: Sequence[Layer], source: Sequence[Layer]) -> Floats:
    """Eq. 1 for every kind of layer that holds tensors.

    A buffer of its own matches only one of equal shape. A linear layer matches a convolution that computes the same: of
    kernel size one, or over a flattened input. A bias on one side alone counts against a pair, and so do heads on
    different sides (a query, an output projection); a stride that differs decides between layers equal otherwise.
    """
    scores = _by_kind(target, source, compatible)
    buffers = [i for i, layer in enumerate(target) if layer.kind.startswith("buffer")]
    scores[buffers] = np.floor(scores[buffers])
    marks = _marks(target)[:, :, None], _marks(source)[:, None, :]
    (mixing, biased, heads, stride), (others_mix, other_bias, other_heads, other_stride) = marks
    for factor, differs in (
        (_OTHER_PART, (mixing & others_mix & (biased != other_bias)).astype(bool)),
        (_OTHER_PART, (heads >= 0) & (other_heads >= 0) & (heads != other_heads)),
        (_NEARLY, (stride > 0) & (other_stride > 0) & (stride != other_stride)),
    ):
        np.multiply(scores, factor, out=scores, where=differs)
    for i, j in _matrix_meets_kernel(target, source):
        if target[i].kind != source[j].kind and (flat := flattened_shapes(target[i], source[j])):
            scores[i, j] = max(scores[i, j], _NEARLY * shape_score(*flat))
    return scores


def _marks(layers: Sequence[Layer]) -> NDArray[np.intp]:
    """Rows over the layers: whether it mixes units, has a bias, the axis of its heads, a number for its stride."""
    marks = []
    for layer in layers:
        code = 0
        for step in layer.stride:
            code = 64 * code + step
        marks.append((1, layer.biased, layer.heads, code) if layer.kind in DIMENSIONAL else (0, 0, -1, 0))
    return np.array(marks, np.intp).reshape(-1, 4).T


def _matrix_meets_kernel(target: Sequence[Layer], source: Sequence[Layer]) -> Iterator[tuple[int, int]]:
    """Pairs of a linear layer and a convolution, which alone may be the same map in another form."""
    sides = []
    for layers in (target, source):
        flat = [(number, layer.shape) for number, layer in enumerate(layers) if layer.kind in _FLAT]
        matrices = [number for number, shape in flat if shape is not None and len(shape) == 2]
        sides.append((matrices, [number for number, shape in flat if shape is not None and len(shape) != 2]))
    return chain(product(sides[0][0], sides[1][1]), product(sides[0][1], sides[1][0]))


def flattened_shapes(target: Layer, source: Layer) -> tuple[Shape, Shape] | None:
    """Shapes as ``(out, in)`` of a linear layer and a convolution that computes the same, ``None`` for all others.

    >>> flattened_shapes(Layer("", "linear", (4096, 25088)), Layer("", "conv2d", (4096, 512, 7, 7)))
    ((4096, 25088), (4096, 25088))
    """
    if target.shape is None or source.shape is None or len(target.shape) == len(source.shape):
        return None
    if target.kind not in _FLAT or source.kind not in _FLAT or target.biased != source.biased:
        return None  # a classifier is not the convolution before a norm, whatever its shape
    matrix, kernel = sorted((target.shape, source.shape), key=len)
    if len(matrix) != 2:
        return None
    flat = (target.shape[0], prod(target.shape[1:])), (source.shape[0], prod(source.shape[1:]))
    return flat if prod(kernel[2:]) == 1 or flat[0][1] == flat[1][1] else None


def _by_kind(target: Sequence[Layer], source: Sequence[Layer], meets: Callable[[str, str], bool]) -> Floats:
    """Eq. 1 for all pairs of layers whose kinds meet, one vectorized step for each pair of kinds and ranks."""
    scores = np.zeros((len(target), len(source)))
    groups = _grouped(target), _grouped(source)
    for (t_kind, t_rank), rows in groups[0].items():
        for (s_kind, s_rank), columns in groups[1].items():
            if t_rank == s_rank and meets(t_kind, s_kind):
                shapes = [target[i].shape or () for i in rows], [source[j].shape or () for j in columns]
                scores[np.ix_(rows, columns)] = _ratios(shapes[0], shapes[1], t_rank)
    return scores


def _grouped(layers: Iterable[Layer]) -> dict[tuple[str, int], list[int]]:
    groups: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for number, layer in enumerate(layers):
        groups[layer.kind, -1 if layer.shape is None else len(layer.shape)].append(number)
    return groups


def _ratios(target: Sequence[Shape], source: Sequence[Shape], rank: int) -> Floats:
    scores = np.ones((len(target), len(source)))
    if rank > 0:
        t, s = np.array(target, np.float64), np.array(source, np.float64)
        low, high = np.minimum(t[:, None], s[None]), np.maximum(t[:, None], s[None])
        ratios = np.divide(low, high, out=np.ones_like(low), where=high > 0)
        for axis in range(rank):  # multiplied axis by axis, as eq. 1 is written: equal scores must stay equal
            scores *= ratios[:, :, axis]
    return scores


#: Scorers by name.
SCORERS: Mapping[str, Scorer] = {"paper": score_paper, "graft": score_graft}
