"""New layers as identities, and residuals that the target does not have: what is read is given on, unit by unit.

Where all of the source has a place, a layer of the target that no layer of the source serves, between two that follow
each other in the source, gives on what it reads where its activation lets it: a rectifier behind a rectifier. Where
the source adds what a block reads to what it gives and the target does not (its widths differ), the sum goes through
the block's spare units: in the range in which an activation is the identity, a block is a sum.
"""

from __future__ import annotations

__all__ = ["LINEAR", "NOTHING", "Passages", "passages"]

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torchgraft.axes import AxisGroups
from torchgraft.axes.branches import Branch
from torchgraft.axes.links import Link
from torchgraft.axes.spans import Leaf, size_of_leaf
from torchgraft.couple.election import Elected
from torchgraft.couple.layouts import MapBook
from torchgraft.records import Passage, Transfer
from torchgraft.units import axis_indices, provisional

# Activations that leave what another one gave as it is.
_KEEPS: Mapping[str, frozenset[str]] = {
    "": frozenset(),
    "relu": frozenset(("relu", "sigmoid", "hardsigmoid", "softmax")),
    "hardtanh": frozenset(("hardtanh",)),
}
#: Activations with a range in which they are the identity.
LINEAR = frozenset(("relu", "hardswish", "gelu", "silu"))


@dataclass(frozen=True, slots=True)
class Passages:
    """Layers that give on what they read.

    ``new`` are all tensors of new layers; ``branches`` the source's residual branches whose sum goes through the layers
    that they stand in.
    """

    all: tuple[Passage, ...]
    new: frozenset[str]
    branches: tuple[Branch, ...]


#: Where nothing is given on.
NOTHING = Passages((), frozenset(), ())


@dataclass(frozen=True, slots=True)
class _Ends:
    """What a layer reads and gives; its inputs stand at ``start`` of the axis."""

    reads: Leaf
    gives: Leaf
    start: int = 0


@dataclass(frozen=True, slots=True)
class _View:
    """What is known of both networks: their groups, which stand for each other, and which tensors are served."""

    target: AxisGroups
    source: AxisGroups
    stands: dict[Leaf, Leaf]
    book: MapBook
    place: Mapping[str, str]
    links: Mapping[str, Link]

    def ends(self, link: Link) -> _Ends | None:
        """Return what a layer of the target reads and gives, where these are single groups of units.

        Of several that it reads side by side, it is the one that stands for the same as what the layer gives; where
        that is new as well, the only one of its size that stands for something.
        """
        spans, count = self.target.spans.get(link.weight, ()), self.target.grouped.get(link.weight, 1)
        if len(spans) < 2 or len(spans[0]) != 1:
            return None
        gives = spans[0][0].leaf
        if count > 1:
            return _Ends(gives, gives) if count == size_of_leaf(gives) and not spans[1][0].leaf else None
        origin = self.stands.get(gives)
        if len(spans[1]) == 1:
            alike = list(spans[1])
        elif origin is None:
            equal = [one for one in spans[1] if size_of_leaf(one.leaf) == size_of_leaf(gives)]
            alike = equal if len(equal) == 1 and equal[0].leaf in self.stands else []
        else:
            alike = [one for one in spans[1] if origin and self.stands.get(one.leaf) == origin]
        return _Ends(alike[0].leaf, gives, alike[0].start) if alike else None

    def units(self, leaf: Leaf, origin: Leaf) -> dict[int, int]:
        """Return where the units of a group of the source stand in a group of the target."""
        stretches = self.book.stretches(0, 0, leaf, origin)
        into, out_of = axis_indices(stretches, provisional(self.book.maps))
        return dict(zip(out_of.tolist(), into.tolist(), strict=True))


def passages(
    target: AxisGroups, source: AxisGroups, transfers: Sequence[Transfer], elected: Elected, book: MapBook
) -> Passages:
    """Find the layers that give on what they read.

    Args:
        target: the target's groups.
        source: the source's groups.
        transfers: matched layers and their moves.
        elected: which groups stand for each other.
        book: the maps of their units.
    """
    place = {move.source.key: move.target.key for one in transfers if not one.reused for move in one.moves}
    single = {t: s for t, s in book.known if t not in elected}
    view = _View(target, source, {**single, **elected}, book, place, {link.weight: link for link in target.links})
    found = list(_identities(view))
    new = frozenset(key for one in found for key in one.keys)
    sums = {branch: tuple(_residual(branch, view, new)) for branch in source.branches}
    through = tuple(branch for branch, passing in sums.items() if passing)
    return Passages((*found, *(one for branch in through for one in sums[branch])), new, through)


def _identities(view: _View) -> Iterator[Passage]:
    """Yield the new layers between two groups that stand for the same one of the source."""
    served = set(view.place.values())
    inside = {key for branch in view.target.branches if served.isdisjoint(branch.keys) for key in branch.keys}
    fixed = set(view.stands)
    found: list[tuple[_Ends, tuple[Passage, ...]]] = []
    lifted: dict[Leaf, Passage] = {}
    for link in view.links.values():
        ends = view.ends(link)
        if ends is None or not link.level or link.weight in inside or link.weight in served:
            continue
        made = _identity(link, ends, view, lifted.get(ends.reads))
        if made:
            view.stands[ends.gives] = view.stands[ends.reads]
            lifted |= {ends.gives: made[-1]} if made[-1].lifts[1] else {}
            found.append((ends, made))
    needed, kept = fixed, list[tuple[Passage, ...]]()
    for ends, made in reversed(found):
        if ends.gives in needed:
            needed.add(ends.reads)
            kept.append(made)
    for made in reversed(kept):
        yield from made


def _identity(link: Link, ends: _Ends, view: _View, lifted: Passage | None) -> tuple[Passage, ...]:
    """Return what makes a layer give on what it reads, nothing where its activation or its place does not let it."""
    reads, gives = ends.reads, ends.gives
    origin = view.stands.get(reads)
    if origin is None or view.stands.get(gives, origin) != origin or (reads == gives and _is_summand(link, view)):
        return ()
    keeps = lifted is None and link.after in _KEEPS and (not link.after or link.before in _KEEPS[link.after])
    raised = "" if keeps or not link.after else link.after
    history = link.history if lifted is None else lifted.history
    if (raised and (raised not in LINEAR or link.norm is None or not history)) or (
        lifted is not None and not link.norm
    ):
        return ()
    into, out = (view.units(leaf, origin) for leaf in (reads, gives))
    if not len(into) == len(out) == size_of_leaf(origin):
        return ()
    rows, columns = tuple(out[unit] for unit in into), tuple(place + ends.start for place in into.values())
    gate = _gate(link, view, columns)
    if link.gate and (gate is None or lifted is None):
        return ()
    origins = columns if lifted is None else lifted.origin
    made = _passage(link, rows, columns, history, origins)
    lifts = "" if lifted is None else lifted.lifts[1], raised
    return (*filter(None, [gate]), replace(made, lifts=lifts, gated="" if gate is None else gate.gate))


def _is_summand(link: Link, view: _View) -> bool:
    """Tell whether something is added to what a layer gives: it would add what is there already."""
    added = {key for pair in view.target.sums for keys in pair for key in keys}
    return not added.isdisjoint((link.weight, *(link.norm.keys if link.norm else ())))


def _gate(link: Link, view: _View, units: Sequence[int]) -> Passage | None:
    """Return what opens the gate of a layer's inputs."""
    gate = view.links.get(link.gate)
    return (
        None
        if gate is None or not gate.bias
        else Passage(gate.weight, gate.bias, (), 0.0, tuple(units), (), gate=gate.after)
    )


def _passage(
    link: Link, rows: Sequence[int], columns: Sequence[int], history: tuple[tuple[str, ...], ...], origin: Sequence[int]
) -> Passage:
    keys, epsilon = ((), 0.0) if link.norm is None else (link.norm.keys, link.norm.epsilon)
    return Passage(link.weight, link.bias, keys, epsilon, tuple(rows), tuple(columns), history, tuple(origin))


def _residual(branch: Branch, view: _View, through: Collection[str]) -> Iterator[Passage]:
    """Yield what carries a residual of the source through the layers of the target that its branch stands in."""
    chain = _chain(branch, view)
    ends = [one for link in chain if (one := view.ends(link)) is not None]
    if not chain or len(ends) < len(chain):
        return
    reads, gives = ends[0].reads, ends[-1].gives
    origin = view.stands.get(reads)
    if reads == gives or origin is None or view.stands.get(gives) != origin or _passed(view, through, reads, gives):
        return
    source, sums = view.units(reads, origin), view.units(gives, origin)
    wanted = sorted(source.keys() & sums.keys())
    inner = [_spare(one.gives, view, len(wanted)) for one in ends[:-1]]
    if len(wanted) < size_of_leaf(origin) or any(len(spare) < len(wanted) for spare in inner):
        return
    origins = tuple(source[unit] for unit in wanted)
    units = [origins, *inner, tuple(sums[unit] for unit in wanted)]
    history, lift = chain[0].history, ""
    for number, link in enumerate(chain):
        last = number == len(chain) - 1
        raised = "" if last or (link.after == "relu" == link.before and not lift) else link.after
        gate = _gate(link, view, units[number])
        if gate is not None:
            yield gate
        passage = _passage(link, units[number + 1], units[number], history, origins)
        yield replace(passage, lifts=(lift, raised), added=last, gated="" if gate is None else gate.gate)
        lift = raised


def _chain(branch: Branch, view: _View) -> list[Link]:
    """Return the layers of the target, in order, in which a branch stands, where a sum can go through all of them."""
    links = view.links
    served = [view.place[key] for key in branch.keys if view.place.get(key) in links]
    found: list[Link] = []
    ends = [view.ends(links[weight]) for weight in (*served[:1], *served[-1:])]
    if None in ends or len({one.reads if at == 0 else one.gives for at, one in enumerate(ends) if one}) < 2:
        return []  # what the last layer gives is what the first one reads: they are added here, too
    weight = served[-1] if served else ""
    while weight in links and links[weight] not in found:
        found.insert(0, links[weight])
        if weight == served[0]:
            break
        weight = links[weight].follows
    inner = found[:-1]
    passes = (link.after in LINEAR and link.norm is not None for link in inner)
    complete = bool(found) and found[0].weight == served[0] and bool(found[0].history)
    gated = (link.gate in links and links[link.gate].bias for link in found if link.gate)
    return found if complete and all(link.level for link in found) and all(passes) and all(gated) else []


def _passed(view: _View, through: Collection[str], reads: Leaf, gives: Leaf) -> bool:
    """Tell whether a new layer does so already: a shortcut with weights."""
    ends = (view.ends(link) for link in view.links.values() if link.weight in through)
    return any(one is not None and (one.reads, one.gives) == (reads, gives) for one in ends)


def _spare(leaf: Leaf, view: _View, count: int) -> tuple[int, ...]:
    """Return units of a group of the target in which none of the source stands."""
    origin = view.stands.get(leaf)
    taken = set() if origin is None else set(view.units(leaf, origin).values())
    return tuple([unit for unit in range(size_of_leaf(leaf)) if unit not in taken][:count])
