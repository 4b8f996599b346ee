"""From matched layers to coupled units: what stands in one place in one tensor stands there in all of them.

alignment residual branches matched as a whole
holding   all layers placed, where all can be
order     layers of one shape, told apart by what they read
heads     what needs no place in a target without a head
spans     the axes of a move as rows of products of groups
election  which group of the source stands for which of the target
packing   groups of a convolution side by side in larger ones
norms     how a stream under a layer norm or a root mean square norm grows
layouts   which units go where, along every axis of every move
closing   new blocks as identities
handing   gain and shift of a norm, to the last of several in a row
passages  new layers that give on what they read
following running statistics after a layer that was cut
gates     new gates that let everything through
"""

from __future__ import annotations

__all__ = ["Coupled", "align", "couple", "in_order_of_runs"]

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import is_

from torchgraft.axes import AxisGroups
from torchgraft.axes.branches import Branch
from torchgraft.axes.spans import locked, size_of_leaf
from torchgraft.couple.alignment import align
from torchgraft.couple.closing import closings, folded_scales, new_scales
from torchgraft.couple.election import Elected, elect, spans_of_moves
from torchgraft.couple.following import followed
from torchgraft.couple.gates import open_gates
from torchgraft.couple.handing import handings
from torchgraft.couple.layouts import MapBook, Scales, lay_out
from torchgraft.couple.norms import growths
from torchgraft.couple.order import in_order_of_runs
from torchgraft.couple.packing import packed_moves, packings
from torchgraft.couple.passages import NOTHING, passages
from torchgraft.records import Fill, Followed, Move, Passage, Setting, Transfer, UnitMap
from torchgraft.units import is_settled


@dataclass(frozen=True, slots=True)
class Coupled:
    """Transfers whose moves agree on their units, with their maps; tensors of one value; settings; new layers that give
    on what they read; running statistics that follow what was cut; remarks.
    """

    transfers: tuple[Transfer, ...]
    maps: tuple[UnitMap, ...] = ()
    fills: tuple[Fill, ...] = ()
    settings: tuple[Setting, ...] = ()
    passages: tuple[Passage, ...] = ()
    followed: tuple[Followed, ...] = ()
    notes: tuple[str, ...] = ()


def couple(
    transfers: Sequence[Transfer],
    target: AxisGroups,
    source: AxisGroups,
    tied: Collection[str] = (),
    *,
    whole: bool = False,
    trainable: bool = False,
    narrowing: str = "centre",
) -> Coupled:
    """Make the moves of a plan agree on which units are where, and let new blocks add nothing.

    Args:
        transfers: matched layers and the moves of their tensors.
        target: the target's groups.
        source: the source's groups.
        tied: tensors of the target that it holds under further names.
        whole: every layer of the source has a place of its own.
        trainable: leave new gates to their own initialization.
        narrowing: name of the rule that says which units are kept where there are fewer.
    """
    ballots = list(spans_of_moves(transfers, target, source))
    elected, known = elect(ballots)
    growth = growths(ballots, target, source, tied)
    packed, grouped = packings(ballots, target, source)
    scales = Scales(source.layer_scales, folded_scales(source, transfers))
    book = MapBook(growth, known, packed, scales, narrowing, target.flow.embeddings())
    passing = passages(target, source, transfers, elected, book) if whole else NOTHING
    closed, open_ = closings(target, source, transfers, whole, passing.branches)
    gates = target.gates if whole and not trainable and not _narrows(elected) else ()
    opened, factors = open_gates(gates, [one for one in transfers if not one.reused])
    for key, factor in factors.items():
        growth.scale(key, factor)
    still = {key: value for key, value in closed.items() if key not in passing.new}
    fills = new_scales(target, source, transfers) | still | opened
    handing = handings(target, closed, transfers)
    settled = fills.keys() | passing.new | set(handing.keys.values()) | (handing.fills.keys() - handing.keys.keys())
    moves: dict[int, list[Move]] = {}
    for ballot in ballots:
        key = ballot.move.target.key
        if key not in settled:
            laid = lay_out(ballot, elected, book, target)
            parts = [laid] if key not in grouped else packed_moves(laid, grouped[key], book.add, book.maps)
            moves.setdefault(id(ballot.transfer), []).extend(map(handing.hand_on, parts))
    made = tuple(_with(one, moves.get(id(one), ())) for one in transfers)
    filled = tuple(Fill(key, value) for key, value in (fills | handing.fills).items())
    settings = tuple(growth.settings.values())
    notes = *_narrowed(book.maps), *_notes(open_, passing.all, settings)
    following = followed(made, target, source, book.maps)
    return Coupled(made, tuple(book.maps), filled, settings, passing.all, following, notes)


def _narrows(elected: Elected) -> bool:
    """Tell whether a group has fewer units than the one it stands for: then new gates have no function to keep.

    Classes and inputs do not count: those that both have are the same.
    """
    return any(size_of_leaf(t) < size_of_leaf(s) and not any(map(locked, (*t, *s))) for t, s in elected.items())


def _notes(open_: Sequence[Branch], passing: Sequence[Passage], settings: Sequence[Setting]) -> Iterator[str]:
    """Yield what a plan should say of its new blocks and its settings."""
    if open_:
        more = f" and {len(open_) - 1} more" if len(open_) > 1 else ""
        yield f"the new block at {open_[0].keys[0]}{more} cannot be made the identity"
    raised = [one.weight for one in passing if one.lifts[1]]
    if raised:
        yield (
            f"{raised[0]} and {len(raised) - 1} more give on some values in the linear range of their activation: "
            "as they are, within 32 deviations of their mean"
        )
    if settings:
        first = settings[0]
        yield (
            f"{len(settings)} norms over more units get another epsilon ({first.path}.{first.attribute} = "
            f"{first.value:.3g}); a state dict does not keep it"
        )


def _narrowed(maps: Sequence[UnitMap]) -> list[str]:
    """Say how many groups lose units by a rule that looks at weights."""
    rules = [units.how for units in maps if not is_settled(units)]
    told = "a group" if len(rules) == 1 else f"{len(rules)} groups"
    return [f"units of {told} are chosen by {rules[0]}: the target has fewer"] if rules else []


def _with(transfer: Transfer, moves: Sequence[Move]) -> Transfer:
    """Return a transfer with other moves, into the layer that they are in; itself, where they are the same."""
    if len(moves) == len(transfer.moves) and all(map(is_, moves, transfer.moves)):
        return transfer
    old, new = ([move.target.key.rpartition(".")[0] for move in one[:1]] for one in (transfer.moves, moves))
    path = new[0] if new and old and new != old else transfer.target
    return replace(transfer, target=path, moves=tuple(moves))
