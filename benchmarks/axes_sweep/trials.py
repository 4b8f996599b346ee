"""What is done with one architecture: find its axis groups, then prove them where it is not too large."""

from __future__ import annotations

__all__ = ["measure", "try_out"]

import gc
import importlib
import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.axes_sweep.store import Result, Size
from benchmarks.zoo.models import Case, _suppress_in_python, build, family
from torchgraft.axes import AxisGroups, Member, Proof, axis_groups, example_inputs, probe
from torchgraft.axes.terms import atoms_of

_SINGLES = 4
# Small pictures that one run amounts to: detectors enlarge theirs, films have many, flow is refined in many steps.
_PICTURES = {"detection": 50, "video": 8, "optical_flow": 50}
_SIDE = 112
_DRAWS = frozenset((torch.ops.aten.normal_, torch.ops.aten.uniform_, torch.ops.aten.erfinv_, torch.ops.aten.mul_,
                    torch.ops.aten.add_, torch.ops.aten.clamp_))  # fmt: skip
_MANY = 2**20
_SEEDS = 3  # one proof is enough: a fault shows with all weights, a choice between equal scores with some


def measure(case: Case) -> Size:
    """Count the parameters of an architecture and guess what a run costs."""
    try:
        model = build(case, meta=True)
    except Exception:  # a constructor that needs values
        model = build(case)
    parameters = sum(tensor.numel() for tensor in model.parameters())
    settings = getattr(model, "pretrained_cfg", None) or {}
    side = settings.get("input_size", (3, 224, 224))[-1] if settings.get("fixed_input_size") else 96
    pictures = next((count for part, count in _PICTURES.items() if part in family(case)), 1)
    return Size(case.library, case.name, family(case), parameters, parameters * pictures * (side / 224) ** 2)


def try_out(case: Case, probed: bool) -> Result:
    """Find the groups of an architecture, and prove them with drawn weights on small inputs.

    Args:
        case: the architecture.
        probed: whether to prove them; built without values where not.
    """
    _suppress_in_python()
    start, found = time.perf_counter(), Result(case.library, case.name)
    try:
        with _Undrawn():
            model = _built(case, meta=not probed)
        finding = time.perf_counter()
        groups = axis_groups(model)
        found = Result(
            case.library, case.name, **_counts(groups, model), seconds=round(time.perf_counter() - finding, 3),
            reason="" if probed else "not probed",
        )  # fmt: skip
        if not probed:
            return found
        side, model, groups = _smaller(case, groups) or (0, model, groups)
        return _proven(_with(found, side=side), model, groups, start)
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return _with(found, **{"reason" if found.groups else "error": told})
    finally:
        gc.collect()


def _built(case: Case, meta: bool) -> nn.Module:
    if meta:
        try:
            model = build(case, meta=True)
            example_inputs(model)
            return model
        except Exception:  # a constructor or a run that needs values
            gc.collect()
    return build(case)


class _Undrawn(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Leave large weights at zero: probing draws them anew, and to draw them takes seconds."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in _DRAWS and isinstance(args[0], nn.Parameter) and args[0].numel() > _MANY:
            return args[0].zero_()
        return func(*args, **(kwargs or {}))


def _smaller(case: Case, groups: AxisGroups) -> tuple[int, nn.Module, AxisGroups] | None:
    """Build an architecture of timm that reads one size only for pictures of less than half of that.

    Only where its free groups are the same ones; what they are is proven by either.
    """
    settings = importlib.import_module("timm").get_pretrained_cfg(case.name) if case.library == "timm" else None
    side = settings.input_size[-1] if settings and settings.fixed_input_size else 0
    if side < 2 * _SIDE:
        return None
    side //= side // _SIDE
    try:
        with _Undrawn():
            model = build(case, img_size=side)
        found = axis_groups(model)
    except Exception:  # it knows no such option, or its parts do not fit such pictures
        return None
    return (side, model, found) if _free(found) == _free(groups) else None


def _free(groups: AxisGroups) -> set[tuple[int, frozenset[Member]]]:
    return {(group.size, frozenset(group.members)) for group in groups.free()}


def _proven(found: Result, model: nn.Module, groups: AxisGroups, start: float) -> Result:
    arguments, options = example_inputs(model, 0, small=True)
    for seed in range(_SEEDS):
        proof = probe(model, groups, arguments, options, seed=seed, singles=_SINGLES)
        if proof.exact:
            break
    first = {group.number: f"{group.members[0].key}[{group.members[0].axis}]" for group in groups.groups}
    silent = tuple(first[number] for number in proof.silent)
    return _with(
        found, deviation=proof.deviation, probed=proof.probed, silent=silent,
        idle=tuple(first[number] for number in proof.idle), alike=tuple(first[number] for number in proof.alike),
        hidden=tuple(f"{member.key}[{member.axis}]" for member in proof.hidden),
        seed=seed, inputs=" ".join("×".join(map(str, one.shape)) for one in _tensors((arguments, options))),
        proof_seconds=round(time.perf_counter() - start, 2),
        limit=proof.limit, reason="" if proof.holds else _why(proof, silent),
    )  # fmt: skip


def _with(result: Result, **changes: Any) -> Result:
    return Result(**{name: changes.get(name, getattr(result, name)) for name in Result.__dataclass_fields__})


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _counts(groups: AxisGroups, model: nn.Module) -> dict[str, Any]:
    sizes = {key: tensor.numel() for key, tensor in model.named_parameters() if key in groups.axes}
    fixed = sum(size for key, size in sizes.items() if all(a.locked for row in groups.axes[key] for a in atoms_of(row)))
    return {
        "groups": len(groups.groups),
        "free": len(groups.free()),
        "unmovable": round(fixed / max(1, sum(sizes.values())), 5),
        "unknown": dict(groups.unknown),
        "locks": dict(Counter(group.locked for group in groups.groups if group.locked)),
    }


def _why(proof: Proof, silent: tuple[str, ...]) -> str:
    moved = "" if proof.exact else f"moved together, the outputs deviate by {proof.deviation:.1e}"
    alone = f"moved alone, nothing shows: {', '.join(silent)}" if silent else ""
    return "; ".join(filter(None, (moved, alone))) or "no group that was probed can show"
