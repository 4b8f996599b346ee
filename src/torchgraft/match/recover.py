"""What the dynamic program leaves behind: layers grouped differently on the two sides, and layers that moved.

An edited network is mostly its own source. Three passes after the dynamic program find the rest of it: gaps between
matched layers are filled in order; order is given up where most of the network stands elsewhere exactly as it is; and
single parts that moved get their own values back. Kinds and shapes decide, never names.
"""

from __future__ import annotations

__all__ = ["exact_targets", "fill_gaps", "find_moved", "match_graft", "owners", "rearrange", "signature"]

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher

from torchgraft.kinds import DIMENSIONAL
from torchgraft.match.blocks import Elements
from torchgraft.match.dp import solve, trace
from torchgraft.match.matchers import match_in_order
from torchgraft.records import Layer, Match, Pair
from torchgraft.score import Scorer

Layers = Sequence[Layer]
Chosen = dict[int, Pair]
Places = list[tuple[int, Hashable]]


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
    moved = dict(chosen)
    places = _keep_common(left, common), _keep_common(right, common)
    for start, other, size in _common_runs(*places):
        run = range(start, start + size)
        mixing = sum(target[t].kind in DIMENSIONAL for t in run)
        unserved = not any(t in chosen for t in run)
        if mixing >= 2 or (mixing and unserved) or any(left[t] in unique for t in run):
            moved |= {t: Pair(t, other + t - start, 1.0) for t in run}
    return moved


def signature(layer: Layer) -> Hashable:
    """What makes two layers interchangeable: kind and shape."""
    return layer.kind, layer.shape


def _keep_common(signatures: Mapping[int, Hashable], common: set[Hashable]) -> list[tuple[int, Hashable]]:
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

    That is so where most target layers have an exact counterpart, yet order lets less than 95 % of them meet one of
    their own. Then the longest common runs are taken first, wherever they stand, and only what is left keeps its match.
    """
    counts = [Counter(map(signature, layers)) for layers in (target, source)]
    possible = sum((counts[0] & counts[1]).values())
    met = exact_targets(chosen)
    if 2 * possible < len(target) or len(met) >= 0.95 * possible:
        return chosen
    places = [list(enumerate(map(signature, layers))) for layers in (target, source)]
    runs = {t: Pair(t, t + other - start, 1.0) for start, other, size in _common_runs(*places) for t in range(start, start + size)}
    if len(runs) <= len(met):
        return chosen
    taken = {pair.source for pair in runs.values()}
    return {t: pair for t, pair in chosen.items() if pair.source not in taken} | runs


def exact_targets(chosen: Chosen) -> set[int]:
    """Targets that have an equal source layer of their own."""
    owner = owners(chosen)
    return {t for t, pair in chosen.items() if pair.score == 1.0 and owner[pair.source] == t}


def match_graft(
    target: Elements, source: Elements, scorer: Scorer, *, exponent: float = 0.5, mixed: bool = True, seed: int = 0
) -> Match:
    """The dynamic program, then the three recovery passes. The score is the dynamic program's."""
    match = match_in_order(target, source, scorer, exponent, mixed=mixed, leading=True)
    layers = [[layer for element in elements for layer in element.layers] for elements in (target, source)]
    chosen = {pair.target: pair for pair in match.pairs}
    chosen = fill_gaps(chosen, layers[0], layers[1], scorer, exponent)
    chosen = rearrange(chosen, layers[0], layers[1])
    chosen = find_moved(chosen, layers[0], layers[1])
    return Match(tuple(chosen[t] for t in sorted(chosen)), match.score)


def owners(chosen: Mapping[int, Pair]) -> dict[int, int]:
    """The target that a source layer serves best; the others reuse it."""
    owner: dict[int, int] = {}
    for t in sorted(chosen):
        pair = chosen[t]
        best = owner.get(pair.source)
        if best is None or pair.score > chosen[best].score:
            owner[pair.source] = t
    return owner


