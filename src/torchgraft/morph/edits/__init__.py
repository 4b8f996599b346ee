"""Edits on a trained model: a change of structure on a copy, the coupled transfer into it, and the certificate.

records, texts      edits as data and as text, and what an edit gives
draft       the copy, and which of its modules are the model's
sizes, heads        which groups get which size
attributes, settings, resize    the copy in other widths
chain, neutral      what stands behind a layer, and new layers that change nothing
branching           one layer as several branches
changes     the change of structure of every edit
finish      transfer and certificate
table       edits by name, and rows of them
functions   one for every edit
"""

from __future__ import annotations

from torchgraft.morph.edits.branching import Branches
from torchgraft.morph.edits.functions import (
    add_branch,
    branch,
    deepen,
    expand_kernel,
    insert_block,
    narrow,
    split,
    stack,
    widen,
    widen_heads,
)
from torchgraft.morph.edits.neutral import Residual
from torchgraft.morph.edits.records import Edit, Edited
from torchgraft.morph.edits.table import EDITS, apply_edits
from torchgraft.morph.edits.texts import edit_of, read_edits, text_of

__all__ = [
    "EDITS",
    "Branches",
    "Edit",
    "Edited",
    "Residual",
    "add_branch",
    "apply_edits",
    "branch",
    "deepen",
    "edit_of",
    "expand_kernel",
    "insert_block",
    "narrow",
    "read_edits",
    "split",
    "stack",
    "text_of",
    "widen",
    "widen_heads",
]
