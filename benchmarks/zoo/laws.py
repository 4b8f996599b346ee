"""What must hold for every architecture. Each law returns the ways in which it is broken: an empty list is a pass."""

from __future__ import annotations

__all__ = ["cross_plan", "forward", "identity", "materialized", "self_plan", "standardizers"]

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

import torchgraft as tg
from benchmarks.zoo.models import Case, build, inputs, train_like
from torchgraft.kinds import PAPER_KINDS, TYPES
from torchgraft.records import Network
from torchgraft.standardize import STANDARDIZERS
from torchgraft.transfer.methods import METHODS
from torchgraft.transfer.planning import make_plan
from torchgraft.view.text import STATUSES


def standardizers(model: nn.Module, network: Network) -> list[str]:
    """Both standardizers run; "graft" holds every tensor once, "paper" every module of the ten scored types."""
    faults = []
    held: Counter[str] = Counter()
    for element in STANDARDIZERS["graft"](network):
        for layer in element.layers:
            for spec in layer.tensors:
                held[spec.key] += spec.size
    for key, spec in network.tensors.items():
        if key not in network.tied and held[key] != spec.size:
            faults.append(f"standardize: {key} has {spec.size} elements, the layers hold {held[key]}")
    paper = [layer for element in STANDARDIZERS["paper"](network) for layer in element.layers]
    scored = {layer.path for layer in paper if layer.kind in PAPER_KINDS}
    types = tuple(kind for kind, name in TYPES if name in PAPER_KINDS)
    # A module inside one of the scored types (a parametrization, the projection in an attention) is its own affair.
    missing = [path for path, part in model.named_modules() if type(part) in types and path not in scored]
    return faults + [f"standardize: {path} is missing from the paper's sequence" for path in missing[:1]]


def self_plan(model: nn.Module, network: Network) -> list[str]:
    """A network planned from itself: every tensor ``copied`` from its own key, coverage exactly 1."""
    plan = make_plan(network, network, METHODS["graft"], "graft")
    faults = _ledger(model, plan)
    wrong = [t for t in plan.tensors if t.status != "copied" or t.source != (t.tied or t.key,)]
    if wrong:
        first = f"{wrong[0].key} {wrong[0].status} from {', '.join(wrong[0].source)}"
        faults.append(f"self-plan: {len(wrong)} tensors, first {first}")
    if plan.coverage != 1.0:
        faults.append(f"self-plan: coverage {plan.coverage}")
    return faults


def cross_plan(model: nn.Module, network: Network, source: Network) -> tuple[list[str], float]:
    """A plan from another network: no crash, one status for every key, totals that add up. Also its coverage."""
    plan = make_plan(network, source, METHODS["graft"], "graft")
    faults = _ledger(model, plan)
    for transfer in plan.transfers:
        for move in transfer.moves:
            if move.source.key not in source.tensors and "parametrizations" not in move.source.key:
                faults.append(f"plan: {move.target.key} is filled from {move.source.key}, which does not exist")
    return faults, plan.coverage


def _ledger(model: nn.Module, plan: tg.Plan) -> list[str]:
    """The plan lists exactly the state dict, with its shapes; its totals are those of the different tensors."""
    state = model.state_dict(keep_vars=True)
    if [tensor.key for tensor in plan.tensors] != list(state):
        odd = sorted(set(state) ^ {tensor.key for tensor in plan.tensors})
        return [f"plan: keys differ from the state dict's ({', '.join(odd[:2]) or 'in order'})"]
    faults = [f"plan: {t.key} has status {t.status!r}" for t in plan.tensors if t.status not in STATUSES]
    faults += [f"plan: {t.key} has shape {t.shape}" for t in plan.tensors if t.shape != tuple(state[t.key].shape)]
    different = {id(tensor): prod(tensor.shape) for tensor in state.values()}
    if plan.total != sum(different.values()):
        faults.append(f"plan: {plan.total} elements, the state dict has {sum(different.values())}")
    if sum(plan.counts().values()) != len(state):
        faults.append("plan: the counts by status do not add up to the number of keys")
    for tensor in plan.tensors:
        if not 0 <= tensor.elements <= tensor.size or (tensor.status == "kept") != (not tensor.source):
            faults.append(f"plan: {tensor.key} is {tensor.status} with {tensor.elements} elements from {tensor.source}")
    return faults


def identity(case: Case, seed: int) -> list[str]:
    """A trained model transferred into a fresh copy of itself gives a bitwise equal state dict, buffers included."""
    trained = train_like(build(case), seed)
    expected = {key: tensor.clone() for key, tensor in trained.state_dict().items()}
    torch.manual_seed(seed + 1)
    fresh = build(case)
    report = tg.transfer(trained, fresh)
    state = fresh.state_dict()
    faults = [f"identity: coverage {report.coverage}"] if report.coverage != 1.0 else []
    wrong = [key for key, tensor in expected.items() if not _same_bits(tensor, state[key])]
    changed = [key for key, tensor in trained.state_dict().items() if not _same_bits(tensor, expected[key])]
    if wrong or list(state) != list(expected):
        faults.append(f"identity: {len(wrong)} tensors differ, first {wrong[:1]}")
    if changed:
        faults.append(f"identity: the source changed in {changed[0]}")
    return faults


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


@dataclass(frozen=True, slots=True)
class Ran:
    """Outcome of a real transfer and a forward pass."""

    faults: tuple[str, ...]
    coverage: float = 0.0
    skipped: str = ""


def forward(case: Case, source: nn.Module) -> Ran:
    """A real transfer into a fresh model, then a forward pass with finite outputs."""
    model = build(case)
    report = tg.transfer(source, model)
    lost = [key for key, tensor in model.state_dict().items() if not _finite(tensor)]
    if lost:
        return Ran((f"transfer: {lost[0]} is not finite",), report.coverage)
    ran = run(case, model)
    if ran.faults or ran.skipped:  # whose fault is it?
        untouched = run(case, build(case))
        if untouched.faults or untouched.skipped:
            reason = (*untouched.faults, untouched.skipped)[0]
            return Ran((), report.coverage, f"fails without a transfer too: {reason}")
    return replace(ran, coverage=report.coverage)


def run(case: Case, model: nn.Module) -> Ran:
    """Run a forward pass on the first input that the model takes."""
    error = "no input"
    for attempt in inputs(case, model):
        torch.manual_seed(0)
        try:
            with torch.no_grad():
                outputs = list(_tensors(attempt()))
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as caught:
            error = f"{type(caught).__name__}: {caught}".splitlines()[0][:120]
            continue
        if not outputs:
            return Ran(("forward: no output tensor",))
        bad = sum(not _finite(tensor) for tensor in outputs)
        return Ran((f"forward: {bad} of {len(outputs)} outputs are not finite",) if bad else ())
    return Ran((), skipped=f"forward: {error}")


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested outputs."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


def _finite(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex()) or bool(torch.isfinite(tensor).all())


@dataclass(frozen=True, slots=True)
class Materialized:
    """Outcome of a transfer into a model on the meta device: refused with a reason, or what is wrong with it."""

    faults: tuple[str, ...]
    refused: str = ""


def materialized(case: Case, source: nn.Module) -> Materialized:
    """A target on the meta device is filled completely, its computed buffers rightly, or refused by one clear error."""
    model = build(case, meta=True)
    before = {key for key, tensor in _everything(model) if tensor.is_meta}
    try:
        tg.transfer(source, model)
    except tg.ApplyError as error:
        left = {key for key, tensor in _everything(model) if tensor.is_meta}
        return Materialized(() if left == before else ("meta: refused, but not left on the meta device",), str(error))
    faults = [f"meta: {key} is still on the meta device" for key, tensor in _everything(model) if tensor.is_meta]
    if not faults:
        faults = [f"meta: {key} is not finite" for key, tensor in model.state_dict().items() if not _finite(tensor)]
        faults += _wrong_buffers(model, build(case))
    return Materialized(tuple(faults or run(case, model).faults))


def _everything(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _wrong_buffers(model: nn.Module, built: nn.Module) -> Iterator[str]:
    """Buffers outside of the state dict are computed, not learned: they must be those of a model built in memory."""
    stored = model.state_dict().keys()
    right = dict(built.named_buffers())
    for key, buffer in model.named_buffers():
        if key not in stored and not torch.equal(buffer, right[key]):
            yield f"meta: {key} is not what the constructor computes"
