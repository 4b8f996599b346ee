"""Edits as text: ``widen layer1.0.conv1 width=96``, as the command takes them."""

from __future__ import annotations

__all__ = ["Edits", "edit_of", "edits_of"]

import json
import shlex
from collections.abc import Sequence
from typing import Any

from torchgraft.errors import MorphError, choose
from torchgraft.morph.edits import EDITS, Edit

#: An edit, its text, or several of either.
Edits = Edit | str | Sequence[Edit | str]


def edit_of(text: str) -> Edit:
    """Read an edit in one line: its name, a path (``.`` is the model itself), and arguments, quoted as in a shell.

    Raises:
        MorphError: the text is no edit.

    >>> print(edit_of("widen layer1.0.conv1 width=96"))
    widen layer1.0.conv1: width=96
    """
    try:
        name, path, *given = shlex.split(text)
        rows = [one.partition("=") for one in given]
        if not all(mark for _, mark, _ in rows):
            raise ValueError(text)
    except ValueError as error:
        told = "write 'widen layer1.0.conv1 width=96', name, path, arguments"
        raise MorphError(f"{text!r} is no edit: {told}") from error
    return Edit(name, "" if path == "." else path, {key: _value(value) for key, _, value in rows})


def edits_of(given: Edits) -> tuple[Edit, ...]:
    """Return edits that were given in any form.

    Raises:
        MorphError: something is no edit, or there is none.
        SpecError: an unknown name.

    >>> [str(one) for one in edits_of(["deepen 0", Edit("widen", "0", {"width": 8})])]
    ['deepen 0', 'widen 0: width=8']
    """
    rows = [given] if isinstance(given, Edit | str) else list(given)
    found = tuple(edit_of(one) if isinstance(one, str) else one for one in rows)
    for one in found:
        if not isinstance(one, Edit):
            raise MorphError(f"{one!r} is no edit: give morph.Edit(...) or a text, 'widen layer1.0.conv1 width=96'")
        choose(EDITS, one.name, "edit")
    if not found:
        raise MorphError("there is no edit to make: give at least one")
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # a word
        return text
