"""Edits as lines of text."""

from __future__ import annotations

__all__ = ["edit_of", "read_edits", "text_of"]

import json
import shlex
from typing import Any

from torchgraft.errors import MorphError
from torchgraft.morph.edits.records import Edit


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


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # a word
        return text


def text_of(edit: Edit) -> str:
    """Return an edit in one line, as :func:`edit_of` reads it.

    Raises:
        MorphError: an argument is code.

    >>> edit = Edit("expand_kernel", "", {"size": [3, 5]})
    >>> text_of(edit), edit_of(text_of(edit)) == edit
    ('expand_kernel . size=[3,5]', True)
    """
    told = json.loads(edit.to_json())
    rows = [told.pop("edit"), told.pop("path") or "."]
    for name, value in told.items():
        word = isinstance(value, str) and _value(value) == value
        text = value if word else json.dumps(value, separators=(",", ":"))
        rows.append(f"{name}={shlex.quote(text) if _QUOTED.intersection(text) else text}")
    return " ".join(rows)


_QUOTED = frozenset(" \t\n\"'\\")


def read_edits(text: str) -> list[Edit]:
    """Read a row of edits: lines of text (what follows ``#`` at the start of one is a remark), JSON, or a script in it.

    Raises:
        MorphError: a line is no edit, or the JSON holds none.

    >>> read_edits("# A → B\\ndeepen 0") == read_edits('[{"edit": "deepen", "path": "0"}]')
    True
    """
    if text.lstrip()[:1] not in ("[", "{"):
        lines = map(str.strip, text.splitlines())
        return [edit_of(line) for line in lines if line and not line.startswith("#")]
    try:
        held = json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON at all, or nested without end
        raise MorphError(f"{text[:60]!r} is no edit: write one a line, or what Script.to_json gives") from error
    rows = held.get("edits") if isinstance(held, dict) else held
    if not isinstance(rows, list):
        raise MorphError("the file holds no list of edits: write one edit a line, or what Script.to_json gives")
    return [Edit.from_dict(one) for one in rows]
