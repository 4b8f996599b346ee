"""Which tensors of two matched layers go together, and how each is brought to its new shape. Arithmetic only."""

from __future__ import annotations

__all__ = ["CENTRED", "IDENTITIES", "Context", "check_labels", "graft_moves", "paper_moves"]

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isqrt, prod

from torchgraft.errors import ApplyError
from torchgraft.kinds import GATES, output_axis
from torchgraft.records import Layer, Move, Shape, TensorSpec
from torchgraft.score import flattened_shapes
from torchgraft.windows import windows_of

_POSITION = ("pos_embed", "position_embedding", "pos_embedding", "positional_embedding")
_RELATIVE = ("relative_position_bias_table",)
_MOST_PREFIX_TOKENS = 8  # class, distillation and register tokens beside the grid of a position embedding

#: Operators that copy a tensor as it is where both shapes are equal.
IDENTITIES = frozenset({"embed", "clip", "full", "magnitude", "leading"})
#: Operators that put the centre into the centre, by shapes alone; the others choose units by value, or take the first.
CENTRED = frozenset({"copy", "embed", "clip", "clip_normalized", "full"})


@dataclass(frozen=True, slots=True)
class Context:
    """What the rules know of the whole plan: the operator, and which layers meet the input and give the classes.

    ``labels`` pairs target classes with source classes; ``pictures`` are the modules that cut an image into patches;
    ``images`` says that both networks have convolutions of two axes or more.
    """

    operator: str
    target_stem: str | None = None
    source_stem: str | None = None
    target_heads: frozenset[str] = frozenset()
    source_heads: frozenset[str] = frozenset()
    labels: tuple[tuple[int, int], ...] = ()
    pictures: frozenset[str] = frozenset()
    images: bool = False


def paper_moves(target: Layer, source: Layer, context: Context) -> Iterator[Move]:
    """The published method: weight and bias, each by the operator, nothing else."""
    available = {spec.role: spec for spec in source.tensors}
    for spec in target.tensors:
        other = available.get(spec.role)
        if other is not None and not _obstacle(spec, other):
            same = spec.shape == other.shape and context.operator in IDENTITIES
            operator = "copy" if same else context.operator
            windows = windows_of(target.kind, spec, other, operator)
            yield Move(spec, other, operator, _elements(operator, spec, other), windows=windows)


def graft_moves(target: Layer, source: Layer, context: Context) -> Iterator[Move]:
    """Every tensor the two layers share by role, with the rule that its meaning asks for."""
    available = {spec.role: spec for spec in source.tensors}
    direct = _same_parametrization(target, source) and not (context.labels and _is_head(target, source, context))
    for spec in target.tensors:
        other = available.get(spec.role)
        if len(target.tensors) == len(source.tensors) == 1 and target.kind == "parameter":
            other = source.tensors[0]
        if other is None:
            continue
        spec, other = _level(target, source, spec, other)
        if _obstacle(spec, other):
            continue
        if _is_parametrization(spec) != direct and (_is_parametrization(spec) or _is_computed(target, spec)):
            continue  # a computed weight moves as a whole, or its originals one by one, never both
        move = _graft_move(target, source, spec, other, context)
        if move is not None:
            yield move


def _level(target: Layer, source: Layer, spec: TensorSpec, other: TensorSpec) -> tuple[TensorSpec, TensorSpec]:
    """See a convolution that meets a linear layer as the matrix ``(out, in)`` that it is."""
    if spec.role != "weight" or len(spec.shape) == len(other.shape):
        return spec, other
    flat = flattened_shapes(target, source)
    return (replace(spec, shape=flat[0]), replace(other, shape=flat[1])) if flat else (spec, other)


def _is_head(target: Layer, source: Layer, context: Context) -> bool:
    return target.path in context.target_heads and source.path in context.source_heads


def _graft_move(target: Layer, source: Layer, spec: TensorSpec, other: TensorSpec, context: Context) -> Move | None:
    spec, other = _infer_units(spec, other)
    classes = _is_head(target, source, context) and spec.role in ("weight", "bias")
    axis = (output_axis(target.kind, spec.role) or 0) if classes else None
    select = axis is not None and bool(context.labels)
    if spec.shape == other.shape and spec.units == other.units and not select:
        plain = context.operator in IDENTITIES or _nature(spec.dtype) not in ("float", "complex")
        operator = "copy" if plain else context.operator
        return Move(spec, other, operator, spec.size, windows=windows_of(target.kind, spec, other, operator))
    if spec.buffer and len(spec.shape) != 1:
        return None  # tables derived from the architecture (an index, a mask): the target's own are right
    prepare: list[str] = []
    shape, seen = other.shape, spec.shape
    if axis is not None and select:
        check_labels(context.labels, axis, spec, other)
        prepare.append("select_labels")
        shape, seen = (_with(one, axis, len(context.labels)) for one in (shape, seen))
    for rule in (_input_rule, _patch_rule, _table_rule, _slope_rule):
        name, shape = rule(target, source, spec, shape, context)
        prepare += [name] if name else []
    target_seen = spec if seen == spec.shape else replace(spec, shape=seen)
    elements = _elements(context.operator, target_seen, other if shape == other.shape else replace(other, shape=shape))
    lead = _lead(target, spec, other, axis)
    windows = None if prepare else windows_of(target.kind, spec, other, context.operator, lead)
    return Move(spec, other, context.operator, elements, tuple(prepare), lead, windows=windows)


def check_labels(labels: tuple[tuple[int, int], ...], axis: int, target: TensorSpec, source: TensorSpec) -> None:
    """Raise an :class:`~torchgraft.errors.ApplyError` where a label map names a class that a head does not have."""
    rows = target.shape[axis], source.shape[axis]
    for pair in labels:
        if not (0 <= pair[0] < rows[0] and 0 <= pair[1] < rows[1]):
            raise ApplyError(
                f"the label map pairs target class {pair[0]} with source class {pair[1]}, but {target.key} has "
                f"{rows[0]} classes and {source.key} has {rows[1]}: name classes below these numbers"
            )


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _lead(target: Layer, spec: TensorSpec, other: TensorSpec, classes: int | None) -> tuple[int, ...]:
    """Axes that are aligned at their start: classes, vocabularies, tokens, and the forward one of two directions."""
    lead = set() if classes is None else {classes}
    tokens = len(spec.shape) == 3 or (len(spec.shape) == 2 and spec.role.startswith(_POSITION))
    if target.kind == "embedding" or (target.kind == "parameter" and tokens):
        lead.add(len(spec.shape) - 2)
    if target.kind in GATES and spec.role == "weight_ih":
        directions = [len(one.units[1]) if one.units else 1 for one in (spec, other)]
        lead |= {1} if directions[0] != directions[1] else set()
    return tuple(sorted(lead))


def _input_rule(target: Layer, source: Layer, spec: TensorSpec, shape: Shape, context: Context) -> tuple[str, Shape]:
    """The first convolution takes other input channels by summing or repeating the source's."""
    stems = target.path == context.target_stem and source.path == context.source_stem
    dense = target.kind in ("conv1d", "conv2d", "conv3d") and spec.role == "weight"
    if stems and dense and shape[1] != spec.shape[1]:
        return "tile_inputs", _with(shape, 1, spec.shape[1])
    return "", shape


def _patch_rule(target: Layer, source: Layer, spec: TensorSpec, shape: Shape, context: Context) -> tuple[str, Shape]:
    """A kernel whose windows do not overlap is a picture of its patch."""
    if target.patchify and len(shape) == 4 and spec.role == "weight" and shape[2:] != spec.shape[2:]:
        return "resample_patch", (*shape[:2], *spec.shape[2:])
    return "", shape


def _table_rule(target: Layer, source: Layer, spec: TensorSpec, shape: Shape, context: Context) -> tuple[str, Shape]:
    """Position embeddings and relative-position tables are pictures of the grid: resampled, never cropped."""
    if target.kind == "parameter" and spec.role.startswith(_POSITION):
        axis = len(shape) - 2
        if axis in (0, 1) and shape[axis] != spec.shape[axis] and _grids(shape[axis], spec.shape[axis], context.images):
            return "resample_position", _with(shape, axis, spec.shape[axis])
        planes = (_plane(shape), _plane(spec.shape)) if len(shape) == 4 else ((), ())
        if planes[0] == planes[1] != () and any(shape[axis] != spec.shape[axis] for axis in planes[0]):
            grid = tuple(spec.shape[axis] if axis in _plane(shape) else size for axis, size in enumerate(shape))
            return "resample_plane", grid
    if target.kind == "embedding" and spec.role == "weight" and shape[0] != spec.shape[0]:
        pictures = all(layer.path.rpartition(".")[0] in context.pictures for layer in (target, source))
        if pictures and _grids(shape[0], spec.shape[0], True):
            return "resample_position", (spec.shape[0], shape[1])
    if target.kind == "parameter" and spec.role.startswith(_RELATIVE) and len(shape) == 2 and shape[0] != spec.shape[0]:
        sides = isqrt(shape[0]), isqrt(spec.shape[0])
        if all(side % 2 for side in sides) and shape[0] - sides[0] ** 2 == spec.shape[0] - sides[1] ** 2 <= 3:
            return "resample_relative", (spec.shape[0], shape[1])
    return "", shape


def _slope_rule(target: Layer, source: Layer, spec: TensorSpec, shape: Shape, context: Context) -> tuple[str, Shape]:
    """A PReLU may hold one slope for all channels: it is given to each, or the mean of theirs to it."""
    if target.kind == source.kind == "prelu" and 1 in (*shape, *spec.shape) and shape != spec.shape:
        return "share_slope", spec.shape
    return "", shape


def _grids(a: int, b: int, images: bool) -> bool:
    """Tell whether both numbers of tokens are square grids beside a few prefix tokens.

    Without a convolution the tokens may be words: then only a class token on either side tells that there is a grid.
    """
    sides = isqrt(a), isqrt(b)
    prefix = a - sides[0] ** 2, b - sides[1] ** 2
    return min(sides) > 1 and max(prefix) <= _MOST_PREFIX_TOKENS and (images or prefix == (1, 1))


def _plane(shape: Shape) -> tuple[int, ...]:
    """Axes of the square grid in a position embedding of rank 4: ``(1, h, w, width)`` or ``(1, width, h, w)``."""
    if shape[0] != 1 or (shape[1] == shape[2]) == (shape[2] == shape[3]):
        return ()
    return (1, 2) if shape[1] == shape[2] else (2, 3)


def _obstacle(target: TensorSpec, source: TensorSpec) -> bool:
    """Tensors of different rank or nature (whole numbers, quantized values) do not exchange values."""
    if len(target.shape) != len(source.shape):
        return True
    nature = _nature(target.dtype), _nature(source.dtype)
    return nature[0] != nature[1] and nature != ("complex", "float")


def _nature(dtype: str) -> str:
    if dtype.startswith(("float", "bfloat")):
        return "float"
    return "complex" if dtype.startswith("complex") else dtype


def _is_parametrization(spec: TensorSpec) -> bool:
    return spec.role.startswith("parametrizations.")


def _is_computed(layer: Layer, spec: TensorSpec) -> bool:
    return any(other.role.startswith(f"parametrizations.{spec.role}.") for other in layer.tensors)


def _same_parametrization(target: Layer, source: Layer) -> bool:
    """Tell whether both layers store their weight the same way, so that the originals can be moved one by one."""
    stored = [[(s.role, s.shape) for s in layer.tensors if _is_parametrization(s)] for layer in (target, source)]
    return bool(stored[0]) and stored[0] == stored[1]


def _infer_units(target: TensorSpec, source: TensorSpec) -> tuple[TensorSpec, TensorSpec]:
    """Give a side that does not know its heads (a bare table) the head size of the other, where it divides."""
    if target.units and not source.units:
        source = replace(source, units=_units_like(source.shape, target.units))
    elif source.units and not target.units:
        target = replace(target, units=_units_like(target.shape, source.units))
    return target, source


def _units_like(shape: Shape, units: tuple[Shape, ...]) -> tuple[Shape, ...]:
    fitted = []
    for size, factors in zip(shape, units, strict=True):
        inner = prod(factors[1:])
        fitted.append((size // inner, *factors[1:]) if len(factors) > 1 and size % inner == 0 else (size,))
    return tuple(fitted)


def _elements(operator: str, target: TensorSpec, source: TensorSpec) -> int:
    """Number of target elements that the operator takes from the source."""
    if operator == "full":
        return target.size
    if not (target.units and source.units):
        return prod(map(min, target.shape, source.shape))
    factors = [
        (t, s)
        for axis, (size, other) in enumerate(zip(target.shape, source.shape, strict=True))
        for t, s in _factors(target, source, axis, size, other)
    ]
    return prod(min(t, s) for t, s in factors)


def _factors(target: TensorSpec, source: TensorSpec, axis: int, size: int, other: int) -> list[tuple[int, int]]:
    units = (target.units[axis], source.units[axis]) if target.units and source.units else ((size,), (other,))
    if len(units[0]) == len(units[1]) and prod(units[1]) == other:
        return list(zip(*units, strict=True))
    return [(size, other)]
