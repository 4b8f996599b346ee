"""Rules that look at what was measured and at the modules around, and say in words what differs."""

from __future__ import annotations

__all__ = ["MEASURED", "RULES", "Finding", "Rule", "moment_of", "placed", "rounding_of"]

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from torchgraft.axes.norms import EPSILONS
from torchgraft.predict.units import RESAMPLED
from torchgraft.transfer.apply import stored_tensors
from torchgraft.verify.certificate import TOLERANCE
from torchgraft.verify.outputs import ROUNDING
from torchgraft.verify.places import Evidence, Pair
from torchgraft.verify.units import sizes_of


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference: what it is, where, and when in the target's run (``position``) it comes to bear."""

    position: float
    what: str
    where: str


Rule = Callable[[Evidence], Iterator[Finding]]

_EPSILONS = (*EPSILONS, "layer_norm_eps", "layer_norm_epsilon")
_GEOMETRY = ("stride", "dilation", "padding_mode")
_NORMS = frozenset({"layernorm", "norm", "rmsnorm", "vector", "groupnorm"})
_SMALL = 1e-2  # a norm over another number of units deviates by more, unless its epsilon alone is at fault


def _modules(pair: Pair, evidence: Evidence) -> tuple[nn.Module, nn.Module]:
    return evidence.source.get_submodule(pair.source), evidence.target.get_submodule(pair.target)


def _pairs(evidence: Evidence) -> Iterator[tuple[Pair, nn.Module, nn.Module]]:
    for pair in evidence.pairs():
        yield pair, *_modules(pair, evidence)


def _epsilon(module: nn.Module) -> float | None:
    values = (getattr(module, name, None) for name in _EPSILONS)
    return next((float(value) for value in values if isinstance(value, int | float)), None)


def norm_width(evidence: Evidence) -> Iterator[Finding]:
    """A norm that takes its statistics over units takes them over more or fewer."""
    measured = {id(pair): relative for pair, relative, _ in evidence.found}
    for pair, source, module in _pairs(evidence):
        sizes, name = sizes_of(pair.transfer), type(module).__name__
        if pair.transfer.kind not in _NORMS or "norm" not in name.lower() or not sizes or sizes[0] == sizes[1]:
            continue
        groups = getattr(module, "num_groups", None)
        small = measured.get(id(pair), inf) <= _SMALL
        if small and _is_scaled(*sizes, pair.transfer.kind, _epsilon(source), _epsilon(module)):
            continue  # what is left is rounding
        what = f"{name} {sizes[1]} → {sizes[0]}"
        if isinstance(groups, int) and groups > 1:
            what += f" (in {groups} groups) takes its statistics over other units"
        elif small:
            what += f" cannot be exact because its epsilon is fixed ({_epsilon(module):g})"
        else:
            what += f" takes its statistics over {sizes[0]} units instead of {sizes[1]}"
        yield Finding(evidence.position(pair), what, pair.target)


def _is_scaled(target: int, source: int, kind: str, before: float | None, after: float | None) -> bool:
    """Tell whether an epsilon was scaled as the padded units of a wider norm ask for."""
    if not before or not after or target < source:
        return False
    shares = [source / target, target // source * source / target]  # zero units, and copies with their mean
    return any(abs(after / before / share - 1) < ROUNDING for share in shares)


def epsilon(evidence: Evidence) -> Iterator[Finding]:
    """A norm adds another epsilon."""
    for pair, source, target in _pairs(evidence):
        values, sizes = (_epsilon(source), _epsilon(target)), sizes_of(pair.transfer) or (0, 0)
        if sizes[0] != sizes[1] and pair.transfer.kind in _NORMS:
            continue
        if None not in values and values[0] != values[1]:
            what = f"epsilon {values[0]:g} → {values[1]:g} in {type(target).__name__}"
            yield Finding(evidence.position(pair), what, pair.target)


def geometry(evidence: Evidence) -> Iterator[Finding]:
    """A convolution moves over its input in another way."""
    for pair, source, target in _pairs(evidence):
        changes = [
            f"{name} {_told(getattr(source, name))} → {_told(getattr(target, name))}"
            for name in _GEOMETRY
            if getattr(source, name, None) != getattr(target, name, None)
            and hasattr(source, name) and hasattr(target, name)
        ]  # fmt: skip
        changes += [*_kernel(source, target), *_groups(source, target)]
        if changes:
            yield Finding(evidence.position(pair), ", ".join(changes), pair.target)


def _kernel(source: nn.Module, target: nn.Module) -> Iterator[str]:
    """A larger kernel with as much more padding computes the same; a smaller one does not."""
    sizes = [getattr(one, "kernel_size", None) for one in (source, target)]
    pads = [getattr(one, "padding", None) for one in (source, target)]
    if not all(isinstance(one, tuple) for one in (*sizes, *pads)):
        return
    grown = [t - s for s, t in zip(*sizes, strict=False)]
    padded = [2 * (t - s) for s, t in zip(*pads, strict=False)]
    dilation = getattr(target, "dilation", (1,) * len(grown))
    if any(one < 0 for one in grown):
        yield f"kernel {_told(sizes[0])} → {_told(sizes[1])}"
    elif any(more != size * step for more, size, step in zip(padded, grown, dilation, strict=False)):
        yield f"kernel {_told(sizes[0])} → {_told(sizes[1])} with padding {_told(pads[0])} → {_told(pads[1])}"


def _groups(source: nn.Module, target: nn.Module) -> Iterator[str]:
    """Groups of other sizes read other inputs; more groups of one size do not."""
    if all(isinstance(getattr(one, "groups", None), int) for one in (source, target)):
        sizes = [int(one.in_channels) // int(one.groups) for one in (source, target)]  # type: ignore[arg-type]
        if sizes[0] != sizes[1] and not source.groups == target.groups == 1:
            yield f"groups of {sizes[0]} → {sizes[1]} channels"


def _told(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, tuple) else str(value)


def narrower(evidence: Evidence) -> Iterator[Finding]:
    """The source has more outputs than the target can hold."""
    for pair, _, _ in _pairs(evidence):
        sizes = sizes_of(pair.transfer)
        if sizes and sizes[0] < sizes[1]:
            where = pair.target
            yield Finding(evidence.position(pair), f"{sizes[0]} of the source's {sizes[1]} units are kept", where)


def heads(evidence: Evidence) -> Iterator[Finding]:
    """Attention splits the same width into other heads, or scales by another head size."""
    for pair in evidence.pairs():
        for move in pair.transfer.moves:
            units = [next((one for one in spec.units if len(one) == 2), None) for spec in (move.source, move.target)]
            if units[0] and units[1] and units[0][1] != units[1][1] and pair.transfer.kind == "linear":
                what = f"attention heads {units[0][0]} of {units[0][1]} → {units[1][0]} of {units[1][1]}"
                yield Finding(evidence.position(pair), what, pair.target)
                break


def resampled(evidence: Evidence) -> Iterator[Finding]:
    """A tensor was brought to another size by resampling."""
    positions = {id(pair.transfer): evidence.position(pair) for pair, _, _ in _pairs(evidence)}
    for transfer in evidence.plan.transfers:
        for move in transfer.moves:
            for name in move.prepare:
                if name in RESAMPLED:
                    sizes = f"{_told(move.source.shape)} → {_told(move.target.shape)}"
                    at = positions.get(id(transfer), moment_of(transfer.target, evidence))
                    yield Finding(at, f"{RESAMPLED[name]} ({sizes})", transfer.target)


def moment_of(path: str, evidence: Evidence) -> float:
    """When the nearest module around a tensor began: after all that finished before the first module inside."""
    around = path.rpartition(".")[0]
    inside = [at for one, at in evidence.target_course.order.items() if one.startswith(f"{around}.") or not around]
    return min(inside, default=0) + 0.5


def unheld(evidence: Evidence) -> Iterator[Finding]:
    """Tensors of a matched layer that have no counterpart: a bias, a statistic."""
    target, source = stored_tensors(evidence.target), stored_tensors(evidence.source)
    kept = {one.key for one in evidence.plan.tensors if not one.source and not one.tied}
    for pair, s, t in _pairs(evidence):
        roles = [
            [name for name, one in (*m._parameters.items(), *m._buffers.items()) if one is not None] for m in (s, t)
        ]
        for role in roles[1]:
            tensor = target.get(key := f"{pair.target}.{role}".lstrip("."))
            if tensor is not None and key in kept and _speaks(tensor):
                yield Finding(evidence.position(pair), f"a {role} has no source", pair.target)
        for role in [one for one in roles[0] if one not in roles[1]]:
            tensor = source.get(f"{pair.source}.{role}".lstrip("."))
            if tensor is not None and _speaks(tensor):
                yield Finding(evidence.position(pair), f"a {role} of the source has no place", pair.target)


def _speaks(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.any())


def new_layers(evidence: Evidence) -> Iterator[Finding]:
    """Layers of the target that stand for none of the source's and are no identities."""
    reused = {one.target.partition("[")[0]: one.source for one in evidence.plan.transfers if one.reused}
    for path, change in evidence.target_course.changes.items():
        if not change <= TOLERANCE["float64"]:
            again = any(one == path or one.startswith(f"{path}.") for one in reused)
            told = "repeats layers of the source" if again else "has no counterpart in the source"
            yield Finding(evidence.target_course.order[path], f"a layer {told} and is no identity", path)


def lost_layers(evidence: Evidence) -> Iterator[Finding]:
    """Layers of the source that have no place in the target and are no identities."""
    place = placed(evidence)
    for path, change in evidence.source_course.changes.items():
        if not change <= TOLERANCE["float64"]:
            at = place(evidence.source_course.order[path])
            yield Finding(at, "a layer of the source has no place in the target", f"the source's {path}")


def placed(evidence: Evidence) -> Callable[[int], float]:
    """Return the function from moments of the source's run to those of the target's: before the next matched layer."""
    known = sorted(
        (evidence.source_course.order[pair.source], evidence.position(pair)) for pair, _, _ in evidence.found
    )
    moments = [moment for moment, _ in known]

    def place(moment: int) -> float:
        after = bisect_left(moments, moment)
        return known[after][1] - 0.5 if after < len(known) else inf

    return place


def functions(evidence: Evidence) -> Iterator[Finding]:
    """Between two matched layers, other functions without parameters are called: activations, pooling."""
    before: Pair | None = None
    for pair in (*(one[0] for one in evidence.found), None):
        source = _called(evidence.source, evidence.source_course.order, _path(before, 0), _path(pair, 0))
        target = _called(evidence.target, evidence.target_course.order, _path(before, 1), _path(pair, 1))
        gone, new = ([one for one in a if one not in b] for a, b in ((source, target), (target, source)))
        if gone or new:
            names = [{name for name, _ in one} for one in (source, target)]
            told = [_functions(one, names[0] & names[1]) or "none" for one in (gone, new)]
            where = target[new[0]] if new else (pair.target if pair else "output")
            at = evidence.target_course.order[target[new[0]]] if new else (evidence.position(pair) if pair else inf)
            yield Finding(at, " → ".join(told), where)
        before = pair or before


def _path(pair: Pair | None, side: int) -> str | None:
    return None if pair is None else (pair.target if side else pair.source)


def _functions(called: Iterable[tuple[str, str]], doubtful: Collection[str]) -> str:
    """Name functions, with their settings where both models call one of that name."""
    told = (f"{name}({details})" if details and name in doubtful else name for name, details in called)
    return ", ".join(dict.fromkeys(told))


def _called(
    module: nn.Module, order: Mapping[str, int], after: str | None, until: str | None
) -> dict[tuple[str, str], str]:
    """Return name and settings of the modules without tensors that ran between two others, and where they ran first.

    Identities and dropout are left out.
    """
    first, last = order[after] if after else -1, order[until] if until else inf
    found: dict[tuple[str, str], str] = {}
    for path, moment in order.items():
        part = module.get_submodule(path)
        name = type(part).__name__
        plain = name == "Identity" or "drop" in name.lower() or any(part.children()) or stored_tensors(part)
        if first < moment < last and not plain:
            details = (one for one in part.extra_repr().split(", ") if not one.startswith("inplace"))
            found.setdefault((name, ", ".join(details)), path)
    return found


def changed(evidence: Evidence) -> Iterator[Finding]:
    """The models are not those of the transfer: a tensor that was copied has another value."""
    target, source = stored_tensors(evidence.target), stored_tensors(evidence.source)
    for pair, _, _ in _pairs(evidence):
        for move in pair.transfer.moves:
            t, s = target.get(move.target.key), source.get(move.source.key)
            whole = move.operator == "copy" and not move.target.part and not move.source.part
            if whole and t is not None and s is not None and not torch.equal(t, s.to(t.device, t.dtype).view_as(t)):
                what = "a tensor was changed after the transfer, in the target or in the source"
                yield Finding(evidence.position(pair), what, move.target.key)


def precision(evidence: Evidence) -> Iterator[Finding]:
    """The target stores less precise values."""
    for pair, _, _ in _pairs(evidence):
        for move in pair.transfer.moves[:1]:
            if rounding_of(move.target.dtype) > rounding_of(move.source.dtype):
                what = f"values are rounded to {move.target.dtype}, the source's are {move.source.dtype}"
                yield Finding(evidence.position(pair), what, pair.target)


def rounding_of(dtype: str) -> float:
    """Relative deviation that the rounding of stored values explains."""
    kind = getattr(torch, dtype, None)
    return 8 * torch.finfo(kind).eps if kind is not None and kind.is_floating_point else 0.0


def untouched_rims(evidence: Evidence) -> Iterator[Finding]:
    """Operators that leave the weights of new inputs as they were disturb the units that come from the source."""
    if evidence.plan.operator not in ("clip", "clip_normalized", "full", "magnitude"):
        return
    for pair, _, _ in _pairs(evidence):
        for move in pair.transfer.moves:
            if len(move.target.shape) > 1 and move.target.shape != move.source.shape:
                what = f"operator {evidence.plan.operator!r} leaves the weights of new inputs as they were"
                yield Finding(evidence.position(pair), what, pair.target)
                break


def scaled(evidence: Evidence) -> Iterator[Finding]:
    """The outputs of a layer are the source's times a constant."""
    for pair, _, factor in evidence.found:
        if abs(factor - 1) > TOLERANCE["float64"]:
            yield Finding(evidence.position(pair), f"the output is the source's times {factor:.4g}", pair.target)


#: Names of the rules that look at values, which a plan does not know.
MEASURED = frozenset(("changed", "scaled"))

#: Rules by name; those of equal distance from the parting speak in this order.
RULES: Mapping[str, Rule] = {
    "changed": changed,
    "norm width": norm_width,
    "epsilon": epsilon,
    "functions": functions,
    "geometry": geometry,
    "new layers": new_layers,
    "lost layers": lost_layers,
    "narrower": narrower,
    "unheld": unheld,
    "resampled": resampled,
    "heads": heads,
    "precision": precision,
    "rims": untouched_rims,
    "scaled": scaled,
}
