"""Which layers the baselines pair: the paper's match, or a stack of equal blocks."""

from __future__ import annotations

__all__ = ["MATCHES", "filled", "match_stacked", "parse_match", "served", "warm_start", "with_statistics"]

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import groupby
from operator import mod

from torchgraft._api import Options, transfer
from torchgraft.errors import LabError
from torchgraft.lab.initializations.start import Start, counted
from torchgraft.lab.records import Initialized
from torchgraft.match.blocks import Elements
from torchgraft.match.stages import match_rows
from torchgraft.network import unwrap
from torchgraft.plan import Report
from torchgraft.records import Element, Layer, Match, Network
from torchgraft.score import Scorer
from torchgraft.standardize import standardize_paper
from torchgraft.transfer.operators import Operator

_STATISTICS = ("running_mean", "running_var")


def with_statistics(network: Network) -> tuple[Element, ...]:
    """The paper's blocks (Algorithm 1), with the running statistics of every batch norm beside its weight and bias."""

    def widened(layer: Layer) -> Layer:
        keys = (f"{layer.path}.{role}" if layer.path else role for role in _STATISTICS)
        held = tuple(network.tensors[key] for key in keys if key in network.tensors)
        return replace(layer, tensors=layer.tensors + held)

    return tuple(replace(one, layers=tuple(map(widened, one.layers))) for one in standardize_paper(network))


#: How a baseline may pair the layers of both networks, as it is written behind a colon.
MATCHES: Mapping[str, Options] = {
    "dp": {"method": "dpiat", "standardizer": with_statistics},
    "graft": {"method": "graft"},
    "stages": {"method": "fna"},
}


def parse_match(argument: str) -> str:
    """Return the name of the match, ``dp`` (the paper's) where there is none.

    Raises:
        LabError: no such match.
    """
    if argument and argument not in MATCHES:
        raise LabError(f"unknown match {argument!r} (valid: {', '.join(MATCHES)})")
    return argument or "dp"


def warm_start(start: Start, operator: Operator, match: str = "") -> Report:
    """Transfer by an operator, between the layers that the match (the argument's, unless given) pairs."""
    options: Options = {**MATCHES[match or parse_match(start.argument)], "operator": operator, "seed": start.own_seed}
    return transfer(start.source, start.target, **options)


def served(report: Report) -> list[str]:
    """Keys of the target's tensors that a source tensor serves."""
    return [tensor.key for tensor in report.tensors if tensor.source]


def filled(start: Start, report: Report, keys: Iterable[str], told: str = "") -> Initialized:
    """Say what was done by a rule that fills the tensors of ``keys`` entirely, whatever the sizes of the source."""
    coverage = counted(unwrap(start.target), keys)
    return Initialized(coverage, report.fingerprint, note=f"{len(report.plan.transfers)} layers matched{told}")


def match_stacked(
    target: Elements, source: Elements, scorer: Scorer, *, exponent: float = 0.5, mixed: bool = False, seed: int = 0
) -> Match:
    """The paper's match, in which a row of equal blocks takes the source's row of equal blocks over and over.

    Where the dynamic program gives blocks 1 1 2 2 of the source to four equal blocks of the target, this gives
    1 2 1 2: the stack is copied on top of itself. Single layers, and blocks without an equal neighbour, stay.
    """
    return match_rows(target, source, scorer, exponent, mixed=mixed, rows=_towers, place=mod)


def _towers(elements: Elements) -> list[tuple[int, ...]]:
    """Numbers of the elements, those that stand beside an equal one together."""
    keys = [(element.block, *(layer.look for layer in element.layers)) for element in elements]
    return [tuple(group) for _, group in groupby(range(len(elements)), key=lambda number: keys[number])]
