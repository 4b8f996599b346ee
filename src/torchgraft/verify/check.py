"""The public function: measure, find the first place that parts, and say why."""

from __future__ import annotations

__all__ = ["verify"]

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchgraft.axes.holes import Arguments
from torchgraft.errors import ApplyError, GraftError, RunError, SpecError, brief
from torchgraft.io import resolve
from torchgraft.network import unwrap
from torchgraft.origin import module_weights
from torchgraft.plan import Plan, Report, as_plan
from torchgraft.transfer.apply import stored_tensors
from torchgraft.transfer.narrowing import settle
from torchgraft.verify.certificate import Certificate, Deviation, Place, rounding_in_storage
from torchgraft.verify.outputs import ROUNDING, compared_leaves, deviation_of, factor_between
from torchgraft.verify.places import Evidence, compare_places
from torchgraft.verify.reasons import reasons_for
from torchgraft.verify.running import MODES, Mode, agreed_calls, run, told
from torchgraft.verify.units import Units, sizes_of, units_of

Models = tuple[nn.Module, nn.Module]

# Examples where units are left out: one that is silent for some of them must not pass for one that nothing reads.
_MANY = 64
# What messages call a model that is a single layer.
_WHOLE = "the whole model"


def verify(
    source: nn.Module | str | os.PathLike[str], target: nn.Module, report: Report | Plan, inputs: Any = None
) -> Certificate:
    """Measure by how much the target's function deviates from the source's, find where it begins, and say why.

    Both are run, as copies, in eval and train mode and in float64 and float32. In train mode norms take the statistics
    of the batch, and dropout and stochastic depth are off, so that the function is measured and not the noise.

    Args:
        source: the model that the weights came from, or its spec (``"timm:resnet50"``).
        target: the model after the transfer.
        report: of the transfer, or its plan: which layers and units stand for each other. Units that a plan leaves to
            the weights are chosen by those that the source has now.
        inputs: a tensor, a tuple of positional or a dict of keyword arguments that both models take; random ones of a
            shape that both take where it is ``None``.

    Raises:
        SpecError: a side has no code.
        ApplyError: the plan was made for other models, or a model has no values.
        GraftError: a model cannot be run in float64.
        InputsError: no inputs are found that both models run on, or they do not run on those that were given.

    >>> import torchgraft as tg
    >>> small, wide = nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Sequential(nn.Linear(4, 8), nn.SiLU())
    >>> certificate = verify(small, wide, tg.transfer(small, wide))
    >>> certificate.exact, certificate.reasons
    (False, ('ReLU → SiLU, at 1',))
    """
    plan = as_plan(report)
    models = _checked(source, target, plan)
    plan = settle(plan, module_weights(models[0]).values)
    cut = any(units.target < units.source for units in plan.maps)
    calls, first, notes = agreed_calls(models, inputs, _MANY if cut else 2)
    evidence = _compared(plan, models, calls, MODES[1])
    deviations: list[Deviation] = []
    done = {MODES[0]: first, MODES[1]: evidence.outputs}
    for mode in MODES:
        results = done.get(mode) or _results(models, calls, mode, notes)
        if results is not None:
            leaves, cuts = compared_leaves(*results, partial(_mapped, evidence))
            notes += cuts
            deviations += [deviation_of(leaves, mode)] if leaves else []
            if mode == MODES[1] and leaves and not any(bool(s.any()) for s, _ in leaves):
                notes.append("the source's outputs are all zero: that the target's are too shows little")
    deviations.sort(key=lambda one: (one.mode, one.precision != "float64"))
    certificate = Certificate(
        plan.source, plan.target, told(calls[1]), tuple(deviations), None, 0, 0, rounding=_rounding(plan)
    )
    measured, trained = certificate.deviation(), certificate.deviation("train")
    if certificate.exact and trained is not None and not certificate.within(trained):
        noise = _noise(models, calls)
        notes.append(noise or "exact in eval mode, not in train mode: place and reasons are those of train mode")
        if not noise:
            measured, evidence = trained, _compared(plan, models, calls, MODES[2])
    return replace(_explained(certificate, evidence, measured), notes=tuple(dict.fromkeys(notes)))


def _rounding(plan: Plan) -> float:
    """Return the deviation that storing what the transfer computed explains."""
    moves = (move for transfer in plan.transfers for move in transfer.moves)
    computed = {
        move.target.dtype
        for move in moves
        if move.factor != 1 or move.fold or {"mean", "shared"}.intersection(move.pads)
    }
    normed = {one.weight for one in plan.passages if one.norm}  # whose norms get gains that undo their statistics
    computed |= {one.dtype for one in plan.tensors if one.key in normed}
    return rounding_in_storage(getattr(torch, dtype) for dtype in computed)


def _explained(certificate: Certificate, evidence: Evidence, measured: Deviation | None) -> Certificate:
    """Add where the computations part, if they do, and why."""
    limit = evidence.limit(measured.relative if measured else 1.0)
    exact = measured is not None and certificate.within(measured) and certificate.exact
    allowed = max(limit, certificate.rounding) if exact else limit
    agreeing = sum(relative <= allowed for _, relative, _ in evidence.found)
    certificate = replace(certificate, agreeing=agreeing, compared=len(evidence.found))
    if exact:
        return certificate
    place, known = _place(evidence, limit, measured), list[str]()
    if place.target == "output":
        leaves = compared_leaves(*evidence.outputs, partial(_mapped, evidence))[0]
        known = [f"an output is the source's times {factor:.4g}" for factor in _factors(leaves)]
    return replace(certificate, place=place, reasons=reasons_for(evidence, limit, known))


def _checked(source: Any, target: Any, plan: Plan) -> Models:
    if isinstance(source, str | os.PathLike):
        source = resolve(source, role="source").module
    for side, model in (("source", source), ("target", target)):
        if not isinstance(model, nn.Module):
            raise SpecError(
                f"the {side} has no code to run: build the model, load the weights into it, give the module"
            )
        if any(tensor.is_meta for tensor in stored_tensors(unwrap(model)).values()):
            raise ApplyError(f"the {side} is on the meta device and has no values: load its weights first")
    models = unwrap(source), unwrap(target)
    held = [stored_tensors(model) for model in models]
    for one in plan.tensors:
        if one.key not in held[1] or tuple(held[1][one.key].shape) != one.shape:
            raise ApplyError(
                f"the report is of another target, where {one.key} is {one.shape}: give the one it belongs to"
            )
    parts = dict(models[0].named_modules(remove_duplicate=False))
    for key in (move.source.key for transfer in plan.transfers for move in transfer.moves):
        if key not in held[0] and key.rpartition(".")[0] not in parts:
            raise ApplyError(f"the report is of another source, which has {key}: give the one it belongs to")
    return models


def _compared(plan: Plan, models: Models, calls: tuple[Arguments, Arguments], mode: Mode) -> Evidence:
    try:
        return compare_places(plan, models, calls, mode)
    except RunError as error:
        raise GraftError(
            f"one of the models runs in float32 but not in float64 ({brief(error.__cause__ or error)}): "
            "give tensors it makes while it runs the dtype of its weights"
        ) from error


def _results(
    models: Models, calls: tuple[Arguments, Arguments], mode: Mode, notes: list[str]
) -> tuple[Any, Any] | None:
    try:
        return run(models[0], calls[0], mode), run(models[1], calls[1], mode)
    except RunError as error:  # a detector in train mode wants labels, a norm more than one value
        notes.append(f"not measured in {mode[0]} mode and {mode[1]} ({brief(error.__cause__ or error, 140)})")
        return None


def _mapped(evidence: Evidence, target: int, source: int) -> tuple[Units, str] | None:
    """Return the units of the last layer of these sizes; equal sizes ask for none unless classes were mapped."""
    for pair in reversed(evidence.pairs()):
        mapped = any("select_labels" in move.prepare for move in pair.transfer.moves)
        if sizes_of(pair.transfer) == (target, source) and (target != source or mapped):
            units = units_of(evidence.plan, pair.transfer)
            if units is not None:
                return units, pair.target or _WHOLE
    return None


def _place(evidence: Evidence, limit: float, measured: Deviation | None) -> Place:
    number = evidence.parting(limit)
    if number is None:
        after = evidence.found[-1][0].target if evidence.found else ""
        return Place("output", "output", measured.relative if measured else float("nan"), after)
    pair, relative, factor = evidence.found[number]
    after = evidence.found[number - 1][0].target if number else ""
    paths = pair.transfer.target or _WHOLE, pair.transfer.source or _WHOLE
    return Place(*paths, max(relative, abs(factor - 1)), after)


def _factors(leaves: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    found = [factor_between(*pair) for pair in leaves]
    return [factor for factor in dict.fromkeys(found) if abs(factor - 1) > ROUNDING]


def _noise(models: Models, calls: tuple[Arguments, Arguments]) -> str:
    """Name the model that draws random numbers in train mode, if one does."""
    for side, model, call in zip(("source", "target"), models, calls, strict=True):
        first, second = (run(model, call, MODES[2], seed=seed) for seed in (0, 1))
        leaves = compared_leaves(first, second, lambda *_: None)[0]
        if any(not torch.equal(a, b) for a, b in leaves):
            return f"the {side} draws random numbers in train mode: the figures there hold noise"
    return ""
