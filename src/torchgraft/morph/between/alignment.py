"""The target's run as the source's in which parts are repeated: a dynamic program over both rows of uses."""

from __future__ import annotations

__all__ = ["Alignment", "Insertion", "align"]

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2

from torchgraft.axes.operators import BATCH_NORMS, PRODUCTS
from torchgraft.morph.between.runs import Run, Use, fits, parts_of
from torchgraft.morph.edits.neutral import odd


@dataclass(frozen=True, slots=True)
class Insertion:
    """What makes new uses of the target.

    ``name`` says how: a ``copy`` of the source's module ``kind`` or a ``graft`` of the target's, behind the module at
    ``path``, or a ``deepen`` of a ``kind`` behind the layer at ``path``.
    """

    name: str
    path: str
    kind: str


@dataclass(frozen=True, slots=True)
class Alignment:
    """What has to be inserted, in the order of the run, and the uses that are left over or do not fit."""

    insertions: tuple[Insertion, ...]
    new: tuple[Use, ...]
    gone: tuple[Use, ...]
    smaller: tuple[tuple[Use, Use], ...]

    @property
    def whole(self) -> bool:
        """Whether every use of both sides is accounted for."""
        return not (self.new or self.gone or self.smaller)


@dataclass(frozen=True, slots=True)
class _Pattern:
    """An insertion behind a place of the source's run, the uses that it makes, and what it costs."""

    insertion: Insertion
    uses: Sequence[Use]
    cost: float


#: Where an alignment comes from: uses of the source and of the target before, and what was inserted since.
_Step = tuple[int, int, Insertion | None]

_ELSEWHERE = 3.0  # a like layer behind another pooling: a block may have been put between them
# Costs: what cannot be explained is dearer than any explanation, a whole block cheaper than layer by layer, and what
# the source has cheaper than what only the target has.
_COPY, _OTHER, _LAYER, _GRAFT, _RESIZED = 1.0, 1.1, 1.5, 2.0, 0.01
_SMALLER, _LEFT = 1e3, 2e3


def align(source: Run, target: Run, refused: Collection[Insertion] = ()) -> Alignment:
    """Align two runs at the least cost.

    Args:
        source: the run to start from.
        target: the run to reach.
        refused: insertions that are not to be used.
    """
    mine, other = source.uses, target.uses
    patterns, places, blocks = _patterns(source), _places(source), _ends(_regular(target), target)
    best = [[0.0] * (len(other) + 1) for _ in range(len(mine) + 1)]
    back: list[list[_Step]] = [[(0, 0, None)] * (len(other) + 1) for _ in range(len(mine) + 1)]
    for i, row in enumerate(best):
        grafts = {j: [_graft(path, *held) for path in places.get(i, ()) for held in blocks[j]] for j in blocks}
        for j in range(len(other) + 1):
            options: list[tuple[float, _Step]] = []
            if i and j:
                options.append((best[i - 1][j - 1] + _price(mine[i - 1], other[j - 1]), (i - 1, j - 1, None)))
            options += [(best[i - 1][j] + _LEFT, (i - 1, j, None))] if i else []
            options += [(row[j - 1] + _LEFT, (i, j - 1, None))] if j else []
            for one in (*patterns.get(i, ()), *grafts.get(j, ())):
                start = j - len(one.uses)
                if start >= 0 and one.insertion not in refused and all(map(fits, one.uses, other[start:j])):
                    cost = one.cost + sum(map(_resized, one.uses, other[start:j]))
                    options.append((row[start] + cost, (i, start, one.insertion)))
            if options:
                row[j], back[i][j] = min(options, key=lambda option: option[0])
    return _read(mine, other, back)


def _read(mine: Sequence[Use], other: Sequence[Use], back: Sequence[Sequence[_Step]]) -> Alignment:
    insertions: list[Insertion] = []
    new: list[Use] = []
    gone: list[Use] = []
    smaller: list[tuple[Use, Use]] = []
    i, j = len(mine), len(other)
    while i or j:
        to_i, to_j, inserted = back[i][j]
        if inserted is not None:
            insertions.append(inserted)
        elif to_i < i and to_j < j:
            smaller += [] if fits(mine[to_i], other[to_j]) else [(mine[to_i], other[to_j])]
        elif to_i < i:
            gone.append(mine[to_i])
        else:
            new.append(other[to_j])
        i, j = to_i, to_j
    return Alignment(tuple(insertions[::-1]), tuple(new[::-1]), tuple(gone[::-1]), tuple(smaller[::-1]))


def _price(mine: Use, other: Use) -> float:
    if mine.name != other.name:
        return 3 * _LEFT
    return _resized(mine, other) + (0.0 if fits(mine, other) else _SMALLER)


def _resized(mine: Use, other: Use) -> float:
    moved = 0.0 if mine.before == other.before else _ELSEWHERE
    if mine.shapes == other.shapes:
        return moved
    pairs = (pair for shapes in zip(mine.shapes, other.shapes, strict=False) for pair in zip(*shapes, strict=False))
    return moved + _RESIZED * sum(abs(log2(max(b, 1) / max(a, 1))) for a, b in pairs)


def _patterns(source: Run) -> dict[int, list[_Pattern]]:
    """Return what the source's own parts can make, by the number of uses before it."""
    found: dict[int, list[_Pattern]] = {}
    blocks = _regular(source)
    for place, (_, end) in blocks.items():
        row = parts_of(source.model, place.rpartition(".")[0]) or (place,)
        for path in row:
            if path in blocks:
                uses = source.uses[slice(*blocks[path])]
                cost = _COPY if path == place else _OTHER
                found.setdefault(end, []).append(_Pattern(Insertion("copy", place, path), uses, cost))
    for end, pattern in _layers(source):
        found.setdefault(end, []).append(pattern)
    return found


def _blocks(run: Run) -> dict[str, tuple[int, int]]:
    """Return where the uses of every block stand, if in one row; of a row of blocks, its parts count one by one."""
    places: dict[str, list[int]] = {}
    for number, use in enumerate(run.uses):
        path = use.path
        while path:
            places.setdefault(path, []).append(number)
            path = path.rpartition(".")[0]
    rows = {path: (held[0], held[-1] + 1) for path, held in places.items() if len(held) > 1}
    rows = {path: (first, end) for path, (first, end) in rows.items() if end - first == len(places[path])}
    return {
        path: (first, end)
        for path, (first, end) in rows.items()
        if any(use.name in PRODUCTS for use in run.uses[first:end])
        and not any(part in rows for part in parts_of(run.model, path))
    }


def _regular(run: Run) -> dict[str, tuple[int, int]]:
    """Return the blocks that may be repeated."""
    blocks = _blocks(run)
    regular = run.regular(blocks)
    return {path: held for path, held in blocks.items() if path in regular}


def _ends(blocks: Mapping[str, tuple[int, int]], run: Run) -> dict[int, list[tuple[str, Sequence[Use]]]]:
    """Return blocks and their uses, by the number of uses up to their end."""
    found: dict[int, list[tuple[str, Sequence[Use]]]] = {}
    for path, (first, end) in blocks.items():
        found.setdefault(end, []).append((path, run.uses[first:end]))
    return found


def _places(source: Run) -> dict[int, list[str]]:
    """Return the blocks of rows, behind which one of the target's may be put, by the number of uses up to their end."""
    found: dict[int, list[str]] = {}
    for path, (_, end) in _blocks(source).items():
        if parts_of(source.model, path.rpartition(".")[0]):
            found.setdefault(end, []).append(path)
    return found


def _graft(place: str, path: str, uses: Sequence[Use]) -> _Pattern:
    return _Pattern(Insertion("graft", place, path), uses, _GRAFT * (1 + len(uses)))


def _layers(source: Run) -> Iterator[tuple[int, _Pattern]]:
    """Yield what :func:`torchgraft.morph.deepen` makes behind every layer and its norm."""
    for number, use in enumerate(source.uses):
        if use.name not in PRODUCTS or len(use.shapes[0]) < 2:
            continue
        like, dense = _like(use), _like(use, dense=True)
        behind = source.uses[number + 1 : number + 2]
        normed = bool(behind) and behind[0].name in BATCH_NORMS
        rows = [("identity", (like,), 1), ("pair", (dense, dense), 1), ("residual", (dense, dense), 1)]
        rows += [("identity", (like, *behind), 2), *((kind, uses, 2) for kind, uses, _ in rows[1:])] if normed else []
        for kind, uses, past in rows:  # a batch norm behind may be the layer's own, or belong to what follows
            yield number + past, _Pattern(Insertion("deepen", use.path, kind), uses, _LAYER * len(uses))


def _like(use: Use, dense: bool = False) -> Use:
    """Return a use of a new layer of the same sort: as many inputs as outputs, no stride, and a kernel that is odd."""
    weight = use.shapes[0]
    biases = ((weight[0],),) if dense or len(use.shapes) > 1 else ()
    if use.name != "convolution":
        return Use("addmm" if biases else "mm", use.keys, ((weight[0],) * 2, *biases))
    kernel = tuple(map(odd, weight[2:]))
    ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
    grouped = bool(use.fixed[-1]) and not dense
    inputs = weight[1] if grouped else weight[0]
    fixed = (ones, ones, False, zeros, grouped)
    return Use(use.name, use.keys, ((weight[0], inputs, *kernel), *biases), fixed)
