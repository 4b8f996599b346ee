"""From two networks to a plan: standardize, score, match, and the moves of every tensor. No tensor data is touched."""

from __future__ import annotations

__all__ = ["make_plan"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from torchgraft.axes import AxisGroups
from torchgraft.couple import Coupled, align, couple, in_order_of_runs
from torchgraft.errors import PlanError
from torchgraft.forecast import Forecast
from torchgraft.kinds import DIMENSIONAL
from torchgraft.match.fitting import input_pairs, is_alike
from torchgraft.match.pins import NO_PINS, Pins, match_pinned
from torchgraft.match.recover import owners
from torchgraft.notes import open_places
from torchgraft.plan import Plan
from torchgraft.predict import Alike, obstacles
from torchgraft.records import Element, Layer, Match, Move, Network, Obstacle, Pair, TensorPlan, TensorSpec, Transfer
from torchgraft.transfer.methods import Method
from torchgraft.transfer.narrowing import narrowing_name
from torchgraft.transfer.parametrized import determined_keys
from torchgraft.transfer.rules import Context

#: Told where a match is no more than chance.
UNLIKE = (
    "the networks have too little in common: only what reads the input is taken, which trains better than all that "
    "could be matched (least_similarity=0 takes it)"
)

#: Gives the axis groups of target and source, or the reason why one of them is not known.
Groups = Callable[[], tuple[AxisGroups, AxisGroups] | str]


@dataclass(frozen=True, slots=True, eq=False)
class _Matched:
    """Two networks as elements, and which are matched.

    ``equal`` says that every layer of the target is one of the source as it is, and no scale of that is left over;
    ``copy`` that it has its name as well.
    """

    match: Match
    target: Sequence[Element]
    source: Sequence[Element]
    equal: bool
    copy: bool


def _matched(target: Network, source: Network, method: Method, pins: Pins, seed: int) -> _Matched:
    match, mine, other = match_pinned(method.standardize(target), method.standardize(source), method, pins, seed)
    pairs = {pair.target: pair for pair in match.pairs}
    equal = _equal(pairs, _flat(mine), _flat(other))
    return _Matched(match, mine, other, equal, equal and _same_names(pairs, _flat(mine), _flat(other)))


def make_plan(
    target: Network,
    source: Network,
    method: Method,
    name: str,
    *,
    pins: Pins = NO_PINS,
    labels: Mapping[int, int] | None = None,
    groups: Groups | None = None,
    alike: Alike = lambda *_: True,
    trainable: bool = False,
    seed: int = 0,
) -> Plan:
    """Plan the transfer from ``source`` to ``target``.

    ``groups`` gives the axis groups of target and source when it is asked, which is where units could be anywhere else
    than where they are in the source, or where the forecast is asked for; ``alike`` compares buffers for that;
    ``trainable`` leaves new gates as they are.
    """
    pure = method.is_pure()
    match = (_matched_once if pure else _matched)(target, source, method, pins, seed)
    found = groups() if groups is not None and method.chooses_units() and not match.copy else None
    if match.equal and isinstance(found, str):
        found = None  # nothing is cut, so that no run is missed
    mapped = tuple(sorted((labels or {}).items()))
    draft = (_drafted_once if pure else _drafted)(match, target, method, pins, mapped, found, trainable)
    coupled = draft.coupled
    known = groups if found is None else found
    return Plan(
        tensors=draft.tensors,
        method=name,
        operator=method.operator_name(),
        source=source.name,
        target=target.name,
        score=match.match.score,
        transfers=coupled.transfers,
        notes=draft.notes,
        labels=mapped,
        maps=coupled.maps,
        settings=coupled.settings,
        fills=coupled.fills,
        passages=coupled.passages,
        followed=coupled.followed,
        forecast=Forecast(partial(_obstacles, known, coupled, method.operator_name(), source.tied, alike)),
    )


@dataclass(frozen=True, slots=True)
class _Draft:
    """What a plan says of the tensors: it follows from the two networks, their axis groups and the choices alone."""

    coupled: Coupled
    tensors: tuple[TensorPlan, ...]
    notes: tuple[str, ...]


def _drafted(
    matched: _Matched,
    target: Network,
    method: Method,
    pins: Pins,
    labels: tuple[tuple[int, int], ...],
    found: tuple[AxisGroups, AxisGroups] | str | None,
    trainable: bool,
) -> _Draft:
    target_layers, source_layers = _flat(matched.target), _flat(matched.source)
    pairs: Mapping[int, Pair] = {pair.target: pair for pair in matched.match.pairs}
    placed: dict[int, int] = {}
    whole = False
    if found is not None and not isinstance(found, str) and pins == NO_PINS:
        aligned = align(pairs, matched.target, matched.source, found, method.score)
        if not matched.equal or _equal(aligned[0], target_layers, source_layers):
            pairs, placed, whole = aligned
        pairs, placed = in_order_of_runs(pairs, placed, (target_layers, source_layers), found)
    first = input_pairs(pairs, target_layers)
    judged = bool(first) and method.is_pure() and pins == NO_PINS and not whole  # a user's score has its own scale
    unlike = judged and not is_alike(matched.match.score, pairs, target_layers, method.least)
    if unlike:
        pairs, placed = first, {}
    context = _context(method.operator_name(), target_layers, source_layers, labels)
    owner = owners(pairs) | placed
    transfers = list(_transfers(pairs, owner, target_layers, source_layers, target, method, context))
    _check_labels_used(labels, transfers, context)
    groups = None if matched.equal else found  # where nothing is cut, no units are to be coupled
    coupled = _coupled(transfers, target, groups, whole, trainable, narrowing_name(method.narrowing))
    places = (UNLIKE,) if unlike else open_places(matched.match, matched.target, matched.source, pins)
    notes = (*places, *coupled.notes)
    return _Draft(coupled, tuple(_tensor_plans(target, coupled, pins)), notes)


# The pairs of networks planned last: two are matched and coupled once, however many of their models meet.
_matched_once = lru_cache(maxsize=32)(_matched)
_drafted_once = lru_cache(maxsize=32)(_drafted)


def _obstacles(
    groups: Groups | tuple[AxisGroups, AxisGroups] | str | None,
    coupled: Coupled,
    operator: str,
    tied: Mapping[str, str],
    alike: Alike,
) -> tuple[Obstacle, ...] | None:
    """Return what keeps the target from computing the source's function, ``None`` where that cannot be known."""
    found = groups() if callable(groups) else groups
    return None if found is None or isinstance(found, str) else obstacles(*found, coupled, operator, tied, alike)


def _equal(pairs: Mapping[int, Pair], target: Sequence[Layer], source: Sequence[Layer]) -> bool:
    """Tell whether every layer of the target is one of the source as it is, each another one.

    Parameters of the source that are left over may be layer scales, which the weights before them have to take in.
    """
    every = all(t in pairs and layer.shape == source[pairs[t].source].shape for t, layer in enumerate(target))
    used = {pair.source for pair in pairs.values()}
    spare = any(layer.kind == "parameter" and s not in used for s, layer in enumerate(source))
    return every and len(used) == len(target) and not spare


def _same_names(pairs: Mapping[int, Pair], target: Sequence[Layer], source: Sequence[Layer]) -> bool:
    """Tell whether every layer of the target meets the one of its own name, as in a copy.

    Elsewhere the runs are compared though all shapes are equal: one network may define its keys first, another its
    queries. Names decide only whether that is asked.
    """
    return all(layer.path == source[pairs[t].source].path for t, layer in enumerate(target))


def _transfers(
    pairs: Mapping[int, Pair],
    owner: Mapping[int, int],
    target: Sequence[Layer],
    source: Sequence[Layer],
    network: Network,
    method: Method,
    context: Context,
) -> Iterator[Transfer]:
    for number in sorted(pairs):
        pair = pairs[number]
        t, s = target[number], source[pair.source]
        moves = tuple(move for move in method.moves(t, s, context) if move.target.key not in network.tied)
        yield Transfer(t.path, s.path, t.kind, pair.score, owner[pair.source] != number, moves)


def _coupled(
    transfers: Sequence[Transfer],
    target: Network,
    groups: tuple[AxisGroups, AxisGroups] | str | None,
    whole: bool,
    trainable: bool,
    narrowing: str,
) -> Coupled:
    """Couple the units of all moves, where the axis groups are known."""
    if groups is None:
        return Coupled(tuple(transfers))
    if isinstance(groups, str):
        return Coupled(tuple(transfers), notes=(f"every tensor is cut for itself: {groups}",))
    tied = set(target.tied.values())
    return couple(transfers, *groups, tied=tied, whole=whole, trainable=trainable, narrowing=narrowing)


def _flat(elements: Sequence[Element]) -> list[Layer]:
    return [layer for element in elements for layer in element.layers]


def _check_labels_used(labels: tuple[tuple[int, int], ...], transfers: Sequence[Transfer], context: Context) -> None:
    moves = (move for transfer in transfers for move in transfer.moves)
    if labels and not any("select_labels" in move.prepare for move in moves):
        raise PlanError(
            "the label map cannot be used: the plan does not fill the target's classifier "
            f"({_names(context.target_heads)}) from the source's ({_names(context.source_heads)}); "
            "pin the two, or leave the map out"
        )


def _context(
    operator: str, target: Sequence[Layer], source: Sequence[Layer], labels: tuple[tuple[int, int], ...]
) -> Context:
    """Find the layers that read the input (the first convolution) and give the classes."""

    def first(layers: Sequence[Layer]) -> str | None:
        return next((layer.path for layer in layers if layer.kind in DIMENSIONAL), None)

    pictures = frozenset(layer.path.rpartition(".")[0] for layer in (*target, *source) if layer.patchify)
    images = all(any(layer.kind in ("conv2d", "conv3d") for layer in layers) for layers in (target, source))
    return Context(operator, first(target), first(source), _heads(target), _heads(source), labels, pictures, images)


def _heads(layers: Sequence[Layer]) -> frozenset[str]:
    """The last layer, where it is a linear layer or a convolution, and those just before it that have its shape.

    A network that ends in a norm has no classes: its last outputs are units like all others. Two classifiers beside
    each other (of a class token and of a distillation token) are both heads; two square layers are a chain.
    """
    last = layers[-1] if layers else None
    if last is None or last.kind not in DIMENSIONAL or last.shape is None:
        return frozenset()
    heads = [last.path]
    for layer in layers[-2::-1]:
        if (layer.kind, layer.shape) != (last.kind, last.shape) or last.shape[0] == last.shape[1]:
            break
        heads.append(layer.path)
    return frozenset(heads)


def _names(paths: frozenset[str]) -> str:
    return ", ".join(sorted(paths)) or "it has none"


def _tensor_plans(target: Network, coupled: Coupled, pins: Pins) -> Iterator[TensorPlan]:
    """One entry for every tensor of the target's state dict, in its order."""
    served: dict[str, list[tuple[Transfer, Move]]] = {}
    filled = {fill.key: fill.value for fill in coupled.fills}
    passing = {key: len(one.rows) for one in coupled.passages if not one.added and not one.gate for key in one.keys}
    followed = {key for one in coupled.followed for key in (one.mean, one.variance)}
    for transfer in coupled.transfers:
        for move in transfer.moves:
            for key in _stored_keys(target, move.target.key):
                served.setdefault(key, []).append((transfer, move))
    plans: dict[str, TensorPlan] = {}
    for key, spec in target.tensors.items():
        first = target.tied.get(key)
        if first is not None:
            plans[key] = replace(plans[first], key=key, tied=first, elements=0)
        elif key in filled:
            reason = f"{filled[key]:g}, to keep the function"
            plans[key] = TensorPlan(key, spec.shape, spec.dtype, spec.buffer, "silenced", spec.size, reason=reason)
        elif key in passing and key not in served:
            elements = spec.size * passing[key] // max(1, spec.shape[0])
            reason = "gives on what it reads, to keep the function"
            plans[key] = TensorPlan(key, spec.shape, spec.dtype, spec.buffer, "silenced", elements, reason=reason)
        else:
            moves = served.get(key, [])
            status = _status(key, spec.size, moves, key in followed)
            plans[key] = TensorPlan(
                key,
                spec.shape,
                spec.dtype,
                spec.buffer,
                status,
                min(spec.size, sum(_elements(spec, move) for _, move in moves)),
                tuple(dict.fromkeys(move.source.key for _, move in moves)),
                moves[0][1].source.shape if len(moves) == 1 else (spec.shape if status == "copied" else None),
                min((transfer.score for transfer, _ in moves), default=0.0),
                None,
                _reason(moves, pins.excludes_target(key), key in followed),
            )
        yield plans[key]


def _elements(spec: TensorSpec, move: Move) -> int:
    """Elements of a stored tensor that a move determines: behind a computed weight, the same share of it."""
    if spec.key == move.target.key:
        return move.elements
    return spec.size * move.elements // max(1, move.target.size)


def _stored_keys(target: Network, key: str) -> list[str]:
    """Keys in the state dict behind a planned tensor: itself, or the originals of a parametrized one."""
    if key in target.tensors:
        return [key]
    return determined_keys(key, target.tensors)


def _reason(moves: Sequence[tuple[Transfer, Move]], excluded: bool, followed: bool) -> str:
    if moves:
        folded = next((f"times {move.fold}, which has no place" for _, move in moves if move.fold), "")
        return "without what was cut before it" if followed else folded
    return "excluded" if excluded else "no source layer"


def _status(key: str, size: int, moves: Sequence[tuple[Transfer, Move]], followed: bool) -> str:
    if not moves:
        return "kept"
    if any(transfer.reused for transfer, _ in moves):
        return "reused"
    whole = all(move.target.shape == move.source.shape and move.operator == "copy" for _, move in moves)
    as_it_is = whole and not followed and all(move.target.key == key for _, move in moves)
    return "copied" if as_it_is and sum(move.elements for _, move in moves) >= size else "resized"
