"""What is done with one architecture: find its axis groups, then prove them where it is not too large."""

from __future__ import annotations

__all__ = ["measure", "try_out"]

import gc
import time
from collections import Counter
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks.axes_sweep.store import Result, Size
from benchmarks.zoo.models import Case, _suppress_in_python, build, family
from torchgraft.axes import AxisGroups, Proof, axis_groups, example_inputs, probe
from torchgraft.axes.terms import atoms_of

_SINGLES = 4
# Small pictures that one run amounts to: detectors enlarge theirs, films have many, flow is refined in many steps.
_PICTURES = {"detection": 50, "video": 8, "optical_flow": 50}
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
        model = _built(case, meta=not probed)
        finding = time.perf_counter()
        groups = axis_groups(model)
        found = Result(
            case.library, case.name, **_counts(groups, model), seconds=round(time.perf_counter() - finding, 3),
            reason="" if probed else "not probed",
        )  # fmt: skip
        return _proven(found, model, groups, start) if probed else found
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
