"""Function-preserving edits: of whole models, of one convolution into any module, of a linear module into one.

edits                edits on a trained model
growing              edits while a model trains
between              from a source to a given target by edits
graph, text, exchange, names   modules as graphs: records, their text, networkx, the paper's by name
reduction            contraction to the irreducible core
widths, layout       channels, rates, windows and paddings of a module, for one convolution
kernels, weights     tables of taps, and the sums over all paths
atoms, simple        splits in closed form
solve, carrier, alternate   linear solves
fill                 the choice among them
layers, assembly, build     layers of torch in and out
flow, rules, contract       the reverse
normalization, activation   inserted as identities
certificate          what was achieved, measured
"""

from __future__ import annotations

from torchgraft.morph.activation import ACTIVATIONS, Blend, settle
from torchgraft.morph.assembly import MorphModule
from torchgraft.morph.atoms import split_parallel, split_series
from torchgraft.morph.between import Script, between
from torchgraft.morph.build import module
from torchgraft.morph.certificate import ModuleCertificate
from torchgraft.morph.contract import contract
from torchgraft.morph.edits import (
    EDITS,
    Branches,
    Edit,
    Edited,
    Residual,
    add_branch,
    apply_edits,
    branch,
    deepen,
    edit_of,
    expand_kernel,
    insert_block,
    narrow,
    split,
    stack,
    widen,
    widen_heads,
)
from torchgraft.morph.exchange import from_networkx, to_networkx
from torchgraft.morph.fill import METHODS
from torchgraft.morph.graph import Edge, Graph
from torchgraft.morph.growing import Grown, Growth, grow
from torchgraft.morph.layout import PADDINGS
from torchgraft.morph.names import NAMES, named
from torchgraft.morph.normalization import NORMALIZATIONS, calibrate
from torchgraft.morph.reduction import Reduction, is_simple, reduction
from torchgraft.morph.text import parse

__all__ = [
    "ACTIVATIONS",
    "EDITS",
    "METHODS",
    "NAMES",
    "NORMALIZATIONS",
    "PADDINGS",
    "Blend",
    "Branches",
    "Edge",
    "Edit",
    "Edited",
    "Graph",
    "Grown",
    "Growth",
    "ModuleCertificate",
    "MorphModule",
    "Reduction",
    "Residual",
    "Script",
    "add_branch",
    "apply_edits",
    "between",
    "branch",
    "calibrate",
    "contract",
    "deepen",
    "edit_of",
    "expand_kernel",
    "from_networkx",
    "grow",
    "insert_block",
    "is_simple",
    "module",
    "named",
    "narrow",
    "parse",
    "reduction",
    "settle",
    "split",
    "split_parallel",
    "split_series",
    "stack",
    "to_networkx",
    "widen",
    "widen_heads",
]
