"""Own tensors of one module become layers: usually one, more for stacks, fused projections and free parameters."""

from __future__ import annotations

__all__ = ["Own", "Structure", "layers_of", "linear_structures"]

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from torchgraft.attention import Heads, fused_parts, units_of
from torchgraft.kinds import GATES, kind_of_tensors
from torchgraft.records import Layer, Part, Shape, TensorSpec

_GATED_ROLES = frozenset(f"{what}_{which}" for what in ("weight", "bias") for which in ("ih", "hh", "hr"))

# The tensors of most layers; none of them tells of a computed weight.
_PLAIN = frozenset({"weight", "bias", "running_mean", "running_var", "num_batches_tracked"})

#: Specs of the tensors that a module itself puts into the state dict, by local name.
Own = dict[str, TensorSpec]

# TensorFlow's and early BERT's names for the tensors of a norm.
_ALIASES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


@dataclass(frozen=True, slots=True)
class Structure:
    """Inner structure of a linear layer: the factored output axis of each of its parts, and its factored input axis."""

    rows: tuple[Shape, ...]
    columns: Shape
    transpose: bool = False


def linear_structures(
    widths: Mapping[str, tuple[int, int, bool]], heads: Heads | None, complete: bool = False
) -> dict[str, Structure]:
    """Find the structure of the linear layers of one parent, from their ``name -> (out, in, stored transposed)``.

    ``heads`` are the parent's; ``complete`` says that queries, keys and values are stored elsewhere.
    """
    found: dict[str, Structure] = {}
    names = list(widths)
    missing = heads.size * (heads.query + 2 * heads.key_value) if heads and not complete else 0
    if missing and len(names) == 2 and widths[names[1]][0] == missing:  # Phi defines the output projection first
        names.reverse()
    for place, name in enumerate(names):
        out, width, transpose = widths[name]
        reads_heads = heads is not None and missing <= 0  # queries, keys and values are complete: an output projection
        follower = None
        if len(names) == 2 and place == 0 and widths[names[1]][0] == width:
            follower = widths[names[1]][1]
        parts = (out,) if reads_heads else fused_parts(out, width, heads, follower)
        missing -= out
        rows = tuple(units_of(part, None if reads_heads else heads) for part in parts)
        columns = units_of(width, heads if reads_heads else None)
        if transpose or len(rows) > 1 or len(rows[0]) > 1 or len(columns) > 1:
            found[name] = Structure(rows, columns, transpose)
    return found


def layers_of(
    path: str, kind: str, own: Own, structure: Structure | None = None, heads: Heads | None = None
) -> tuple[Layer, ...]:
    """Return the layers that the ``own`` tensors of the module at ``path`` form."""
    own = _with_computed(own)
    if not kind:
        named = ((role, len(spec.shape)) for role, spec in own.items() if not role.startswith("parametrizations."))
        kind = kind_of_tensors(tuple(named)) or ""
    if not kind and len(own) > 1 and own.keys() <= _ALIASES.keys() | {"num_batches_tracked"}:
        return layers_of(path, kind, {_ALIASES.get(r, r): replace(s, role=_ALIASES.get(r, r)) for r, s in own.items()})
    if structure is not None and "weight" in own:
        return tuple(_linear_parts(path, own, structure))
    if kind == "attention":
        return tuple(_attention_layers(path, own, heads))
    if kind == "recurrent":
        kind = _gated_kind(own)
    if kind in GATES:
        return tuple(_recurrent_layers(path, kind, own))
    if kind:
        return (Layer(path, kind, _shape_of(own), tuple(own.values())),)
    return tuple(_free_layers(path, own))


def _with_computed(own: Own) -> Own:
    """Give the tensors behind a computed weight the roles that parametrizations have, and add the weight itself.

    A layer under torch's old hooks (``weight_g`` and ``weight_v``, ``weight_orig``) or in a bare table is like
    one under a parametrization. The computed weight has the shape of its largest original and is no stored tensor.
    """
    if own.keys() <= _PLAIN:
        return own
    if not any(role.endswith(("_g", "_orig")) or role.startswith("parametrizations.") for role in own):
        return own
    result: Own = {}
    for role, spec in own.items():
        stem, _, end = role.rpartition("_")
        behind = ""
        if f"{stem}_g" in own and f"{stem}_v" in own and end in ("g", "v"):
            behind = "original0" if end == "g" else "original1"
        elif f"{stem}_orig" in own and end in ("orig", "u", "v", "mask"):
            behind = "original" if end == "orig" else f"0._{end}"
        role = f"parametrizations.{stem}.{behind}" if behind else role
        result[role] = replace(spec, role=role)
    for role, spec in list(result.items()):
        found = re.fullmatch(r"parametrizations\.([^.]+)\.original1?", role)
        if found and found[1] not in result and not spec.buffer:
            key = spec.key.removesuffix(f".{role}").removesuffix(role)
            key = f"{key}.{found[1]}".lstrip(".") if key != spec.key else re.sub("_(v|orig)$", "", key)
            result[found[1]] = replace(spec, key=key, role=found[1])
    return result


def _shape_of(own: Own) -> Shape | None:
    """Shape that stands for a layer: its weight's, or its largest tensor's where it has none."""
    weight = own.get("weight") or max(own.values(), key=lambda spec: (len(spec.shape), spec.size), default=None)
    return weight.shape if weight else None


def _free_layers(path: str, own: Own) -> Iterator[Layer]:
    """Free parameters (class token, layer scale) and buffers: each a layer of its own, its role part of its path.

    A layer scale is stored as ``(C,)`` by one library and as ``(C, 1, 1)`` by another: axes of one at the end go.
    """
    for role, spec in own.items():
        kind = f"buffer {role} {spec.dtype}" if spec.buffer else "parameter"
        shape = spec.shape
        while not spec.buffer and len(shape) > 1 and shape[-1] == 1:
            shape = shape[:-1]
        spec = spec if shape == spec.shape else replace(spec, shape=shape)
        yield Layer(f"{path}.{role}" if path else role, kind, shape, (spec,))


def _linear_parts(path: str, own: Own, structure: Structure) -> Iterator[Layer]:
    """One layer for each part that a linear layer stacks along its outputs; what has another shape stays whole."""
    columns, start = structure.columns, 0
    total = sum(prod(row) for row in structure.rows)
    stacked = {(total,), (total, prod(columns))[:: -1 if structure.transpose else 1]}
    yield from _free_layers(path, {role: spec for role, spec in own.items() if spec.shape not in stacked})
    own = {role: spec for role, spec in own.items() if spec.shape in stacked}
    for number, row in enumerate(structure.rows):
        out, tensors = prod(row), []
        for role, spec in own.items():
            rank = len(spec.shape)
            part = None
            if len(structure.rows) > 1:
                part = Part(rank - 1 if structure.transpose else 0, start, start + out)
            shape: Shape = (out, prod(columns)) if rank == 2 else (out,)
            units: tuple[Shape, ...] = (row, columns) if rank == 2 else (row,)
            units = units if any(len(factors) > 1 for factors in units) else ()
            tensors.append(TensorSpec(
                spec.key, role, shape, spec.dtype, spec.buffer, part, structure.transpose and rank == 2, units
            ))  # fmt: skip
        suffix = f"[{number}]" if len(structure.rows) > 1 else ""
        yield Layer(path + suffix, "linear", (out, prod(columns)), tuple(tensors))
        start += out


def _attention_layers(path: str, own: Own, heads: Heads | None) -> Iterator[Layer]:
    """Split ``nn.MultiheadAttention`` into query, key and value; ``bias_k`` and ``bias_v`` are free parameters."""
    fused, bias = own.get("in_proj_weight"), own.get("in_proj_bias")
    for number, letter in enumerate("qkv"):
        weight = fused or own[f"{letter}_proj_weight"]
        out = weight.shape[0] // (3 if fused else 1)
        rows = units_of(out, heads)
        start = number * out
        tensors = []
        for role, spec in (("weight", weight), ("bias", bias)):
            if spec is not None:
                part = Part(0, start, start + out) if fused or role == "bias" else None
                units = _units(rows, spec.shape)
                tensors.append(replace(spec, role=role, shape=(out, *spec.shape[1:]), part=part, units=units))
        yield Layer(f"{path}[{number}]", "linear", (out, weight.shape[1]), tuple(tensors))
    taken = {"in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight"}
    yield from _free_layers(path, {role: spec for role, spec in own.items() if role not in taken})


# Role, depth and direction, and what a parametrization or a pruning adds: "parametrizations.weight_hh_l0.original1".
_GATED = re.compile(r"(?P<stem>.*?(?:weight|bias)_(?:ih|hh|hr))(?:_l(?P<tail>\d+(?:_reverse)?))?(?P<rest>.*)")


def _recurrent_layers(path: str, kind: str, own: Own) -> Iterator[Layer]:
    """One layer per depth and direction of a recurrent stack, its gates as units of the first axis.

    All forward layers come first, then all backward ones. Deeper layers of a bidirectional stack read both directions
    side by side: two units of the second axis.
    """
    groups: dict[str, Own] = {}
    for role, spec in own.items():
        found = _GATED.fullmatch(role)
        stem, tail, rest = found.group("stem", "tail", "rest") if found else (role, "", "")
        groups.setdefault(tail or "", {})[stem + rest] = replace(spec, role=stem + rest)
    both = any(tail.endswith("_reverse") for tail in groups)
    for tail, specs in sorted(groups.items(), key=lambda group: group[0].endswith("_reverse")):
        reads_both = both and not tail.startswith("0")
        tensors = tuple(_gated_units(spec, kind, reads_both) for spec in specs.values())
        weight = specs.get("weight_ih") or max(specs.values(), key=lambda spec: spec.size)
        direction = " reverse" if tail.endswith("_reverse") else ""
        yield Layer(f"{path}[{tail}]" if tail else path, kind + direction, weight.shape, tensors)


def _gated_units(spec: TensorSpec, kind: str, reads_both: bool) -> TensorSpec:
    if spec.role not in _GATED_ROLES or not spec.shape:
        return spec
    gates = 1 if spec.role == "weight_hr" else GATES[kind]
    rows = (gates, spec.shape[0] // gates) if gates > 1 and spec.shape[0] % gates == 0 else (spec.shape[0],)
    columns: list[Shape] = [(size,) for size in spec.shape[1:]]
    if reads_both and spec.role == "weight_ih" and spec.shape[1] % 2 == 0:
        columns = [(2, spec.shape[1] // 2)]
    units = (rows, *columns)
    return replace(spec, units=units if any(len(factors) > 1 for factors in units) else ())


def _gated_kind(own: Own) -> str:
    """Tell the recurrent kinds apart by their number of gates; only a projected one, always an LSTM, hides it."""
    hidden = next((spec.shape for role, spec in own.items() if role.startswith("weight_hh")), (4, 1))
    return next((kind for kind, gates in GATES.items() if hidden[0] == gates * hidden[1]), "lstm")


def _units(rows: Shape, shape: Sequence[int]) -> tuple[Shape, ...]:
    return (rows, *((size,) for size in shape[1:])) if len(rows) > 1 else ()
