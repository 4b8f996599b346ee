"""Edits in any form in which they may be given."""

from __future__ import annotations

__all__ = ["Edits", "edits_of"]

from collections.abc import Sequence

from torchgraft.errors import MorphError, choose
from torchgraft.morph.edits import EDITS, Edit, edit_of

#: An edit, its text, or several of either.
Edits = Edit | str | Sequence[Edit | str]


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
