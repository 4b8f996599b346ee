"""From matched layers to coupled units: what stands in one place in one tensor stands there in all of them.

alignment residual branches matched as a whole
spans     the axes of a move as rows of products of groups
election  which group of the source stands for which of the target
norms     how a stream under a layer norm or a root mean square norm grows
layouts   which units go where, along every axis of every move
closing   new blocks as identities
gates     new gates that let everything through
"""

from __future__ import annotations

__all__ = ["Coupled", "align", "couple"]

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from operator import is_

from torchgraft.axes import AxisGroups
from torchgraft.couple.alignment import align
from torchgraft.couple.closing import closings
from torchgraft.couple.election import elect, spans_of_moves
from torchgraft.couple.gates import open_gates
from torchgraft.couple.layouts import MapBook, lay_out
from torchgraft.couple.norms import growths
from torchgraft.records import Fill, Move, Setting, Transfer, UnitMap


@dataclass(frozen=True, slots=True)
class Coupled:
    """Transfers whose moves agree on their units, with their maps; tensors of one value; settings; remarks."""

    transfers: tuple[Transfer, ...]
    maps: tuple[UnitMap, ...] = ()
    fills: tuple[Fill, ...] = ()
    settings: tuple[Setting, ...] = ()
    notes: tuple[str, ...] = ()


def couple(
    transfers: Sequence[Transfer],
    target: AxisGroups,
    source: AxisGroups,
    tied: Collection[str] = (),
    *,
    trainable: bool = False,
) -> Coupled:
    """Make the moves of a plan agree on which units are where, and let new blocks add nothing.

    Args:
        transfers: matched layers and the moves of their tensors.
        target: the target's groups.
        source: the source's groups.
        tied: tensors of the target that it holds under further names.
        trainable: leave new gates to their own initialization.
    """
    ballots = list(spans_of_moves(transfers, target, source))
    elected, known = elect(ballots)
    growth = growths(ballots, target, source, tied)
    book = MapBook(growth, known)
    moves: dict[int, list[Move]] = {}
    closed, open_ = closings(target.branches, source.branches, transfers)
    gates = () if trainable else target.gates
    opened, factors = open_gates(gates, [one for one in transfers if not one.reused])
    for key, factor in factors.items():
        growth.scale(key, factor)
    fills = dict.fromkeys(closed, 0.0) | opened
    for ballot in ballots:
        if ballot.move.target.key not in fills:
            moves.setdefault(id(ballot.transfer), []).append(lay_out(ballot, elected, book, target))
    made = tuple(_with(one, moves.get(id(one), ())) for one in transfers)
    notes = []
    if open_:
        more = f" and {len(open_) - 1} more" if len(open_) > 1 else ""
        notes.append(f"the new block at {open_[0].keys[0]}{more} cannot be made the identity")
    if growth.settings:
        first = next(iter(growth.settings.values()))
        notes.append(
            f"{len(growth.settings)} norms over more units get another epsilon ({first.path}.{first.attribute} = "
            f"{first.value:.3g}); a state dict does not keep it"
        )
    filled = tuple(Fill(key, value) for key, value in fills.items())
    return Coupled(made, tuple(book.maps), filled, tuple(growth.settings.values()), tuple(notes))


def _with(transfer: Transfer, moves: Sequence[Move]) -> Transfer:
    """Return a transfer with other moves; itself, where they are the same."""
    if len(moves) == len(transfer.moves) and all(map(is_, moves, transfer.moves)):
        return transfer
    return replace(transfer, moves=tuple(moves))
