"""Edits as data, and what an edit gives."""

from __future__ import annotations

__all__ = ["Edit", "Edited"]

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from torchgraft.errors import MorphError
from torchgraft.plan import Report
from torchgraft.verify import Certificate


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit as data: its ``name`` in :data:`EDITS`, the ``path`` of the module, and the other ``arguments``.

    >>> edit = Edit("widen", "layer1.0.conv1", {"width": 128})
    >>> print(edit)
    widen layer1.0.conv1: width=128
    >>> edit.to_dict()
    {'edit': 'widen', 'path': 'layer1.0.conv1', 'width': 128}
    >>> Edit.from_dict(edit.to_dict()) == Edit.from_json(edit.to_json()) == edit
    True
    """

    name: str
    path: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        told = ", ".join(f"{name}={_told(value)}" for name, value in self.arguments.items())
        return f"{self.name} {self.path}" + (f": {told}" if told else "")

    def to_dict(self) -> dict[str, Any]:
        """Return the edit as a dict: its name as ``edit``, its ``path``, and its arguments by their names."""
        return {"edit": self.name, "path": self.path, **self.arguments}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Edit:
        """Return the edit that :meth:`to_dict` gave. Raises :class:`MorphError` where the dict is none."""
        try:
            arguments = {**row}
            return cls(arguments.pop("edit"), arguments.pop("path"), arguments)
        except (KeyError, TypeError) as error:
            raise _no_edit(json.dumps(row, default=repr)) from error

    def to_json(self) -> str:
        """Return the edit as JSON. Raises :class:`MorphError` where an argument is a module or a function."""
        try:
            return json.dumps(self.to_dict())
        except TypeError as error:
            raise MorphError(f"{self} holds code, which is no JSON: apply it in Python") from error

    @classmethod
    def from_json(cls, text: str) -> Edit:
        """Return the edit that :meth:`to_json` wrote. Raises :class:`MorphError` where the text is none."""
        try:
            row = json.loads(text)
        except (ValueError, TypeError) as error:
            raise _no_edit(text) from error
        return cls.from_dict(row)


def _no_edit(text: str) -> MorphError:
    return MorphError(f'{text!r} is no edit: write {{"edit": "widen", "path": "conv1", "width": 128}}')


@dataclass(frozen=True, slots=True, eq=False)
class Edited:
    """An edited model, and what is known of it.

    ``reports`` say for every edit, in order, what became of each tensor; ``certificate`` is measured between the first
    model and the last, ``None`` where that was not asked for.
    """

    model: nn.Module
    edits: tuple[Edit, ...]
    reports: tuple[Report, ...]
    certificate: Certificate | None

    @property
    def report(self) -> Report:
        """The report of the last edit: what :func:`torchgraft.transfer_optimizer` takes after a single one."""
        return self.reports[-1]

    @property
    def exact(self) -> bool | None:
        """Whether the function was measured to be the same; ``None`` where nothing was measured."""
        return None if self.certificate is None else self.certificate.exact

    def __str__(self) -> str:
        lines = [str(edit) for edit in self.edits]
        lines += [f"note: {note}" for report in self.reports for note in report.plan.notes]
        return "\n".join([*lines, "not measured" if self.certificate is None else str(self.certificate)])

    def __repr__(self) -> str:
        told = {None: "not measured", True: "exact", False: "not exact"}[self.exact]
        return f"<Edited {type(self.model).__name__}: {'; '.join(map(str, self.edits))}; {told}>"


def _told(value: Any) -> str:
    return type(value).__name__ if isinstance(value, nn.Module) else str(value)
