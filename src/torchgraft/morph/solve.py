"""Linear solves for the layers that lead to one blob, all others fixed (arXiv:1701.03281 Algorithm 2).

With A the kernel from blob v to the sink and B_e those from the source to the tails of v's edges, the module's kernel
is A * (sum over e of F_e * B_e) + the rest: linear in all F_e at once. What is solved for is the smallest change of
them that takes the error away, so that weights stay near a well scaled start.
"""

from __future__ import annotations

__all__ = ["Change", "smallest_change"]

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from torchgraft.morph.kernels import Kernel, added, composed, on_box, single, spread, transposed, trimmed
from torchgraft.morph.layout import Link
from torchgraft.morph.weights import positions

_CUT = 1e-11  # singular values below this part of the largest are no information
_DENSE = 4_000_000  # numbers in a system that is decomposed; larger ones are iterated
_STEPS = 2000


@dataclass(frozen=True, slots=True)
class Change:
    """What to add to the weights of the layers asked for, in their order, and the ``condition`` of the systems solved.

    The condition is the largest ratio of singular values that were used; ``nan`` where the system was iterated on.
    """

    weights: tuple[Tensor, ...]
    condition: float


def smallest_change(
    links: Sequence[Link], before: Sequence[Kernel], after: Kernel, error: Kernel, ridge: float = 0.0
) -> Change:
    """Return the smallest change of the weights of ``links``, all into one blob, that takes most of ``error`` away.

    ``before`` are the kernels from the source to the links' tails, ``after`` the one from their head to the sink.
    ``ridge`` damps directions whose singular value is less than this part of the largest.
    """
    before, after = [trimmed(one) for one in before], trimmed(after)
    plain = all(link.groups == 1 for link in links)
    matrix = single(after)
    if plain and matrix is not None:
        inverse, condition = _inverse(matrix, ridge)
        taps = (inverse @ error.taps.flatten(1)).reshape(len(inverse), *error.taps.shape[1:])
        wanted = Kernel(taps, tuple(low - at for low, at in zip(error.first, after.first, strict=True)))
        weights, other = _one_sided(links, before, wanted, ridge)
        return Change(weights, max(condition, other))
    if plain and len(links) == 1 and single(before[0]) is not None:
        return _mirrored(links[0], before[0], after, error, ridge)
    if len(links) == 1 and all(_in_blocks(one, links[0].groups) for one in (before[0], after)):
        return _by_group(links[0], before[0], after, error, ridge)
    count = sum(torch.Size(link.shape).numel() for link in links)
    size = sum(link.outputs * link.inputs * len(positions(link)) for link in links)
    if count * error.taps.numel() <= _DENSE and size * error.taps.numel() <= 8 * _DENSE:
        return _decomposed(links, before, after, error, ridge)
    return _iterated(links, before, after, error, ridge)


def _inverse(matrix: Tensor, ridge: float) -> tuple[Tensor, float]:
    """Return the damped pseudo-inverse of a matrix, and the condition of what of it is used."""
    if matrix.shape[0] == matrix.shape[1] and torch.equal(matrix, torch.eye(len(matrix), dtype=matrix.dtype)):
        return matrix, 1.0
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    largest = float(values[0]) if len(values) else 0.0
    used = values > _CUT * largest
    if not bool(used.any()):
        return matrix.new_zeros(matrix.shape[1], matrix.shape[0]), 1.0
    left, values, right = left[:, used], values[used], right[used]
    damped = values / (values.square() + (ridge * largest) ** 2)
    return (right.T * damped) @ left.T, largest / float(values[-1])


def _one_sided(
    links: Sequence[Link], before: Sequence[Kernel], wanted: Kernel, ridge: float
) -> tuple[tuple[Tensor, ...], float]:
    """Solve sum over e of F_e * B_e = wanted; the rows are independent of each other."""
    if all(single(one) is not None for one in before):
        return _tap_by_tap(links, before, wanted, ridge)
    reaches = [_reach(link, one) for link, one in zip(links, before, strict=True)]
    first = tuple(map(min, zip(wanted.first, *(low for low, _ in reaches), strict=True)))
    last = tuple(map(max, zip(wanted.last, *(high for _, high in reaches), strict=True)))
    extent = tuple(high - low + 1 for low, high in zip(first, last, strict=True))
    rows = []
    for link, one in zip(links, before, strict=True):
        for at in positions(link):
            moved = Kernel(one.taps, tuple(a + b for a, b in zip(at, one.first, strict=True)))
            rows.append(on_box(moved, first, extent).flatten(1))
    inverse, condition = _inverse(torch.cat(rows), ridge)
    solved = on_box(wanted, first, extent).flatten(1) @ inverse
    weights, start = [], 0
    for link in links:
        end = start + len(positions(link)) * link.inputs
        block = solved[:, start:end].reshape(link.outputs, len(positions(link)), link.inputs)
        weights.append(block.transpose(1, 2).reshape(link.shape))
        start = end
    return tuple(weights), condition


def _reach(link: Link, one: Kernel) -> tuple[tuple[int, ...], tuple[int, ...]]:
    last = [low + (n - 1) * by for low, n, by in zip(link.first, link.edge.kernel, link.step, strict=True)]
    low = tuple(a + b for a, b in zip(link.first, one.first, strict=True))
    return low, tuple(a + b for a, b in zip(last, one.last, strict=True))


def _tap_by_tap(
    links: Sequence[Link], before: Sequence[Kernel], wanted: Kernel, ridge: float
) -> tuple[tuple[Tensor, ...], float]:
    """Where every B_e has one tap, each offset is a small system of its own; equal ones are solved once."""
    weights = [torch.zeros(link.outputs, link.inputs, len(positions(link)), dtype=torch.float64) for link in links]
    meeting: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for place, (link, one) in enumerate(zip(links, before, strict=True)):
        for tap, at in enumerate(positions(link)):
            meeting.setdefault(tuple(a + b for a, b in zip(at, one.first, strict=True)), []).append((place, tap))
    inverses: dict[tuple[int, ...], tuple[Tensor, float]] = {}
    for offset, members in meeting.items():
        who = tuple(place for place, _ in members)
        if who not in inverses:
            matrices = [before[place].taps.flatten(1) for place in who]
            inverses[who] = _inverse(torch.cat(matrices), ridge)
        solved = on_box(wanted, offset, (1,) * len(offset)).flatten(1) @ inverses[who][0]
        parts = torch.split(solved, [links[place].inputs for place in who], dim=1)
        for (place, tap), part in zip(members, parts, strict=True):
            weights[place][:, :, tap] = part
    shaped = tuple(weight.reshape(link.shape) for weight, link in zip(weights, links, strict=True))
    return shaped, max(condition for _, condition in inverses.values())


def _mirrored(link: Link, before: Kernel, after: Kernel, error: Kernel, ridge: float) -> Change:
    """Solve with the source and the sink exchanged."""
    turned = replace(link, inputs=link.outputs, outputs=link.inputs)
    change = smallest_change([turned], [transposed(after)], transposed(before), transposed(error), ridge)
    return Change((change.weights[0].transpose(0, 1),), change.condition)


def _in_blocks(kernel: Kernel, groups: int) -> bool:
    """Tell whether a kernel keeps ``groups`` of channels apart."""
    outputs, inputs = kernel.taps.shape[:2]
    if groups == 1 or outputs % groups or inputs % groups:
        return False
    size = kernel.taps.abs().flatten(2).amax(2).reshape(groups, outputs // groups, groups, inputs // groups)
    size = size.amax((1, 3))
    return bool((size == torch.diag(size.diagonal())).all())


def _block(kernel: Kernel, group: int, groups: int) -> Kernel:
    rows, columns = (length // groups for length in kernel.taps.shape[:2])
    here = slice(group * rows, (group + 1) * rows), slice(group * columns, (group + 1) * columns)
    return Kernel(kernel.taps[here], kernel.first)


def _by_group(link: Link, before: Kernel, after: Kernel, error: Kernel, ridge: float) -> Change:
    """Solve for each group of a layer apart, where nothing around it mixes them."""
    groups = link.groups
    part = replace(link, inputs=link.inputs // groups, outputs=link.outputs // groups, groups=1)
    found = []
    for group in range(groups):
        around = (_block(one, group, groups) for one in (before, after, error))
        one, other, wanted = around
        found.append(smallest_change([part], [one], other, wanted, ridge))
    return Change((torch.cat([one.weights[0] for one in found]),), max(one.condition for one in found))


def _decomposed(links: Sequence[Link], before: Sequence[Kernel], after: Kernel, error: Kernel, ridge: float) -> Change:
    """Solve the whole system, one column for each single weight."""
    columns = []
    for link, one in zip(links, before, strict=True):
        rows = link.outputs // link.groups
        for row, column in itertools.product(range(link.outputs), range(link.inputs // link.groups)):
            inside = column + row // rows * (link.inputs // link.groups)
            left = Kernel(after.taps[:, row : row + 1], after.first)
            right = Kernel(one.taps[inside : inside + 1], one.first)
            product = composed(left, right)
            columns += [
                Kernel(product.taps, tuple(a + b for a, b in zip(at, product.first, strict=True)))
                for at in positions(link)
            ]
    box = added([error, *columns])
    matrix = torch.stack([on_box(one, box.first, box.extent).flatten() for one in columns], dim=1)
    inverse, condition = _inverse(matrix, ridge)
    return Change(_unpacked(inverse @ on_box(error, box.first, box.extent).flatten(), links), condition)


def _unpacked(flat: Tensor, links: Sequence[Link]) -> tuple[Tensor, ...]:
    sizes = [torch.Size(link.shape).numel() for link in links]
    return tuple(part.reshape(link.shape) for part, link in zip(torch.split(flat, sizes), links, strict=True))


def _iterated(links: Sequence[Link], before: Sequence[Kernel], after: Kernel, error: Kernel, ridge: float) -> Change:
    """Solve without writing the system down (LSQR): forwards two compositions, backwards their adjoint."""
    from scipy.sparse.linalg import LinearOperator, lsqr

    def computed(flat: Tensor) -> Kernel:
        weights = _unpacked(flat, links)
        made = [
            composed(composed(after, spread(weight, link.first, link.step, link.groups)), one)
            for weight, link, one in zip(weights, links, before, strict=True)
        ]
        return added([*made, Kernel(torch.zeros_like(error.taps), error.first)])

    count = sum(torch.Size(link.shape).numel() for link in links)
    start = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        outcome = computed(start)

    def forwards(vector: np.ndarray) -> np.ndarray:
        return np.asarray(computed(torch.from_numpy(vector.ravel().copy())).taps.flatten().numpy())

    def backwards(vector: np.ndarray) -> np.ndarray:
        slope = torch.from_numpy(vector.ravel().copy()).reshape(outcome.taps.shape)
        return np.asarray(torch.autograd.grad(outcome.taps, start, slope, retain_graph=True)[0].numpy())

    operator = LinearOperator((outcome.taps.numel(), count), matvec=forwards, rmatvec=backwards, dtype=np.float64)
    wanted = on_box(error, outcome.first, outcome.extent).flatten().numpy()
    solved = lsqr(operator, wanted, damp=ridge, atol=1e-15, btol=1e-15, conlim=0, iter_lim=_STEPS)[0]
    return Change(_unpacked(torch.from_numpy(solved), links), float("nan"))
