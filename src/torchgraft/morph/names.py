"""The modules of arXiv:1701.03281, by name."""

from __future__ import annotations

__all__ = ["NAMES", "named"]

from collections.abc import Mapping

from torchgraft.errors import MorphError, choose
from torchgraft.morph.graph import Graph
from torchgraft.morph.text import parse

#: D is given by its equation, G = F5 F1 + F6 (F3 F1 + F4 F2) + F7 F2. A to C, which the paper only draws, are ours:
#: three modules of the same family, simple and of rising depth. The others replace a shortcut of a residual network:
#: half of it stays, the other half (with ``-2branch`` both halves) becomes a pair of convolutions.
NAMES: Mapping[str, str] = {
    "A": "s>a:3x3 a>t:1x1 s>t:1x1",
    "B": "s>a:3x3 a>t:1x1 s>b:1x1 b>t:3x3",
    "C": "s>a:1x1 a>b:3x3 a>b:1x1 b>t:1x1 s>t:3x3",
    "D": "s>a:3x3 s>b:3x3 a>c:1x1 b>c:1x1 a>t:1x1 c>t:1x1 b>t:1x1",
    "1c1": "s>a:1x1 a>t:1x1 s>t:0.5*id",
    "3c1": "s>a:3x3 a>t:1x1 s>t:0.5*id",
    "3c3": "s>a:3x3 a>t:3x3 s>t:0.5*id",
    "1c1-2branch": "s>a:1x1 a>t:1x1 s>b:1x1 b>t:1x1",
    "3c1-2branch": "s>a:3x3 a>t:1x1 s>b:3x3 b>t:1x1",
    "3c3-2branch": "s>a:3x3 a>t:3x3 s>b:3x3 b>t:3x3",
    "two-branch": "s>a:3x3 a>t:3x3 s>b:3x3 b>t:3x3",
}


def named(name: str, dims: int = 2) -> Graph:
    """Return a module by name, its kernels with ``dims`` axes.

    >>> str(named("3c1"))
    's>a:3x3 a>t:1x1 s>t:0.5*id'

    Raises :class:`SpecError` for an unknown name, :class:`MorphError` for a ``-half`` one: that says which modules of a
    network are morphed, every second one, and is no module.
    """
    if name.endswith("half"):
        module = name.removesuffix("half").rstrip("-") or "1c1"
        raise MorphError(f"{name!r} is no module but a choice of places: take {module!r} at every second one")
    text = choose(NAMES, name, "module")
    return parse(text.replace("3x3", "3").replace("1x1", "1") if dims != 2 else text)
