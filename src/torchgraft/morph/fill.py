"""Ways to fill a module with weights, and the choice among them by what they achieve."""

from __future__ import annotations

__all__ = ["EXACT", "METHODS", "Filling", "fill"]

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from torchgraft.errors import choose
from torchgraft.morph.alternate import fill_alternating
from torchgraft.morph.carrier import carriers, fill_carrier
from torchgraft.morph.kernels import Kernel, difference, norm
from torchgraft.morph.layout import Layout
from torchgraft.morph.limits import obstacle
from torchgraft.morph.simple import fill_split
from torchgraft.morph.weights import Weights, from_source, kernels_of, part_sizes

#: The kernel's relative error up to which a filling is exact but for rounding.
EXACT = 1e-11

_GAIN = 30.0  # where so much cancels, another way is tried first
_CARRIERS = 16
_RESTARTS = 2


@dataclass(frozen=True, slots=True)
class Filling:
    """Weights for a module, and how they were found.

    ``error`` is the norm of what the module's kernel misses, ``gain`` that of the largest part of it that goes
    through one layer, both relative to the convolution's (far above one, large parts cancel); ``condition`` is that
    of the linear systems solved (1 where none was, ``nan`` where it was iterated on). ``carrier`` are the edges of
    the carrier path, the layer solved for in brackets, ``zero`` the edges that start at zero, and ``blobs`` the
    kernel of every blob.
    """

    method: str
    weights: Weights
    error: float
    gain: float
    condition: float = 1.0
    carrier: str = ""
    zero: tuple[str, ...] = ()
    blobs: Mapping[str, Kernel] = field(default_factory=dict, repr=False)


#: Takes a module laid out, the kernel, a seed, and whether the nearest module is wanted where none is exact.
Method = Callable[[Layout, Kernel, int, bool], Iterator[Filling]]


def _by_splits(layout: Layout, target: Kernel, seed: int, nearest: bool) -> Iterator[Filling]:
    weights = fill_split(layout, target, torch.Generator().manual_seed(seed))
    if weights is not None:
        yield _measured("split", layout, target, weights)


def _by_carrier(layout: Layout, target: Kernel, seed: int, nearest: bool) -> Iterator[Filling]:
    found = carriers(layout, target)[:_CARRIERS]
    for cut in (False, True):
        for carrier in found:
            generator = torch.Generator().manual_seed(seed)
            weights, condition = fill_carrier(layout, target, carrier, generator, cut)
            names = [
                f"[{layout.links[p].edge}]" if p == carrier.free else str(layout.links[p].edge) for p in carrier.path
            ]
            yield _measured("carrier", layout, target, weights, condition, " ".join(names))


def _by_alternation(layout: Layout, target: Kernel, seed: int, nearest: bool) -> Iterator[Filling]:
    for restart in range(1 if nearest else _RESTARTS):
        generator = torch.Generator().manual_seed(seed + restart)
        weights, condition = fill_alternating(layout, target, generator, nearest)
        yield _measured("alternate", layout, target, weights, condition)


#: splits of simple modules in closed form; one solve on a path that carries the convolution; alternating solves.
METHODS: Mapping[str, Method] = {"split": _by_splits, "carrier": _by_carrier, "alternate": _by_alternation}


def _measured(
    method: str, layout: Layout, target: Kernel, weights: Weights, condition: float = 1.0, carrier: str = ""
) -> Filling:
    size = norm(target) or 1.0
    kernels = kernels_of(layout, weights)
    blobs = from_source(layout, kernels)
    error = norm(difference(target, blobs[layout.sink])) / size
    gain = max(part_sizes(layout, kernels).values(), default=0.0) / size
    zero = tuple(str(layout.links[place].edge) for place, weight in sorted(weights.items()) if not bool(weight.any()))
    return Filling(method, weights, error, gain, condition, carrier, zero, blobs)


def fill(
    layout: Layout, target: Kernel, method: str | None = None, seed: int = 0, approximate: bool = False
) -> Filling | None:
    """Return the first exact and well conditioned filling, else the best: exact before inexact, then the smaller gain.

    ``None`` where the chosen ``method`` does not apply at all. Alternating solves, which take long, are not tried where
    they cannot be exact, unless ``approximate`` asks for the nearest. An unknown method raises :class:`SpecError`.
    """
    ways = METHODS if method is None else {method: choose(METHODS, method, "method")}
    best: Filling | None = None
    for name, way in ways.items():
        exact = best is not None and best.error <= EXACT
        if name == "alternate" and (exact or (not approximate and obstacle(layout, target))):
            break
        for found in way(layout, target, seed, approximate):
            if found.error <= EXACT and found.gain <= _GAIN:
                return found
            if best is None or _rank(found) < _rank(best):
                best = found
    return best


def _rank(filling: Filling) -> tuple[bool, float]:
    exact = filling.error <= EXACT
    return not exact, filling.gain if exact else filling.error
