"""From a draft to an edited model: the coupled transfer of every layer into its own copy, and the certificate."""

from __future__ import annotations

__all__ = ["Options", "certified", "moved", "plan_of", "swap"]

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from torchgraft.axes import known_groups
from torchgraft.errors import GraftError, MorphError
from torchgraft.fingerprint import Look
from torchgraft.morph.edits.draft import Draft
from torchgraft.network import read_module, unwrap
from torchgraft.notes import OPEN
from torchgraft.origin import module_weights
from torchgraft.plan import Plan, Report, as_plan
from torchgraft.transfer.apply import apply_plan
from torchgraft.transfer.methods import customized
from torchgraft.transfer.narrowing import Narrowing
from torchgraft.transfer.planning import make_plan
from torchgraft.units import is_settled
from torchgraft.verify import Certificate, verify
from torchgraft.verify.certificate import rounding_in_storage


@dataclass(frozen=True, slots=True)
class Options:
    """How edits are made: on which ``inputs`` models are run, whether a function may change, what is measured."""

    inputs: Any = None
    approximate: bool = False
    certify: bool = True
    seed: int = 0
    narrowing: str | Narrowing | None = None


def moved(drafts: Iterable[Draft], options: Options, what: str) -> tuple[Draft, Report]:
    """Fill the first draft whose function will be that of its source, or else the first one that can be filled.

    Raises:
        MorphError: there is none.
    """
    first: tuple[Draft, Report] | None = None
    problem: MorphError | None = None
    for draft in _tried(drafts):
        failure = draft if isinstance(draft, MorphError) else _failure(draft, what)
        if isinstance(draft, MorphError) or failure is not None:
            problem = problem or failure
            continue
        made = draft, _filled(draft, options)
        if not draft.coupled or (draft.last and first is None) or made[1].plan.exact:
            return made
        first = first or made
    if first is None:
        raise problem or MorphError(f"{what} cannot be made")
    return first


def _tried(drafts: Iterable[Draft]) -> Iterable[Draft | MorphError]:
    """Yield drafts, and the error that ends them."""
    try:
        yield from drafts
    except MorphError as error:
        yield error


def _failure(draft: Draft, what: str) -> MorphError | None:
    """Return the error to raise where the changed model does not run."""
    try:
        draft.groups()
    except GraftError as error:
        return MorphError(f"after {what} the model does not run ({error})")
    return None


def _filled(draft: Draft, options: Options) -> Report:
    """Move every layer of the source into its copy."""
    plan, weights = plan_of(draft, options), module_weights(draft.source)
    rule = None if isinstance(options.narrowing, str) else options.narrowing
    chosen = all(map(is_settled, plan.maps))
    needed = _changing(plan, draft) if chosen else plan
    report = apply_plan(needed, weights.values, weights.shape_of, draft.model, narrowing=rule, seed=options.seed)
    return Report(report.tensors, plan) if chosen else report


def _changing(plan: Plan, draft: Draft) -> Plan:
    """Return a plan without the layers that hold the right values already, being copies."""
    own, copies = draft.own(), {one.key for one in plan.tensors if one.status == "copied"}
    return replace(
        plan,
        transfers=tuple(
            one
            for one in plan.transfers
            if not own(one.target, one.source) or any(move.target.key not in copies for move in one.moves)
        ),
    )


def plan_of(draft: Draft, options: Options) -> Plan:
    """Plan the transfer of every layer into its copy; where the draft is coupled, units and new layers follow."""
    target, source = read_module(draft.model), read_module(draft.source)
    operator = None if draft.coupled else "clip"
    narrowing = options.narrowing if draft.coupled else None
    matcher = draft.matcher()
    method = customized("graft", matcher=matcher, operator=operator, narrowing=narrowing, least_similarity=0.0)
    plan = make_plan(target, source, method, "graft", groups=partial(_groups, draft, target.look), seed=options.seed)
    notes = tuple(note for note in plan.notes if not note.endswith(OPEN))  # it is known which layers are new
    return replace(plan, notes=notes)


def _groups(draft: Draft, look: Look | None) -> Any:
    return known_groups(draft.model, look, *draft.inputs), draft.source_groups


def certified(draft: Draft, report: Report | Plan, options: Options, what: str) -> Certificate | None:
    """Measure the deviation, and refuse one that is not asked for.

    Raises:
        MorphError: the edit changes the function, and that is not allowed.
    """
    if not options.certify:
        return None
    certificate = verify(draft.source, draft.model, report, options.inputs)
    if draft.computed:
        stored = rounding_in_storage(one.dtype for one in draft.model.parameters() if one.is_floating_point())
        certificate = replace(certificate, rounding=max(certificate.rounding, stored))
    if not certificate.exact and not options.approximate:
        measured, plan = certificate.deviation(), as_plan(report)
        by = "" if measured is None else f" by {measured.relative:.1e}"
        why = next((f" ({reason})" for reason in (*certificate.reasons, *plan.obstacles)), "")
        raise MorphError(f"{what} would change the function{by}{why}: allow it with approximate=True")
    return certificate


def swap(model: nn.Module, edited: nn.Module) -> nn.Module:
    """Make a model the edited one, in place."""
    model = unwrap(model)
    if type(model) is not type(edited):
        raise MorphError(f"{type(model).__name__} became {type(edited).__name__}: take the new model, not inplace=True")
    object.__setattr__(model, "__dict__", edited.__dict__)
    return model
