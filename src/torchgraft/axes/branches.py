"""Residual branches of a run: what is added to a stream, and which tensors set to zero make the branch add nothing."""

from __future__ import annotations

__all__ = ["Branch", "branches", "outermost"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torchgraft.axes.closing import Closing
from torchgraft.axes.flow import Flow
from torchgraft.axes.operators import FACTORS, SUMS

_COPIES = frozenset(["_to_copy", "clone", "contiguous", "detach", "alias"])


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch that runs from a stream back into it: ``stream + branch(stream)``.

    ``keys`` are the tensors it reads, in the order of the run; ``aside`` those of them that read something else than
    the stream (keys and values of a cross-attention); ``closing`` those that make the branch add nothing when they are
    zero, empty where there are none such. Branches of one ``chain`` follow each other without a layer between them.
    ``scale`` is the key of a vector that the stream is multiplied by before the sum, which is one of ``keys`` then.
    """

    keys: tuple[str, ...]
    aside: frozenset[str]
    closing: tuple[str, ...]
    chain: int
    scale: str = ""


def branches(flow: Flow, closing: Closing) -> tuple[Branch, ...]:
    """Return the residual branches of a run, in its order; those inside others come first.

    A sum is residual where one summand is computed from the other. Two branches that run side by side from one value,
    and are added one after the other, are one.
    """
    made: list[Branch] = []
    chains: dict[int, int] = {}
    sums: dict[int, tuple[int, int]] = {}  # the number of a branch, and its stream, by what they give together
    for step in flow.steps:
        for value, inner in step.operands(*SUMS):
            found = _branch(flow, value, inner, closing)
            number, stream = (len(made), value) if found is not None else sums.get(flow.plain(value), (-1, value))
            if number == len(made) and found is not None:
                chain = _chain(flow, _unscaled(flow, value)[0], chains)
                made.append(replace(found, chain=len(set(chains.values())) if chain is None else chain))
            elif number >= 0 and (beside := _beside(flow, value, stream, inner, closing)) is not None:
                made[number] = _both(made[number], beside)
            else:
                continue
            chains[step.outputs[0]] = made[number].chain
            sums[step.outputs[0]] = number, stream
            break
    closed = {key for branch in made if branch.closing for key in branch.keys}
    # A position bias that all blocks add to their attention comes before what it is added to, and is no stream.
    return tuple(branch for branch in made if branch.closing or not closed.intersection(branch.keys))


def _beside(flow: Flow, value: int, stream: int, inner: int, closing: Closing) -> Branch | None:
    """Return the branch from a stream that runs beside the one that a sum ends, if it does not follow from the sum."""
    return None if _body(flow, value, inner) is not None else _branch(flow, stream, inner, closing)


def _both(one: Branch, beside: Branch) -> Branch:
    """Return two branches that run side by side as one."""
    closing = dict.fromkeys((*one.closing, *beside.closing)) if one.closing and beside.closing else ()
    keys = dict.fromkeys((*one.keys, *beside.keys))
    return replace(one, keys=tuple(keys), aside=one.aside | beside.aside, closing=tuple(closing))


def _branch(flow: Flow, value: int, inner: int, closing: Closing) -> Branch | None:
    """Return the branch from one value to another one, if the second follows from the first; its chain is not known."""
    stream, scale = _unscaled(flow, value)
    body = _body(flow, stream, inner)
    keys = () if body is None else _keys(flow, body)
    if body is None or not keys:
        return None
    aside = frozenset(keys) - frozenset(_keys(flow, _after(flow, stream, body)))
    closed = closing.get(inner, ())
    if scale and not closed:
        return None  # a sum of two things made of one value, of which neither is a stream
    return Branch((scale, *keys) if scale else keys, aside, closed, -1, scale)


def _unscaled(flow: Flow, value: int) -> tuple[int, str]:
    """Return the value that a vector is multiplied with, and the vector's key; the value itself where there is none.

    What is only held in another type is the same.
    """
    step = flow.step(value)
    while step is not None and step.name in _COPIES:
        value = step.inputs[0]
        step = flow.step(value)
    for scale, stream in flow.operands(value, "mul"):
        key = flow.parameter(scale)
        if key is not None and stream in flow.maker:
            return stream, key
    return value, ""


def outermost(found: Sequence[Branch]) -> tuple[Branch, ...]:
    """Return the branches that do not stand inside another one, in their order."""
    keys = [frozenset(branch.keys) for branch in found]
    homes: dict[str, list[frozenset[str]]] = {}
    for held in keys:
        for key in held:
            homes.setdefault(key, []).append(held)
    # What holds a branch holds its first key, which few others do.
    inside = (any(held < other for other in homes[branch.keys[0]]) for branch, held in zip(found, keys, strict=True))
    return tuple(branch for branch, within in zip(found, inside, strict=True) if not within)


def _chain(flow: Flow, value: int, chains: Mapping[int, int]) -> int | None:
    """Return the chain of the sum that a stream comes from, if only norms and activations stand between them."""
    while value not in chains:
        step = flow.step(value)
        if step is None or not step.inputs or step.name in FACTORS or step.name in ("cat", "stack"):
            return None
        value = step.inputs[0]
    return chains[value]


def _after(flow: Flow, stream: int, body: Sequence[int]) -> list[int]:
    """Return the steps of a body that read what was made from the stream."""
    reached = {stream}
    found = []
    for number in body:
        if reached.intersection(flow.steps[number].inputs):
            reached.update(flow.steps[number].outputs)
            found.append(number)
    return found


def _body(flow: Flow, stream: int, inner: int) -> list[int] | None:
    """Return the steps between two values, or ``None`` where the second does not follow from the first."""
    start = flow.maker.get(stream, -1)
    if stream in flow.stored or inner in flow.stored or flow.maker.get(inner, -1) <= start:
        return None
    found: set[int] = set()
    reached = False
    waiting = [inner]
    while waiting:
        value = waiting.pop()
        reached = reached or value == stream
        number = flow.maker.get(value, -1)
        if value != stream and number > start and number not in found:
            found.add(number)
            waiting += flow.steps[number].inputs
    return sorted(found) if reached else None


def _keys(flow: Flow, body: Sequence[int]) -> tuple[str, ...]:
    """Return the stored tensors that steps read, if in another layout."""
    read = (flow.parameter(value) for number in body for value in flow.steps[number].inputs)
    return tuple(dict.fromkeys(key for key in read if key is not None))
