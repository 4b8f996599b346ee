"""A row of edits as a script: readable, storable, and run again."""

from __future__ import annotations

__all__ = ["TARGET", "Script", "with_blocks"]

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from torchgraft._api import plan
from torchgraft.axes.inputs import arguments_of
from torchgraft.axes.shadow import copy_of
from torchgraft.errors import MorphError
from torchgraft.morph.between.fill import fill
from torchgraft.morph.edits import Edit, Edited, apply_edits
from torchgraft.morph.edits.draft import module_at
from torchgraft.morph.edits.texts import text_of
from torchgraft.network import unwrap
from torchgraft.verify import verify

#: What the path of a block begins with that is the target's and no other block of the source is like.
TARGET = "target:"


def with_blocks(edits: Sequence[Edit], target: nn.Module | None) -> list[Edit]:
    """Return edits with the target's own blocks in the place of their paths.

    Raises:
        MorphError: there is such a block, and no target.
    """
    found = []
    for edit in edits:
        block = edit.arguments.get("block")
        if isinstance(block, str) and block.startswith(TARGET):
            if target is None:
                raise MorphError(f"{text_of(edit)} takes a block of the target: give it, as in replay(source, target)")
            edit = replace(edit, arguments={**edit.arguments, "block": module_at(target, block.removeprefix(TARGET))})
        found.append(edit)
    return found


@dataclass(frozen=True, slots=True)
class Script:
    """What :func:`between` found: ``edits`` that lead from ``source`` to ``target``, or why not.

    ``reachable`` is true where the edits were shown to give the target's architecture and to keep the function, false
    where ``obstacles`` rule out every row of edits, ``None`` where none was found although there may be one. Printed,
    every line is an edit as the command line takes it, or a remark behind ``#``.

    >>> script = Script("A", "B", True, (Edit("widen", "0", {"width": 12}), Edit("deepen", "0")))
    >>> print(script)
    # A → B: 2 edits
    widen 0 width=12
    deepen 0
    >>> Script.from_json(script.to_json()) == script
    True
    """

    source: str
    target: str
    reachable: bool | None
    edits: tuple[Edit, ...] = ()
    obstacles: tuple[str, ...] = ()

    def __str__(self) -> str:
        count = f"{len(self.edits)} edit{'' if len(self.edits) == 1 else 's'}"
        head = {True: count, False: "out of reach", None: "no edits found, though there may be some"}[self.reachable]
        remarks = [f"# {obstacle}" for obstacle in self.obstacles]
        return "\n".join([f"# {self.source} → {self.target}: {head}", *map(text_of, self.edits), *remarks])

    def to_dict(self) -> dict[str, Any]:
        """Return the script as plain data."""
        told = {"source": self.source, "target": self.target, "reachable": self.reachable}
        edits = [edit.to_dict() for edit in self.edits]
        return {**told, "edits": edits, "obstacles": list(self.obstacles)}

    def to_json(self) -> str:
        """Return the script as JSON; :meth:`from_json` reads it back."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Script:
        """Read a script back from :meth:`to_json`.

        Raises:
            MorphError: the text is no script.
        """
        try:
            held = json.loads(text)
            names = str(held["source"]), str(held["target"])
            edits = tuple(map(Edit.from_dict, held["edits"]))
            if not isinstance(held["reachable"], bool | None):
                raise TypeError(f"reachable is {held['reachable']!r}")
            return cls(*names, held["reachable"], edits, tuple(map(str, held["obstacles"])))
        except (KeyError, TypeError, ValueError) as error:
            raise MorphError(f"this is no script written by Script.to_json ({error!r}): make it anew") from error

    def replay(self, source: nn.Module, target: nn.Module | None = None, **options: Any) -> Edited:
        """Make the edits on a model: the source, or another one of its architecture.

        Args:
            source: left as it is, unless ``inplace=True``.
            target: needed where the script takes a block of the target that the source has none like.
            options: see :func:`apply_edits`; the function is measured unless ``certify=False``.

        Raises:
            MorphError: there is nothing to replay, or an edit cannot be made exactly.
        """
        if not self.reachable:
            raise MorphError(f"{self.source} → {self.target} has no edits to replay: {'; '.join(self.obstacles)}")
        if not self.edits:  # both are the same but for names
            return Edited(copy_of(unwrap(source)), (), (), None)
        return replace(apply_edits(source, with_blocks(self.edits, target), **options), edits=self.edits)

    def into(
        self, source: nn.Module, target: nn.Module, *, inputs: Any = None, certify: bool = True, seed: int = 0
    ) -> Edited:
        """Make the edits on the source and write the weights into the target itself, by its own names.

        Args:
            source: left as it is.
            target: filled in place; also the ``model`` of the result.
            inputs: what both run on; guessed where ``None``.
            certify: measure, on the target, that it computes the source's function.
            seed: of the draws of new weights.

        Raises:
            MorphError: an edit cannot be made exactly, or the target is no model of the script's target.
        """
        made = self.replay(source, target, inputs=inputs, certify=certify, seed=seed)
        epsilons = {one.attribute for report in made.reports for one in report.plan.settings}
        fill(made.model, target, epsilons, None if inputs is None else arguments_of(inputs))
        if not certify:
            return replace(made, model=target)
        certificate = verify(source, target, plan(source, target), inputs)
        if made.certificate is not None:
            certificate = replace(certificate, rounding=max(certificate.rounding, made.certificate.rounding))
        if not certificate.exact:
            raise MorphError(f"the filled target deviates from the source by {certificate.deviation()}")
        return replace(made, model=target, certificate=certificate)
