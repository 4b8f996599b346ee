"""Growth at given steps of training, or whenever the training loop says so."""

from __future__ import annotations

__all__ = ["Growth"]

import json
from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import nn
from torch.optim import Optimizer

from torchgraft.errors import GraftError, MorphError
from torchgraft.morph.edits import Edit, apply_edits
from torchgraft.morph.growing.grow import grow
from torchgraft.morph.growing.records import Grown
from torchgraft.morph.growing.texts import Edits, edits_of
from torchgraft.network import unwrap


@final
class Growth:
    """Grows a model in training at given steps (:func:`grow`); used as a scheduler of learning rates is.

    ``steps`` counts the calls of :meth:`step`, ``schedule`` holds the edits by step, ``done`` those that were made,
    each with its step.

    Args:
        model: in place; it may be inside ``torch.compile`` or ``DistributedDataParallel``.
        optimizer: one or several that train it, in place. Schedulers of theirs go on as they are.
        schedule: edits by step, in any form that :func:`grow` takes; ``{1000: "widen layer1.0.conv1 width=96"}`` grows
            after the 1000th step.
        ema: a moving average of the weights, in place.
        inputs: as for :func:`apply_edits`.
        approximate: as for :func:`apply_edits`.
        certify: as for :func:`apply_edits`.
        seed: of the draws of new weights; each growth has the next one.
        fresh: what second moments hold for new units.
        rehearse: try all edits of the schedule now, on a copy, so that one that cannot be made is told before training.

    Raises:
        MorphError: a step that is no whole number from 1 on, or an edit that cannot be made.
        SpecError: an unknown edit.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> growth = Growth(model, optimizer, {2: "widen 0 width=12", 3: "deepen 0"})
    >>> for _ in range(4):
    ...     optimizer.zero_grad()
    ...     model(torch.randn(8, 4)).square().sum().backward()
    ...     optimizer.step()
    ...     if grown := growth.step():
    ...         print(growth.steps, "|", str(grown).splitlines()[0])
    2 | widen 0: width=12 (exact)
    3 | deepen 0 (exact)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        schedule: Mapping[int, Edits] | None = None,
        *,
        ema: nn.Module | None = None,
        inputs: Any = None,
        approximate: bool = False,
        certify: bool = True,
        seed: int = 0,
        fresh: str = "mean",
        rehearse: bool = True,
    ) -> None:
        for step in schedule or ():
            if not isinstance(step, int) or step < 1:
                raise MorphError(f"{step!r} is no step of a schedule: they are whole numbers from 1 on")
        self.model, self.optimizer, self.ema = model, optimizer, ema
        self.schedule = {step: edits_of(edits) for step, edits in sorted((schedule or {}).items())}
        self.steps = 0
        self.done: tuple[tuple[int, tuple[Edit, ...]], ...] = ()
        self._seed, self._fresh = seed, fresh
        self._options = {"inputs": inputs, "approximate": approximate, "certify": certify}
        if rehearse:
            self._rehearse()

    def step(self) -> Grown | None:
        """Count one step of the optimizer; after it, grow if that was scheduled, and return what was done.

        Raises:
            MorphError: as :func:`grow`; the model is as it was, and the step is counted.
        """
        self.steps += 1
        edits = self.schedule.get(self.steps)
        return None if edits is None else self.grow(edits)

    def grow(self, edits: Edits) -> Grown:
        """Grow now, whatever the schedule says.

        Raises:
            MorphError: as :func:`grow`.
        """
        return self._grow(self.steps, edits_of(edits), **self._options)

    def state_dict(self) -> dict[str, Any]:
        """Return the steps taken and the edits made, as plain data that ``torch.save`` writes."""
        return {"steps": self.steps, "done": [[step, list(map(_row, edits))] for step, edits in self.done]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the edits of a checkpoint, so that the states of model, optimizer and average can be loaded after it.

        Args:
            state: of :meth:`state_dict`. The model is as it was before its first edit, or has had the same ones.

        Raises:
            MorphError: the model has had other edits, the schedule has edits at steps that are past and that were not
                made, or one that was made holds code and is not in the schedule.
        """
        done = [(step, tuple(self._edit(step, row) for row in rows)) for step, rows in state["done"]]
        steps, made = state["steps"], [[step, list(map(_row, edits))] for step, edits in self.done]
        missed = [step for step in self.schedule if step <= steps and step not in dict(done)]
        if missed:
            raise MorphError(
                f"step {missed[0]} of the schedule is past, the checkpoint is of step {steps} and has not grown then: "
                "schedule it for a later step, or leave it out"
            )
        if made != list(map(list, state["done"]))[: len(made)]:
            raise MorphError("the model has had other edits than the checkpoint: start from the model before its first")
        for step, edits in done[len(self.done) :]:
            self._grow(step, edits, **{**self._options, "approximate": True, "certify": False})
        self.steps = steps

    def _grow(self, step: int, edits: tuple[Edit, ...], **options: Any) -> Grown:
        seed = self._seed + len(self.done)
        grown = grow(self.model, self.optimizer, edits, ema=self.ema, seed=seed, fresh=self._fresh, **options)
        self.done = (*self.done, (step, edits))
        return grown

    def _edit(self, step: int, row: Mapping[str, Any] | str) -> Edit:
        """Return the edit of a checkpoint: that of the schedule, or the one that the row tells of."""
        for edit in self.schedule.get(step, ()):
            if _row(edit) == row:
                return edit
        if isinstance(row, str):
            raise MorphError(f"{row} holds code, which no checkpoint holds: give the schedule with it at step {step}")
        return Edit.from_dict(row)

    def _rehearse(self) -> None:
        model = unwrap(self.model)
        for number, (step, edits) in enumerate(self.schedule.items()):
            try:
                model = apply_edits(model, edits, seed=self._seed + number, **self._options).model
            except GraftError as error:
                raise type(error)(f"at step {step}: {error}") from error


def _row(edit: Edit) -> dict[str, Any] | str:
    """Return an edit as plain data; one that holds code as it is printed, which tells it apart in a schedule."""
    try:
        row: dict[str, Any] = json.loads(edit.to_json())
    except MorphError:
        return str(edit)
    return row
