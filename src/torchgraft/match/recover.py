"""What the dynamic program leaves behind: layers in another order, grouped otherwise, or moved.

An edited network is mostly its own source. Passes after the dynamic program find the rest of it: what two matched
blocks leave over is paired where it is equal; gaps between matched layers are filled in order; order is given up where
most of the network stands elsewhere exactly as it is; and single parts that moved get their own values back. Kinds and
shapes decide, never names.
"""

from __future__ import annotations

__all__ = [
    "drop_orphans",
    "exact_targets",
    "fill_blocks",
    "fill_gaps",
    "find_moved",
    "owners",
    "rearrange",
    "signature",
]

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from difflib import SequenceMatcher

from torchgraft.kinds import DIMENSIONAL, family
from torchgraft.match.blocks import Elements, offsets
from torchgraft.match.dp import solve, trace
from torchgraft.records import Layer, Pair, Shape
from torchgraft.score import Scorer

Layers = Sequence[Layer]
Chosen = dict[int, Pair]
Places = list[tuple[int, Hashable]]  # positions and what stands there


def fill_blocks(chosen: Chosen, target: Elements, source: Elements) -> Chosen:
    """Pair the equal layers of two matched blocks in their own order, where the dynamic program had to leave some out.

    A network may define the layers of a block in another order than it runs them: transformers lists both norms of a
    vision transformer's block last, a ResNet may list its shortcut first.
    """
    homes = [position for position, element in enumerate(source) for _ in element.layers]
    starts = offsets(source)
    filled, first = dict(chosen), 0
    for element in target:
        block = range(first, first + len(element.layers))
        first = block.stop
        taken = [chosen[t].source for t in block if t in chosen]
        votes = Counter(homes[s] for s in taken)
        if len(block) > 1 and votes and len(set(taken)) < len(block):
            partner = votes.most_common(1)[0][0]
            others = dict(enumerate(source[partner].layers, starts[partner]))
            filled |= _equal_layers(dict(zip(block, element.layers, strict=True)), others, chosen)
    return filled


def _equal_layers(layers: Mapping[int, Layer], others: Mapping[int, Layer], chosen: Chosen) -> Chosen:
    """Pair equal layers of two blocks in order, wherever that serves more of them than ``chosen`` does.

    Convolutions and linear layers come first: those that follow in order what met stay together, then those that met
    themselves, and a stride tells a shortcut from another one of equal shape. A batch norm stays with the convolution
    before it.
    """

    def following(t: int) -> int:
        mixing = layers[t].kind in DIMENSIONAL
        before = max((u for u in layers if u < t and u in chosen and layers[u].kind in DIMENSIONAL), default=-1)
        return chosen[before].source + t - before if mixing and before >= 0 else -1

    better: Chosen = {}
    classes = dict.fromkeys(signature(layer) for layer in layers.values())
    for one in sorted(classes, key=lambda one: one[0] not in DIMENSIONAL):
        own = [t for t, layer in layers.items() if signature(layer) == one]
        free = [s for s, layer in others.items() if signature(layer) == one]
        served = {chosen[t].source for t in own if t in chosen} & set(free)
        if len(served) == min(len(own), len(free)):
            continue
        for t in sorted(own, key=lambda t: following(t) not in free):
            before, now = better.get(t - 1) or chosen.get(t - 1), chosen.get(t)
            alike = [s for s in free if layers[t].stride == others[s].stride] or free
            if one[0] == "batchnorm" and before is not None and before.source + 1 in free:
                alike = [before.source + 1]
            elif following(t) in alike:
                alike = [following(t)]
            elif one[0] in DIMENSIONAL and now is not None and now.source in alike:
                alike = [now.source]
            if alike:
                better[t] = Pair(t, alike[0], 1.0)
                free.remove(better[t].source)
    return better


def fill_gaps(chosen: Chosen, target: Layers, source: Layers, scorer: Scorer, exponent: float) -> Chosen:
    """Match the layers between two matched ones, flat, with the source layers that stand unused between theirs.

    Recovers what is lost where one network groups as a block what the other lists layer by layer.
    """
    used = {pair.source for pair in chosen.values()}
    filled = dict(chosen)
    for targets, sources in _gaps(chosen, len(target), len(source)):
        free = [j for j in sources if j not in used]
        if not free:
            continue
        scores = scorer([target[i] for i in targets], [source[j] for j in free])
        solution = solve(scores[None], exponent, leading=True)
        for first, past, s in trace(solution, 0, len(targets), len(free)):
            for t in range(first, past):
                if scores[t, s] > 0:
                    filled[targets[t]] = Pair(targets[t], free[s], float(scores[t, s]))
    return filled


def _gaps(chosen: Chosen, n: int, m: int) -> Iterator[tuple[range, range]]:
    """Stretches of unmatched target layers, each with the stretch of source layers between its two neighbours."""
    last_target, last_source = -1, -1
    ends = [(t, chosen[t].source) for t in sorted(chosen)] + [(n, m)]
    for t, s in ends:
        if t - last_target > 1 and s - last_source > 1:
            yield range(last_target + 1, t), range(last_source + 1, s)
        last_target, last_source = t, s


def find_moved(chosen: Chosen, target: Layers, source: Layers) -> Chosen:
    """Give target layers without an exact source of their own the unused source layers that equal them, in any order.

    The longest run of equal layers moves first. Only runs that can be told from chance move: two or more layers that
    mix units (convolutions, linear layers), one such layer where nothing served the target so far, or a layer whose
    kind and shape stand once in each network.
    """
    exact = exact_targets(chosen)
    used = {chosen[t].source for t in exact}
    left = {i: signature(layer) for i, layer in enumerate(target) if i not in exact}
    right = {j: signature(layer) for j, layer in enumerate(source) if j not in used}
    common = set(left.values()) & set(right.values())
    if not common:
        return chosen
    counts = [Counter(map(signature, layers)) for layers in (target, source)]
    unique = {one for one in common if counts[0][one] == counts[1][one] == 1}
    # Where nearly all is found, the one norm that is left on each side is the same one.
    left_over = [Counter(side.values()) for side in (left, right)]
    mostly_exact = len(exact) >= 0.9 * len(target)
    moved = dict(chosen)
    places = _keep_common(left, common), _keep_common(right, common)
    for start, other, size in _common_runs(*places):
        run = range(start, start + size)
        mixing = sum(target[t].kind in DIMENSIONAL for t in run)
        unserved = not any(t in chosen for t in run)
        alone = size == 1 and left_over[0][left[start]] == left_over[1][left[start]] == 1
        if mixing >= 2 or (mixing and unserved) or any(left[t] in unique for t in run) or (alone and mostly_exact):
            moved |= {t: Pair(t, other + t - start, 1.0) for t in run}
    return moved


def signature(layer: Layer) -> tuple[str, Shape | None]:
    """What makes two layers interchangeable: kind and shape."""
    return family(layer.kind), layer.shape


def _keep_common(signatures: Mapping[int, Hashable], common: Set[Hashable]) -> Places:
    return [(place, one) for place, one in sorted(signatures.items()) if one in common]


def _common_runs(left: Places, right: Places) -> Iterator[tuple[int, int, int]]:
    """Longest runs of equal, adjacent layers, each place used once: ``(target place, source place, length)``."""
    while left and right:
        sequences = _separated(left, -1), _separated(right, -2)
        matcher = SequenceMatcher(None, [s for _, s in sequences[0]], [s for _, s in sequences[1]], autojunk=False)
        run = matcher.find_longest_match()
        if not run.size:
            return
        start, other = sequences[0][run.a][0], sequences[1][run.b][0]
        yield start, other, run.size
        left = [place for place in left if not start <= place[0] < start + run.size]
        right = [place for place in right if not other <= place[0] < other + run.size]


def _separated(places: Places, mark: int) -> Places:
    """Put a separator of its own between layers that are not neighbours, so that no run crosses a gap."""
    out: Places = []
    for number, (place, one) in enumerate(places):
        if number and place != places[number - 1][0] + 1:
            out.append((mark, (mark, number)))
        out.append((place, one))
    return out


def rearrange(chosen: Chosen, target: Layers, source: Layers) -> Chosen:
    """Give up the order where the target is the source with its parts rearranged.

    That is so where three quarters of the target's convolutions and linear layers have an exact counterpart, yet order
    lets less than 95 % of these meet one of their own. Then the longest common runs are taken first, wherever they
    stand, and only what is left keeps its match.
    """
    mixing = [[layer for layer in layers if layer.kind in DIMENSIONAL] for layers in (target, source)]
    counts = [Counter(map(signature, layers)) for layers in mixing]
    possible = sum((counts[0] & counts[1]).values())
    met = sum(target[t].kind in DIMENSIONAL for t in exact_targets(chosen))
    if 4 * possible < 3 * len(mixing[0]) or met >= 0.95 * possible:
        return chosen
    places: list[Places] = [[*enumerate(map(signature, layers))] for layers in (target, source)]
    runs = {
        t: Pair(t, t + other - start, 1.0)
        for start, other, size in _common_runs(*places)
        for t in range(start, start + size)
    }
    if sum(target[t].kind in DIMENSIONAL for t in runs) <= met:
        return chosen
    taken = {pair.source for pair in runs.values()}
    return {t: pair for t, pair in chosen.items() if pair.source not in taken} | runs


def drop_orphans(chosen: Chosen, target: Layers) -> Chosen:
    """Do not reuse a norm where the layer it normalizes takes nothing: trained statistics would meet fresh outputs."""
    owner = owners(chosen)

    def is_orphan(t: int) -> bool:
        if owner[chosen[t].source] == t or target[t].kind in DIMENSIONAL or target[t].kind.startswith("buffer"):
            return False
        beside = [i for i in (t - 1, t + 1) if 0 <= i < len(target) and target[i].kind in DIMENSIONAL]
        return bool(beside) and beside[0] not in chosen

    return {t: pair for t, pair in chosen.items() if not is_orphan(t)}


def exact_targets(chosen: Chosen) -> set[int]:
    """Targets that have an equal source layer of their own."""
    owner = owners(chosen)
    return {t for t, pair in chosen.items() if pair.score == 1.0 and owner[pair.source] == t}


def owners(chosen: Mapping[int, Pair]) -> dict[int, int]:
    """The target that a source layer serves best; the others reuse it."""
    owner: dict[int, int] = {}
    for t in sorted(chosen):
        pair = chosen[t]
        best = owner.get(pair.source)
        if best is None or pair.score > chosen[best].score:
            owner[pair.source] = t
    return owner
