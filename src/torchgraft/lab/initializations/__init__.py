"""Initializations: everything that a target of the lab can be started from, by name.

    initialize("graft", source, target, seed=0)             our own methods and their variants
    initialize("weight_selection", source, target, seed=0)  baselines of the field
    initialize("permuted", source, target, seed=0)          controls that a warm start must beat

A name may carry an argument behind a colon (``dpiat:bipartite:full``); :func:`describe` lists them all.
"""

from __future__ import annotations

__all__ = [
    "INITIALIZATIONS",
    "Initialization",
    "Start",
    "check",
    "describe",
    "initialize",
    "load_pretrained",
    "needs_source",
]

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from time import perf_counter

from torch import nn

from torchgraft._api import similarity
from torchgraft.errors import LabError
from torchgraft.lab.initializations.baselines import (
    dct,
    depth_stack,
    fna,
    net2net,
    parse_net2net,
    tile_middle,
    weight_selection,
)
from torchgraft.lab.initializations.controls import norms, permuted, shuffled, statistics, variance
from torchgraft.lab.initializations.matching import parse_match
from torchgraft.lab.initializations.ours import RATE, VARIANT, dpiat, graft, parse_method, parse_start
from torchgraft.lab.initializations.plain import load_pretrained, name_shape, parse_file, predicted, pretrained, random
from torchgraft.lab.initializations.start import Initialization, Start
from torchgraft.lab.records import Initialized

#: Initializations by name.
INITIALIZATIONS: Mapping[str, Initialization] = {
    "random": random,
    "pretrained": pretrained,
    "dpiat": dpiat,
    "graft": graft,
    "name_shape": name_shape,
    "fna": fna,
    "weight_selection": weight_selection,
    "net2net": net2net,
    "depth_stack": depth_stack,
    "tile_middle": tile_middle,
    "dct": dct,
    "predicted": predicted,
    "permuted": permuted,
    "shuffled": shuffled,
    "variance": variance,
    "statistics": statistics,
    "norms": norms,
}

_MATCH = "[:MATCH]"
_METHOD = f"[:METHOD{VARIANT}]"

#: What may stand behind the name, and the function that reads and checks it. The others take nothing.
ARGUMENTS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "pretrained": ("[:FILE]", str),
    "dpiat": (VARIANT + RATE, parse_start),
    "graft": (VARIANT + RATE, parse_start),
    "fna": (_MATCH, parse_match),
    "weight_selection": (_MATCH, parse_match),
    "net2net": (f"{_MATCH}[:noise=NUMBER]", parse_net2net),
    "tile_middle": (_MATCH, parse_match),
    "dct": (_MATCH, parse_match),
    "predicted": (":FILE", parse_file),
    "permuted": (_METHOD, parse_method),
    "shuffled": (_METHOD, parse_method),
    "variance": (_MATCH, parse_match),
}

_WITHOUT_SOURCE = frozenset({"random", "pretrained", "predicted"})


def check(name: str) -> None:
    """Raise unless ``name`` is an initialization with a valid argument.

    Raises:
        LabError: no such initialization, or an argument that it does not take.

    >>> check("dpiat:random:full")
    >>> check("grafft")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    torchgraft.errors.LabError: unknown initialization 'grafft': did you mean 'graft'? (valid: ...)
    """
    _resolve(name)


def needs_source(name: str) -> bool:
    """Tell whether the initialization takes weights from a source network.

    Raises:
        LabError: no such initialization, or an argument that it does not take.

    >>> needs_source("graft:dp"), needs_source("random")
    (True, False)
    """
    _resolve(name)
    return name.partition(":")[0] not in _WITHOUT_SOURCE


def describe() -> tuple[tuple[str, str], ...]:
    """Return every initialization as it is written, and what it does, in one line each."""
    return tuple(
        (name + ARGUMENTS.get(name, ("",))[0], (function.__doc__ or "").strip().partition("\n")[0])
        for name, function in INITIALIZATIONS.items()
    )


def initialize(name: str, source: nn.Module | None, target: nn.Module, *, seed: int) -> Initialized:
    """Write the named initialization into ``target``, in place; the source is left as it is.

    Args:
        name: one of :data:`INITIALIZATIONS`, with its argument behind a colon.
        source: a trained network; ``None`` where :func:`needs_source` says no.
        target: the network to start, already initialized by its own library.
        seed: seed of every random draw; the global generators are not touched.

    Returns:
        The share of the target's elements that were set, the hash of what was done, the similarities of both networks
        by ``dpiat`` and ``graft`` where there is a source, and the seconds the initialization took without them.

    Raises:
        LabError: no such initialization, a missing source, a file that does not fit.

    >>> initialize("graft", nn.Linear(4, 2), nn.Linear(4, 4), seed=0).similarity
    {'dpiat': 0.5, 'graft': 0.5}
    """
    function, argument = _resolve(name)
    if source is None and needs_source(name):
        raise LabError(f"{name} takes weights from a source network: give one")
    started = perf_counter()
    done = function(Start(target, source, argument, seed))
    seconds = perf_counter() - started
    if source is None:
        return replace(done, seconds=seconds)
    alike = {method: similarity(source, target, method=method) for method in ("dpiat", "graft")}
    return replace(done, similarity=alike, seconds=seconds)


def _resolve(name: str) -> tuple[Initialization, str]:
    """Return the function of a name and its argument, which is checked."""
    head, colon, argument = name.partition(":")
    if head not in INITIALIZATIONS:
        close = get_close_matches(head, INITIALIZATIONS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise LabError(f"unknown initialization {name!r}: {hint}(valid: {', '.join(INITIALIZATIONS)})")
    if head in ARGUMENTS:
        ARGUMENTS[head][1](argument)
    elif colon:
        raise LabError(f"{head} takes no argument, but {name!r} has one: write {head!r}")
    return INITIALIZATIONS[head], argument
