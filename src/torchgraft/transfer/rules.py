"""Which tensors of two matched layers go together, and how each is brought to its new shape. Arithmetic only."""

from __future__ import annotations

__all__ = ["IDENTITIES", "Context", "graft_moves", "paper_moves"]

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isqrt, prod
from torchgraft.records import Layer, Move, Shape, TensorSpec

_POSITION = ("pos_embed", "position_embedding", "pos_embedding", "positional_embedding")
_RELATIVE = ("relative_position_bias_table",)

#: Operators that copy a tensor as it is where both shapes are equal.
IDENTITIES = frozenset({"embed", "clip", "full", "magnitude"})


@dataclass(frozen=True, slots=True)
class Context:
    """What the rules know of the whole plan: the operator, and which layers meet the input and give the classes."""

    operator: str
    target_stem: str | None = None
    source_stem: str | None = None
    target_head: str | None = None
    source_head: str | None = None
    labels: bool = False


def paper_moves(target: Layer, source: Layer, context: Context) -> Iterator[Move]:
    """The published method: weight and bias, each by the operator, nothing else."""
    available = {spec.role: spec for spec in source.tensors}
    for spec in target.tensors:
        other = available.get(spec.role)
        if other is not None and not _obstacle(spec, other):
            same = spec.shape == other.shape and context.operator in IDENTITIES
            operator = "copy" if same else context.operator
            yield Move(spec, other, operator, _elements(operator, spec, other))


def graft_moves(target: Layer, source: Layer, context: Context) -> Iterator[Move]:
    """Every tensor the two layers share by role, with the rule that its meaning asks for."""
    available = {spec.role: spec for spec in source.tensors}
    direct = _same_parametrization(target, source)
    for spec in target.tensors:
        other = available.get(spec.role)
        if len(target.tensors) == len(source.tensors) == 1 and target.kind == "parameter":
            other = source.tensors[0]
        if other is None or _obstacle(spec, other):
            continue
        if _is_parametrization(spec) != direct and (_is_parametrization(spec) or _is_computed(target, spec)):
            continue  # a computed weight moves as a whole, or its originals one by one, never both
        move = _graft_move(target, source, spec, other, context)
        if move is not None:
            yield move


def _graft_move(target: Layer, source: Layer, spec: TensorSpec, other: TensorSpec, context: Context) -> Move | None:
    spec, other = _infer_units(spec, other)
    classes = target.path == context.target_head and source.path == context.source_head
    select = classes and context.labels and bool(spec.shape)
    if spec.shape == other.shape and spec.units == other.units and not select:
        return Move(spec, other, "copy" if context.operator in IDENTITIES else context.operator, spec.size)
    if spec.buffer and len(spec.shape) != 1:
        return None  # tables derived from the architecture (an index, a mask): the target's own are right
    prepare: list[str] = []
    lead: set[int] = set()
    shape = other.shape
    if select:
        prepare.append("select_labels")
        shape = (spec.shape[0], *shape[1:])
    if classes:
        lead.add(0)
    inputs = target.path == context.target_stem and source.path == context.source_stem
    if inputs and spec.role == "weight" and len(shape) > 2 and shape[1] != spec.shape[1]:
        prepare.append("tile_inputs")
        shape = (shape[0], spec.shape[1], *shape[2:])
    if target.patchify and len(shape) == 4 and spec.role == "weight" and shape[2:] != spec.shape[2:]:
        prepare.append("resample_patch")
        shape = (*shape[:2], *spec.shape[2:])
    resample, shape = _table_rule(target.kind, spec, other, shape)
    prepare += [resample] if resample else []
    if target.kind == "embedding" or (target.kind == "parameter" and len(shape) == 3):
        lead.add(len(shape) - 2)
    elements = _elements(context.operator, spec, replace(other, shape=shape))
    return Move(spec, other, context.operator, elements, tuple(prepare), tuple(sorted(lead)))


def _table_rule(kind: str, spec: TensorSpec, other: TensorSpec, shape: Shape) -> tuple[str, Shape]:
    """Position embeddings and relative-position tables are pictures of the grid: resampled, never cropped."""
    if kind != "parameter":
        return "", shape
    if spec.role.startswith(_POSITION) and len(shape) == 3 and shape[1] != spec.shape[1]:
        if _grid(shape[1]) and _grid(spec.shape[1]):
            return "resample_position", (shape[0], spec.shape[1], shape[2])
    if spec.role.startswith(_RELATIVE) and len(shape) == 2 and shape[0] != spec.shape[0]:
        if isqrt(shape[0]) ** 2 == shape[0] and isqrt(spec.shape[0]) ** 2 == spec.shape[0]:
            return "resample_relative", (spec.shape[0], shape[1])
    return "", shape


def _grid(tokens: int) -> int:
    """Side of the square grid that ``tokens`` positions form beside at most 8 prefix tokens; 0 where there is none."""
    side = isqrt(tokens)
    return side if tokens - side * side <= 8 and side > 1 else 0


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
    factors = [
        (t, s)
        for axis, (size, other) in enumerate(zip(target.shape, source.shape, strict=True))
        for t, s in _factors(target, source, axis, size, other)
    ]
    return prod(min(t, s) for t, s in factors)


def _factors(target: TensorSpec, source: TensorSpec, axis: int, size: int, other: int) -> list[tuple[int, int]]:
    if target.units and source.units and len(target.units[axis]) == len(source.units[axis]):
        if prod(source.units[axis]) == other:
            return list(zip(target.units[axis], source.units[axis], strict=True))
    return [(size, other)]


