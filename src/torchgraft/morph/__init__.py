"""Function-preserving edits: one convolution becomes any module, and a linear module one convolution.

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
from torchgraft.morph.build import module
from torchgraft.morph.certificate import ModuleCertificate
from torchgraft.morph.contract import contract
from torchgraft.morph.exchange import from_networkx, to_networkx
from torchgraft.morph.fill import METHODS
from torchgraft.morph.graph import Edge, Graph
from torchgraft.morph.layout import PADDINGS
from torchgraft.morph.names import NAMES, named
from torchgraft.morph.normalization import NORMALIZATIONS, calibrate
from torchgraft.morph.reduction import Reduction, is_simple, reduction
from torchgraft.morph.text import parse

__all__ = [
    "ACTIVATIONS",
    "METHODS",
    "NAMES",
    "NORMALIZATIONS",
    "PADDINGS",
    "Blend",
    "Edge",
    "Graph",
    "ModuleCertificate",
    "MorphModule",
    "Reduction",
    "calibrate",
    "contract",
    "from_networkx",
    "is_simple",
    "module",
    "named",
    "parse",
    "reduction",
    "settle",
    "split_parallel",
    "split_series",
    "to_networkx",
]
